package dataplane

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/dataplane/lrs"
)

// maxLoads bounds the clusters and zones of one report.
const maxLoads = 1024

// loads holds what Envoy has sent until the zone can be told, so that a zone that was away learns what it
// missed. What did not change since it was told is not told again.
type loads struct {
	wake chan struct{} // there is something to tell; one slot

	mu      sync.Mutex
	off     bool // the zone takes no reports
	window  time.Duration
	counted map[way]*enrolpb.Load
	told    map[way]uint64 // what was active in the last report; nil after one with requests
}

// way is one direction that traffic takes.
type way struct{ cluster, zone string }

func newLoads() *loads {
	return &loads{wake: make(chan struct{}, 1), counted: map[way]*enrolpb.Load{}, told: map[way]uint64{}}
}

// add takes a report of Envoy.
func (l *loads) add(r lrs.Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.off {
		return
	}
	for _, c := range l.counted {
		c.Active = 0
	}
	l.window += r.Window
	for _, x := range r.Loads {
		w := way{x.Cluster, x.Zone}
		c := l.counted[w]
		if c == nil {
			if len(l.counted) == maxLoads {
				continue
			}
			c = &enrolpb.Load{Cluster: x.Cluster, Zone: x.Zone}
			l.counted[w] = c
		}
		c.Requests += x.Requests
		c.Failures += x.Failures
		c.Active = x.Active
	}
	l.settle()
}

// settle wakes who reports, or forgets a window in which nothing happened that the zone doesn't know. The
// caller holds l.mu.
func (l *loads) settle() {
	if l.news() {
		select {
		case l.wake <- struct{}{}:
		default:
		}
		return
	}
	l.window = 0
	clear(l.counted)
}

func (l *loads) news() bool {
	active := 0
	for w, c := range l.counted {
		if c.Requests > 0 || c.Failures > 0 || c.Active != l.told[w] {
			return true
		}
		if c.Active > 0 {
			active++
		}
	}
	return l.told == nil || active != len(l.told)
}

// begin says that a zone listens which knows nothing yet, and whether it takes reports.
func (l *loads) begin(takes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.off, l.told = !takes, map[way]uint64{}
	if l.off {
		clear(l.counted)
	}
	l.settle()
}

// next is what the zone is to be told now; nil if there is nothing.
func (l *loads) next() *enrolpb.AgentReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.news() || l.window == 0 {
		return nil
	}
	r := &enrolpb.LoadReport{WindowMs: uint32(min(l.window, 24*time.Hour).Milliseconds())} //nolint:gosec // bounded
	l.window = 0
	told, quiet := map[way]uint64{}, true
	for w, c := range l.counted {
		if c.Requests == 0 && c.Failures == 0 && c.Active == 0 {
			continue
		}
		quiet = quiet && c.Requests == 0 && c.Failures == 0
		if c.Active > 0 {
			told[w] = c.Active
		}
		r.Loads = append(r.Loads, c)
	}
	if l.told = told; !quiet {
		l.told = nil // the next window is news, whatever is in it
	}
	l.counted = map[way]*enrolpb.Load{}
	slices.SortFunc(r.Loads, func(a, b *enrolpb.Load) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Zone, b.Zone))
	})
	return &enrolpb.AgentReport{Report: &enrolpb.AgentReport_Load{Load: r}}
}
