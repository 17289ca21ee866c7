package translate

import (
	"slices"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// edgeHost are the routes of a host of a Gateway's listener, and what shaped them.
func (tr *Translator) edgeHost(p topology.EdgePort, e topology.EdgeListener, h topology.EdgeHost) (ir.VirtualHost, ir.Sources) {
	out := replying(h.Host, noRoute())
	end := out.Routes
	out.Routes, out.Retry = nil, safeRetry(tr.settings.Retry)
	var sources ir.Sources
	told := tr.t.EdgeTelemetry()
	demanded := make([][]ir.Filter, len(h.Routes))
	demands := false
	for i, m := range h.Routes {
		demanded[i] = tr.edgeTokens(m)
		demands = demands || len(demanded[i]) > 0
	}
	for i, m := range h.Routes {
		traffic := tr.t.EdgeTraffic(m.Route, m.RuleName)
		routes := tr.ruleRoutes(topology.Port{Protocol: topology.HTTP}, m, traffic.Spec, told.Spec.Metrics)
		tokens := demanded[i]
		// Where a path is ambiguous it may be meant for a rule that demands a token.
		free := len(tokens) == 0 || tr.t.EdgeAuthentication(m.Route, m.RuleName).Spec.JWT.Mode == policy.JWTOptional
		before := append(tokens, tr.visitors(e, demands && free)...)
		after := slices.Concat(tr.requestLimits(traffic.Spec.RateLimit, traffic.By("RateLimit")), tr.filtersOf(tr.t.EdgeExtensions(m.Route, m.RuleName)))
		for i := range routes {
			routes[i].Filters.Before = append(slices.Clip(routes[i].Filters.Before), before...)
			leadToPort(&routes[i], p)
		}
		out.Routes = append(out.Routes, extend(routes, after)...)
		sources = slices.Concat(sources, ir.Sources{m.Route}, traffic.Sources, ruleMetricsSources(told), tr.t.EdgeAuthentication(m.Route, m.RuleName).Sources)
		for _, e := range tr.t.EdgeExtensions(m.Route, m.RuleName) {
			sources = append(sources, e.Resource.Key)
		}
	}
	for _, a := range tr.t.Visitors(e.Gateway, e.Name).All() {
		sources = append(sources, a.Resource.Key)
	}
	out.Routes = append(out.Routes, end...)
	return tr.stayHere(out), sources
}

// edgeTokens verifies what requests from outside must carry, where a policy for their route says so.
func (tr *Translator) edgeTokens(m policy.RouteMatch) []ir.Filter {
	j := &ir.JWT{}
	tr.demand(j, ir.JWTRule{Match: anyPath()}, tr.t.EdgeAuthentication(m.Route, m.RuleName).Spec.JWT)
	if len(j.Providers) == 0 {
		return nil
	}
	return []ir.Filter{{JWT: j}}
}

// edgeKeyClusters are where the keys of these are fetched.
func (tr *Translator) edgeKeyClusters(g topology.IngressProxy) []ir.Cluster {
	var said []policy.Merged[policy.AuthenticationPolicy]
	for _, p := range tr.t.Edge(g.Name) {
		for _, l := range p.Listeners {
			for _, h := range l.Hosts {
				for _, m := range h.Routes {
					said = append(said, tr.t.EdgeAuthentication(m.Route, m.RuleName))
				}
			}
		}
	}
	var out []ir.Cluster
	for _, c := range tr.keyClustersOf(said) {
		if !slices.ContainsFunc(out, func(o ir.Cluster) bool { return o.Name == c.Name }) {
			out = append(out, c)
		}
	}
	return out
}

// withoutPort takes the port out of the host that a request asks for, so that a redirect does not repeat it. Envoy has no word for that.
const withoutPort = `function envoy_on_request(handle)
  local host = handle:headers():get(":authority")
  if host then handle:headers():replace(":authority", (host:gsub(":%d+$", ""))) end
end`

// leadToPort gives a redirect the port that the Gateway API says (HTTPRequestRedirectFilter.Port): where none is said, that of the
// scheme, or without a scheme that of the listener. A port that follows from the scheme is not written.
func leadToPort(r *ir.Route, p topology.EdgePort) {
	if r.Redirect == nil {
		return
	}
	d := *r.Redirect
	r.Redirect = &d
	scheme := d.Scheme
	if scheme == "" {
		if scheme = "http"; p.TLS() {
			scheme = "https"
		}
	}
	known := map[string]uint16{"http": 80, "https": 443}[scheme]
	switch {
	case d.Port == 0 && d.Scheme == "" && d.Host == "":
		return // as it was asked
	case d.Port == 0 && d.Scheme == "":
		d.Port = p.Number
	}
	if d.Port == 0 || d.Port == known {
		d.Port = 0
		if d.Host == "" {
			r.Filters.After = append(slices.Clip(r.Filters.After), ir.Filter{Lua: &ir.Lua{Script: withoutPort}})
		}
	}
}
