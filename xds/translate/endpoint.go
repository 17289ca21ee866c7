package translate

import (
	"cmp"
	"math"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

func (tr *Translator) outboundEndpoints() []ir.Endpoints {
	var out []ir.Endpoints
	for _, s := range tr.t.Services {
		for _, p := range s.Ports {
			for _, r := range tr.reaches(s, p) {
				out = append(out, tr.endpointsOf(r))
			}
		}
	}
	return out
}

// endpointsOf lists local workloads first, then the lanes of the other zones' ingresses. Unhealthy ones
// stay: a threshold counts against all there should be.
func (tr *Translator) endpointsOf(r reach) ir.Endpoints {
	e := ir.Endpoints{Cluster: r.name(), Sources: r.service.Sources}
	taken := map[ir.HostPort]bool{}
	var priority uint32
	if served(r.service, r.port) && r.covers(tr.t.Zone) {
		e.Groups = tr.localGroups(r.service, taken)
		if len(e.Groups) > 0 {
			priority = 1
		}
	}
	for _, rs := range r.service.Remotes {
		if !r.covers(rs.Zone) || !slices.Contains(rs.Ports, r.port.Number) {
			continue
		}
		if g, ok := tr.remoteGroup(rs, taken); ok {
			g.Priority = priority
			e.Groups = append(e.Groups, g)
		}
	}
	return e
}

// localGroups makes a group of each place of the zone.
func (tr *Translator) localGroups(s *topology.Service, taken map[ir.HostPort]bool) []ir.Group {
	own, _ := tr.t.ZoneNamed(tr.t.Zone)
	var groups []ir.Group
	for _, w := range s.Local.Workloads {
		at := ir.HostPort{Address: w.Spec.Address, Port: w.Spec.InboundPort}
		if taken[at] {
			continue
		}
		taken[at] = true
		place := mesh.Locality{
			Cloud: cmp.Or(w.Spec.Locality.Cloud, own.Place.Cloud), Region: cmp.Or(w.Spec.Locality.Region, own.Place.Region), Zone: w.Spec.Locality.Zone,
		}
		i := slices.IndexFunc(groups, func(g ir.Group) bool { return g.Region == region(place) && g.Place == place.Zone })
		if i < 0 {
			groups = append(groups, ir.Group{Zone: tr.t.Zone, Region: region(place), Place: place.Zone})
			i = len(groups) - 1
		}
		weight := hundredths(w.Capacity())
		groups[i].Weight += weight
		groups[i].Endpoints = append(groups[i].Endpoints, ir.Endpoint{Address: at.Address, Port: at.Port, Healthy: w.Healthy, Weight: weight})
	}
	return sorted(groups)
}

// remoteGroup makes a group of every lane of a zone; its weight is what is ready behind them, however
// many lanes there are.
func (tr *Translator) remoteGroup(rs topology.RemoteService, taken map[ir.HostPort]bool) (ir.Group, bool) {
	z, ok := tr.t.ZoneNamed(rs.Zone)
	if !ok {
		return ir.Group{}, false
	}
	g := ir.Group{Zone: z.Name, Region: region(z.Place), Weight: hundredths(rs.ReadyCapacity)}
	for _, i := range z.Ingresses {
		for _, a := range i.Addresses {
			for _, port := range i.Ports {
				at := ir.HostPort{Address: a, Port: port}
				if taken[at] {
					continue
				}
				taken[at] = true
				g.Endpoints = append(g.Endpoints, ir.Endpoint{Address: a, Port: port, Healthy: rs.Ready > 0, Weight: 100})
			}
		}
	}
	return g, len(g.Endpoints) > 0
}

// ingressEndpoints are the zone's own workloads behind each exported port.
func (tr *Translator) ingressEndpoints() []ir.Endpoints {
	var out []ir.Endpoints
	for _, r := range tr.exported() {
		out = append(out, ir.Endpoints{
			Cluster: localName(r.service.ServiceName, r.port.Number),
			Groups:  tr.localGroups(r.service, map[ir.HostPort]bool{}),
			Sources: r.service.Sources,
		})
	}
	return out
}

func sorted(groups []ir.Group) []ir.Group {
	slices.SortFunc(groups, func(x, y ir.Group) int {
		return cmp.Or(cmp.Compare(x.Region, y.Region), cmp.Compare(x.Place, y.Place))
	})
	return groups
}

func region(l mesh.Locality) string {
	if l.Cloud == "" || l.Region == "" {
		return l.Cloud + l.Region
	}
	return l.Cloud + "-" + l.Region
}

// hundredths is a capacity as an Envoy weight: at least 1, and small enough that the weights of a
// priority add up within 32 bits.
func hundredths(capacity float64) uint32 {
	return uint32(min(max(math.Round(capacity*100), 1), 1e6))
}
