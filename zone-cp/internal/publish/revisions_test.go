package publish

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/comity-mesh/comity/mesh"
)

var (
	route      = mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindHTTPRoute, Namespace: "shop", Name: "pay"}
	payService = mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindService, Namespace: "shop", Name: "pay"}
)

// revision takes the only revision to be told, and compares it.
func revision(t *testing.T, tr *tracker, at time.Time, want string) mesh.RevisionStatus {
	t.Helper()
	out := tr.takeRevisions(at)
	if len(out) != 1 {
		t.Fatalf("%d revisions told, want one: %+v", len(out), out)
	}
	s := out[0]
	if got := fmt.Sprintf("%d: %d of %d, %d changes, %s, done %t", s.Revision, s.Acked, s.Total, s.Changes, s.State, s.Done); got != want {
		t.Fatalf("%s, want %s", got, want)
	}
	return s
}

func TestRevisionCountsEachProxyOnce(t *testing.T) {
	tr := connected(one, two, three)
	for k, concerned := range map[mesh.Key][]mesh.ProxyID{authz: {one, two}, route: {two, three, one}, payService: {one}} {
		tr.apply(k, 7, 3, concerned, mesh.StateApplied, "", now)
	}
	tr.ack(one, "v", 3, now)
	tr.ack(two, "w", 3, now)
	if told := tr.takeRevisions(now); len(told) != 0 || !tr.due.Equal(later) {
		t.Fatalf("told %+v, due %s", told, tr.due)
	}
	revision(t, tr, later, "7: 2 of 3, 3 changes, Applied, done false")
	tr.ack(three, "w", 2, now)
	if told := tr.takeRevisions(later); len(told) != 0 {
		t.Fatalf("an older acknowledgement counted: %+v", told)
	}
	tr.ack(three, "w", 4, now)
	revision(t, tr, now, "7: 3 of 3, 3 changes, Applied, done true")
	if len(tr.revisions.waiting) != 0 {
		t.Fatal("somebody still waits")
	}
}

func TestRevisionOfADeletion(t *testing.T) {
	tr := connected(one, two)
	apply(tr, 7, 3, one, two)
	tr.remove(authz, 8, 4, []mesh.ProxyID{one, two}, now)
	tr.ack(one, "v", 4, now) // and with it what the deletion overtook
	tr.ack(two, "w", 4, now)
	out := tr.takeRevisions(now)
	if len(out) != 2 || out[0].Revision != 7 || out[1].Revision != 8 {
		t.Fatalf("%+v", out)
	}
	for _, s := range out {
		if s.Acked != 2 || s.Total != 2 || !s.Done {
			t.Errorf("%+v", s)
		}
	}
	// What nobody has heard of is gone at once, and told all the same.
	tr.remove(route, 9, 5, nil, now)
	revision(t, tr, now, "9: 0 of 0, 1 changes, Applied, done true")
}

func TestRevisionDoesNotWaitForWhoLeft(t *testing.T) {
	tr := connected(one, two)
	apply(tr, 7, 3, one, two)
	tr.ack(one, "v", 3, now)
	tr.leave(two, now)
	revision(t, tr, now, "7: 1 of 1, 1 changes, Applied, done true")
}

func TestRevisionNamesRefusals(t *testing.T) {
	tr := connected(one, two)
	apply(tr, 7, 3, one, two)
	tr.refuse(route, 7, mesh.StateRejected, "unknown field", now)
	tr.block("v", map[mesh.Key]struct{}{authz: {}}) // an Envoy refused something: whose fault is it?
	tr.ack(one, "v", 3, now)
	tr.ack(two, "w", 3, now)
	if s := revision(t, tr, later, "7: 1 of 2, 2 changes, Rejected, done false"); s.Message != "unknown field" {
		t.Fatalf("%+v", s)
	}
	tr.reject([]mesh.Key{authz}, heldIn("v"), mesh.Rejection{Proxy: one.String(), Resource: "route inbound", Error: "no"}, now)
	tr.ack(one, "v", 3, now) // with the last good one
	if s := revision(t, tr, now, "7: 1 of 2, 2 changes, Rejected, done true"); len(s.Rejections) != 1 || s.Rejections[0].Error != "no" {
		t.Fatalf("%+v", s)
	}
	tr.block("v", nil)
	tr.liftOf(authz, heldIn("v"))
	apply(tr, 8, 4, one)
	tr.ack(one, "v", 4, now)
	revision(t, tr, now, "8: 1 of 1, 1 changes, Applied, done true")
}

func TestOldRevisionsMakeRoom(t *testing.T) {
	tr := connected(one)
	apply(tr, 7, 3, one)
	apply(tr, 7+mesh.RevisionSlots, 4, one)
	tr.ack(one, "v", 4, now)
	revision(t, tr, now, fmt.Sprintf("%d: 1 of 1, 1 changes, Applied, done true", 7+mesh.RevisionSlots))
	if len(tr.revisions.slots) != 1 || len(tr.revisions.waiting) != 0 {
		t.Fatalf("%d slots, %d wait", len(tr.revisions.slots), len(tr.revisions.waiting))
	}
	after := newTracker("east")
	after.revisions.restore(mesh.RevisionStatus{Origin: mesh.OriginGlobal, Revision: 9, Changes: 2, State: mesh.StateApplied, Acked: 3, Total: 3, Done: true})
	revision(t, after, now, "9: 3 of 3, 2 changes, Applied, done true")
}

func TestCountsFollowProxies(t *testing.T) {
	tr := newTracker("east")
	apply(tr, 7, 3)
	shape(tr, "w", 3, authz)
	expectCounts(t, status(t, tr), mesh.StateApplied, 0, 0)
	tr.members.assign(two, "w", now)
	tr.take(now.Add(time.Hour))
	tr.connect(two, now)
	if told := tr.take(now); len(told) != 0 || !tr.due.Equal(now.Add(lagLimit)) {
		t.Fatalf("told %v, due %s", told, tr.due)
	}
	later := now.Add(lagLimit)
	expect := func(acked, total int) {
		t.Helper()
		s := tr.take(later)[authz]
		if s == nil {
			t.Fatalf("nothing told, want %d/%d", acked, total)
		}
		expectCounts(t, *s, mesh.StateApplied, acked, total)
	}
	expect(0, 1)
	tr.ack(two, "w", 3, now)
	expect(1, 1)
	tr.members.assign(three, "w", now)
	tr.connect(three, now)
	tr.ack(three, "w", 3, now)
	expect(2, 2)
	tr.connect(three, now) // again, without having been seen to go
	expect(1, 2)
	tr.leave(three, now)
	expect(1, 1)
	shape(tr, "w", 4, route) // authz does no longer shape it
	tr.apply(authz, 8, 4, []mesh.ProxyID{two}, mesh.StateApplied, "", now)
	expect(0, 1) // but two has yet to let go
	tr.ack(two, "w", 4, now)
	expect(0, 0)
	tr.leave(two, now)
	if told := tr.take(later); len(told) != 0 {
		t.Fatalf("told %v", told)
	}
}

// Whatever happens in whatever order, the counts are what counting everything anew would give.
func TestMembersCount(t *testing.T) {
	keys := []mesh.Key{authz, route, payService}
	views := []string{"v", "w", "x"}
	ids := []mesh.ProxyID{one, two, three, {Role: mesh.RoleIngress, Name: "in"}}
	rapid.Check(t, func(rt *rapid.T) {
		m := newMembers()
		need := map[string]map[mesh.Key]mesh.Revision{}
		type proxy struct {
			view  string
			up    bool
			acked mesh.Revision // 0: nothing of its view
		}
		model := map[mesh.ProxyID]*proxy{}
		for _, id := range ids {
			model[id] = &proxy{}
		}
		head := mesh.Revision(1)
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			id, view := rapid.SampledFrom(ids).Draw(rt, "proxy"), rapid.SampledFrom(views).Draw(rt, "view")
			x := model[id]
			switch rapid.IntRange(0, 6).Draw(rt, "what") {
			case 0:
				if m.assign(id, view, now); x.view != view {
					x.view, x.acked = view, 0
				}
			case 1:
				m.unassign(id, now)
				x.view = ""
			case 2:
				m.connect(id, now)
				x.up, x.acked = true, 0
			case 3:
				m.disconnect(id, now)
				x.up = false
			case 4:
				r := mesh.Revision(rapid.Uint64Range(1, uint64(head)).Draw(rt, "acked"))
				counts := m.ack(id, view, r, now)
				if want := x.up && x.view == view; counts != want {
					rt.Fatalf("ack counted: %t, want %t", counts, want)
				} else if want {
					x.acked = max(x.acked, r)
				}
			case 5:
				head++
				set, edited := map[mesh.Key]struct{}{}, map[mesh.Key]struct{}{}
				next := map[mesh.Key]mesh.Revision{}
				for _, k := range keys {
					if !rapid.Bool().Draw(rt, "shapes") {
						continue
					}
					set[k], next[k] = struct{}{}, head
					if rapid.Bool().Draw(rt, "edited") {
						edited[k] = struct{}{}
					} else if old, had := need[view][k]; had {
						next[k] = old
					}
				}
				m.shape(view, maps.Keys(set), edited, head, head, now)
				need[view] = next
			case 6:
				used := false
				for _, x := range model {
					used = used || x.view == view
				}
				if !used {
					m.drop(view, now)
					delete(need, view)
				}
			}
			for _, k := range keys {
				acked, total := 0, 0
				for _, x := range model {
					if n, shaped := need[x.view][k]; shaped && x.up {
						if total++; x.acked > 0 && x.acked >= n {
							acked++
						}
					}
				}
				if a, n := m.count(k, nil, func(string) bool { return false }); a != acked || n != total {
					rt.Fatalf("%s: %d/%d, want %d/%d", k, a, n, acked, total)
				}
			}
		}
	})
}
