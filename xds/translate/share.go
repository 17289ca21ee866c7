package translate

import (
	"net/http"
	"slices"
	"strconv"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// share is what one backend of a rule gets of its requests. Without a cluster it is that of all backends that are not there.
type share struct {
	ir.Backend
	filters []gatewayv1.HTTPRouteFilter
	// kept says that sessions that began at the backend go on there.
	kept bool
}

// plain reports whether the share differs from others in no more than what Envoy can say of one of several clusters of a route.
func (s share) plain() bool {
	edits := func(f gatewayv1.HTTPRouteFilter) bool {
		return f.RequestHeaderModifier != nil || f.ResponseHeaderModifier != nil
	}
	return s.Cluster != "" && !slices.ContainsFunc(s.filters, func(f gatewayv1.HTTPRouteFilter) bool { return !edits(f) })
}

// ruleRoutes makes the routes of one match, as its rule and policies say.
func (tr *Translator) ruleRoutes(p topology.Port, m policy.RouteMatch, t policy.TrafficPolicy, told *policy.Metrics) []ir.Route {
	session := sessionOf(m)
	if session == nil {
		session = sessionAsked(t.Session)
	}
	routes := tr.matchRoutes(m, session)
	for i := range routes {
		countRule(&routes[i], m, told)
	}
	return tr.treatOutbound(p, routes, ruled(t, m.Does))
}

// matchRoutes makes the routes of one match: one where Envoy can divide the requests among its clusters, else one for each
// backend, which takes its share. Sessions come first: they stay with their backend whatever its weight is (GEP-1619).
func (tr *Translator) matchRoutes(m policy.RouteMatch, session *ir.Session) []ir.Route {
	match := matchOf(m.Match)
	if to := redirectOf(m.Does.Filters); to != nil {
		r := ir.Route{Match: match, Redirect: to}
		tr.follow(&r, m)
		return []ir.Route{r}
	}
	shares := tr.sharesOf(m)
	var weighted []ir.Backend
	var total uint64
	special := false
	for _, s := range shares {
		if s.Weight > 0 {
			weighted, total, special = append(weighted, s.Backend), total+uint64(s.Weight), special || !s.plain()
		}
	}
	if len(weighted) > 0 && !special && (session == nil || len(shares) == 1) {
		r := ir.Route{Match: match, Backends: weighted}
		tr.follow(&r, m)
		keepSession(&r, session)
		return []ir.Route{r}
	}
	var out []ir.Route
	for _, s := range shares {
		if session != nil && s.kept {
			r := tr.shareRoute(m, s, match)
			r.Match.Headers = append(slices.Clip(r.Match.Headers), sessionAt(*session, s.Cluster))
			keepSession(&r, session)
			out = append(out, r)
		}
	}
	var upTo uint64
	for _, s := range shares {
		if s.Weight == 0 {
			continue
		}
		r := tr.shareRoute(m, s, match)
		if upTo += uint64(s.Weight); upTo < total {
			r.Match.PerMillion = uint32(max(upTo*perMillion/total, 1)) //nolint:gosec // less than a million
		}
		keepSession(&r, session)
		out = append(out, r)
	}
	if total == 0 {
		out = append(out, tr.shareRoute(m, share{}, match))
	}
	return out
}

// shareRoute takes requests to one backend.
func (tr *Translator) shareRoute(m policy.RouteMatch, s share, match ir.Match) ir.Route {
	r := ir.Route{Match: match}
	switch to := redirectOf(s.filters); {
	case to != nil:
		r.Redirect = to
	case s.Cluster == "":
		r.Reply = tr.noBackend(m)
	default:
		s.Weight = 1
		r.Backends = []ir.Backend{s.Backend}
	}
	tr.follow(&r, m)
	for _, f := range s.filters {
		if f.URLRewrite != nil || f.RequestMirror != nil {
			tr.filter(&r, m, f)
		}
	}
	return r
}

// sharesOf are the backends of a rule in their order; those that are not there are one, the first.
func (tr *Translator) sharesOf(m policy.RouteMatch) []share {
	var out []share
	var missing uint32
	for _, ref := range m.Does.BackendRefs {
		weight := weightOf(ref.BackendRef)
		to, err := tr.t.Backend(m.Route, ref.BackendObjectReference)
		if err != nil {
			missing += weight
			continue
		}
		b := ir.Backend{Cluster: tr.backendName(to), Host: tr.hostOutside(to), Weight: weight}
		out = mergeShare(out, share{Backend: ofBackend(b, ref.Filters), filters: ref.Filters, kept: tr.t.Staffed(to)})
	}
	if missing > 0 {
		out = slices.Insert(out, 0, share{Backend: ir.Backend{Weight: missing}})
	}
	return out
}

// noBackend answers for a rule that leads nowhere: 500, of a GRPCRoute what gRPC takes for UNAVAILABLE (Gateway API,
// HTTPRouteRule.BackendRefs and GRPCRouteRule.BackendRefs).
func (tr *Translator) noBackend(m policy.RouteMatch) *ir.Reply {
	kind := string(m.Route.Kind)
	rule := "Rule " + strconv.Itoa(m.Rule) + " of " + kind + " " + string(m.Route.Origin) + "/" + m.Route.Namespace + "/" + m.Route.Name
	out := &ir.Reply{
		Status: http.StatusInternalServerError, Code: "NO-BACKEND", Title: "A backend of the " + kind + " is not there",
		Detail: rule + " names a service port that this zone does not know.",
		Try:    "See the status of the " + kind + "; create or export the service, or change its backendRefs.",
	}
	if !slices.ContainsFunc(m.Does.BackendRefs, func(b gatewayv1.HTTPBackendRef) bool { return weightOf(b.BackendRef) > 0 }) {
		out.Title = "The " + kind + " leads the request nowhere"
		out.Detail = rule + " has no backendRefs, or all their weights are 0."
		out.Try = "Give the rule a backend with a weight; to refuse requests on purpose, use an AuthorizationPolicy."
	}
	if m.Route.Kind == mesh.KindGRPCRoute {
		out.Status = http.StatusServiceUnavailable
	}
	return out
}

// ofBackend is what the filters of a backend edit.
func ofBackend(b ir.Backend, filters []gatewayv1.HTTPRouteFilter) ir.Backend {
	for _, f := range filters {
		switch {
		case f.RequestHeaderModifier != nil:
			b.Request = headerEdits(*f.RequestHeaderModifier)
		case f.ResponseHeaderModifier != nil:
			b.Response = headerEdits(*f.ResponseHeaderModifier)
		}
	}
	return b
}

// weightOf is the weight of a backend, 1 where none is said.
func weightOf(ref gatewayv1.BackendRef) uint32 {
	if ref.Weight == nil {
		return 1
	}
	return uint32(max(*ref.Weight, 0)) //nolint:gosec // validated
}

// mergeShare sums up what is named twice: Envoy would count both, people would not.
func mergeShare(list []share, s share) []share {
	for i := range list {
		if sameEdits(list[i].Backend, s.Backend) && list[i].plain() && s.plain() {
			list[i].Weight += s.Weight
			return list
		}
	}
	return append(list, s)
}

// mergeBackend is mergeShare for connections, which nobody edits.
func mergeBackend(list []ir.Backend, cluster string, weight uint32) []ir.Backend {
	for i := range list {
		if list[i].Cluster == cluster {
			list[i].Weight += weight
			return list
		}
	}
	return append(list, ir.Backend{Cluster: cluster, Weight: weight})
}

// sameEdits reports whether two backends of one cluster can be one.
func sameEdits(a, b ir.Backend) bool {
	same := func(x, y ir.HeaderEdits) bool {
		return slices.Equal(x.Set, y.Set) && slices.Equal(x.Add, y.Add) && slices.Equal(x.Remove, y.Remove)
	}
	return a.Cluster == b.Cluster && same(a.Request, b.Request) && same(a.Response, b.Response)
}
