package topology

import (
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// attachAuthentication collects the AuthenticationPolicies, and says of each what it targets that is not here, and by whom
// it is overridden.
func (b *builder) attachAuthentication() {
	b.t.authentication = map[string][]policy.Attached[policy.AuthenticationPolicy]{}
	for _, p := range attached[policy.AuthenticationPolicy](b, mesh.KindAuthenticationPolicy) {
		b.checkTarget(p.Resource, p.Spec.TargetRef)
		b.t.authentication[p.Resource.Namespace] = append(b.t.authentication[p.Resource.Namespace], p)
	}
	if len(b.t.authentication) == 0 {
		return
	}
	lost := map[mesh.Key][]mesh.Key{}
	for _, s := range b.t.Services {
		for _, p := range s.Ports {
			noteLost(lost, b.t.Authentication(s, p, mesh.Key{}, "").Overridden)
			for _, m := range p.Routes {
				noteLost(lost, b.t.Authentication(s, p, m.Route, m.RuleName).Overridden)
			}
		}
	}
	b.sayOverridden(lost)
}

// Authentication is what the AuthenticationPolicies say of requests to a port of a service that matched a rule of a route;
// see Traffic.
func (t *Topology) Authentication(s *Service, p Port, route mesh.Key, rule string) policy.Merged[policy.AuthenticationPolicy] {
	return mergeNear(t.authentication, subject(s, p, route, rule))
}
