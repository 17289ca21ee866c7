// Package failover divides the traffic of a service among the zones that have it. It is arithmetic: no clock, no
// memory, no Envoy. Capacities are whole hundredths of an endpoint, so that a threshold is met or not met
// exactly; shares are whole millionths that add up to a million.
//
// The rule is a waterfall. What there is to carry is presumed: Threshold percent of the whole capacity of the first
// tier, which is how busy it is taken to be when whole. A tier that has so much ready carries all of it; one that has less
// carries what it has, and the rest goes on to the next. If all are full, they share what remains by what they
// have ready. Within a tier, zones share by weight and ready capacity.
package failover

import (
	"cmp"
	"math"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Million is all of the traffic, in the unit of shares.
const Million = 1_000_000

// Hundredths is a capacity in endpoint-equivalents as a whole number of hundredths, at least 1 for what is not
// nothing.
func Hundredths(capacity float64) uint64 {
	if !(capacity > 0) { // also for what is no number
		return 0
	}
	return uint64(max(math.Round(min(capacity, 1e9)*100), 1))
}

// Plan is a policy, resolved to the zones that have a service, with what they can carry.
type Plan struct {
	Mode   policy.FailoverMode // Auto, Armed or Off
	Active string              // name of the tier to which a person switched (Armed); "" for the first that has the service
	// Threshold in percent, 1 to 100.
	Threshold uint32
	Tiers     []Tier
}

// Tier is a set of zones that are used together.
type Tier struct {
	Name  string
	Zones []Zone
}

// Zone is what a zone can carry of a service.
type Zone struct {
	Name   string
	Weight uint32 // within its tier, at least 1
	// Ready and Whole are capacities in hundredths of an endpoint.
	Ready, Whole uint64
	Unreachable  bool // whatever is ready there
	// Drained is how much of the zone's traffic was taken from it by a drain, 0 to 1.
	Drained float64
}

// usable is the ready capacity that can be reached.
func (z Zone) usable() uint64 {
	if z.Unreachable {
		return 0
	}
	return z.Ready
}

// Decision is where the traffic goes.
type Decision struct {
	// State is Normal, FailedOver, Draining, Armed, Exhausted or NoBackend.
	State mesh.FailoverState
	// Shares of all zones of the plan, in the order of its tiers.
	Shares []Share
	// Priorities are for Envoy: first the zones with a share, then those that stand by, tier by tier. A mode but
	// Auto has no standby. If nobody is ready the zones are there as if they were whole: the last
	// backend is never withdrawn.
	Priorities [][]Weight
}

// Share is a zone's part, in millionths.
type Share struct {
	Zone string
	Tier int // index in Plan.Tiers
	// Share of the traffic; Would be its share in mode Auto.
	Share, Would uint32
}

// Weight of a zone within a priority.
type Weight struct {
	Zone   string
	Weight uint32
}

// Only is the plan without the zones for which keep is false.
func (p Plan) Only(keep func(zone string) bool) Plan {
	out := p
	out.Tiers = make([]Tier, len(p.Tiers))
	for i, t := range p.Tiers {
		out.Tiers[i] = Tier{Name: t.Name}
		for _, z := range t.Zones {
			if keep(z.Name) {
				out.Tiers[i].Zones = append(out.Tiers[i].Zones, z)
			}
		}
	}
	return out
}

// Decide divides the traffic.
func (p Plan) Decide() Decision {
	flat := p.flatten()
	first := slices.IndexFunc(flat, func(s slot) bool { return s.Whole > 0 })
	if first < 0 {
		return Decision{State: mesh.FailoverNone, Shares: flat.shares(nil, nil)}
	}
	home := flat[first].tier
	if p.Mode == policy.FailoverArmed && p.Active != "" {
		home = slices.IndexFunc(p.Tiers, func(t Tier) bool { return t.Name == p.Active })
		if !slices.ContainsFunc(flat, func(s slot) bool { return s.tier == home && s.Whole > 0 }) {
			return Decision{State: mesh.FailoverNone, Shares: flat.shares(nil, nil)} // what a person said holds
		}
	}
	auto := p.blend(flat.orWhole(), home)
	chosen := auto
	if p.Mode != policy.FailoverAuto {
		chosen = p.blend(flat.only(home).orWhole(), home)
	}
	d := Decision{Shares: flat.shares(millionths(chosen.parts), millionths(auto.parts))}
	d.Priorities = p.priorities(flat.orWhole(), d.Shares)

	elsewhere := slices.ContainsFunc(d.Shares, func(s Share) bool { return s.Share > 0 && s.Tier != flat[first].tier })
	waits := slices.ContainsFunc(d.Shares, func(s Share) bool { return s.Share != s.Would })
	switch {
	case !flat.ready(), p.Mode == policy.FailoverOff && !flat.only(home).ready():
		d.State = mesh.FailoverNone
	case p.Mode == policy.FailoverArmed && waits:
		d.State = mesh.FailoverArmed
	case p.Mode == policy.FailoverAuto && auto.exhausted:
		d.State = mesh.FailoverExhausted
	case chosen.drained:
		d.State = mesh.FailoverDraining
	case elsewhere:
		d.State = mesh.FailoverMoved
	default:
		d.State = mesh.FailoverNormal
	}
	return d
}

// slots are the zones of a plan in the order of its tiers.
type slots []slot

type slot struct {
	Zone
	tier int
}

func (p Plan) flatten() slots {
	var out slots
	for i, t := range p.Tiers {
		for _, z := range t.Zones {
			out = append(out, slot{z, i})
		}
	}
	return out
}

// ready reports whether anybody is.
func (list slots) ready() bool {
	return slices.ContainsFunc(list, func(s slot) bool { return s.usable() > 0 })
}

// only leaves nothing to the other tiers.
func (list slots) only(tier int) slots {
	out := slices.Clone(list)
	for i := range out {
		if out[i].tier != tier {
			out[i].Ready, out[i].Whole = 0, 0
		}
	}
	return out
}

// orWhole takes the zones to be whole and within reach if nobody is ready: one of them may answer after all.
func (list slots) orWhole() slots {
	if list.ready() {
		return list
	}
	out := slices.Clone(list)
	for i := range out {
		out[i].Ready, out[i].Unreachable = out[i].Whole, false
	}
	return out
}

func (list slots) shares(chosen, auto []uint32) []Share {
	out := make([]Share, len(list))
	for i, s := range list {
		out[i] = Share{Zone: s.Name, Tier: s.tier}
		if chosen != nil {
			out[i].Share, out[i].Would = chosen[i], auto[i]
		}
	}
	return out
}

// flow is what slots get, in parts of 1.
type flow struct {
	parts     []float64
	exhausted bool // all are full
	drained   bool // a drain made it so
}

// blend is the waterfall where zones are being drained: as far between what it gives with a zone and what it gives
// without as the drain has come. So the share of the zone falls evenly, the others' rise to what they get
// without it, and none is above its capacity on the way.
func (p Plan) blend(list slots, home int) flow {
	var levels []float64
	for _, s := range list {
		if s.Drained > 0 {
			levels = append(levels, min(s.Drained, 1))
		}
	}
	slices.SortFunc(levels, func(x, y float64) int { return cmp.Compare(y, x) })

	step := p.waterfall(list, home, func(slot) bool { return true })
	if len(levels) == 0 {
		return step
	}
	undrained, out, above := step.parts, flow{parts: make([]float64, len(list))}, 1.0
	for _, level := range append(slices.Compact(levels), 0) {
		if weight := above - level; weight > 0 {
			for i, part := range step.parts {
				out.parts[i] += weight * part
			}
			out.exhausted = out.exhausted || step.exhausted
		}
		above = level
		in := func(s slot) bool { return s.Drained < level }
		if slices.ContainsFunc(list, func(s slot) bool { return in(s) && s.usable() > 0 }) { // the last one stays
			step = p.waterfall(list, home, in)
		}
	}
	out.drained = !slices.EqualFunc(out.parts, undrained, func(x, y float64) bool { return math.Abs(x-y) < 1e-9 })
	return out
}

// waterfall is the rule of the package for the zones for which in holds. The demand is that of the home tier, whoever of
// it is in; of all tiers together something must be ready.
func (p Plan) waterfall(list slots, home int, in func(slot) bool) flow {
	var whole, all uint64
	ready := make([]uint64, len(p.Tiers))
	for _, s := range list {
		if s.tier == home {
			whole += s.Whole
		}
		if in(s) {
			ready[s.tier] += s.usable()
			all += s.usable()
		}
	}
	demand := uint64(p.Threshold) * whole // per cent of hundredths
	left := demand
	takes := make([]float64, len(p.Tiers))
	for _, tier := range p.order(home) {
		take := min(100*ready[tier], left)
		takes[tier] = float64(take) / float64(demand)
		left -= take
	}
	if left > 0 {
		for tier := range takes {
			takes[tier] = float64(ready[tier]) / float64(all)
		}
	}
	return flow{parts: within(list, in, takes), exhausted: left > 0}
}

// order has the home tier first.
func (p Plan) order(home int) []int {
	out := []int{home}
	for i := range p.Tiers {
		if i != home {
			out = append(out, i)
		}
	}
	return out
}

// within divides what each tier takes among its zones, by weight and ready capacity.
func within(list slots, in func(slot) bool, takes []float64) []float64 {
	sums := make([]float64, len(takes))
	for _, s := range list {
		if in(s) {
			sums[s.tier] += s.pull()
		}
	}
	parts := make([]float64, len(list))
	for i, s := range list {
		if in(s) && s.pull() > 0 {
			parts[i] = takes[s.tier] * s.pull() / sums[s.tier]
		}
	}
	return parts
}

// pull is what draws traffic of its tier to a zone.
func (z Zone) pull() float64 { return float64(max(z.Weight, 1)) * float64(z.usable()) }

// priorities are the zones with a share, then those that stand by.
func (p Plan) priorities(list slots, shares []Share) [][]Weight {
	var out [][]Weight
	add := func(parts []uint32) {
		var group []Weight
		for i, part := range parts {
			if part > 0 {
				group = append(group, Weight{list[i].Name, part})
			}
		}
		if group != nil {
			out = append(out, group)
		}
	}
	now := make([]uint32, len(shares))
	for i, s := range shares {
		now[i] = s.Share
	}
	add(now)
	if p.Mode != policy.FailoverAuto {
		return out
	}
	for tier := range p.Tiers {
		takes := make([]float64, len(p.Tiers))
		takes[tier] = 1
		standby := func(s slot) bool { return s.Drained == 0 }
		parts := millionths(within(list, standby, takes))
		for i := range parts {
			if now[i] > 0 {
				parts[i] = 0
			}
		}
		add(parts)
	}
	return out
}

// millionths rounds parts of 1 so that they add up to a million, or to nothing if there are none.
func millionths(parts []float64) []uint32 {
	type rest struct {
		index int
		part  float64
	}
	out := make([]uint32, len(parts))
	var rests []rest
	sum := uint32(0)
	for i, part := range parts {
		if part <= 0 {
			continue
		}
		floor := math.Floor(part * Million)
		out[i] = uint32(floor)
		sum += out[i]
		rests = append(rests, rest{i, part*Million - floor})
	}
	slices.SortStableFunc(rests, func(x, y rest) int { return cmp.Compare(y.part, x.part) })
	for i := range rests {
		if sum >= Million {
			break
		}
		out[rests[i].index]++
		sum++
	}
	return out
}
