package envoy

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/comity-mesh/comity/internal/signals"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/ir"
)

func routesMessage(b *messages, t ir.RouteTable) (proto.Message, error) {
	if t.Proxyless {
		return proxylessRoutesMessage(b, t)
	}
	m := &routev3.RouteConfiguration{Name: t.Name}
	if t.Edge != nil {
		guardRoutes(m, *t.Edge)
	}
	for _, h := range t.Hosts {
		v := &routev3.VirtualHost{Name: h.Name, Domains: h.Domains, RetryPolicy: b.retry(h.Retry)}
		if h.Authorization == nil {
			v.ResponseHeadersToRemove = []string{noAnswerHeader} // for this sidecar, not for what is beside it
		} else {
			v.RequestHeadersToRemove = slices.Concat(mesh.CallerLookAlikes(), toldLookAlikes(h.Filters))
			v.TypedPerFilterConfig = map[string]*anypb.Any{
				rbacFilter: b.any(&rbacv3.RBACPerRoute{Rbac: b.rbac(*h.Authorization)}),
			}
		}
		for _, r := range h.Routes {
			rm, err := b.route(r)
			if err != nil {
				return nil, fmt.Errorf("host %s: %w", h.Name, err)
			}
			v.Routes = append(v.Routes, rm)
		}
		if t := treeOf(h.Routes); t != nil {
			v.Matcher, v.Routes = b.byRoute(t, v.Routes), nil
		}
		var err error
		if v.TypedPerFilterConfig, err = b.perRoute(h.Filters, v.TypedPerFilterConfig); err != nil {
			return nil, fmt.Errorf("host %s: %w", h.Name, err)
		}
		m.VirtualHosts = append(m.VirtualHosts, v)
	}
	return b.patched(m, t.Patches), b.err
}

func (b *messages) route(r ir.Route) (*routev3.Route, error) {
	m := &routev3.Route{Name: r.Name, Match: b.match(r.Match)}
	if r.Counted {
		m.StatPrefix = r.Name
	}
	if r.Timed {
		m.StatPrefix = signals.TimedRules + r.Name
	}
	switch {
	case r.Reply != nil && len(r.Backends) == 0:
		body, err := json.Marshal(r.Reply)
		if err != nil {
			return nil, err
		}
		m.Name = cmp.Or(m.GetName(), r.Reply.Code) // so that the access log says why, and not only that
		m.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: r.Reply.Status, Body: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: string(body) + "\n"}},
		}}
		m.ResponseHeadersToAdd = []*corev3.HeaderValueOption{{
			Header:       &corev3.HeaderValue{Key: "content-type", Value: problemJSON},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}}
	case r.Redirect != nil && len(r.Backends) == 0:
		a, err := redirect(r.Match, *r.Redirect)
		if err != nil {
			return nil, err
		}
		m.Action = &routev3.Route_Redirect{Redirect: a}
	case r.Reply == nil && len(r.Backends) > 0:
		m.Action = &routev3.Route_Route{Route: b.forward(r)}
	default:
		return nil, errors.New("a route must either have backends, reply or redirect")
	}
	m.RequestHeadersToAdd, m.RequestHeadersToRemove = headerOptions(r.Request), r.Request.Remove
	m.ResponseHeadersToAdd, m.ResponseHeadersToRemove = append(m.ResponseHeadersToAdd, headerOptions(r.Response)...), r.Response.Remove
	var err error
	m.TypedPerFilterConfig, err = b.perRoute(r.Filters, nil)
	return m, err
}

func (b *messages) forward(r ir.Route) *routev3.RouteAction {
	a := &routev3.RouteAction{
		// Said even if there is none: Envoy's own 15 s would cut streams, and what is right only the application knows.
		Timeout:     durationpb.New(time.Duration(r.Timeouts.Request) * time.Millisecond),
		IdleTimeout: duration(r.Timeouts.Idle),
		RetryPolicy: b.retry(r.Retry),
	}
	if r.Match.Connect {
		a.UpgradeConfigs = []*routev3.RouteAction_UpgradeConfig{{UpgradeType: "CONNECT", ConnectConfig: &routev3.RouteAction_UpgradeConfig_ConnectConfig{}}}
	}
	if r.Retry != nil && r.Retry.Hedge {
		a.HedgePolicy = &routev3.HedgePolicy{HedgeOnPerTryTimeout: true}
	}
	if r.Rewrite != nil {
		rewrite(a, r.Match, *r.Rewrite)
	}
	a.RequestMirrorPolicies = mirrors(r.Mirrors)
	if one := r.Backends[0]; len(r.Backends) == 1 && one.Host == "" && one.Request.Empty() && one.Response.Empty() {
		a.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: r.Backends[0].Cluster}
		return a
	}
	w := &routev3.WeightedCluster{}
	for _, c := range r.Backends {
		cw := &routev3.WeightedCluster_ClusterWeight{
			Name: c.Cluster, Weight: u32(c.Weight),
			RequestHeadersToAdd: headerOptions(c.Request), RequestHeadersToRemove: c.Request.Remove,
			ResponseHeadersToAdd: headerOptions(c.Response), ResponseHeadersToRemove: c.Response.Remove,
		}
		if c.Host != "" {
			cw.HostRewriteSpecifier = &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: c.Host}
		}
		w.Clusters = append(w.Clusters, cw)
	}
	a.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: w}
	return a
}

func (b *messages) match(m ir.Match) *routev3.RouteMatch {
	out := &routev3.RouteMatch{}
	switch m.Path.Kind {
	case ir.PathExact:
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: m.Path.Value}
	case ir.PathElements:
		out.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: m.Path.Value}
	case ir.PathRegex:
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: m.Path.Value}}
	case ir.PathPrefix:
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: m.Path.Value}
	}
	if m.Connect {
		out.PathSpecifier = &routev3.RouteMatch_ConnectMatcher_{ConnectMatcher: &routev3.RouteMatch_ConnectMatcher{}}
	}
	if m.Host != "" {
		out.Headers = append(out.Headers, headerMatcher(":authority", matching(m.Host)))
	}
	if m.NotHost != "" {
		not := headerMatcher(":authority", matching(m.NotHost))
		not.InvertMatch = true
		out.Headers = append(out.Headers, not)
	}
	if len(m.Methods) > 0 {
		out.Headers = append(out.Headers, headerMatcher(":method", methodMatcher(m.Methods)))
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, headerMatcher(h.Name, valueMatcher(h)))
	}
	out.QueryParameters = queryMatchers(m.Query)
	if m.PerMillion > 0 {
		out.RuntimeFraction = &corev3.RuntimeFractionalPercent{DefaultValue: perMillion(m.PerMillion)}
	}
	return out
}

func headerMatcher(name string, m *matcherv3.StringMatcher) *routev3.HeaderMatcher {
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: m}}
}

func exactly(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

// methodMatcher takes tokens of letters, digits, '-' and '_' only, which mean themselves in a regular
// expression.
func methodMatcher(methods []string) *matcherv3.StringMatcher {
	if len(methods) == 1 {
		return exactly(methods[0])
	}
	return matching(strings.Join(methods, "|"))
}

// matching takes what a regular expression matches as a whole.
func matching(pattern string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: pattern}}}
}
