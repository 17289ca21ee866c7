package imports

import "testing"

// TestAZoneMadeAnewIsSomebodyElse: the trust in a zone does not come back with its name, only with global's word.
func TestAZoneMadeAnewIsSomebodyElse(t *testing.T) {
	s := openStore(t)
	east, west, north := newOther(t, "east"), newOther(t, "west"), newOther(t, "north")
	b := openBook(t, s, east)
	receive(t, b, west.bundle(), nil)
	receive(t, b, west.export("shop", "pay", west.td.WorkloadID("shop", "pay")), nil)
	receive(t, b, north.bundle(), nil)
	heed := func(uids map[string]string) {
		t.Helper()
		if err := b.HeedLives(t.Context(), uids); err != nil {
			t.Fatal(err)
		}
	}
	trusted := func(when string, o *other, want bool) {
		t.Helper()
		if _, got := b.Trust().BundleFor(o.td); got != want {
			t.Errorf("%s: %s is trusted: %v", when, o.td, got)
		}
	}
	heed(map[string]string{"west": "1", "north": "1"})
	heed(map[string]string{"north": "1"}) // deleted; or the Zones have not come down yet
	heed(map[string]string{"west": "1", "north": "1"})
	trusted("the same Zone", west, true)

	heed(map[string]string{"west": "2", "north": "1"})
	gone := func(when string) {
		t.Helper()
		trusted(when, west, false)
		trusted(when, north, true)
		for _, held := range b.Held() {
			if held.Zone == "west" {
				t.Errorf("%s: %s %s is held", when, held.Kind, held.Subject)
			}
		}
	}
	gone("made anew")
	b = openBook(t, s, east)
	gone("after a restart")

	receive(t, b, west.bundle(), nil) // as global says who joined
	heed(map[string]string{"west": "2", "north": "1"})
	trusted("joined anew", west, true)
	b = openBook(t, s, east)
	heed(map[string]string{"west": "2", "north": "1"})
	trusted("joined anew, after a restart", west, true)
}
