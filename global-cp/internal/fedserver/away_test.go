package fedserver

import (
	"path/filepath"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
)

// What global says of zones is true after it crashed, and while they are away.
func TestZonesThatAreAway(t *testing.T) {
	g, e, w := twoZones(t)
	re, rw := e.connect(), w.connect()
	statusOf := func(zone string) mesh.ZoneStatus {
		z, _, _, err := getJSON[mesh.ZoneStatus](t.Context(), g.store, BucketZones, zone)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	first := g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "a", map[string]any{}))
	eventually(t, "both have it", func() bool { return statusOf("east").Acked == first && statusOf("west").Acked == first })
	rw.disconnect()
	eventually(t, "west is away", func() bool { return !statusOf("west").Connected })

	second := g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "a", map[string]any{"v": 2}))
	eventually(t, "west lags", func() bool { z := statusOf("west"); return z.Wanted == second && z.Acked == first })
	g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "b", map[string]any{}, mesh.AnnotationZones, "east"))
	third := g.apply(resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "c", map[string]any{}, mesh.AnnotationZones, "east"))
	eventually(t, "east has all", func() bool { return statusOf("east").Acked == third })
	if z := statusOf("west"); z.Wanted != second {
		t.Errorf("what is not for west: %+v", z)
	}

	// A crash: the statuses stay as they were a moment before, and somebody writes while nobody watches.
	seen := statusOf("east").LastSeen
	re.disconnect()
	eventually(t, "east is away", func() bool { return !statusOf("east").Connected })
	g.stop()
	s, err := sqlitestore.Open(t.Context(), filepath.Join(g.dir, "store.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	z, _, _, err := getJSON[mesh.ZoneStatus](t.Context(), s, BucketZones, "east")
	if err != nil {
		t.Fatal(err)
	}
	z.Connected, z.LastSeen = true, seen
	if err := putJSON(t.Context(), s, BucketZones, "east", z, nil); err != nil {
		t.Fatal(err)
	}
	r, err := s.Apply(t.Context(), store.Batch{Writes: []store.Write{resource(mesh.KindHTTPRoute, mesh.OriginGlobal, "shop", "d", map[string]any{})}})
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	g.start(g.address)
	eventually(t, "the truth", func() bool {
		e, w := statusOf("east"), statusOf("west")
		return !e.Connected && e.LastSeen.Equal(seen) && e.Wanted == r.Revision && w.Wanted == r.Revision
	})
	w.connect()
	eventually(t, "west catches up", func() bool {
		z := statusOf("west")
		return z.Connected && z.Acked >= z.Wanted && z.Wanted == r.Revision
	})
	lost := statusOf("west")
	lost.Connected, lost.Acked = false, 0
	if err := putJSON(t.Context(), g.store, BucketZones, "west", lost, nil); err != nil {
		t.Fatal(err)
	}
	w.connect() // with nothing that it could acknowledge
	eventually(t, "west has said how far it is", func() bool { return statusOf("west").Acked == r.Revision })
}
