package policy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// ServiceRef names a port of a service; Port 0 means any.
type ServiceRef struct {
	// Kind is Service or ExternalService; empty means Service.
	Kind      mesh.Kind
	Namespace string
	Name      string
	Port      uint16
}

// Route is an HTTPRoute with its decoded spec.
type Route struct {
	Resource mesh.Resource
	Spec     *HTTPRoute
}

// RouteMatch is one way in which a request may match one rule of a route.
type RouteMatch struct {
	Route mesh.Key
	Rule  int // index in spec.rules
	// RuleName is empty for a rule without one.
	RuleName string
	// Match has the Gateway API's defaults filled in: Path is never nil, nor are its Type and Value,
	// and a prefix has no slash at its end (but "/"); a nil Type of a header or query parameter means Exact.
	Match gatewayv1.HTTPRouteMatch
	// Does is the rule: its Matches are not to be looked at. A nil Weight of a backend means 1.
	Does *gatewayv1.HTTPRouteRule

	tie tie
}

// tie orders what the Gateway API's rules leave equal, as our "who wins": the more specific target,
// a zone's own before global's, the older, the name.
type tie struct {
	port    bool
	global  bool
	created mesh.Revision
	key     mesh.Key
}

// RoutesFor returns the matches of all routes that have the service's port as a parent and hold for just these clients, in the order
// in which a proxy must try them: exact path, regular expressions (which the Gateway API leaves to us), the longest prefix, then a
// method, the most headers, the most query parameters (Gateway API, HTTPRouteRule.Matches), then parents with a port before those without, a zone's own
// routes before global's, the older creation, namespace and name, the order of rules. A match equal to an earlier one of
// another route can never be reached: it is left out, and overridden says by whom. routes need not be
// sorted and are not changed.
func RoutesFor(routes []Route, service ServiceRef, clients Clients) (matches []RouteMatch, overridden map[mesh.Key][]mesh.Key) {
	for _, rt := range routes {
		attached, port := attaches(rt, service, clients)
		if !attached {
			continue
		}
		matches = append(matches, matchesOf(rt, port)...)
	}
	slices.SortStableFunc(matches, compareMatches)
	matches, less := onlyMostSpecific(matches)
	matches, overridden = dropUnreachable(matches)
	for k, by := range less {
		if overridden == nil {
			overridden = map[mesh.Key][]mesh.Key{}
		}
		overridden[k] = append(overridden[k], by...)
	}
	return matches, overridden
}

// onlyMostSpecific leaves the GRPCRoutes where there are any: of routes of several kinds for one port of a Service those of the more
// specific kind hold alone (GEP-1294, "Route types").
func onlyMostSpecific(matches []RouteMatch) (kept []RouteMatch, overridden map[mesh.Key][]mesh.Key) {
	i := slices.IndexFunc(matches, func(m RouteMatch) bool { return m.Route.Kind == mesh.KindGRPCRoute })
	if i < 0 {
		return matches, nil
	}
	overridden = map[mesh.Key][]mesh.Key{}
	for _, m := range matches {
		switch {
		case m.Route.Kind == mesh.KindGRPCRoute:
			kept = append(kept, m)
		case overridden[m.Route] == nil:
			overridden[m.Route] = []mesh.Key{matches[i].Route}
		}
	}
	return kept, overridden
}

// matchesOf are the matches of a route in the order of its rules; byPort says that its parent names the port.
func matchesOf(rt Route, byPort bool) []RouteMatch {
	var out []RouteMatch
	t := tie{port: byPort, global: rt.Resource.Origin == mesh.OriginGlobal, created: rt.Resource.Created, key: rt.Resource.Key}
	for i, rule := range rt.Spec.Rules {
		ms := rule.Matches
		if len(ms) == 0 {
			ms = []gatewayv1.HTTPRouteMatch{{}}
		}
		for _, m := range ms {
			out = append(out, RouteMatch{Route: rt.Resource.Key, Rule: i, RuleName: string(orZero(rule.Name)), Match: withDefaults(m), Does: &rt.Spec.Rules[i], tie: t})
		}
	}
	return out
}

func attaches(rt Route, service ServiceRef, clients Clients) (attached, byPort bool) {
	if rt.Spec == nil {
		return false, false
	}
	for _, p := range rt.Spec.ParentRefs {
		if !IsService(p) || string(p.Name) != service.Name || ParentNamespace(p, rt.Resource.Namespace) != service.Namespace {
			continue
		}
		if !slices.Contains(ClientsOf(rt.Resource, p), clients) {
			continue
		}
		switch {
		case p.Port == nil || service.Port == 0:
			attached = true
		case *p.Port == int32(service.Port):
			attached, byPort = true, true
		}
	}
	return attached, byPort
}

func withDefaults(m gatewayv1.HTTPRouteMatch) gatewayv1.HTTPRouteMatch {
	kind, value := gatewayv1.PathMatchPathPrefix, "/"
	if m.Path != nil {
		if m.Path.Type != nil {
			kind = *m.Path.Type
		}
		if m.Path.Value != nil {
			value = *m.Path.Value
		}
	}
	if kind == gatewayv1.PathMatchPathPrefix && value != "/" {
		// Prefixes match whole path elements: "/a/" accepts what "/a" accepts.
		value = strings.TrimSuffix(value, "/")
	}
	m.Path = &gatewayv1.HTTPPathMatch{Type: &kind, Value: &value}
	m.Headers = slices.Clone(m.Headers)
	for i, h := range m.Headers {
		if h.Type != nil && *h.Type == gatewayv1.HeaderMatchExact {
			m.Headers[i].Type = nil
		}
	}
	m.QueryParams = slices.Clone(m.QueryParams)
	for i, q := range m.QueryParams {
		if q.Type != nil && *q.Type == gatewayv1.QueryParamMatchExact {
			m.QueryParams[i].Type = nil
		}
	}
	return m
}

func compareMatches(a, b RouteMatch) int {
	is := func(m RouteMatch, k gatewayv1.PathMatchType) bool { return *m.Match.Path.Type == k }
	return cmp.Or(
		first(is(a, gatewayv1.PathMatchExact), is(b, gatewayv1.PathMatchExact)),
		first(is(a, gatewayv1.PathMatchRegularExpression), is(b, gatewayv1.PathMatchRegularExpression)),
		-cmp.Compare(len(*a.Match.Path.Value), len(*b.Match.Path.Value)),
		first(a.Match.Method != nil, b.Match.Method != nil),
		-cmp.Compare(len(a.Match.Headers), len(b.Match.Headers)),
		-cmp.Compare(len(a.Match.QueryParams), len(b.Match.QueryParams)),
		first(a.tie.port, b.tie.port),
		first(!a.tie.global, !b.tie.global),
		cmp.Compare(a.tie.created, b.tie.created),
		a.tie.key.Compare(b.tie.key),
		cmp.Compare(a.Rule, b.Rule),
	)
}

// first orders true before false.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func dropUnreachable(matches []RouteMatch) ([]RouteMatch, map[mesh.Key][]mesh.Key) {
	var overridden map[mesh.Key][]mesh.Key
	winner := map[string]mesh.Key{}
	out := matches[:0]
	for _, m := range matches {
		id := matchID(m.Match)
		by, taken := winner[id]
		if !taken {
			winner[id] = m.Route
			out = append(out, m)
			continue
		}
		if by == m.Route {
			continue
		}
		if overridden == nil {
			overridden = map[mesh.Key][]mesh.Key{}
		}
		if !slices.Contains(overridden[m.Route], by) {
			overridden[m.Route] = append(overridden[m.Route], by)
		}
	}
	return out, overridden
}

// matchID is equal for matches that accept the same requests.
func matchID(m gatewayv1.HTTPRouteMatch) string {
	parts := []string{string(*m.Path.Type), strconv.Quote(*m.Path.Value)}
	if m.Method != nil {
		parts = append(parts, string(*m.Method))
	}
	var more []string
	for _, h := range m.Headers {
		more = append(more, "header "+string(orZero(h.Type))+strings.ToLower(string(h.Name))+"="+strconv.Quote(h.Value))
	}
	for _, q := range m.QueryParams {
		more = append(more, "query "+string(orZero(q.Type))+strconv.Quote(string(q.Name))+"="+strconv.Quote(q.Value))
	}
	slices.Sort(more)
	return strings.Join(append(parts, more...), "\n")
}

// Authorization is an AuthorizationPolicy with its decoded spec.
type Authorization struct {
	Resource mesh.Resource
	Spec     *AuthorizationPolicy
}

// Policies are the authorization policies of one service or port. They add up and deny wins: a request that
// any rule of Deny matches is refused; otherwise, where Allow is not empty, a request that no rule of
// Allow matches is refused too; where Allow is empty, MeshConfig's default decides. Audit decides nothing.
type Policies struct {
	Deny  []Authorization
	Allow []Authorization
	Audit []Authorization
}

// PoliciesFor selects the policies that apply to a service: those that target it or a port of it by name, those of
// its namespace without a target, and those of SystemNamespace without a target. The lists are
// ordered by key. The port of the service plays no part; see Policies.OfPort.
func PoliciesFor(policies []Authorization, service ServiceRef) Policies {
	return Sorted(slices.DeleteFunc(slices.Clone(policies), func(p Authorization) bool { return !Targets(p, service) }))
}

// Sorted divides policies by what they do, each list ordered by key.
func Sorted(policies []Authorization) Policies {
	var out Policies
	for _, p := range policies {
		switch p.Spec.Action {
		case Deny:
			out.Deny = append(out.Deny, p)
		case Allow:
			out.Allow = append(out.Allow, p)
		case Audit:
			out.Audit = append(out.Audit, p)
		}
	}
	byKey := func(a, b Authorization) int { return a.Resource.Key.Compare(b.Resource.Key) }
	slices.SortFunc(out.Deny, byKey)
	slices.SortFunc(out.Allow, byKey)
	slices.SortFunc(out.Audit, byKey)
	return out
}

// OfPort leaves out what is for other ports of the service; the name is empty for a port without one.
func (p Policies) OfPort(name string) Policies {
	return p.without(func(a Authorization) bool {
		return a.Spec.TargetRef != nil && a.Spec.TargetRef.SectionName != "" && a.Spec.TargetRef.SectionName != name
	})
}

// Enforced leaves out what is in shadow mode.
func (p Policies) Enforced() Policies {
	return p.without(func(a Authorization) bool { return a.Spec.Mode == Shadow })
}

// Shadowed reports whether any of the policies is in shadow mode.
func (p Policies) Shadowed() bool {
	e := p.Enforced()
	return len(e.Deny) != len(p.Deny) || len(e.Allow) != len(p.Allow)
}

// All is every policy once: denials, allowances, audits.
func (p Policies) All() []Authorization { return slices.Concat(p.Deny, p.Allow, p.Audit) }

func (p Policies) without(drop func(Authorization) bool) Policies {
	left := func(list []Authorization) []Authorization { return slices.DeleteFunc(slices.Clone(list), drop) }
	return Policies{left(p.Deny), left(p.Allow), left(p.Audit)}
}

// Targets reports whether one policy applies to the service.
func Targets(p Authorization, service ServiceRef) bool {
	return p.Spec != nil && targets(p.Spec.TargetRef, p.Resource.Namespace, service)
}

// targets reports whether a policy of a namespace with the target applies to the service.
func targets(t *TargetRef, namespace string, service ServiceRef) bool {
	if t == nil {
		return namespace == SystemNamespace || namespace == service.Namespace
	}
	return namespace == service.Namespace && t.Name == service.Name &&
		t.Kind == string(cmp.Or(service.Kind, mesh.KindService)) && t.Group == targetGroup(t.Kind)
}
