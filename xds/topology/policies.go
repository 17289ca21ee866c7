package topology

import (
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// attachRoutes gives every HTTP port its routes in order.
func (b *builder) attachRoutes() {
	for _, r := range b.httpRoutes() {
		if spec, ok := b.httpSpec(r); ok {
			b.routes[r.Namespace] = append(b.routes[r.Namespace], policy.Route{Resource: r, Spec: spec})
			b.checkRoute(r, spec)
		}
	}
	lost := map[mesh.Key][]mesh.Key{}
	consumers := b.consumers()
	for _, s := range b.t.Services {
		if len(b.routes[s.Namespace]) == 0 && len(consumers[s.ServiceName]) == 0 {
			continue
		}
		for i := range s.Ports {
			p := &s.Ports[i]
			if !p.Protocol.IsHTTP() {
				continue
			}
			ref := policy.ServiceRef{Namespace: s.Namespace, Name: s.Name, Port: p.Number}
			matches, by := policy.RoutesFor(b.routes[s.Namespace], ref, policy.Clients{})
			p.Routes = matches
			noteLost(lost, by)
			for _, c := range consumers[s.ServiceName] {
				noteLost(lost, b.consume(c, ref))
			}
		}
	}
	b.sayOverridden(lost)
}

// httpRoutes are all routes of requests.
func (b *builder) httpRoutes() []mesh.Resource {
	return slices.Concat(b.byKind[mesh.KindHTTPRoute], b.byKind[mesh.KindGRPCRoute])
}

// httpSpec is a route of requests as an HTTPRoute.
func (b *builder) httpSpec(r mesh.Resource) (*policy.HTTPRoute, bool) {
	switch spec := b.specs[r.Key].(type) {
	case *policy.HTTPRoute:
		return spec, true
	case *policy.GRPCRoute:
		return policy.HTTPOf(spec), true
	}
	return nil, false
}

// checkRoute says what a route names that is not there. The proxy answers for a backend that is not there, for its share (Gateway API,
// HTTPRouteRule.BackendRefs, GRPCRouteRule.BackendRefs).
func (b *builder) checkRoute(r mesh.Resource, spec *policy.HTTPRoute) {
	for _, p := range spec.ParentRefs {
		if !policy.IsService(p) {
			continue // attachGateways looks at it
		}
		n := ServiceName{policy.ParentNamespace(p, r.Namespace), string(p.Name)}
		s, ok := b.t.services[n]
		switch {
		case !ok:
			b.unaccepted(r.Key, gatewayv1.RouteReasonNoMatchingParent, "parent: there is no service %s here", n)
		case p.Port != nil:
			if port, ok := s.Port(uint16(*p.Port)); !ok || !port.Protocol.IsHTTP() {
				b.unaccepted(r.Key, gatewayv1.RouteReasonNoMatchingParent, "parent: service %s has no HTTP port %d", n, *p.Port)
			}
		case !slices.ContainsFunc(s.Ports, func(p Port) bool { return p.Protocol.IsHTTP() }):
			b.unaccepted(r.Key, gatewayv1.RouteReasonNoMatchingParent, "parent: service %s has no HTTP port (appProtocol http, http2 or grpc)", n)
		}
	}
	answer := "is answered 500"
	if r.Kind == mesh.KindGRPCRoute {
		answer = "ends with UNAVAILABLE"
	}
	for i, rule := range spec.Rules {
		for _, ref := range rule.BackendRefs {
			if _, err := b.t.Backend(r.Key, ref.BackendObjectReference); err != nil {
				b.unresolved(r.Key, err, "rule %d: %v: its share of the requests %s", i, err, answer)
			}
		}
		for _, ref := range copied(&rule) {
			if _, err := b.t.Backend(r.Key, ref); err != nil {
				b.unresolved(r.Key, err, "rule %d: mirror: %v: nothing is copied", i, err)
			}
		}
	}
}

// attachPolicies gives every service that is served here its policies.
func (b *builder) attachPolicies() {
	b.t.visitors = map[string][]policy.Authorization{}
	for _, r := range b.byKind[mesh.KindAuthorizationPolicy] {
		spec, ok := b.specs[r.Key].(*policy.AuthorizationPolicy)
		if !ok {
			continue
		}
		if spec.ForVisitors() {
			b.t.visitors[r.Namespace] = append(b.t.visitors[r.Namespace], policy.Authorization{Resource: r, Spec: spec})
			b.checkVisitors(r, spec.TargetRef)
			continue
		}
		b.checkPolicy(r, spec)
		b.authz[r.Namespace] = append(b.authz[r.Namespace], policy.Authorization{Resource: r, Spec: spec})
	}
	system := b.authz[policy.SystemNamespace]
	for _, s := range b.t.Services {
		if s.Local == nil {
			continue // decided by the zone that serves it
		}
		list := b.authz[s.Namespace]
		if s.Namespace != policy.SystemNamespace {
			list = append(slices.Clone(list), system...)
		}
		s.Policies = policy.PoliciesFor(list, policy.ServiceRef{Namespace: s.Namespace, Name: s.Name})
	}
}

func (b *builder) checkPolicy(r mesh.Resource, spec *policy.AuthorizationPolicy) {
	b.checkTarget(r, spec.TargetRef)
	b.checkDecides(r, spec.TargetRef)
	if t := spec.TargetRef; t != nil && t.Kind == string(mesh.KindService) {
		if s, ok := b.t.services[ServiceName{r.Namespace, t.Name}]; ok && s.Local != nil {
			b.checkOperations(r.Key, s, spec)
		}
	}
	for _, rule := range spec.Rules {
		for _, src := range rule.From {
			for _, z := range src.Zones {
				if _, ok := b.t.trustDomains[z]; !ok {
					b.issue(r.Key, "it names zone %q, whose trust domain is not known here: nobody is of that zone", z)
				}
			}
		}
	}
}

// checkOperations warns of what has no effect, or more than is meant, on ports where no request is understood.
func (b *builder) checkOperations(k mesh.Key, s *Service, spec *policy.AuthorizationPolicy) {
	for _, p := range s.Ports {
		if p.Protocol.IsHTTP() && b.t.Layer(s, p.Number, b.in.Zone) != mesh.LayerL4 || spec.TargetRef.SectionName != "" && spec.TargetRef.SectionName != p.Name {
			continue
		}
		if slices.ContainsFunc(spec.Rules, func(rule policy.Rule) bool { return looksAtRequests(rule, p.Number) }) {
			effect := "an Allow rule with them allows nothing there"
			switch spec.Action {
			case policy.Deny:
				effect = "a Deny rule with them denies everything there"
			case policy.Audit:
				effect = "an Audit rule with them notes everything there"
			case policy.Allow:
			}
			b.issue(k, "port %d of %s is passed on as bytes, where there are no methods, paths, headers and claims: %s", p.Number, s.ServiceName, effect)
		}
	}
}

// looksAtRequests reports whether a rule depends on more than the caller, at a port.
func looksAtRequests(rule policy.Rule, port uint16) bool {
	return len(rule.To) == 0 && rule.When != nil || slices.ContainsFunc(rule.To, func(op policy.Operation) bool {
		here := len(op.Ports) == 0 || slices.Contains(op.Ports, port)
		return here && (rule.When != nil || len(op.Methods)+len(op.Paths)+len(op.Headers) > 0)
	})
}

// TrustDomainOf returns a zone's trust domain, also of a zone that is away.
func (t *Topology) TrustDomainOf(zone string) (mesh.TrustDomain, bool) {
	td, ok := t.trustDomains[zone]
	return td, ok
}
