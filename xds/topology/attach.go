package topology

import (
	"maps"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// attachTraffic merges the TrafficPolicies for every service port and every rule of its routes, and says of each what it
// targets that is not here, and by whom it is overridden.
func (b *builder) attachTraffic() {
	policies := attached[policy.TrafficPolicy](b, mesh.KindTrafficPolicy)
	if b.t.traffic = attachmentsOf(policies); b.t.traffic == nil {
		return
	}
	for _, p := range policies {
		b.checkTarget(p.Resource, p.Spec.TargetRef)
		b.checkConnections(p.Resource, *p.Spec)
		b.checkServerSide(p.Resource, p.Spec.TargetRef, p.Spec.ServerSide()...)
	}
	lost := map[mesh.Key][]mesh.Key{}
	merge := func(s policy.Subject) { noteLost(lost, b.t.traffic.of(s).Overridden) }
	for _, s := range b.t.Services {
		for _, p := range s.Ports {
			merge(subject(s, p, mesh.Key{}, ""))
			for _, m := range p.Routes {
				merge(subject(s, p, m.Route, m.RuleName))
			}
		}
	}
	for c, matches := range b.t.consumed {
		s := b.t.services[c.of.ServiceName]
		p, _ := s.Port(c.of.Port)
		for _, m := range matches {
			merge(subject(s, p, m.Route, m.RuleName))
		}
	}
	for _, e := range b.t.Externals {
		for _, p := range e.Ports {
			noteLost(lost, b.t.ExternalTraffic(e, p).Overridden)
		}
	}
	b.attachLayers()
	for _, p := range policies {
		b.checkLimits(p.Resource.Key, *p.Spec)
	}
	b.sayOverridden(lost)
}

// sayOverridden says of policies by whom they are overridden.
func (b *builder) sayOverridden(lost map[mesh.Key][]mesh.Key) {
	for _, k := range slices.SortedFunc(maps.Keys(lost), mesh.Key.Compare) {
		slices.SortFunc(lost[k], mesh.Key.Compare)
		b.overridden(k, slices.Compact(lost[k])...)
	}
}

func noteLost(into, lost map[mesh.Key][]mesh.Key) {
	for k, by := range lost {
		into[k] = append(into[k], by...)
	}
}

// attached are the policies of a kind that concern this zone.
func attached[T policy.Attachable](b *builder, kind mesh.Kind) []policy.Attached[T] {
	var out []policy.Attached[T]
	for _, r := range b.byKind[kind] {
		if spec, ok := b.specs[r.Key].(*T); ok {
			out = append(out, policy.Attached[T]{Resource: r, Spec: spec})
		}
	}
	return out
}

// checkTarget says what a policy targets that is not here.
func (b *builder) checkTarget(r mesh.Resource, t *policy.TargetRef) {
	if t == nil {
		return
	}
	if t.Kind == "Service" {
		s, ok := b.t.services[ServiceName{r.Namespace, t.Name}]
		switch {
		case !ok:
			b.issue(r.Key, "it targets service %s, which is not here", ServiceName{r.Namespace, t.Name})
		case t.SectionName != "" && !slices.ContainsFunc(s.Ports, func(p Port) bool { return p.Name == t.SectionName }):
			b.issue(r.Key, "it targets port %q of service %s, which has no port of this name", t.SectionName, s.ServiceName)
		}
		return
	}
	if mesh.Kind(t.Kind) == mesh.KindExternalService {
		b.checkExternalTarget(r, t)
		return
	}
	rules, found := b.ruleNames(mesh.Kind(t.Kind), r.Namespace, t.Name)
	switch {
	case !found:
		b.issue(r.Key, "it targets %s %s/%s, which is not here", t.Kind, r.Namespace, t.Name)
	case t.SectionName != "" && !slices.Contains(rules, gatewayv1.SectionName(t.SectionName)):
		b.issue(r.Key, "it targets rule %q of %s %s, which has no rule of this name", t.SectionName, t.Kind, t.Name)
	}
}

// ruleNames are the names of the rules of a route, whoever made it.
func (b *builder) ruleNames(kind mesh.Kind, namespace, name string) (names []gatewayv1.SectionName, found bool) {
	for _, r := range b.byKind[kind] {
		if r.Namespace != namespace || r.Name != name {
			continue
		}
		found = true
		if spec, ok := b.httpSpec(r); ok {
			for _, rule := range spec.Rules {
				if rule.Name != nil {
					names = append(names, *rule.Name)
				}
			}
		}
	}
	return names, found
}

// Traffic is what the TrafficPolicies say of requests to a port of a service that matched a rule of a route. The zero
// Key stands for no route, and an empty rule for one without a name.
func (t *Topology) Traffic(s *Service, p Port, route mesh.Key, rule string) policy.Merged[policy.TrafficPolicy] {
	return t.traffic.of(subject(s, p, route, rule))
}

// ExternalTraffic is what the TrafficPolicies say of a port of an ExternalService.
func (t *Topology) ExternalTraffic(e *External, p ExternalPort) policy.Merged[policy.TrafficPolicy] {
	return t.traffic.of(policy.Subject{
		Service:  policy.ServiceRef{Kind: mesh.KindExternalService, Namespace: e.Namespace, Name: e.Name, Port: p.Port},
		PortName: p.Name,
	})
}

func subject(s *Service, p Port, route mesh.Key, rule string) policy.Subject {
	return policy.Subject{
		Service:  policy.ServiceRef{Namespace: s.Namespace, Name: s.Name, Port: p.Number},
		PortName: p.Name, Route: route, Rule: rule,
	}
}
