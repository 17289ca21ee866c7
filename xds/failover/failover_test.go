package failover_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/failover"
)

// z is a zone with so many endpoints ready of so many.
func z(name string, ready, whole float64) failover.Zone {
	return failover.Zone{Name: name, Weight: 1, Ready: failover.Hundredths(ready), Whole: failover.Hundredths(whole)}
}

func plan(tiers ...[]failover.Zone) failover.Plan {
	p := failover.Plan{Mode: policy.FailoverAuto, Threshold: policy.DefaultThreshold}
	for i, zones := range tiers {
		p.Tiers = append(p.Tiers, failover.Tier{Name: fmt.Sprint("t", i), Zones: zones})
	}
	return p
}

func tier(zones ...failover.Zone) []failover.Zone { return zones }

// told is a decision in one line: its state, shares, and the zones of each priority.
func told(d failover.Decision) string {
	var out []string
	for _, s := range d.Shares {
		if s.Share > 0 || s.Would > 0 {
			word := fmt.Sprintf("%s %d", s.Zone, s.Share)
			if s.Would != s.Share {
				word += fmt.Sprintf("(%d)", s.Would)
			}
			out = append(out, word)
		}
	}
	var priorities []string
	for _, p := range d.Priorities {
		var names []string
		for _, w := range p {
			names = append(names, w.Zone)
		}
		priorities = append(priorities, strings.Join(names, "+"))
	}
	return fmt.Sprintf("%s: %s; %s", d.State, strings.Join(out, " "), strings.Join(priorities, ","))
}

func TestDecide(t *testing.T) {
	drained := func(z failover.Zone, f float64) failover.Zone { z.Drained = f; return z }
	away := func(z failover.Zone) failover.Zone { z.Unreachable = true; return z }
	weight := func(z failover.Zone, w uint32) failover.Zone { z.Weight = w; return z }
	with := func(p failover.Plan, mode policy.FailoverMode, active string) failover.Plan {
		p.Mode, p.Active = mode, active
		return p
	}
	for name, c := range map[string]struct {
		plan failover.Plan
		want string
	}{
		"whole":                    {plan(tier(z("a", 2, 2)), tier(z("b", 2, 2)), tier(z("c", 2, 2))), "Normal: a 1000000; a,b,c"},
		"seven of ten stay":        {plan(tier(z("a", 7, 10)), tier(z("b", 10, 10))), "Normal: a 1000000; a,b"},
		"six of ten spill":         {plan(tier(z("a", 6, 10)), tier(z("b", 10, 10))), "FailedOver: a 857143 b 142857; a+b"},
		"down the tiers":           {plan(tier(z("a", 0, 10)), tier(z("b", 3, 10)), tier(z("c", 2, 2)), tier(z("d", 9, 9))), "FailedOver: b 428572 c 285714 d 285714; b+c+d"},
		"all full":                 {plan(tier(z("a", 2, 10)), tier(z("b", 2, 2)), tier(z("c", 1, 1))), "Exhausted: a 400000 b 400000 c 200000; a+b+c"},
		"weights":                  {plan(tier(weight(z("a", 1, 1), 80), weight(z("b", 1, 1), 20))), "Normal: a 800000 b 200000; a+b"},
		"weights by capacity":      {plan(tier(weight(z("a", 1, 1), 80), weight(z("b", 4, 4), 20))), "Normal: a 500000 b 500000; a+b"},
		"the first has none":       {plan(tier(z("a", 0, 0)), tier(z("b", 1, 1)), tier(z("c", 1, 1))), "Normal: b 1000000; b,c"},
		"out of reach":             {plan(tier(away(z("a", 5, 5))), tier(z("b", 5, 5))), "FailedOver: b 1000000; b"},
		"standby out of reach":     {plan(tier(z("a", 5, 5)), tier(away(z("b", 5, 5)))), "Normal: a 1000000; a"},
		"half drained":             {plan(tier(drained(z("a", 5, 5), .5)), tier(z("b", 5, 5)), tier(z("c", 5, 5))), "Draining: a 500000 b 500000; a+b,c"},
		"drained":                  {plan(tier(drained(z("a", 5, 5), 1)), tier(z("b", 5, 5)), tier(z("c", 5, 5))), "Draining: b 1000000; b,c"},
		"drained into little":      {plan(tier(drained(z("a", 10, 10), 1)), tier(z("b", 2, 2)), tier(z("c", 9, 9))), "Draining: b 285714 c 714286; b+c"},
		"one after the other":      {plan(tier(drained(z("a", 5, 5), 1)), tier(drained(z("b", 5, 5), .25)), tier(z("c", 5, 5))), "Draining: b 750000 c 250000; b+c"},
		"drained in its tier":      {plan(tier(drained(z("a", 5, 5), .5), z("b", 5, 5))), "Exhausted: a 250000 b 750000; a+b"},
		"the last is not drained":  {plan(tier(drained(z("a", 5, 5), 1)), tier(z("b", 0, 5))), "Normal: a 1000000; a"},
		"a drain of a standby":     {plan(tier(z("a", 5, 5)), tier(drained(z("b", 5, 5), .5)), tier(z("c", 5, 5))), "Normal: a 1000000; a,c"},
		"nobody is ready":          {plan(tier(z("a", 0, 2)), tier(away(z("b", 2, 2)))), "NoBackend: a 1000000; a,b"},
		"nobody is known":          {plan(tier(z("a", 0, 0)), tier(z("b", 0, 0))), "NoBackend: ; "},
		"armed":                    {with(plan(tier(z("a", 2, 2)), tier(z("b", 2, 2))), policy.FailoverArmed, ""), "Normal: a 1000000; a"},
		"armed waits":              {with(plan(tier(z("a", 0, 2)), tier(z("b", 2, 2))), policy.FailoverArmed, ""), "Armed: a 1000000(0) b 0(1000000); a"},
		"armed waits with a part":  {with(plan(tier(z("a", 6, 10)), tier(z("b", 10, 10))), policy.FailoverArmed, ""), "Armed: a 1000000(857143) b 0(142857); a"},
		"armed and switched":       {with(plan(tier(z("a", 0, 2)), tier(z("b", 2, 2))), policy.FailoverArmed, "t1"), "FailedOver: b 1000000; b"},
		"armed and still switched": {with(plan(tier(z("a", 2, 2)), tier(z("b", 2, 2))), policy.FailoverArmed, "t1"), "FailedOver: b 1000000; b"},
		"armed for nobody":         {with(plan(tier(z("a", 2, 2)), tier(z("b", 0, 0))), policy.FailoverArmed, "t1"), "NoBackend: ; "},
		"armed is not drained":     {with(plan(tier(drained(z("a", 2, 2), 1)), tier(z("b", 2, 2))), policy.FailoverArmed, ""), "Armed: a 1000000(0) b 0(1000000); a"},
		"off":                      {with(plan(tier(z("a", 1, 2)), tier(z("b", 2, 2))), policy.FailoverOff, ""), "Normal: a 1000000(714286) b 0(285714); a"},
		"off and dead":             {with(plan(tier(z("a", 0, 2)), tier(z("b", 2, 2))), policy.FailoverOff, ""), "NoBackend: a 1000000(0) b 0(1000000); a"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := told(c.plan.Decide()); got != c.want {
				t.Errorf("\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

func anyPlan(t *rapid.T) failover.Plan {
	p := failover.Plan{
		Mode:      rapid.SampledFrom([]policy.FailoverMode{policy.FailoverAuto, policy.FailoverAuto, policy.FailoverArmed, policy.FailoverOff}).Draw(t, "mode"),
		Threshold: rapid.Uint32Range(1, 100).Draw(t, "threshold"),
	}
	n := 0
	for i := range rapid.IntRange(1, 4).Draw(t, "tiers") {
		tier := failover.Tier{Name: fmt.Sprint("t", i)}
		for range rapid.IntRange(0, 3).Draw(t, "zones") {
			whole := rapid.Uint64Range(0, 2000).Draw(t, "whole")
			tier.Zones = append(tier.Zones, failover.Zone{
				Name: fmt.Sprint("z", n), Weight: rapid.Uint32Range(1, 5).Draw(t, "weight"), Whole: whole, Ready: rapid.Uint64Range(0, whole).Draw(t, "ready"),
				Unreachable: rapid.IntRange(0, 4).Draw(t, "unreachable") == 0,
				Drained:     rapid.SampledFrom([]float64{0, 0, 0, .2, .5, 1}).Draw(t, "drained"),
			})
			n++
		}
		p.Tiers = append(p.Tiers, tier)
	}
	if p.Mode == policy.FailoverArmed && rapid.Bool().Draw(t, "switched") {
		p.Active = rapid.SampledFrom(p.Tiers).Draw(t, "active").Name
	}
	return p
}

// usable is what is ready and within reach.
func usable(z failover.Zone) uint64 {
	if z.Unreachable {
		return 0
	}
	return z.Ready
}

// home is the tier that has the traffic if all is well, and its whole capacity.
func home(p failover.Plan) (tier int, whole uint64) {
	for i, t := range p.Tiers {
		var sum uint64
		for _, z := range t.Zones {
			sum += z.Whole
		}
		if p.Active != "" && t.Name == p.Active || p.Active == "" && sum > 0 {
			return i, sum
		}
	}
	return 0, 0
}

func TestShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPlan(t)
		d := p.Decide()
		var sum, would uint32
		tiers, ready := make([]uint64, len(p.Tiers)), make([]uint64, len(p.Tiers))
		zones, drains := map[string]failover.Zone{}, false
		for i, tier := range p.Tiers {
			for _, z := range tier.Zones {
				zones[z.Name] = z
				ready[i] += usable(z)
				drains = drains || z.Drained > 0
			}
		}
		for _, s := range d.Shares {
			sum += s.Share
			would += s.Would
			tiers[s.Tier] += uint64(s.Share)
			if d.State != mesh.FailoverNone && d.State != mesh.FailoverArmed && s.Share > 0 && usable(zones[s.Zone]) == 0 {
				t.Errorf("%s gets %d with nothing ready", s.Zone, s.Share)
			}
		}
		first, whole := home(p)
		if whole > 0 && (sum != failover.Million || would != failover.Million) || whole == 0 && sum != 0 {
			t.Fatalf("the shares add up to %d, and would to %d", sum, would)
		}
		if p.Mode != policy.FailoverAuto || d.State == mesh.FailoverNone {
			return
		}
		// A tier above its capacity while another has room; a millionth for each zone is lost in rounding.
		demand := uint64(p.Threshold) * whole
		for i := range tiers {
			if over := tiers[i]*demand > (100*ready[i])*failover.Million+uint64(len(zones))*demand; over && d.State != mesh.FailoverExhausted {
				t.Errorf("tier %d carries %d millionths of %d but has %d ready", i, tiers[i], demand, 100*ready[i])
			}
		}
		if !drains && 100*ready[first] >= demand && tiers[first] != failover.Million {
			t.Errorf("the first tier has %d of %d ready, which suffices, and carries %d", ready[first], whole, tiers[first])
		}
		if !drains && 100*ready[first] < demand && tiers[first] == failover.Million && d.State != mesh.FailoverExhausted {
			t.Errorf("the first tier has %d of %d ready, which does not suffice, and carries all", ready[first], whole)
		}
	})
}

// What Envoy gets is what was decided: the first priority is the shares, every zone is there at most once, and
// nothing stands by but in mode Auto.
func TestPriorities(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPlan(t)
		d := p.Decide()
		seen := map[string]bool{}
		for i, group := range d.Priorities {
			for _, w := range group {
				if seen[w.Zone] || w.Weight == 0 {
					t.Fatalf("zone %s is there twice, or without weight: %v", w.Zone, d.Priorities)
				}
				seen[w.Zone] = true
				share := d.Shares[slices.IndexFunc(d.Shares, func(s failover.Share) bool { return s.Zone == w.Zone })].Share
				if i == 0 && share != w.Weight || i > 0 && share > 0 {
					t.Errorf("zone %s has share %d and weight %d at priority %d", w.Zone, share, w.Weight, i)
				}
			}
		}
		if p.Mode != policy.FailoverAuto && len(d.Priorities) > 1 {
			t.Errorf("somebody stands by in mode %s: %v", p.Mode, d.Priorities)
		}
		if _, whole := home(p); whole > 0 && len(d.Priorities) == 0 {
			t.Error("everything was withdrawn")
		}
	})
}

// More capacity never means less traffic, and a drain that has come further never means more.
func TestMonotone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := anyPlan(t)
		p.Mode, p.Active = policy.FailoverAuto, ""
		before := p.Decide()
		if before.State == mesh.FailoverNone {
			return
		}
		i := rapid.IntRange(0, len(before.Shares)-1).Draw(t, "which")
		n := 0
		var zone *failover.Zone
		for _, tier := range p.Tiers {
			for j := range tier.Zones {
				if n == i {
					zone = &tier.Zones[j]
				}
				n++
			}
		}
		more := *zone
		if more.Ready < more.Whole {
			more.Ready += rapid.Uint64Range(0, more.Whole-more.Ready).Draw(t, "more")
		}
		further := *zone
		further.Drained = min(1, further.Drained+rapid.Float64Range(0, 1).Draw(t, "further"))
		*zone = more
		if after := p.Decide(); after.Shares[i].Share+uint32(len(after.Shares)) < before.Shares[i].Share && !zone.Unreachable && zone.Drained == 0 {
			t.Errorf("more is ready in %s, and its share falls from %d to %d", zone.Name, before.Shares[i].Share, after.Shares[i].Share)
		}
		*zone = further
		if after := p.Decide(); after.Shares[i].Share > before.Shares[i].Share+uint32(len(after.Shares)) {
			t.Errorf("%s is drained further, and its share rises from %d to %d", zone.Name, before.Shares[i].Share, after.Shares[i].Share)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	p := plan(tier(z("a", 6, 10)), tier(z("b", 10, 10), z("c", 4, 4)), tier(z("d", 9, 9)))
	for b.Loop() {
		p.Decide()
	}
}
