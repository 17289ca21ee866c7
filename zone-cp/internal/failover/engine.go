// Package failover gives failover its memory and its clock. xds/failover divides traffic by what is ready at a moment; the
// engine decides what counts as ready: losses at once, recoveries after they lasted, drains step by step. It
// remembers what services had when they were last whole, across restarts, and says of each service where
// its traffic goes and why.
package failover

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/failover"
	"github.com/comity-mesh/comity/xds/topology"
)

// BucketMemory, with "/<zone>", holds what must survive a restart: the memory of a service in a zone by
// "service <namespace>/<service>/<zone>", and of a zone's drain by "drain <zone>".
const BucketMemory = "failover-memory"

// Engine is made with New and used by one goroutine.
type Engine struct {
	zone      string
	memories  map[place]*memory
	drains    map[string]*drain
	away      map[string]time.Time // zones out of reach, since when
	decisions map[topology.ServiceName]decided
	told      map[topology.ServiceName]mesh.FailoverStatus
	untold    bool // after a restart nobody has heard of what is in told
}

// place is a service in a zone.
type place struct {
	topology.ServiceName
	zone string
}

// decided is what was last decided of a service, and from what.
type decided struct {
	policy              mesh.Key
	now, taken          failover.Plan // as the topology says, and as it counts
	decision, unhurried failover.Decision
	back                time.Time // when what is held comes back
}

// View is what the engine makes of a topology at a moment.
type View struct {
	// Plans are for translate.
	Plans map[topology.ServiceName]failover.Plan
	// Next is when to look again though nothing changes; zero for never.
	Next time.Time
	// Statuses that changed, and those of services that are gone.
	Statuses []mesh.FailoverStatus
	Gone     []topology.ServiceName
	// Memory that changed, by key in BucketMemory; a nil value is to be forgotten.
	Memory map[string]any
}

// New makes the engine of a zone that has never seen anything.
func New(zone string) *Engine {
	return &Engine{
		zone: zone, memories: map[place]*memory{}, drains: map[string]*drain{}, away: map[string]time.Time{},
		decisions: map[topology.ServiceName]decided{}, told: map[topology.ServiceName]mesh.FailoverStatus{}, untold: true,
	}
}

// Restore reads what was known before a restart; before the first Look.
func (e *Engine) Restore(ctx context.Context, s store.Records, now time.Time) error {
	list, _, err := s.ListRecords(ctx, BucketMemory+"/"+e.zone, "")
	if err != nil {
		return fmt.Errorf("read the memory of failover: %w", err)
	}
	for _, r := range list {
		e.restore(r, now)
	}
	statuses, _, err := s.ListRecords(ctx, federation.BucketFailover+"/"+e.zone, "")
	if err != nil {
		return fmt.Errorf("read the statuses of failover: %w", err)
	}
	for _, r := range statuses {
		var st mesh.FailoverStatus
		if json.Unmarshal(r.Value, &st) == nil {
			e.told[topology.ServiceName{Namespace: st.Namespace, Name: st.Service}] = st
		}
	}
	return nil
}

// restore takes one record; what can't be read is as if it had never been known.
func (e *Engine) restore(r store.Record, now time.Time) {
	kind, key, _ := strings.Cut(r.Key, " ")
	switch kind {
	case "service":
		p := strings.Split(key, "/")
		var m memory
		if len(p) == 3 && json.Unmarshal(r.Value, &m) == nil {
			m.recent = window{{now, m.Ready}}
			e.memories[place{topology.ServiceName{Namespace: p[0], Name: p[1]}, p[2]}] = &m
		}
	case "drain":
		var d drain
		if json.Unmarshal(r.Value, &d) == nil {
			e.drains[key] = &d
		}
	}
}

// Look takes a topology in and says what follows. now never goes back.
func (e *Engine) Look(t *topology.Topology, now time.Time) View {
	v := View{Plans: make(map[topology.ServiceName]failover.Plan, len(t.Services)), Memory: map[string]any{}}
	e.lookAtZones(t, now, &v)
	for _, s := range t.Services {
		e.lookAt(s, now, &v)
	}
	e.forget(t, &v)
	e.untold = false
	return v
}

func (v *View) wake(at time.Time) {
	if v.Next.IsZero() || at.Before(v.Next) {
		v.Next = at
	}
}

// lookAtZones follows drains, and notes who is out of reach.
func (e *Engine) lookAtZones(t *topology.Topology, now time.Time, v *View) {
	for _, z := range t.Zones {
		switch _, known := e.away[z.Name]; {
		case z.Reachable() || len(z.Ingresses) == 0:
			delete(e.away, z.Name)
		case !known:
			e.away[z.Name] = now
		}
		d := e.drains[z.Name]
		if d == nil && z.Drain == nil {
			continue
		}
		if d == nil {
			d = &drain{}
			e.drains[z.Name] = d
		}
		if d.follow(z.Drain, now) {
			v.Memory["drain "+z.Name] = *d
		}
		if next, ok := d.next(now); ok {
			v.wake(next)
		} else if !d.Draining {
			delete(e.drains, z.Name)
			v.Memory["drain "+z.Name] = nil
		}
	}
}

// lookAt takes in one service.
func (e *Engine) lookAt(s *topology.Service, now time.Time, v *View) {
	was, known := e.decisions[s.ServiceName]
	taken, back := e.take(s, now, v)
	v.Plans[s.ServiceName] = taken
	if !back.IsZero() {
		v.wake(back)
	}
	var by mesh.Key
	if s.Failover.Policy != nil {
		by = *s.Failover.Policy
	}
	d := decided{policy: by, now: s.Failover.Plan, taken: taken, back: back}
	if known && was.policy == by && was.back.Equal(back) && samePlan(was.now, d.now) && samePlan(was.taken, taken) && !e.untold {
		return
	}
	d.decision = taken.Decide()
	d.unhurried = d.decision
	if unhurried := e.asItIs(s.Failover.Plan, taken, now); !samePlan(unhurried, taken) {
		d.unhurried = unhurried.Decide()
	}
	e.decisions[s.ServiceName] = d
	e.tell(s, d, now, v)
}

// take is the plan of a service with what counts, and when something that is held comes back.
func (e *Engine) take(s *topology.Service, now time.Time, v *View) (failover.Plan, time.Time) {
	var back time.Time
	taken, anybody, nobody := clone(s.Failover.Plan), false, true
	for i := range taken.Tiers {
		for j := range taken.Tiers[i].Zones {
			z := &taken.Tiers[i].Zones[j]
			at := place{s.ServiceName, z.Name}
			m := e.memories[at]
			if m == nil {
				m = &memory{}
				e.memories[at] = m
			}
			before := m.kept
			if next := m.see(usable(*z), z.Whole, now, s.Failover.Dwell, s.Failover.FailbackDelay); !next.IsZero() && (back.IsZero() || next.Before(back)) {
				back = next
			}
			if m.kept != before {
				v.Memory[at.key()] = m.kept
			}
			anybody = anybody || usable(*z) > 0
			nobody = nobody && m.Ready == 0
		}
	}
	if nobody && anybody { // what is held is all there is: it is taken at once
		for i := range taken.Tiers {
			for _, z := range taken.Tiers[i].Zones {
				at := place{s.ServiceName, z.Name}
				e.memories[at].believe(usable(z))
				v.Memory[at.key()] = e.memories[at].kept
			}
		}
		back = time.Time{}
	}
	e.fill(s.ServiceName, &taken, now)
	return taken, back
}

func (p place) key() string { return "service " + p.Namespace + "/" + p.Name + "/" + p.zone }

// usable is what is ready and within reach.
func usable(z failover.Zone) uint64 {
	if z.Unreachable {
		return 0
	}
	return z.Ready
}

// fill puts what is remembered into a plan.
func (e *Engine) fill(s topology.ServiceName, p *failover.Plan, now time.Time) {
	for i := range p.Tiers {
		for j := range p.Tiers[i].Zones {
			z := &p.Tiers[i].Zones[j]
			if m := e.memories[place{s, z.Name}]; m != nil {
				z.Ready, z.Whole = m.Ready, m.Whole
			}
			z.Drained = e.drained(z.Name, now)
		}
	}
}

func (e *Engine) drained(zone string, now time.Time) float64 {
	if d := e.drains[zone]; d != nil {
		return d.level(now)
	}
	return 0
}

// asItIs is what would count if nothing had to last.
func (e *Engine) asItIs(now, taken failover.Plan, at time.Time) failover.Plan {
	out := clone(now)
	for i := range out.Tiers {
		for j := range out.Tiers[i].Zones {
			z := &out.Tiers[i].Zones[j]
			z.Ready = usable(*z)
			z.Whole = max(taken.Tiers[i].Zones[j].Whole, min(z.Ready, z.Whole))
			z.Drained = e.drained(z.Name, at)
		}
	}
	return out
}

// Plans are those of another topology of the same moment as the last Look: of one in which some policies are held at
// an older version.
func (e *Engine) Plans(t *topology.Topology, now time.Time) map[topology.ServiceName]failover.Plan {
	out := make(map[topology.ServiceName]failover.Plan, len(t.Services))
	for _, s := range t.Services {
		p := clone(s.Failover.Plan)
		e.fill(s.ServiceName, &p, now)
		out[s.ServiceName] = p
	}
	return out
}

// forget drops services and zones that are no longer there.
func (e *Engine) forget(t *topology.Topology, v *View) {
	for at := range e.memories {
		s, ok := t.Service(at.ServiceName)
		if !ok || !offers(s, at.zone) {
			delete(e.memories, at)
			v.Memory[at.key()] = nil
		}
	}
	for n := range e.told {
		if _, ok := t.Service(n); !ok {
			delete(e.told, n)
			delete(e.decisions, n)
			v.Gone = append(v.Gone, n)
		}
	}
	slices.SortFunc(v.Gone, func(x, y topology.ServiceName) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	known := map[string]bool{}
	for _, z := range t.Zones {
		known[z.Name] = true
	}
	maps.DeleteFunc(e.away, func(zone string, _ time.Time) bool { return !known[zone] })
}

func offers(s *topology.Service, zone string) bool {
	return slices.ContainsFunc(s.Failover.Plan.Tiers, func(t failover.Tier) bool {
		return slices.ContainsFunc(t.Zones, func(z failover.Zone) bool { return z.Name == zone })
	})
}

func clone(p failover.Plan) failover.Plan {
	return p.Only(func(string) bool { return true })
}

func samePlan(x, y failover.Plan) bool {
	return x.Mode == y.Mode && x.Active == y.Active && x.Threshold == y.Threshold && slices.EqualFunc(x.Tiers, y.Tiers, func(a, b failover.Tier) bool {
		return a.Name == b.Name && slices.Equal(a.Zones, b.Zones)
	})
}

// modeOf is for people.
func modeOf(m policy.FailoverMode) string { return string(cmp.Or(m, policy.FailoverAuto)) }
