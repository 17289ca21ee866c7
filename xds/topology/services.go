package topology

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// localServices joins Services with the workloads they select and the exports that offer them.
func (b *builder) localServices() {
	for _, r := range b.preferred(mesh.KindService) {
		spec, ok := b.specs[r.Key].(*policy.Service)
		if !ok {
			continue
		}
		s := &Service{
			ServiceName: ServiceName{r.Namespace, r.Name},
			Local:       &LocalService{Targets: map[uint16]uint16{}},
			Sources:     []mesh.Key{r.Key},
		}
		s.Local.Headless = spec.ClusterIP == policy.ClusterIPNone
		b.addPorts(s, r.Key, spec)
		if len(spec.Selector) == 0 {
			b.issue(r.Key, "it selects nothing: spec.selector is empty")
		}
		for _, w := range b.t.Workloads {
			if w.Namespace == s.Namespace && len(spec.Selector) > 0 && selects(spec.Selector, w.Labels) {
				if w.Spec.Proxyless {
					b.issue(r.Key, "it selects the workload %s/%s, which is proxyless: a client, that can't answer for it", w.Namespace, w.Name)
					continue
				}
				s.Local.Workloads = append(s.Local.Workloads, w)
				s.Local.Identities = append(s.Local.Identities, w.Identity)
			}
		}
		slices.Sort(s.Local.Identities)
		s.Local.Identities = slices.Compact(s.Local.Identities)
		b.t.services[s.ServiceName] = s
		b.t.Services = append(b.t.Services, s)
	}
	for _, r := range b.preferred(mesh.KindServiceExport) {
		b.export(r)
	}
}

func (b *builder) addPorts(s *Service, key mesh.Key, spec *policy.Service) {
	for _, p := range spec.Ports {
		proto, ok := protocolOf(p.AppProtocol)
		_, twice := s.Local.Targets[p.Port]
		if !ok || twice || p.Port == 0 {
			b.issue(key, "port %d (%s) is left out: it is there twice or of an unknown appProtocol", p.Port, p.AppProtocol)
			continue
		}
		s.Local.Targets[p.Port] = cmp.Or(p.TargetPort, p.Port)
		s.Ports = append(s.Ports, Port{Name: p.Name, Number: p.Port, Protocol: proto})
	}
	sortPorts(s)
}

func sortPorts(s *Service) {
	slices.SortFunc(s.Ports, func(x, y Port) int { return cmp.Compare(x.Number, y.Number) })
}

func (b *builder) export(r mesh.Resource) {
	s, ok := b.t.services[ServiceName{r.Namespace, r.Name}]
	if !ok {
		b.issue(r.Key, "there is no Service %s/%s here to export", r.Namespace, r.Name)
		return
	}
	if z := b.zones[b.in.Zone]; z != nil && !speaksFor(z, r.Namespace) {
		b.issue(r.Key, "the zone may not speak for namespace %q (Zone %s, spec.namespaces): the service is not exported", r.Namespace, b.in.Zone)
		return
	}
	s.Local.Exported = true
	s.Sources = append(s.Sources, r.Key)
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// importServices adds what the other zones offer and may offer.
func (b *builder) importServices() {
	for _, zone := range slices.Sorted(maps.Keys(b.accepted)) {
		r := b.accepted[zone]
		exports := slices.Clone(r.Exports)
		slices.SortStableFunc(exports, func(x, y mesh.Export) int {
			return tie(ServiceName{x.Namespace, x.Service}.compare(ServiceName{y.Namespace, y.Service}), x, y)
		})
		for _, e := range exports {
			b.importService(r, e)
		}
	}
	slices.SortFunc(b.t.Services, func(x, y *Service) int { return x.compare(y.ServiceName) })
}

func (b *builder) importService(r Remote, e mesh.Export) {
	key, n := zoneKey(r.Zone), ServiceName{e.Namespace, e.Service}
	if mesh.CheckLabel(n.Namespace) != nil || mesh.CheckLabel(n.Name) != nil {
		b.issue(key, "it exports a service with an unusable name: %q in namespace %q", n.Name, n.Namespace)
		return
	}
	if !speaksFor(b.zones[r.Zone], n.Namespace) {
		b.issue(key, "it exports %s but may not speak for namespace %q (spec.namespaces): not imported", n, n.Namespace)
		return
	}
	ids := b.exportIdentities(r, e, n)
	if len(ids) == 0 {
		b.issue(key, "it exports %s without an identity that could answer: not imported", n)
		return
	}
	s := b.t.services[n]
	if s != nil && slices.ContainsFunc(s.Remotes, func(o RemoteService) bool { return o.Zone == r.Zone }) {
		b.issue(key, "it exports %s twice", n)
		return
	}
	if s == nil {
		s = &Service{ServiceName: n}
		b.t.services[n] = s
		b.t.Services = append(b.t.Services, s)
	}
	rs := RemoteService{
		Zone: r.Zone, Identities: ids, Ready: max(e.Ready, 0), Total: max(e.Total, 0),
		Capacity: finite(e.Capacity), ReadyCapacity: finite(e.ReadyCapacity),
	}
	for _, p := range e.Ports {
		proto, ok := protocolOf(p.AppProtocol)
		have, exists := s.Port(p.Port)
		switch {
		case !ok || p.Port == 0:
			b.issue(key, "it exports %s port %d as %q, which is not understood", n, p.Port, p.AppProtocol)
			continue
		case !exists:
			s.Ports = append(s.Ports, Port{Name: p.Name, Number: p.Port, Protocol: proto})
			sortPorts(s)
		case have.Protocol.IsHTTP() != proto.IsHTTP():
			b.issue(key, "it exports %s port %d as %s, but it is %s here: not imported", n, p.Port, proto, have.Protocol)
			continue
		}
		rs.Ports = append(rs.Ports, p.Port)
		rs.setLayer(proto, p)
	}
	slices.Sort(rs.Ports)
	rs.Ports = slices.Compact(rs.Ports)
	rs.Instances = b.exportInstances(r, e, n)
	s.Remotes = append(s.Remotes, rs)
	s.Sources = append(s.Sources, b.zoneSources(r.Zone)...)
}

// exportIdentities keeps the identities of the exporting zone's own trust domain: for others it can't
// speak, however well it signed.
func (b *builder) exportIdentities(r Remote, e mesh.Export, n ServiceName) []string {
	var ids []string
	for _, raw := range e.Identities {
		id, err := identity.ParseID(raw)
		if err != nil || id.TrustDomain() != r.TrustDomain {
			b.issue(zoneKey(r.Zone), "it exports %s with the identity %q, which is not of its trust domain %s: ignored", n, raw, r.TrustDomain)
			continue
		}
		ids = append(ids, id.String())
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func finite(f float64) float64 {
	if math.IsNaN(f) || f < 0 {
		return 0
	}
	return min(f, 1e9)
}
