package failover

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/failover"
	"github.com/comity-mesh/comity/xds/topology"
)

// tellEvery bounds how often the steps of a ramp are told.
const tellEvery = time.Second

// tell makes the status of a service, and adds it to the view if it says something new.
func (e *Engine) tell(s *topology.Service, d decided, now time.Time, v *View) {
	st := mesh.FailoverStatus{
		Zone: e.zone, Namespace: s.Namespace, Service: s.Name, Policy: s.Failover.Policy,
		Mode: modeOf(d.now.Mode), State: d.state(), Since: now.UTC(), Targets: e.targets(s, d), ObservedAt: now.UTC(),
	}
	st.Reason = e.reason(st, d)
	old, known := e.told[s.ServiceName]
	if known && old.State == st.State {
		st.Since = old.Since
	}
	switch {
	case known && sameStatus(old, st):
		if e.untold {
			v.Statuses = append(v.Statuses, old)
		}
		return
	case known && !e.untold && st.State == mesh.FailoverDraining && old.State == st.State && now.Sub(old.ObservedAt) < tellEvery && e.ramping(d, now):
		return // the next step says more
	}
	e.told[s.ServiceName] = st
	v.Statuses = append(v.Statuses, st)
}

// ramping reports whether a zone of the plan is on its way.
func (e *Engine) ramping(d decided, now time.Time) bool {
	for _, t := range d.now.Tiers {
		for _, z := range t.Zones {
			if r := e.drains[z.Name]; r != nil {
				if _, more := r.next(now); more {
					return true
				}
			}
		}
	}
	return false
}

// sameStatus compares what is told, not when it was seen.
func sameStatus(x, y mesh.FailoverStatus) bool {
	samePolicy := x.Policy == nil && y.Policy == nil || x.Policy != nil && y.Policy != nil && *x.Policy == *y.Policy
	return samePolicy && x.Mode == y.Mode && x.State == y.State && x.Reason == y.Reason && slices.Equal(x.Targets, y.Targets)
}

// state is the decision's, or Held if it would be another one without what must last.
func (d decided) state() mesh.FailoverState {
	held := !slices.EqualFunc(d.decision.Shares, d.unhurried.Shares, func(x, y failover.Share) bool { return x.Share == y.Share })
	if held && (d.decision.State == mesh.FailoverNormal || d.decision.State == mesh.FailoverMoved) {
		return mesh.FailoverHeld
	}
	return d.decision.State
}

func (e *Engine) targets(s *topology.Service, d decided) []mesh.FailoverTarget {
	out := []mesh.FailoverTarget{}
	i := 0
	for tier, t := range d.taken.Tiers {
		for j, z := range t.Zones {
			share, would := d.decision.Shares[i], d.unhurried.Shares[i]
			target := mesh.FailoverTarget{
				Zone: z.Name, Tier: tier, Name: t.Name, Share: part(share.Share), Would: part(would.Would),
				Ready: endpoints(d.now.Tiers[tier].Zones[j].Ready), Whole: endpoints(z.Whole), Reachable: !z.Unreachable,
			}
			if d.decision.State == mesh.FailoverNone {
				target.Share = 0
			}
			target.Reason = e.why(target, z)
			out = append(out, target)
			i++
		}
	}
	for _, zone := range s.Failover.Unnamed {
		out = append(out, mesh.FailoverTarget{Zone: zone, Tier: len(d.taken.Tiers), Reachable: true, Reason: "no tier of the policy names it"})
	}
	return out
}

func part(millionths uint32) float64 { return float64(millionths) / failover.Million }

func endpoints(hundredths uint64) float64 { return float64(hundredths) / 100 }

const whole = "whole"

// why says of a zone what decides about its share.
func (e *Engine) why(t mesh.FailoverTarget, z failover.Zone) string {
	switch {
	case t.Whole == 0 && t.Ready == 0:
		return "it has nothing of the service, or no ingress"
	case !t.Reachable:
		return "unreachable since " + clock(e.away[t.Zone])
	case z.Drained == 1:
		return "drained"
	case z.Drained > 0:
		return fmt.Sprintf("%d %% of its traffic is drained", percent(z.Drained))
	case t.Ready == 0:
		return "nothing of " + number(t.Whole) + " is ready"
	case endpoints(z.Ready) < t.Ready:
		return fmt.Sprintf("%s of %s ready again, of which %s counts until the rest has lasted", number(t.Ready), number(t.Whole), number(endpoints(z.Ready)))
	case t.Ready < t.Whole:
		return number(t.Ready) + " of " + number(t.Whole) + " is ready"
	case t.Share > 0:
		return whole
	}
	return whole + ", and stands by"
}

// reason is one sentence about the service.
func (e *Engine) reason(st mesh.FailoverStatus, d decided) string {
	var takers, troubles []string
	first := firstTier(d.taken)
	for _, t := range st.Targets {
		switch {
		case t.Tier == first && !strings.HasPrefix(t.Reason, whole) && t.Whole > 0:
			troubles = append(troubles, t.Zone+" "+verb(t))
		case t.Share > 0:
			takers = append(takers, t.Zone+" takes "+shareText(t.Share))
		}
	}
	trouble, taken := strings.Join(troubles, ", "), strings.Join(takers, ", ")
	switch st.State {
	case mesh.FailoverNone:
		if d.now.Mode != policy.FailoverAuto && trouble != "" {
			return trouble + ", and mode " + st.Mode + " keeps the traffic there"
		}
		if len(d.decision.Priorities) == 0 {
			return "no zone that may serve it has the service"
		}
		return "nobody is ready in any zone, so none is withdrawn"
	case mesh.FailoverArmed:
		return trouble + "; mode Armed keeps the traffic there until a person sets active"
	case mesh.FailoverExhausted:
		return fmt.Sprintf("all tiers together have less ready than the %d %% that is wanted; they share by what they have", d.now.Threshold)
	case mesh.FailoverHeld:
		if d.back.IsZero() {
			return "what is back has not lasted"
		}
		return "what is back must last: looked at again at " + clock(d.back)
	case mesh.FailoverDraining:
		return join(e.drainText(d), taken)
	case mesh.FailoverMoved:
		if d.now.Mode == policy.FailoverArmed {
			return join("a person switched to tier "+d.now.Active, taken)
		}
		return join(trouble, taken)
	case mesh.FailoverNormal:
	}
	if first < len(d.taken.Tiers) && trouble != "" {
		return join(trouble, "that suffices, and all traffic stays in tier "+d.taken.Tiers[first].Name)
	}
	return "all traffic stays in tier " + d.taken.Tiers[first].Name
}

func join(x, y string) string {
	if x == "" || y == "" {
		return x + y
	}
	return x + "; " + y
}

// verb makes a target's reason a clause about its zone.
func verb(t mesh.FailoverTarget) string {
	switch {
	case !t.Reachable:
		return "is " + t.Reason
	case strings.HasPrefix(t.Reason, "drained"):
		return "is drained"
	case t.Ready == 0:
		return "has nothing of " + number(t.Whole) + " ready"
	}
	return "has " + number(t.Ready) + " of " + number(t.Whole) + " ready"
}

func (e *Engine) drainText(d decided) string {
	var out []string
	for _, t := range d.taken.Tiers {
		for _, z := range t.Zones {
			switch r := e.drains[z.Name]; {
			case z.Drained == 0:
			case z.Drained == 1:
				out = append(out, z.Name+" is drained")
			case r != nil && !r.Draining:
				out = append(out, fmt.Sprintf("%s comes back, %d %% of its traffic is still away", z.Name, percent(z.Drained)))
			default:
				out = append(out, fmt.Sprintf("%s is being drained, %d %% done", z.Name, percent(z.Drained)))
			}
		}
	}
	return strings.Join(out, ", ")
}

// firstTier is the first that has the service.
func firstTier(p failover.Plan) int {
	return max(slices.IndexFunc(p.Tiers, func(t failover.Tier) bool {
		return slices.ContainsFunc(t.Zones, func(z failover.Zone) bool { return z.Whole > 0 })
	}), 0)
}

func percent(f float64) int { return int(math.Round(100 * f)) }

func shareText(share float64) string {
	if share == 1 {
		return "all"
	}
	return strconv.Itoa(max(percent(share), 1)) + " %"
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// clock is a time of day that means the same everywhere.
func clock(t time.Time) string { return t.UTC().Format("15:04:05") + " UTC" }
