package topology

import (
	"cmp"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// attachExtensions collects the Extensions, and says what each names that is not here.
func (b *builder) attachExtensions() {
	b.t.extensions = map[policy.Side][]policy.Attached[policy.Extension]{}
	for _, e := range attached[policy.Extension](b, mesh.KindExtension) {
		b.checkTarget(e.Resource, e.Spec.TargetRef)
		switch {
		case e.Spec.Patch != nil:
			b.issue(e.Resource.Key, "risk: it changes Envoy's %s %q by hand, which nothing of Comity checks or promises", e.Spec.Patch.Resource, e.Spec.Patch.Name)
			b.t.patches = append(b.t.patches, e)
			continue
		case e.Spec.ExternalAuthorization != nil:
			if _, ok := b.t.HTTPPort(e.Resource.Namespace, e.Spec.ExternalAuthorization.Service); !ok {
				b.issue(e.Resource.Key, "it asks service %s, which has no HTTP port %d here: every request is refused unless failOpen",
					e.Spec.ExternalAuthorization.Service.Name, e.Spec.ExternalAuthorization.Service.Port)
			}
		}
		b.t.extensions[e.Spec.RunsAt()] = append(b.t.extensions[e.Spec.RunsAt()], e)
	}
	slices.SortStableFunc(b.t.patches, func(x, y policy.Attached[policy.Extension]) int {
		return cmp.Or(cmp.Compare(x.Resource.Created, y.Resource.Created), x.Resource.Compare(y.Resource.Key))
	})
}

// Extensions are what people added at one side to the requests to a port that matched a rule of a route, in the order in
// which they run.
func (t *Topology) Extensions(side policy.Side, s *Service, p Port, route mesh.Key, rule string) []policy.Attached[policy.Extension] {
	about := subject(s, p, route, rule)
	list := policy.InOrder(t.extensions[side], about)
	slices.SortStableFunc(list, func(x, y policy.Attached[policy.Extension]) int {
		return cmp.Compare(x.Spec.LevelOf(x.Resource.Namespace, about), y.Spec.LevelOf(y.Resource.Namespace, about))
	})
	return list
}

// Patches are the Extensions that change Envoy's resources, the oldest first.
func (t *Topology) Patches() []policy.Attached[policy.Extension] { return t.patches }

// HTTPPort finds the port that proxies themselves call for a resource of a namespace: to be authorised, or to tell of requests.
func (t *Topology) HTTPPort(namespace string, a policy.ServiceAddress) (ServicePort, bool) {
	n := ServiceName{cmp.Or(a.Namespace, namespace), a.Name}
	s, ok := t.services[n]
	if !ok {
		return ServicePort{n, a.Port}, false
	}
	p, ok := s.Port(a.Port)
	return ServicePort{n, a.Port}, ok && p.Protocol.IsHTTP()
}
