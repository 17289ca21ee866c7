package topology

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

func zoneKey(name string) mesh.Key {
	return mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindZone, Name: name}
}

// findZones decides which zones are believed: this one, and those of the others that global knows,
// under the trust domain that is theirs alone.
func (b *builder) findZones() {
	for name, z := range b.zones {
		if name != b.in.Zone && z.TrustDomain != "" {
			b.t.trustDomains[name] = z.TrustDomain
		}
	}
	own := Zone{
		Name: b.in.Zone, TrustDomain: b.in.TrustDomain, Place: b.place(b.in.Zone), Local: true,
		Drain: b.drain(b.in.Zone), Sources: b.zoneSources(b.in.Zone),
	}
	if z := b.zones[b.in.Zone]; z != nil && z.Revoked != nil {
		b.issue(zoneKey(b.in.Zone), "this zone is revoked: no other zone believes it any more")
	}
	if b.t.Roots[own.TrustDomain] != nil {
		b.t.Zones = append(b.t.Zones, own)
	} else {
		b.issue(zoneKey(b.in.Zone), "there are no readable roots of trust domain %q: nobody of the zone can be authenticated", b.in.TrustDomain)
	}
	owner := map[mesh.TrustDomain]string{b.in.TrustDomain: b.in.Zone}
	remotes := slices.Clone(b.in.Remotes)
	slices.SortStableFunc(remotes, func(x, y Remote) int {
		// Whose trust domain is pinned comes first, so that nobody takes it by an earlier name.
		return tie(cmp.Or(-cmp.Compare(b.pinned(x), b.pinned(y)), cmp.Compare(x.Zone, y.Zone)), x, y)
	})
	for _, r := range remotes {
		key := zoneKey(r.Zone)
		spec, known := b.zones[r.Zone]
		switch {
		case r.Zone == b.in.Zone || mesh.CheckZoneName(r.Zone) != nil:
			b.issue(key, "another zone calls itself %q", r.Zone)
		case !known:
			b.issue(key, "zone %q speaks but there is no Zone of that name at global: it is not believed", r.Zone)
		case spec.Revoked != nil:
			b.issue(key, "the zone is revoked: it is not believed, not called, and not let in")
			delete(b.t.Roots, r.TrustDomain)
		case spec.TrustDomain != "" && spec.TrustDomain != r.TrustDomain:
			b.issue(key, "the zone comes with trust domain %q, not its own %q: it is not believed", r.TrustDomain, spec.TrustDomain)
		case owner[r.TrustDomain] != "":
			b.issue(key, "trust domain %q belongs to zone %q: this zone is not believed", r.TrustDomain, owner[r.TrustDomain])
		case b.t.Roots[r.TrustDomain] == nil:
			b.issue(key, "there are no readable roots of trust domain %q: nobody of the zone can be authenticated", r.TrustDomain)
		default:
			owner[r.TrustDomain] = r.Zone
			b.accepted[r.Zone] = r
			b.t.trustDomains[r.Zone] = r.TrustDomain
			b.t.Zones = append(b.t.Zones, Zone{
				Name: r.Zone, TrustDomain: r.TrustDomain, Place: b.place(r.Zone),
				Ingresses: usableIngresses(r.Ingresses), Egresses: usableEgresses(r.Egresses), Drain: b.drain(r.Zone), Sources: b.zoneSources(r.Zone),
			})
		}
	}
	slices.SortFunc(b.t.Zones, func(x, y Zone) int { return cmp.Compare(x.Name, y.Name) })
}

// pinned is 1 where global says that the zone's trust domain is its own, else 0.
func (b *builder) pinned(r Remote) int {
	if z := b.zones[r.Zone]; z != nil && z.TrustDomain == r.TrustDomain {
		return 1
	}
	return 0
}

func (b *builder) zoneSources(name string) []mesh.Key {
	if _, ok := b.zones[name]; ok {
		return []mesh.Key{zoneKey(name)}
	}
	return nil
}

func (b *builder) place(zone string) mesh.Locality {
	if z := b.zones[zone]; z != nil {
		return mesh.Locality{Cloud: z.Cloud, Region: z.Region}
	}
	return mesh.Locality{}
}

func (b *builder) drain(zone string) *policy.Drain {
	if z := b.zones[zone]; z != nil {
		return z.Drain
	}
	return nil
}

// usableIngresses keeps what Envoy can connect to, sorted.
func usableIngresses(list []RemoteIngress) []RemoteIngress {
	var out []RemoteIngress
	for _, i := range list {
		n := RemoteIngress{Ingress: i.Ingress, Unreachable: i.Unreachable}
		for _, a := range i.Addresses {
			if ip, err := netip.ParseAddr(a); err == nil && ip.Zone() == "" && !ip.IsUnspecified() && !ip.IsMulticast() {
				n.Addresses = append(n.Addresses, ip.Unmap().String())
			}
		}
		slices.Sort(n.Addresses)
		n.Addresses = slices.Compact(n.Addresses)
		n.Ports = slices.DeleteFunc(slices.Clone(i.Ports), func(p uint16) bool { return p == 0 })
		slices.Sort(n.Ports)
		n.Ports = slices.Compact(n.Ports)
		if len(n.Addresses) > 0 && len(n.Ports) > 0 {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(x, y RemoteIngress) int {
		return cmp.Or(cmp.Compare(x.ID, y.ID), slices.Compare(x.Addresses, y.Addresses), slices.Compare(x.Ports, y.Ports))
	})
	return out
}

// speaksFor reports whether a zone may export services of a namespace.
func speaksFor(z *policy.Zone, namespace string) bool {
	return slices.Contains(z.Namespaces, namespace) || len(z.Namespaces) == 1 && z.Namespaces[0] == "*"
}
