package envoy

import (
	"errors"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	filterchainv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/filter_chain/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/comity-mesh/comity/xds/ir"
)

// The places in every HTTP listener where filters of routes run. A place does nothing, and costs next to
// nothing, until a route fills it: the listener never changes for a policy, which would cut connections.
const (
	beforeFilters = "comity.before"
	afterFilters  = "comity.after"
	loadFilters   = "comity.load"
)

// filterPlace is a filter that only routes give a content.
func (b *messages) filterPlace(name string) *hcmv3.HttpFilter {
	f := b.httpFilter(name, &filterchainv3.FilterChainConfig{})
	f.Disabled = true
	return f
}

// perRoute fills the places of a host or route.
func (b *messages) perRoute(f ir.Filters, into map[string]*anypb.Any) (map[string]*anypb.Any, error) {
	for _, place := range []struct {
		name string
		list []ir.Filter
	}{{beforeFilters, f.Before}, {afterFilters, f.After}, {loadFilters, f.Load}} {
		if len(place.list) == 0 {
			continue
		}
		chain := &filterchainv3.FilterChain{}
		for _, one := range place.list {
			if one.CORS != nil { // the filter does what the route says of it
				if into == nil {
					into = map[string]*anypb.Any{}
				}
				into[corsFilter] = b.any(cors(*one.CORS))
			}
			m, err := b.routeFilter(one)
			if err != nil {
				return nil, err
			}
			chain.Filters = append(chain.Filters, m)
		}
		if into == nil {
			into = map[string]*anypb.Any{}
		}
		into[place.name] = b.any(&filterchainv3.FilterChainConfigPerRoute{FilterChain: chain})
	}
	return into, nil
}

// routeFilter builds one filter; the file of its noun has the message.
func (b *messages) routeFilter(f ir.Filter) (*corev3.TypedExtensionConfig, error) {
	switch {
	case f.JWT != nil:
		return b.extension(jwtFilter, b.jwt(*f.JWT)), nil
	case f.Audit != nil:
		// By another name than the filter that decides, whose configuration of the route it would take for its own.
		return b.extension("comity.audit", b.audit(*f.Audit)), nil
	case f.Visitors != nil:
		return b.extension("comity.visitors", b.visitors(*f.Visitors)), nil
	case f.Fault != nil:
		return b.extension("envoy.filters.http.fault", b.fault(*f.Fault)), nil
	case f.LoadShedding != nil:
		return b.extension("envoy.filters.http.adaptive_concurrency", loadShedding(*f.LoadShedding)), nil
	case f.SlowRequests != nil:
		return b.extension("envoy.filters.http.bandwidth_limit", slowRequests(*f.SlowRequests)), nil
	case f.CORS != nil:
		return b.extension(corsFilter, &corsv3.Cors{}), nil
	case f.Session != nil:
		return b.extension("envoy.filters.http.stateful_session", b.session(*f.Session)), nil
	case f.Lua != nil:
		return b.extension("envoy.filters.http.lua", lua(*f.Lua)), nil
	case f.ExternalAuthorization != nil:
		return b.extension("envoy.filters.http.ext_authz", b.externalAuthorization(*f.ExternalAuthorization)), nil
	case f.RateLimit != nil:
		return b.extension("envoy.filters.http.local_ratelimit", b.rateLimit(*f.RateLimit)), nil
	case f.SharedLimits != nil:
		return b.extension("envoy.filters.http.ratelimit", b.sharedLimits(*f.SharedLimits)), nil
	case f.Resolve != nil:
		return b.extension("envoy.filters.http.dynamic_forward_proxy", b.resolve(*f.Resolve)), nil
	case f.Count != nil:
		return b.extension("comity.count", b.count(*f.Count)), nil
	default:
		return nil, errors.New("a filter must be something")
	}
}
