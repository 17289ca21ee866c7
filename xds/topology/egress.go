package topology

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Egress finds an egress of this zone.
func (t *Topology) Egress(id mesh.ProxyID) (EgressProxy, bool) {
	i := slices.IndexFunc(t.Egresses, func(g EgressProxy) bool { return g.Name == id.Name })
	if i < 0 || id.Role != mesh.RoleEgress {
		return EgressProxy{}, false
	}
	return t.Egresses[i], true
}

// findEgresses keeps what Envoy can be told of.
func (b *builder) findEgresses() {
	for _, g := range b.in.Egresses {
		bind, errBind := netip.ParseAddr(g.BindAddress)
		at, err := netip.ParseAddr(g.Address)
		if errBind != nil || err != nil || bind.Zone() != "" || at.Zone() != "" || at.IsUnspecified() {
			continue // the agent that sent it is told by the zone
		}
		g.BindAddress, g.Address = bind.String(), at.Unmap().String()
		g.BindPorts, g.Ports = usablePorts(g.BindPorts), usablePorts(g.Ports)
		b.t.Egresses = append(b.t.Egresses, g)
	}
	slices.SortStableFunc(b.t.Egresses, func(x, y EgressProxy) int { return tie(cmp.Compare(x.Name, y.Name), x, y) })
	b.t.Egresses = slices.CompactFunc(b.t.Egresses, func(x, y EgressProxy) bool { return x.Name == y.Name })
}

func usablePorts(list []uint16) []uint16 {
	ports := slices.DeleteFunc(slices.Clone(list), func(p uint16) bool { return p == 0 })
	slices.Sort(ports)
	return slices.Compact(ports)
}

// attachExternalPolicies gives every ExternalService that leaves through this zone's egress proxies its policies.
func (b *builder) attachExternalPolicies() {
	system := b.authz[policy.SystemNamespace]
	for _, e := range b.t.Externals {
		b.checkExits(e)
		if !b.t.LeavesHere(e) {
			continue
		}
		list := b.authz[e.Namespace]
		if e.Namespace != policy.SystemNamespace {
			list = append(slices.Clone(list), system...)
		}
		e.Policies = policy.PoliciesFor(list, policy.ServiceRef{Kind: mesh.KindExternalService, Namespace: e.Namespace, Name: e.Name})
	}
}

// checkDecides says of who may reach an ExternalService where nobody asks that.
func (b *builder) checkDecides(r mesh.Resource, t *policy.TargetRef) {
	if t == nil || t.Kind != string(mesh.KindExternalService) {
		return
	}
	e, ok := b.t.External(ServiceName{r.Namespace, t.Name})
	switch {
	case !ok:
	case !e.Gateway:
		b.issue(r.Key, "it targets ExternalService %s, which sidecars reach straight: nobody decides; set exit.gateway there", e.ServiceName)
	case r.Origin != mesh.OriginGlobal && !b.t.LeavesHere(e):
		b.issue(r.Key, "it targets ExternalService %s, which leaves through other zones (%s): they decide, and know no policy of this one; make it at global", e.ServiceName, strings.Join(e.Spec.Exit.Zones, ", "))
	}
}

func (b *builder) checkExternalTarget(r mesh.Resource, t *policy.TargetRef) {
	n := ServiceName{r.Namespace, t.Name}
	e, ok := b.t.External(n)
	switch {
	case !ok:
		b.issue(r.Key, "it targets ExternalService %s, which is not here", n)
	case t.SectionName != "" && !slices.ContainsFunc(e.Ports, func(p ExternalPort) bool { return p.Name == t.SectionName }):
		b.issue(r.Key, "it targets port %q of ExternalService %s, which has no port of this name", t.SectionName, n)
	}
}

// AsService is the ExternalService as the policies for its port see it.
func (e *External) AsService() *Service {
	s := &Service{ServiceName: e.ServiceName, Policies: e.Policies, Sources: []mesh.Key{e.Source.Key}}
	for _, p := range e.Ports {
		s.Ports = append(s.Ports, p.AsPort())
	}
	return s
}

// AsPort is the same of a port.
func (p ExternalPort) AsPort() Port {
	return Port{Name: p.Name, Number: p.Port, Protocol: p.Protocol}
}
