package fedtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/mesh"
)

// step is one thing that happens; drawn first, so that the run itself is deterministic but for scheduling.
type step struct {
	what string
	zone string
	n    int
	arg  string
}

var zoneNames = []string{"east", "west", "north"}

func steps() *rapid.Generator[[]step] {
	one := rapid.Custom(func(t *rapid.T) step {
		return step{
			what: rapid.SampledFrom([]string{
				"write", "write", "write", "write", "delete", "own", "own", "own-delete", "export", "withdraw", "status", "status-gone",
				"connect", "connect", "cut", "slow", "global-restart", "compact", "compact-zone", "new-life", "zone-new-life", "crash", "crash-global",
				"new-book", "wait", "wait", "burst",
			}).Draw(t, "what"),
			zone: rapid.SampledFrom(zoneNames).Draw(t, "zone"),
			n:    rapid.IntRange(0, 5).Draw(t, "n"),
			arg:  rapid.SampledFrom([]string{"", "", "east", "west", "east,north", "nowhere"}).Draw(t, "arg"),
		}
	})
	return rapid.SliceOfN(one, 5, 60)
}

func (s step) do(ctx context.Context, m *Mesh, i int) {
	z := m.Zones[s.zone]
	name, spec := fmt.Sprintf("r%d", s.n), fmt.Appendf(nil, `{"v":%d}`, i)
	switch s.what {
	case "write":
		m.Global.Write(mesh.KindHTTPRoute, name, spec, s.arg)
	case "delete":
		m.Global.Write(mesh.KindHTTPRoute, name, nil, "")
	case "own":
		z.Write(mesh.KindService, name, spec, "")
	case "own-delete":
		z.Write(mesh.KindService, name, nil, "")
	case "export", "withdraw":
		z.Export("ns/"+name, s.what == "withdraw")
	case "status":
		z.SetStatus(name, string(spec))
	case "status-gone":
		z.SetStatus(name, "")
	case "connect":
		m.Connect(ctx, s.zone, s.n, 0)
	case "slow":
		m.Connect(ctx, s.zone, 0, time.Second) // the bubble's time
	case "cut":
		m.Disconnect(s.zone)
	case "global-restart":
		for _, name := range zoneNames {
			m.Disconnect(name)
		}
	case "compact":
		m.Global.Compact(s.n)
	case "compact-zone":
		z.Compact(s.n)
	case "new-life": // global was restored: its sessions end with the process
		for _, name := range zoneNames {
			m.Disconnect(name)
		}
		m.Global.NewLife()
	case "zone-new-life":
		m.Disconnect(s.zone)
		z.NewLife()
	case "crash":
		z.CrashAtNextApply()
	case "crash-global":
		m.Global.CrashAtNextApply()
	case "new-book":
		m.Disconnect(s.zone)
		z.NewBook()
	case "wait":
		time.Sleep(time.Duration(s.n) * time.Second)
	case "burst": // more revisions than the window, so that they are coalesced, and pass the lazy advance
		for j := range 300 {
			m.Global.Write(mesh.KindHTTPRoute, fmt.Sprintf("b%d", j%7), fmt.Appendf(nil, `{"v":"%d %s"}`, j, strings.Repeat("x", 100)), s.arg)
		}
	}
}

func TestConvergence(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		script := steps().Draw(rt, "script")
		var failure error
		synctest.Test(t, func(t *testing.T) { failure = run(t, script) })
		if failure != nil {
			rt.Fatal(failure)
		}
	})
}

// run plays a script, lets faults end and looks whether everybody agrees.
func run(t *testing.T, script []step) error {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m := NewMesh(zoneNames...)
	defer func() {
		for _, name := range zoneNames {
			m.Disconnect(name)
		}
	}()
	for i, s := range script {
		s.do(ctx, m, i)
	}
	// Faults end: two rounds, because a planted crash may still end the first session of a zone.
	for range 3 {
		for _, name := range zoneNames {
			m.Connect(ctx, name, 4, 0)
		}
		synctest.Wait()
	}
	if err := m.Converged(); err != nil {
		return err
	}
	for _, err := range m.Errors() {
		if errors.Is(err, federation.ErrProtocol) {
			return fmt.Errorf("an honest peer was called dishonest: %w", err)
		}
	}
	// Once more: nothing changed, so nothing is sent again and nothing is deleted.
	deleted := m.Global.Deleted
	for _, name := range zoneNames {
		m.Connect(ctx, name, 4, 0)
	}
	synctest.Wait()
	for _, name := range zoneNames {
		if up, down := m.Zones[name].pipe.Bytes(); up > 900 || down > 900 {
			return fmt.Errorf("reconnecting %s with nothing changed took %d bytes up and %d down", name, up, down)
		}
	}
	if m.Global.Deleted != deleted {
		return errors.New("reconnecting deleted something")
	}
	return m.Converged()
}

func TestRefusedAloneAndMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMesh("east")
		defer m.Disconnect("east")
		e := m.Zones["east"]
		e.Bad = func(r mesh.Resource) bool { return strings.Contains(string(r.Spec), "bad") }
		m.Global.Write(mesh.KindHTTPRoute, "a", []byte(`"good"`), "")
		m.Connect(t.Context(), "east", 4, 0)
		synctest.Wait()
		good := e.Of(mesh.OriginGlobal, "")
		m.Global.Write(mesh.KindHTTPRoute, "a", []byte(`"bad"`), "")
		m.Global.Write(mesh.KindHTTPRoute, "b", []byte(`"good"`), "")
		synctest.Wait()
		have := e.Of(mesh.OriginGlobal, "")
		if len(have) != 2 || len(good) != 1 {
			t.Fatalf("%v", have)
		}
		for k, v := range good {
			if have[k] != v {
				t.Errorf("the last good one is %q, not %q", have[k], v)
			}
		}
		// A snapshot that holds the bad one must not delete the last good one either.
		m.Global.Compact(0)
		m.Disconnect("east")
		m.Global.Write(mesh.KindHTTPRoute, "c", []byte(`"good"`), "")
		m.Global.Compact(0)
		m.Connect(t.Context(), "east", 4, 0)
		synctest.Wait()
		if have = e.Of(mesh.OriginGlobal, ""); len(have) != 3 {
			t.Errorf("%v", have)
		}
		m.Global.Write(mesh.KindHTTPRoute, "a", []byte(`"mended"`), "")
		synctest.Wait()
		if err := m.Converged(); err != nil {
			t.Error(err)
		}
	})
}

func TestSlowReaderCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMesh("east")
		defer m.Disconnect("east")
		m.Connect(t.Context(), "east", 0, time.Second)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		for i := range 5000 {
			m.Global.Write(mesh.KindHTTPRoute, "hot", fmt.Appendf(nil, `{"v":%d,"pad":"%s"}`, i, strings.Repeat("x", 1000)), "")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := m.Converged(); err != nil {
			t.Error(err)
		}
		if _, down := m.Zones["east"].pipe.Bytes(); down > 50_000 {
			t.Errorf("5000 edits of one resource took %d bytes to a slow reader", down)
		}
	})
}
