package publish

import (
	"maps"
	"testing"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

var (
	authz = mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindAuthorizationPolicy, Namespace: "shop", Name: "pay"}
	one   = mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "one"}
	two   = mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "two"}
	three = mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "three"}
	now   = time.Unix(1_800_000_000, 0)
	later = now.Add(patience)
)

// status takes the status of authz, which must have changed.
func status(t *testing.T, tr *tracker) mesh.ResourceStatus {
	t.Helper()
	s := tr.take(later)[authz]
	if s == nil {
		t.Fatal("the status did not change")
	}
	return *s
}

func expectCounts(t *testing.T, s mesh.ResourceStatus, state mesh.ResourceState, acked, total int) {
	t.Helper()
	if s.State != state || s.Acked != acked || s.Total != total {
		t.Fatalf("%s %d/%d, want %s %d/%d", s.State, s.Acked, s.Total, state, acked, total)
	}
}

// viewOf is the view that the proxies of these tests are assigned to.
var viewOf = map[mesh.ProxyID]string{one: "v", two: "w", three: "w"}

// connected is a tracker of proxies that run what there was before, which no resource has shaped.
func connected(proxies ...mesh.ProxyID) *tracker {
	tr := newTracker("east")
	for _, p := range proxies {
		tr.members.assign(p, viewOf[p], now)
		tr.connect(p, now)
		tr.ack(p, viewOf[p], 1, now)
	}
	tr.take(now.Add(time.Hour))
	return tr
}

// shape says that keys, which were edited, shape the view.
func shape(tr *tracker, view string, revision mesh.Revision, keys ...mesh.Key) {
	set := map[mesh.Key]struct{}{}
	for _, k := range keys {
		set[k] = struct{}{}
	}
	tr.members.shape(view, maps.Keys(set), set, revision, revision, now)
}

func apply(tr *tracker, wanted, revision mesh.Revision, proxies ...mesh.ProxyID) {
	for _, p := range proxies {
		shape(tr, viewOf[p], revision, authz)
	}
	tr.apply(authz, wanted, revision, proxies, mesh.StateApplied, "", now)
}

func TestCountsAcknowledgements(t *testing.T) {
	tr := connected(one, two)
	apply(tr, 7, 3, one, two)
	s := status(t, tr)
	expectCounts(t, s, mesh.StateApplied, 0, 2)
	if s.Wanted != 7 || s.Applied != 7 || s.Zone != "east" {
		t.Fatalf("%+v", s)
	}
	tr.ack(one, "v", 2, now) // of what was before
	if len(tr.take(later)) != 0 {
		t.Fatal("an older acknowledgement counted")
	}
	tr.ack(one, "v", 3, now)
	expectCounts(t, status(t, tr), mesh.StateApplied, 1, 2)
	tr.ack(one, "v", 4, now)
	if len(tr.take(later)) != 0 {
		t.Fatal("it counted twice")
	}
	tr.ack(two, "w", 5, now) // several revisions in one
	expectCounts(t, status(t, tr), mesh.StateApplied, 2, 2)
	if len(tr.waiting) != 0 {
		t.Fatal("somebody still waits")
	}
}

func TestProxyThatLeavesIsNotWaitedFor(t *testing.T) {
	tr := connected(one, two)
	apply(tr, 7, 3, one, two)
	tr.ack(one, "v", 3, now)
	tr.leave(two, now)
	expectCounts(t, status(t, tr), mesh.StateApplied, 1, 1)
}

func TestNewerChangeReplacesOlder(t *testing.T) {
	tr := connected(one, two)
	apply(tr, 7, 3, one, two)
	apply(tr, 8, 4, one) // for the other it means what it meant before
	tr.ack(two, "w", 4, now)
	expectCounts(t, status(t, tr), mesh.StateApplied, 1, 2)
}

func TestRefusalStaysUntilItIsLifted(t *testing.T) {
	tr := connected(one, two)
	apply(tr, 7, 3, one, two)
	tr.reject([]mesh.Key{authz}, "v", mesh.Rejection{Proxy: one.String(), Resource: "route inbound", Error: "no"}, now)
	tr.ack(one, "v", 3, now) // everything else of the view
	tr.ack(two, "w", 3, now)
	s := status(t, tr)
	expectCounts(t, s, mesh.StateRejected, 1, 2)
	if len(s.Rejections) != 1 || s.Rejections[0].Error != "no" {
		t.Fatalf("%+v", s.Rejections)
	}
	apply(tr, 8, 4, one)
	tr.lift("v", "route inbound")
	tr.ack(one, "v", 4, now)
	expectCounts(t, status(t, tr), mesh.StateApplied, 2, 2)
}

func TestZoneRefuses(t *testing.T) {
	tr := newTracker("east")
	apply(tr, 7, 3)
	tr.take(later)
	tr.refuse(authz, 8, mesh.StateRejected, "unknown field", now)
	s := status(t, tr)
	if s.State != mesh.StateRejected || s.Wanted != 8 || s.Applied != 7 || s.Message != "unknown field" {
		t.Fatalf("%+v", s)
	}
}

func TestRestartKeepsCounts(t *testing.T) {
	tr := connected(one)
	apply(tr, 7, 3, one)
	tr.ack(one, "v", 3, now)
	before := status(t, tr)
	after := newTracker("east")
	after.restore(authz, before)
	if !after.known(authz, 7) || after.known(authz, 8) {
		t.Fatal("the restored revision is not known")
	}
	after.forget(func(mesh.Key) bool { return true })
	expectCounts(t, status(t, after), mesh.StateApplied, 1, 1)
	after.forget(func(mesh.Key) bool { return false })
	if s, told := after.take(later)[authz]; !told || s != nil {
		t.Fatal("a resource that is gone is not told as gone")
	}
}

func TestDeletionLastsUntilEverybodyLetGo(t *testing.T) {
	tr := connected(one, two)
	apply(tr, 7, 3)
	tr.take(later)
	tr.remove(authz, 8, 4, []mesh.ProxyID{one, two}, now)
	expectCounts(t, status(t, tr), mesh.StateApplied, 0, 2)
	tr.ack(one, "v", 4, now)
	expectCounts(t, status(t, tr), mesh.StateApplied, 1, 2)
	tr.ack(two, "w", 4, now)
	if s, told := tr.take(later)[authz]; !told || s != nil {
		t.Fatalf("not told as gone: %+v", s)
	}
	if len(tr.waiting) != 0 {
		t.Fatal("somebody still waits")
	}
}

func TestProgressIsHeldBackForAMoment(t *testing.T) {
	tr := connected(one, two)
	apply(tr, 7, 3, one, two)
	tr.ack(one, "v", 3, now)
	if told := tr.take(now); len(told) != 0 || !tr.due.Equal(later) {
		t.Fatalf("told %v, due %s", told, tr.due)
	}
	tr.apply(authz, 8, 4, []mesh.ProxyID{one, two}, mesh.StateApplied, "", now.Add(patience/2))
	if told := tr.take(later); len(told) != 1 || !tr.due.IsZero() {
		t.Fatalf("a newer edit made it wait longer: %v, due %s", told, tr.due)
	}
	apply(tr, 9, 5, one, two)
	tr.ack(one, "v", 5, now)
	tr.ack(two, "w", 5, now)
	if s := tr.take(now)[authz]; s == nil {
		t.Fatal("the end waited")
	}
	apply(tr, 10, 6, one)
	tr.refuse(authz, 11, mesh.StateRejected, "unknown field", now)
	if s := tr.take(now)[authz]; s == nil {
		t.Fatal("a refusal waited")
	}
}
