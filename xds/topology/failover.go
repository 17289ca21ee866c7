package topology

import (
	"slices"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/failover"
)

// Failover is how the traffic of a service is divided among the zones that have it.
type Failover struct {
	// Policy is the FailoverPolicy that decides, nil for the defaults.
	Policy *mesh.Key
	// Plan has what is ready now; a zone under drain counts as drained. Who has a clock and a memory puts
	// better numbers into a copy.
	Plan                 failover.Plan
	Dwell, FailbackDelay time.Duration
	// Unnamed are zones that have the service and get nothing, because no tier names them; sorted.
	Unnamed []string
}

// attachFailover resolves the policy of every service to zones.
func (b *builder) attachFailover() {
	policies := map[string][]policy.Failover{}
	for _, r := range b.byKind[mesh.KindFailoverPolicy] {
		if spec, ok := b.specs[r.Key].(*policy.FailoverPolicy); ok {
			policies[r.Namespace] = append(policies[r.Namespace], policy.Failover{Resource: r, Spec: spec})
			b.checkFailover(r, spec)
		}
	}
	lost := map[mesh.Key][]mesh.Key{}
	for _, s := range b.t.Services {
		list := policies[s.Namespace]
		if s.Namespace != policy.SystemNamespace {
			list = slices.Concat(list, policies[policy.SystemNamespace])
		}
		spec := policy.FailoverPolicy{}
		won, losers := policy.FailoverFor(list, policy.ServiceRef{Namespace: s.Namespace, Name: s.Name})
		if won != nil {
			spec, s.Failover.Policy = *won.Spec, &won.Resource.Key
			for _, k := range losers {
				lost[k] = append(lost[k], won.Resource.Key)
			}
		}
		b.resolve(s, spec.WithDefaults())
	}
	for k, by := range lost {
		slices.SortFunc(by, mesh.Key.Compare)
		b.overridden(k, slices.Compact(by)...)
	}
}

func (b *builder) checkFailover(r mesh.Resource, spec *policy.FailoverPolicy) {
	if t := spec.TargetRef; t != nil && b.t.services[ServiceName{r.Namespace, t.Name}] == nil {
		b.issue(r.Key, "it targets service %s, which is not here", ServiceName{r.Namespace, t.Name})
	}
	for _, t := range spec.Tiers {
		for _, z := range t.Zones {
			if z.Zone != "" && z.Zone != b.in.Zone && b.zones[z.Zone] == nil {
				b.issue(r.Key, "tier %s names zone %q, which is not known here", t.Name, z.Zone)
			}
		}
	}
}

// resolve makes the plan of a service.
func (b *builder) resolve(s *Service, spec policy.FailoverPolicy) {
	f := &s.Failover
	f.Dwell, f.FailbackDelay = spec.Times()
	f.Plan = failover.Plan{Mode: spec.Mode, Active: spec.Active, Threshold: *spec.Threshold}
	explicit := spec.Tiers
	if len(explicit) == 0 {
		explicit = b.implicitTiers()
	}
	for _, t := range explicit {
		f.Plan.Tiers = append(f.Plan.Tiers, failover.Tier{Name: t.Name})
	}
	for _, z := range b.capacities(s) {
		tier, weight := b.tierOf(z.Name, explicit)
		switch {
		case tier >= 0:
			z.Weight = weight
			f.Plan.Tiers[tier].Zones = append(f.Plan.Tiers[tier].Zones, z)
		default:
			f.Unnamed = append(f.Unnamed, z.Name)
		}
	}
	slices.Sort(f.Unnamed)
}

// implicitTiers are those of a policy that lists none.
func (b *builder) implicitTiers() []policy.FailoverTier {
	if b.implicit != nil {
		return b.implicit
	}
	own := b.place(b.in.Zone)
	names := policy.ImplicitTiers()
	zones := [][]policy.TierZones{{{Local: true}}, nil, nil, nil}
	if own.Cloud != "" {
		if own.Region != "" {
			zones[1] = []policy.TierZones{{Cloud: own.Cloud, Region: own.Region}}
		}
		zones[2] = []policy.TierZones{{Cloud: own.Cloud}}
	}
	for _, z := range b.t.Zones {
		zones[3] = append(zones[3], policy.TierZones{Zone: z.Name})
	}
	for i, name := range names {
		b.implicit = append(b.implicit, policy.FailoverTier{Name: name, Zones: zones[i]})
	}
	return b.implicit
}

// tierOf finds the first tier that names a zone, -1 for none, and the zone's weight there.
func (b *builder) tierOf(zone string, tiers []policy.FailoverTier) (tier int, weight uint32) {
	place := b.place(zone)
	for i, t := range tiers {
		for _, z := range t.Zones {
			named := z.Zone == zone || z.Local && zone == b.in.Zone ||
				z.Cloud+z.Region != "" && (z.Cloud == "" || z.Cloud == place.Cloud) && (z.Region == "" || z.Region == place.Region)
			if named && z.Weight != nil {
				return i, *z.Weight
			}
			if named {
				return i, 1
			}
		}
	}
	return -1, 0
}

// capacities are the zones that have the service, this one first, then by name. One that nothing leads to has
// nothing.
func (b *builder) capacities(s *Service) []failover.Zone {
	var out []failover.Zone
	if s.Local != nil {
		c := s.Local.Capacity()
		out = append(out, failover.Zone{
			Name: b.in.Zone, Ready: failover.Hundredths(c.ReadyCapacity), Whole: failover.Hundredths(c.Capacity), Drained: b.drained(b.in.Zone),
		})
	}
	for _, r := range s.Remotes {
		z := failover.Zone{Name: r.Zone, Drained: b.drained(r.Zone)}
		if at, ok := b.t.ZoneNamed(r.Zone); ok && len(at.Ingresses) > 0 {
			z.Ready, z.Whole = failover.Hundredths(r.ReadyCapacity), failover.Hundredths(r.Capacity)
			z.Unreachable = !at.Reachable()
		}
		out = append(out, z)
	}
	return out
}

func (b *builder) drained(zone string) float64 {
	if b.drain(zone) != nil {
		return 1
	}
	return 0
}

// Reachable reports whether at least one ingress of another zone answers probes, or none was found not to.
func (z Zone) Reachable() bool {
	return z.Local || slices.ContainsFunc(z.Ingresses, func(i RemoteIngress) bool { return !i.Unreachable })
}

// Capacity is what a service has in this zone. Workloads that are being drained are not part of it; those that
// were lost are.
type Capacity struct {
	Ready, Total int
	// In endpoint-equivalents, of all and of those that are ready.
	Capacity, ReadyCapacity float64
}

// Capacity sums up the workloads.
func (l *LocalService) Capacity() Capacity {
	var c Capacity
	for _, w := range l.Workloads {
		if w.Draining {
			continue
		}
		c.Total++
		c.Capacity += w.Capacity()
		if w.Healthy {
			c.Ready++
			c.ReadyCapacity += w.Capacity()
		}
	}
	return c
}
