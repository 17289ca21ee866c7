package fedserver

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/global-cp/internal/trust"
	"github.com/comity-mesh/comity/internal/pgbin"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/pgstore"
)

// newReplicas starts replicas of global on one real Postgres, each with a copy of the one authority.
func newReplicas(t *testing.T, n int) ([]*global, *pgbin.Server) {
	t.Helper()
	server, err := pgbin.Run(t.Context(), "fsync = off")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Remove(); err != nil {
			t.Error(err)
		}
	})
	d := &pgstore.Database{URL: server.URL("postgres"), Password: func() (string, error) { return server.Password(), nil }}
	if _, err := pgstore.Migrate(t.Context(), *d, pgstore.MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	var all []*global
	for i := range n {
		g := &global{t: t, dir: filepath.Join(t.TempDir(), fmt.Sprint(i)), log: &syncBuffer{}, shared: d}
		if i > 0 {
			if out, err := exec.CommandContext(t.Context(), "cp", "-a", all[0].dir, g.dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		g.start("127.0.0.1:0")
		t.Cleanup(func() { g.stop() })
		if err := g.trust.Claim(t.Context(), g.store); err != nil {
			t.Fatal(err)
		}
		all = append(all, g)
	}
	return all, server
}

func (g *global) zoneStatus(zone string) mesh.ZoneStatus {
	g.t.Helper()
	z, _, _, err := getJSON[mesh.ZoneStatus](g.t.Context(), g.store, BucketZones, zone)
	if err != nil {
		g.t.Fatal(err)
	}
	return z
}

// Three replicas, a zone at each: what is written at any of them reaches all zones, as do the zones' own words.
func TestReplicas(t *testing.T) {
	all, _ := newReplicas(t, 3)
	var zones []*zone
	for i, name := range []string{"east", "west", "north"} {
		all[0].addZone(name, "shop")
		z := newZone(t, all[i], name)
		z.join() // over another replica than the one that made the Zone
		zones = append(zones, z)
	}
	for _, z := range zones {
		z.connect()
	}
	var wg sync.WaitGroup
	for i, g := range all {
		wg.Go(func() {
			for k := range 20 {
				w := resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", fmt.Sprintf("r%d-%d", i, k), map[string]any{})
				if _, err := g.store.Apply(t.Context(), store.Batch{Writes: []store.Write{w}, Actor: "user:test"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, z := range zones {
		for i := range all {
			eventually(t, "a write at each replica reaches "+z.name, func() bool { return z.has(route(fmt.Sprintf("r%d-19", i))) })
		}
	}
	// Bundles came with the joins; an export comes now, relayed from replica to replica.
	link := zones[0].connect()
	st := zones[0].export("shop", "web")
	link.link.Do(func(s *federation.ZoneSession) { s.Offer(st) })
	for _, z := range zones[1:] {
		eventually(t, z.name+" hears of east's bundle and export", func() bool {
			return z.heardOf("east", federation.StatementBundle, "east.test.example") != nil && z.heardOf("east", federation.StatementExport, "shop/web") != nil
		})
	}
	// A zone that dials another replica fences its session at the first, and its status stays true.
	first := zones[1].connect()
	held := func(g *global) func() bool {
		return func() bool {
			rec, _, _, err := getJSON[sessionRecord](t.Context(), g.store, bucketSessions, "west")
			return err == nil && rec.Replica == g.server.id && rec.Epoch >= 2 && g.zoneStatus("west").Connected
		}
	}
	eventually(t, "west is at the second replica", held(all[1]))
	zones[1].g = all[2]
	second := zones[1].connect()
	eventually(t, "west is at the third replica", held(all[2]))
	eventually(t, "the older session ends", func() bool { return !first.alive() })
	var ended *federation.EndedError
	if !errors.As(first.err, &ended) || ended.Code != federation.ByeFenced {
		t.Errorf("the older session ended with %v", first.err)
	}
	if all[0].apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "after", map[string]any{})); !second.alive() {
		t.Error("the newer session ended")
	}
	eventually(t, "the newer session delivers", func() bool { return zones[1].has(route("after")) })
	if z := all[0].zoneStatus("west"); !z.Connected {
		t.Errorf("west is shown as away: %+v", z)
	}
	// Of two zones that join at the same moment over two replicas with one trust domain, one is admitted.
	twins := make(chan error, 2)
	for i, name := range []string{"south", "centre"} {
		all[i].addZone(name, "shop")
		z := newZone(t, all[i], name)
		z.td = "same.test.example"
		z.newCA()
		token := all[i].token(name, 0)
		go func() {
			_, err := z.tryJoin(token)
			twins <- err
		}()
	}
	if a, b := <-twins, <-twins; (a == nil) == (b == nil) {
		t.Errorf("two zones with one trust domain: %v, %v", a, b)
	}
}

func (r *running) alive() bool {
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

// A replica that dies is noticed by its silence; the zones of the others are left alone.
func TestReplicaDies(t *testing.T) {
	all, _ := newReplicas(t, 2)
	for i, name := range []string{"east", "west"} {
		all[0].addZone(name)
		z := newZone(t, all[i], name)
		z.join()
		z.connect()
		eventually(t, name+" is connected", func() bool { return all[1-i].zoneStatus(name).Connected })
	}
	// As if killed: what it last said stays, and no beat comes any more. Orderly stops say goodbye themselves.
	rec, version, _, err := getJSON[sessionRecord](t.Context(), all[0].store, bucketSessions, "east")
	if err != nil {
		t.Fatal(err)
	}
	rec.Replica = "dead"
	if err := putJSON(t.Context(), all[0].store, bucketSessions, "east", rec, &version); err != nil {
		t.Fatal(err)
	}
	if _, err := all[0].store.PutRecords(t.Context(), bucketReplicas, store.RecordWrite{Key: "dead", Value: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	s := all[1].server
	others := map[string]replicaWatch{}
	if err := s.buryReplicas(t.Context(), others); err != nil {
		t.Fatal(err)
	}
	if !all[1].zoneStatus("east").Connected {
		t.Error("a replica that was just seen was taken for dead")
	}
	others["dead"] = replicaWatch{others["dead"].version, time.Now().Add(-replicaSilence)}
	if err := s.buryReplicas(t.Context(), others); err != nil {
		t.Fatal(err)
	}
	if east, west := all[1].zoneStatus("east"), all[1].zoneStatus("west"); east.Connected || !west.Connected {
		t.Errorf("east %+v, west %+v", east, west)
	}
}

// When the database is back everything goes on where it was.
func TestReplicasSurviveTheDatabase(t *testing.T) {
	all, server := newReplicas(t, 2)
	all[0].addZone("east")
	z := newZone(t, all[1], "east")
	z.join()
	r := z.connect()
	all[0].apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "before", map[string]any{}))
	eventually(t, "a change before", func() bool { return z.has(route("before")) })
	server.Kill()
	if _, err := all[0].store.Head(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("without a database: %v", err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "writes go in again", func() bool {
		_, err := all[0].store.Apply(t.Context(), store.Batch{Writes: []store.Write{resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "after", map[string]any{})}})
		return err == nil
	})
	// A session that had something to keep meanwhile has ended; the zone comes back, as zones do.
	eventually(t, "a change after", func() bool {
		if !r.alive() {
			r = z.connect()
		}
		return z.has(route("after"))
	})
	eventually(t, "the zone is shown as it is", func() bool { return all[0].zoneStatus("east").Connected == r.alive() })
}

// A backup restored under a living session: the zone gives up what the store no longer has, and goes on from there.
func TestRestoreUnderASession(t *testing.T) {
	all, server := newReplicas(t, 1)
	g := all[0]
	g.addZone("east")
	z := newZone(t, g, "east")
	z.join()
	r := z.connect()
	write := func(name string) {
		g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", name, map[string]any{}))
	}
	write("kept")
	eventually(t, "the zone has what is in the backup", func() bool { return z.has(route("kept")) })
	dump := filepath.Join(t.TempDir(), "dump")
	if _, err := server.Run(t.Context(), "pg_dump", "-Fc", "-n", "comity", "-f", dump, "postgres"); err != nil {
		t.Fatal(err)
	}
	write("lost")
	eventually(t, "the zone has what came later", func() bool { return z.has(route("lost")) })
	if _, err := server.Run(t.Context(), "pg_restore", "--clean", "--if-exists", "--single-transaction", "-d", "postgres", dump); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the zone gives up what is not there any more", func() bool {
		if !r.alive() {
			r = z.connect()
		}
		return !z.has(route("lost")) && z.has(route("kept"))
	})
	write("new")
	eventually(t, "the zone goes on", func() bool { return z.has(route("new")) })
}

func TestAnotherRootIsRefused(t *testing.T) {
	g := newGlobal(t)
	for range 2 { // its own, once and again
		if err := g.trust.Claim(t.Context(), g.store); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	other, err := trust.Open(trust.Options{Dir: filepath.Join(dir, "ca"), KeyFile: filepath.Join(dir, "kek"), TrustDomain: globalTD})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Claim(t.Context(), g.store); !errors.Is(err, trust.ErrAnotherRoot) || !strings.Contains(err.Error(), other.Pin().String()) {
		t.Errorf("another root: %v", err)
	}
}
