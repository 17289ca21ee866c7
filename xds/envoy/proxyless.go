package envoy

import (
	"errors"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	aggregatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/aggregate/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/comity-mesh/comity/xds/ir"
)

// What gRPC clients read is Envoy's API, but not all of it: they refuse some fields, ignore others, and take
// certificates from files that their bootstrap names (gRFC A27, A28, A29, A31, A37, A44, A101; seen in grpc-go 1.85).

// identityProvider is the certificate provider that a gRPC client's bootstrap has for its own certificate. Those of
// the roots are named as secrets are.
const identityProvider = "identity"

const faultFilter = "envoy.filters.http.fault"

// targetMessage is a listener that nobody listens on: the answer to what a client dials.
func targetMessage(b *messages, t ir.Target) (proto.Message, error) {
	return &listenerv3.Listener{
		Name: t.Name,
		ApiListener: &listenerv3.ApiListener{ApiListener: b.any(&hcmv3.HttpConnectionManager{
			StatPrefix: "proxyless",
			RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
				ConfigSource: fromADS(), RouteConfigName: t.RouteTable,
			}},
			HttpFilters: []*hcmv3.HttpFilter{
				b.httpFilter(faultFilter, &faultv3.HTTPFault{}), // spoils nothing until a route says so
				b.httpFilter("envoy.filters.http.router", &routerv3.Router{}),
			},
		})},
	}, b.err
}

func proxylessClusterMessage(b *messages, c ir.Cluster) (proto.Message, error) {
	m := &clusterv3.Cluster{Name: c.Name, LbPolicy: clusterv3.Cluster_ROUND_ROBIN}
	if len(c.Fallback) > 0 {
		m.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
			Name: "envoy.clusters.aggregate", TypedConfig: b.any(&aggregatev3.ClusterConfig{Clusters: c.Fallback}),
		}}
		return m, b.err
	}
	if !c.MTLS || len(c.Peers) != 1 {
		return nil, errors.New("a cluster of a proxyless client needs mTLS with exactly one peer")
	}
	m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
	m.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: fromADS()}
	m.CircuitBreakers = circuitBreakers(c.Breaker)
	m.TransportSocket = b.tlsSocket(proxylessTLS(c.Peers[0]))
	return m, b.err
}

// proxylessTLS trusts the roots of one trust domain, for one exact set of identities: gRPC compares a name with every
// kind of subject alternative name, so with the roots of several domains each could make itself out to be another.
func proxylessTLS(p ir.Peer) proto.Message {
	var names []*matcherv3.StringMatcher
	for _, id := range p.Identities {
		names = append(names, exactly(id))
	}
	if len(names) == 0 {
		names = append(names, exactly(nobody)) // without any it takes every name
	}
	v := &tlsv3.CertificateValidationContext{
		CaCertificateProviderInstance: &tlsv3.CertificateProviderPluginInstance{InstanceName: p.Trust},
		MatchSubjectAltNames:          names, //nolint:staticcheck // the newer field it does not read
	}
	return &tlsv3.UpstreamTlsContext{
		Sni: p.SNI,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsCertificateProviderInstance: &tlsv3.CertificateProviderPluginInstance{InstanceName: identityProvider},
			ValidationContextType:          &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: v},
		},
	}
}

func proxylessRoutesMessage(b *messages, t ir.RouteTable) (proto.Message, error) {
	m := &routev3.RouteConfiguration{Name: t.Name}
	for _, h := range t.Hosts {
		v := &routev3.VirtualHost{
			Name: h.Name, Domains: h.Domains, RetryPolicy: proxylessRetry(h.Retry), TypedPerFilterConfig: b.proxylessFilters(h.Filters),
		}
		var before ir.Match
		for _, r := range h.Routes {
			if match, met := ofCalls(r.Match); met {
				r.Match = drawnAnew(match, before)
				before = match
				v.Routes = append(v.Routes, b.proxylessRoute(r))
			}
		}
		m.VirtualHosts = append(m.VirtualHosts, v)
	}
	return m, b.err
}

// ofCalls is a match without what no client compares: the method, which is POST. A match for others is met by no call, nor
// is one by the host, which the target has decided, or for connections.
func ofCalls(m ir.Match) (_ ir.Match, met bool) {
	if m.Connect || m.Host != "" || m.NotHost != "" || len(m.Methods) > 0 && !slices.Contains(m.Methods, "POST") {
		return ir.Match{}, false
	}
	m.Methods = nil
	return m, true
}

// drawnAnew is a match for clients who draw a number at each route: what is left of its share after the match before it.
func drawnAnew(m, before ir.Match) ir.Match {
	same := before
	same.PerMillion = m.PerMillion
	if taken := before.PerMillion; m.PerMillion > taken && taken > 0 && reflect.DeepEqual(m, same) {
		m.PerMillion = uint32(uint64(m.PerMillion-taken) * 1_000_000 / uint64(1_000_000-taken)) //nolint:gosec // less than a million
	}
	return m
}

func (b *messages) proxylessRoute(r ir.Route) *routev3.Route {
	m := &routev3.Route{Match: b.match(r.Match), TypedPerFilterConfig: b.proxylessFilters(r.Filters)}
	if p, ok := m.GetMatch().GetPathSpecifier().(*routev3.RouteMatch_PathSeparatedPrefix); ok {
		m.Match.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{
			Regex: regexp.QuoteMeta(p.PathSeparatedPrefix) + "(/.*)?",
		}}
	}
	// Other actions clients don't know: calls that match fail with UNAVAILABLE.
	switch {
	case len(r.Backends) > 0:
		m.Action = &routev3.Route_Route{Route: b.proxylessForward(r)}
	case r.Reply != nil:
		m.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: r.Reply.Status}}
	default:
		m.Action = &routev3.Route_Redirect{Redirect: &routev3.RedirectAction{}}
	}
	return m
}

func (b *messages) proxylessForward(r ir.Route) *routev3.RouteAction {
	w := &routev3.WeightedCluster{}
	for _, c := range r.Backends {
		w.Clusters = append(w.Clusters, &routev3.WeightedCluster_ClusterWeight{Name: c.Cluster, Weight: u32(c.Weight)})
	}
	a := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: w},
		RetryPolicy:      proxylessRetry(r.Retry),
	}
	if t := r.Timeouts.Request; t > 0 {
		// The longest deadline of a call; one without gets it.
		a.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: duration(t)}
	}
	return a
}

// proxylessRetry is nil where nothing is left to retry: a call that certainly reached no application is retried by every
// gRPC client by itself (gRFC A6, transparent retries).
func proxylessRetry(r *ir.Retry) *routev3.RetryPolicy {
	if r == nil || r.Attempts == 0 {
		return nil
	}
	var on []string
	for _, reason := range r.On {
		if code := retriedCode(reason); code != "" && !slices.Contains(on, code) {
			on = append(on, code)
		}
	}
	if len(on) == 0 {
		return nil
	}
	slices.Sort(on)
	p := &routev3.RetryPolicy{RetryOn: strings.Join(on, ","), NumRetries: u32(r.Attempts)}
	if r.BackOff > 0 {
		p.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: duration(r.BackOff), MaxInterval: duration(r.MaxBackOff)}
	}
	return p
}

// retriedCode is the gRPC code that a failure of HTTP has for a client, empty for none.
func retriedCode(on ir.RetryOn) string {
	switch on {
	case ir.RetryReset, ir.RetryUnavailable, ir.RetryTimeout:
		return "unavailable"
	case ir.RetryConnectFailure, ir.RetryRefusedStream, ir.RetryResetBeforeRequest:
		return ""
	}
	if _, err := strconv.ParseUint(string(on), 10, 16); err == nil {
		return "" // a status of HTTP that no gRPC server answers
	}
	return string(on)
}

// proxylessFilters keeps the one filter that clients know: faults of all calls. They would not look whether a call matches.
func (b *messages) proxylessFilters(f ir.Filters) map[string]*anypb.Any {
	for _, one := range slices.Concat(f.Before, f.After) {
		if one.Fault != nil && one.Fault.Match == nil {
			return map[string]*anypb.Any{faultFilter: b.any(b.fault(*one.Fault))}
		}
	}
	return nil
}
