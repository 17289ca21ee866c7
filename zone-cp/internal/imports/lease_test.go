package imports

import (
	"testing"
	"time"

	"github.com/comity-mesh/comity/policy"
)

// TestTrustLease: without word from global the other zones are believed for the lease, over restarts too, and again when it
// is back; what they say themselves meanwhile does not prolong it.
func TestTrustLease(t *testing.T) {
	s := openStore(t)
	east, west := newOther(t, "east"), newOther(t, "west")
	b := openBook(t, s, east)
	receive(t, b, west.bundle(), nil)
	zones := map[string]policy.Zone{"west": {Namespaces: []string{"shop"}}}
	connected := true
	open := func(now time.Time) *Lease {
		t.Helper()
		l, err := OpenLease(t.Context(), s, func() bool { return connected }, now)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	settings := policy.TrustSettings{Lease: time.Hour}
	believes := func(l *Lease, at time.Time) bool {
		p := b.Picture(zones, l.Until(settings, at), at)
		if len(p.Remotes) == 0 && len(p.Notes["west"]) == 0 {
			t.Error("nobody says why west is not believed")
		}
		if len(p.Remotes) > 0 && !settings.Keep && p.Until.After(l.Until(settings, at)) {
			t.Error("nobody looks again when the lease ends")
		}
		return len(p.Remotes) == 1 && p.Roots[west.td] != nil
	}
	now := time.Now()
	l := open(now)
	if !believes(l, now.Add(2*time.Hour)) {
		t.Error("west is not believed while global is there")
	}
	l = open(now) // it was heard of two hours from here: nothing was written since the first start
	connected = false
	if !believes(l, now.Add(59*time.Minute)) || believes(l, now.Add(time.Hour)) {
		t.Error("the lease is not an hour")
	}
	receive(t, b, west.export("shop", "pay", west.td.WorkloadID("shop", "pay")), nil)
	if believes(l, now.Add(time.Hour)) {
		t.Error("west's own word prolongs it")
	}
	l.Heard(now.Add(90 * time.Minute))
	if !believes(l, now.Add(2*time.Hour)) {
		t.Error("global was heard of, and west is not believed")
	}
	if err := l.note(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l = open(now.Add(3 * time.Hour)); believes(l, now.Add(3*time.Hour)) {
		t.Error("a restart prolongs it")
	}
	if l = open(now); believes(l, now.Add(time.Hour)) {
		t.Error("a clock that is behind what was noted prolongs it")
	}
	settings.Keep = true
	if !believes(l, now.Add(20*time.Hour)) {
		t.Error("Keep does not keep")
	}
}
