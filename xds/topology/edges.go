package topology

import (
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// outsiders are as what policies see who asks from outside by a route: of the route's namespace, and for no service.
func outsiders(route mesh.Key) *Service {
	return &Service{ServiceName: ServiceName{Namespace: route.Namespace}}
}

// EdgeTraffic is what the TrafficPolicies say of requests from outside that matched a rule of a route. Rate limits among them are
// those for the route alone: what a namespace or the mesh says of them is for each server.
func (t *Topology) EdgeTraffic(route mesh.Key, rule string) policy.Merged[policy.TrafficPolicy] {
	m := t.Traffic(outsiders(route), Port{}, route, rule)
	m.Spec.RateLimit = t.traffic.ofRoute(route, rule).Spec.RateLimit
	return m
}

// EdgeAuthentication is what the AuthenticationPolicies for a route say that such requests must prove.
func (t *Topology) EdgeAuthentication(route mesh.Key, rule string) policy.Merged[policy.AuthenticationPolicy] {
	return t.authentication.ofRoute(route, rule)
}

// EdgeExtensions are what people added to such requests, in the order in which they run.
func (t *Topology) EdgeExtensions(route mesh.Key, rule string) []policy.Attached[policy.Extension] {
	return t.Extensions(policy.SideClient, outsiders(route), Port{}, route, rule)
}

// leadFurther notes the services that ingresses ask about the requests from outside, and those that they tell of them.
func (b *builder) leadFurther() {
	asked := func(namespace string, a policy.ServiceAddress) {
		if to, ok := b.t.HTTPPort(namespace, a); ok {
			b.t.edged = append(b.t.edged, to)
		}
	}
	serves := false
	for _, ports := range b.t.edges {
		serves = serves || len(ports) > 0
		for _, p := range ports {
			for _, l := range p.Listeners {
				for _, h := range l.Hosts {
					for _, m := range h.Routes {
						for _, e := range b.t.EdgeExtensions(m.Route, m.RuleName) {
							if a := e.Spec.ExternalAuthorization; a != nil {
								asked(e.Resource.Namespace, a.Service)
							}
						}
						if t := b.t.EdgeTraffic(m.Route, m.RuleName); t.Spec.RateLimit != nil && t.Spec.RateLimit.Shared != nil {
							asked(t.By("RateLimit").Namespace, t.Spec.RateLimit.Shared.Service)
						}
					}
				}
			}
		}
	}
	if serves {
		b.t.edged = append(b.t.edged, b.t.EdgeCollectors()...)
	}
	slices.SortFunc(b.t.edged, ServicePort.compare)
	b.t.edged = slices.Compact(b.t.edged)
}

// certificates are those of a listener that its Gateway may name, and why others are not. A secret of another namespace needs a
// ReferenceGrant there.
func (t *Topology) certificates(gw gateway, l gatewayv1.Listener) (names []SecretName, refused []SecretName) {
	if l.TLS == nil {
		return nil, nil
	}
	for _, ref := range l.TLS.CertificateRefs {
		n := SecretName{gw.res.Namespace, string(ref.Name)}
		if ref.Namespace != nil {
			n.Namespace = string(*ref.Namespace)
		}
		if n.Namespace != gw.res.Namespace && !t.granted(gw.res.Key, n.Namespace, "", "Secret", n.Name) {
			refused = append(refused, n)
			continue
		}
		names = append(names, n)
	}
	return names, refused
}
