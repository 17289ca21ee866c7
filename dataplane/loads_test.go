package dataplane

import (
	"testing"
	"time"

	"github.com/comity-mesh/comity/dataplane/lrs"
)

// The zone is told what it doesn't know, and that once.
func TestLoads(t *testing.T) {
	l := newLoads()
	report := func(requests, active uint64) {
		r := lrs.Report{Window: 2 * time.Second}
		if requests+active > 0 {
			r.Loads = []lrs.Load{{Cluster: "pay.shop:80", Zone: "west", Requests: requests, Active: active}}
		}
		l.add(r)
	}
	told := func(what string, window uint32, loads int, requests, active uint64) {
		t.Helper()
		select {
		case <-l.wake:
		default:
			t.Fatalf("%s: nobody is woken", what)
		}
		r := l.next().GetLoad()
		if r.GetWindowMs() != window || len(r.GetLoads()) != loads {
			t.Fatalf("%s: %v", what, r)
		}
		if loads > 0 && (r.GetLoads()[0].GetRequests() != requests || r.GetLoads()[0].GetActive() != active) {
			t.Errorf("%s: %v", what, r)
		}
	}
	silent := func(what string) {
		t.Helper()
		select {
		case <-l.wake:
			t.Fatalf("%s: %v", what, l.next())
		default:
		}
	}

	// Before the zone listens everything is kept, as one window.
	report(5, 1)
	report(6, 2)
	told("what came before the zone", 4000, 1, 11, 2)
	report(0, 2)
	told("requests ended, two go on", 2000, 1, 0, 2)
	report(0, 2)
	report(0, 2)
	silent("nothing new")
	report(0, 0)
	told("all ended", 2000, 0, 0, 0)
	report(0, 0)
	silent("idle")
	report(3, 0)
	told("a window of silence is no part of the next", 2000, 1, 3, 0)

	// Another zone control plane knows nothing.
	report(0, 4)
	told("four go on", 2000, 1, 0, 4)
	l.begin(true)
	silent("Envoy has not reported since")
	report(0, 4)
	told("told again", 2000, 1, 0, 4)

	l.begin(false)
	report(9, 9)
	silent("the zone takes no reports")
}
