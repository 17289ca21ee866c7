package translate

import (
	"cmp"
	"math"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/failover"
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
	return append(out, tr.gatewayEndpoints()...)
}

// endpointsOf lists the zones by priority, as the failover of the service decided; of a pinned one there is that
// zone alone, of an instance that one.
func (tr *Translator) endpointsOf(r reach) ir.Endpoints {
	e := ir.Endpoints{Cluster: r.name(), Sources: tr.endpointSources(r)}
	priorities := [][]failover.Weight{{{Zone: r.zone, Weight: failover.Million}}}
	if r.zone == "" {
		e.Threshold = r.service.Failover.Plan.Threshold
		priorities = tr.prioritiesOf(r.service, r.port)
	}
	taken := map[ir.HostPort]bool{}
	var priority uint32
	for _, zones := range priorities {
		before := len(e.Groups)
		for _, z := range zones {
			e.Groups = append(e.Groups, tr.groupsOf(r, z, priority, taken)...)
		}
		if len(e.Groups) > before {
			priority++ // Envoy wants them without gaps
		}
	}
	if h := tr.t.Traffic(r.service, r.port, mesh.Key{}, ""); h.Spec.HealthCheck != nil && topology.Checkable(r.port, *h.Spec.HealthCheck) {
		for i := range e.Groups {
			e.Groups[i].Unchecked = e.Groups[i].Zone != tr.t.Zone
		}
		e.Sources = unique(append(e.Sources, h.By("HealthCheck")))
	}
	return e
}

// prioritiesOf divides the traffic of a port among the zones that have it. A zone whose port is another one is
// told in a decision of its own.
func (tr *Translator) prioritiesOf(s *topology.Service, p topology.Port) [][]failover.Weight {
	zones := tr.zonesOf(s, p)
	has := func(zone string) bool { return slices.Contains(zones, zone) }
	plan := tr.planOf(s)
	for _, t := range plan.Tiers {
		for _, z := range t.Zones {
			if !has(z.Name) {
				return plan.Only(has).Decide().Priorities
			}
		}
	}
	tr.deciding.Lock()
	defer tr.deciding.Unlock()
	d, ok := tr.decisions[s.ServiceName]
	if !ok {
		d = plan.Decide()
		tr.decisions[s.ServiceName] = d
	}
	return d.Priorities
}

// planOf is the plan that was handed in, else the topology's own.
func (tr *Translator) planOf(s *topology.Service) failover.Plan {
	if p, ok := tr.plans[s.ServiceName]; ok {
		return p
	}
	return s.Failover.Plan
}

func (tr *Translator) endpointSources(r reach) ir.Sources {
	own, _ := tr.t.ZoneNamed(tr.t.Zone)
	out := slices.Concat(r.service.Sources, own.Sources)
	if p := r.service.Failover.Policy; p != nil && r.zone == "" {
		out = append(out, *p)
	}
	return unique(out)
}

func (tr *Translator) groupsOf(r reach, w failover.Weight, priority uint32, taken map[ir.HostPort]bool) []ir.Group {
	if w.Zone == tr.t.Zone {
		return tr.localGroups(r.workloads(), w.Weight, priority, taken)
	}
	g := tr.remoteGroup(w, taken)
	if len(g.Endpoints) == 0 {
		return nil
	}
	g.Priority = priority
	return []ir.Group{g}
}

// localGroups makes a group of each place of the zone, and divides the zone's weight among them by capacity.
func (tr *Translator) localGroups(of []*topology.Workload, weight, priority uint32, taken map[ir.HostPort]bool) []ir.Group {
	own, _ := tr.t.ZoneNamed(tr.t.Zone)
	var groups []ir.Group
	var sum uint64
	for _, w := range serving(of) {
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
			groups = append(groups, ir.Group{Priority: priority, Zone: tr.t.Zone, Region: region(place), Place: place.Zone})
			i = len(groups) - 1
		}
		capacity := hundredths(w.Capacity())
		groups[i].Weight += capacity
		sum += uint64(capacity)
		groups[i].Endpoints = append(groups[i].Endpoints, ir.Endpoint{Address: at.Address, Port: at.Port, Weight: capacity})
	}
	for i := range groups {
		groups[i].Weight = max(uint32(uint64(groups[i].Weight)*uint64(weight)/sum), 1)
	}
	return sorted(groups)
}

// serving are the workloads to be called: those that are ready and not drained. If there are none, one of the
// others may answer after all.
func serving(list []*topology.Workload) []*topology.Workload {
	for _, fits := range []func(*topology.Workload) bool{
		func(w *topology.Workload) bool { return w.Healthy && !w.Draining },
		func(w *topology.Workload) bool { return !w.Draining },
	} {
		var out []*topology.Workload
		for _, w := range list {
			if fits(w) {
				out = append(out, w)
			}
		}
		if out != nil {
			return out
		}
	}
	return list
}

// remoteGroup is every lane of the ingresses that can be reached, of all if none can, with the weight of the zone
// however many there are.
func (tr *Translator) remoteGroup(w failover.Weight, taken map[ir.HostPort]bool) ir.Group {
	z, ok := tr.t.ZoneNamed(w.Zone)
	if !ok {
		return ir.Group{}
	}
	g := ir.Group{Zone: z.Name, Region: region(z.Place), Weight: w.Weight}
	for _, i := range z.Ingresses {
		if i.Unreachable && z.Reachable() {
			continue
		}
		for _, a := range i.Addresses {
			for _, port := range i.Ports {
				at := ir.HostPort{Address: a, Port: port}
				if taken[at] {
					continue
				}
				taken[at] = true
				g.Endpoints = append(g.Endpoints, ir.Endpoint{Address: a, Port: port, Weight: 100})
			}
		}
	}
	return g
}

// ingressEndpoints are the zone's own workloads behind each exported port.
func (tr *Translator) ingressEndpoints() []ir.Endpoints {
	var out []ir.Endpoints
	for _, r := range tr.exported() {
		out = append(out, ir.Endpoints{
			Cluster: localName(r),
			Groups:  tr.localGroups(r.workloads(), failover.Million, 0, map[ir.HostPort]bool{}),
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
