package failover_test

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/topology/topologytest"
	"github.com/comity-mesh/comity/zone-cp/internal/failover"
)

var pay = topology.ServiceName{Namespace: "shop", Name: "pay"}

// world is a zone that an engine looks at, at times that the test chooses.
type world struct {
	t      *testing.T
	in     topology.Input
	store  *sqlitestore.Store
	engine *failover.Engine
	now    time.Time
	view   failover.View
	status mesh.FailoverStatus // as last told
	told   int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "zone.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	w := &world{t: t, in: topologytest.Load(t, "testdata/shop.yaml"), store: s, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	w.restart()
	w.look()
	return w
}

// restart opens the engine anew, from what was written.
func (w *world) restart() {
	w.t.Helper()
	w.engine = failover.New("one")
	if err := w.engine.Restore(w.t.Context(), w.store, w.now); err != nil {
		w.t.Fatal(err)
	}
}

// look takes the world in as it is, and writes down what the engine wants remembered.
func (w *world) look() {
	w.t.Helper()
	topo, issues := topology.Build(w.in)
	for _, i := range issues {
		w.t.Errorf("%s: %s", i.Key, i.Message)
	}
	w.view = w.engine.Look(topo, w.now)
	var writes []store.RecordWrite
	for k, v := range w.view.Memory {
		r := store.RecordWrite{Key: k, Delete: v == nil}
		if v != nil {
			raw, err := json.Marshal(v)
			if err != nil {
				w.t.Fatal(err)
			}
			r.Value = raw
		}
		writes = append(writes, r)
	}
	if len(writes) > 0 {
		if _, err := w.store.PutRecords(w.t.Context(), failover.BucketMemory+"/one", writes...); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, st := range w.view.Statuses {
		w.status = st
		w.told++
	}
}

// pass lets time pass: the engine looks whenever it wants to, and each time is told to see.
func (w *world) pass(d time.Duration, see func()) {
	w.t.Helper()
	end := w.now.Add(d)
	for {
		next := w.view.Next
		if next.IsZero() || next.After(end) {
			w.now = end
			return
		}
		if !next.After(w.now) {
			w.t.Fatalf("the engine wants to look at %s, and it is %s", next, w.now)
		}
		w.now = next
		w.look()
		if see != nil {
			see()
		}
	}
}

// shares are the zones' parts in per cent, as "one 100".
func (w *world) shares() string {
	var out []string
	for _, s := range w.view.Plans[pay].Decide().Shares {
		if s.Share > 0 {
			out = append(out, fmt.Sprintf("%s %d", s.Zone, int(math.Round(float64(s.Share)/1e4))))
		}
	}
	return strings.Join(out, " ")
}

func (w *world) expect(when, want string) {
	w.t.Helper()
	if got := w.shares(); got != want {
		w.t.Errorf("%s %s: %s, want %s (%s)", w.now.Format("15:04:05.000"), when, got, want, w.status.Reason)
	}
}

func (w *world) says(want string) {
	w.t.Helper()
	if got := string(w.status.State) + ": " + w.status.Reason; got != want {
		w.t.Errorf("told %q, want %q", got, want)
	}
}

func (w *world) healthy(n int) {
	for i := range w.in.Workloads {
		w.in.Workloads[i].Healthy = i < n
	}
	w.look()
}

func (w *world) remote(i, ready, total int) {
	e := &w.in.Remotes[i].Exports[0]
	e.Ready, e.Total, e.ReadyCapacity, e.Capacity = ready, total, float64(ready), float64(total)
	w.look()
}

func (w *world) zone(i int, spec string) {
	w.in.Resources[i].Spec = json.RawMessage(spec)
	w.look()
}

func TestFallsAtOnceAndComesBackLater(t *testing.T) {
	w := newWorld(t)
	w.expect("whole", "one 100")
	w.says("Normal: all traffic stays in tier zone")
	w.healthy(1)
	w.expect("one of two", "one 71 two 29")
	w.says("FailedOver: one has 1 of 2 ready; two takes 29 %")
	w.healthy(0)
	w.expect("none of two", "two 100")
	w.says("FailedOver: one has nothing of 2 ready; two takes all")

	w.pass(2*time.Second, nil)
	w.healthy(2)
	w.expect("back after 2 s", "two 100")
	w.says("Held: what is back must last: looked at again at 12:00:10 UTC")
	w.pass(7999*time.Millisecond, nil)
	w.expect("before dwell", "two 100")
	w.pass(time.Millisecond, nil)
	w.expect("after dwell", "one 100")
	w.says("Normal: all traffic stays in tier zone")
	if !w.view.Next.IsZero() {
		t.Errorf("nothing is to come, and the engine wants to look at %s", w.view.Next)
	}

	w.pass(time.Minute, nil)
	w.healthy(0)
	w.pass(20*time.Second, nil)
	w.healthy(2)
	w.pass(4*time.Second, nil)
	w.expect("4 s after a long absence", "two 100")
	w.pass(time.Second, nil)
	w.expect("5 s after a long absence", "one 100")
}

// What grows did not fail, what left in order is not missed, and what was lost is.
func TestWhole(t *testing.T) {
	w := newWorld(t)
	pay3 := w.in.Workloads[1]
	pay3.Name, pay3.Spec.Address, pay3.Healthy = "pay-3", "10.0.0.3", false
	w.in.Workloads = append(w.in.Workloads, pay3)
	w.look()
	w.expect("a new one that is not ready yet", "one 100")
	w.healthy(3)
	w.expect("it is ready", "one 100")
	w.in.Workloads = w.in.Workloads[:1]
	w.look()
	w.expect("two left in order", "one 100")
	w.in.Workloads[0].Draining = true
	w.look()
	w.expect("the last is drained", "two 100")
	w.in.Workloads[0].Draining = false
	w.look()
	w.expect("and comes back", "one 100")
	w.healthy(0)
	w.expect("it is lost", "two 100")
}

// A zone that comes and goes every five seconds moves traffic at most once in the time of a dwell, each way.
func TestFlapping(t *testing.T) {
	for _, period := range []time.Duration{5 * time.Second, 6 * time.Second, 700 * time.Millisecond} {
		w := newWorld(t)
		var moves []time.Time
		before := w.shares()
		see := func() {
			if now := w.shares(); now != before {
				if strings.HasPrefix(now, "one") {
					moves = append(moves, w.now)
				}
				before = now
			}
		}
		for i := 0; w.now.Before(time.Date(2026, 3, 1, 12, 2, 0, 0, time.UTC)); i++ {
			w.healthy(2 * (i % 2))
			see()
			w.pass(period, see)
		}
		for i := range moves[:max(len(moves)-1, 0)] {
			if gap := moves[i+1].Sub(moves[i]); gap < 10*time.Second {
				t.Errorf("period %s: it came back twice within %s", period, gap)
			}
		}
		if len(moves) > 12 {
			t.Errorf("period %s: it came back %d times in 2 minutes", period, len(moves))
		}
		t.Logf("period %s: it came back %d times", period, len(moves))
	}
}

// Nothing is held back while nobody else is ready.
func TestTheOnlyOneIsNotHeld(t *testing.T) {
	w := newWorld(t)
	w.remote(0, 0, 2)
	w.remote(1, 0, 2)
	w.healthy(0)
	w.says("NoBackend: nobody is ready in any zone, so none is withdrawn")
	w.expect("nobody", "one 100")
	w.remote(0, 1, 2)
	w.expect("two alone", "two 100")
	w.remote(0, 0, 2)
	w.healthy(1)
	w.expect("one alone", "one 100")
}

func TestUnreachable(t *testing.T) {
	w := newWorld(t)
	w.healthy(0)
	w.now = w.now.Add(63 * time.Second)
	w.in.Remotes[0].Ingresses[0].Unreachable = true
	w.look()
	w.expect("two out of reach", "three 100")
	if got := w.status.Targets[1]; got.Zone != "two" || got.Reachable || got.Ready != 2 || got.Whole != 2 || got.Reason != "unreachable since 12:01:03 UTC" {
		t.Errorf("told of two: %+v", got)
	}
	w.in.Remotes[0].Ingresses[0].Unreachable = false
	w.look()
	w.expect("back in reach", "three 100")
	w.pass(10*time.Second, nil)
	w.expect("for a while", "two 100")
}

// The share of a zone under drain falls evenly, goes on where it was after a restart, and comes back the same way.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	w.zone(0, `{"cloud":"aws","namespaces":["shop"],"drain":{"over":"60s"}}`)
	w.expect("at the beginning", "one 100")
	steps, told := 0, w.told
	w.pass(15*time.Second, func() { steps++ })
	w.expect("after a quarter", "one 76 two 24")
	w.says("Draining: one is being drained, 24 % done; two takes 24 %")
	if steps != 12 || w.told-told > 15 {
		t.Errorf("%d steps in a quarter, told %d times", steps, w.told-told)
	}

	w.now = w.now.Add(15 * time.Second) // nobody runs
	w.restart()
	w.look()
	w.expect("after half of it and a restart", "one 50 two 50")

	w.zone(0, `{"cloud":"aws","namespaces":["shop"]}`)
	w.pass(15*time.Second, nil)
	w.expect("undrained for a quarter", "one 74 two 26")
	w.says("Draining: one comes back, 26 % of its traffic is still away; two takes 26 %")
	w.zone(0, `{"cloud":"aws","namespaces":["shop"],"drain":{"over":"0s"}}`)
	w.expect("drained at once", "two 100")
	w.says("Draining: one is drained; two takes all")
	w.pass(time.Hour, nil)
	w.expect("for good", "two 100")
	w.zone(0, `{"cloud":"aws","namespaces":["shop"]}`)
	w.expect("and back at once", "one 100")
	w.says("Normal: all traffic stays in tier zone")
	if !w.view.Next.IsZero() {
		t.Errorf("nothing is to come, and the engine wants to look at %s", w.view.Next)
	}
}

func TestArmed(t *testing.T) {
	w := newWorld(t)
	armed := func(active string) {
		w.in.Resources = append(w.in.Resources[:4:4], mesh.Resource{
			Key:  mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindFailoverPolicy, Namespace: "shop", Name: "pay"},
			Spec: json.RawMessage(`{"mode":"Armed"` + active + `}`),
		})
		w.look()
	}
	armed("")
	w.healthy(0)
	w.expect("dead", "one 100")
	w.says("Armed: one has nothing of 2 ready; mode Armed keeps the traffic there until a person sets active")
	if two := w.status.Targets[1]; two.Would != 1 || two.Share != 0 {
		t.Errorf("told of two: %+v", two)
	}
	armed(`,"active":"cloud"`)
	w.expect("switched", "two 100")
	w.healthy(2)
	w.expect("still switched though it is back", "two 100")
	w.says("FailedOver: a person switched to tier cloud; two takes all")
}

// After a restart everything is told again, as it was.
func TestRestartTells(t *testing.T) {
	w := newWorld(t)
	w.healthy(0)
	raw, err := json.Marshal(w.status)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.PutRecords(t.Context(), "failover/one", store.RecordWrite{Key: "shop/pay", Value: raw}); err != nil {
		t.Fatal(err)
	}
	before := w.status
	w.now = w.now.Add(2 * time.Second)
	w.status = mesh.FailoverStatus{}
	w.restart()
	w.look()
	if !w.status.ObservedAt.Equal(before.ObservedAt) || w.status.Reason != before.Reason {
		t.Errorf("told %+v, was %+v", w.status, before)
	}
	w.healthy(2)
	w.pass(7*time.Second, nil)
	w.expect("dwell runs on through a restart", "two 100")
	w.pass(time.Second, nil)
	w.expect("and ends", "one 100")
	w.in.Resources = w.in.Resources[:3]
	w.in.Remotes[0].Exports, w.in.Remotes[1].Exports = nil, nil
	w.look()
	if len(w.view.Gone) != 1 || w.view.Gone[0] != pay {
		t.Errorf("gone: %v", w.view.Gone)
	}
}
