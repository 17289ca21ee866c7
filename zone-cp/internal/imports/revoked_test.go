package imports

import (
	"testing"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
)

func TestARevokedZoneStaysRevoked(t *testing.T) {
	s := openStore(t)
	east, west, north := newOther(t, "east"), newOther(t, "west"), newOther(t, "north")
	b := openBook(t, s, east)
	first, ingress := west.bundle(), west.says(federation.StatementIngress, "ingress", mesh.IngressSet{
		Ingresses: []mesh.Ingress{{ID: "in1", Host: "192.0.2.1", Ports: []uint16{15443}}},
	})
	receive(t, b, first, nil)
	receive(t, b, ingress, nil)
	receive(t, b, north.bundle(), nil)
	gate := topology.RemoteIngress{Ingress: mesh.Ingress{ID: "in1", Ports: []uint16{15443}}, Addresses: []string{"192.0.2.1"}}
	if err := b.Give(t.Context(), []topology.Remote{{Zone: "west", TrustDomain: west.td, Ingresses: []topology.RemoteIngress{gate}}}, time.Now()); err != nil {
		t.Fatal(err)
	}
	trusted := func(when string, o *other, want bool) {
		t.Helper()
		if _, got := b.Trust().BundleFor(o.td); got != want {
			t.Errorf("%s: %s is trusted: %v", when, o.td, got)
		}
	}
	heed := func(zones map[string]policy.Zone) {
		t.Helper()
		if err := b.Heed(t.Context(), zones); err != nil {
			t.Fatal(err)
		}
	}
	zones := map[string]policy.Zone{"west": {}, "north": {}}
	heed(zones)
	trusted("before", west, true)
	zones["west"] = policy.Zone{Revoked: &policy.Revocation{}}
	heed(zones)
	check := func(when string) {
		t.Helper()
		trusted(when, west, false)
		trusted(when, north, true)
		gone := b.Condemned()
		if len(gone) != 1 || gone[0].String() != "192.0.2.1:15443" {
			t.Errorf("%s: condemned %+v", when, gone)
		}
		// Whoever relays it, and whatever it says.
		receive(t, b, first, ErrRevoked)
		receive(t, b, west.bundle(), ErrRevoked)
		receive(t, b, west.export("shop", "pay", west.td.WorkloadID("shop", "pay")), ErrRevoked)
	}
	check("at once")
	b = openBook(t, s, east)
	check("after a restart")
	heed(map[string]policy.Zone{"west": {}, "north": {}}) // global was restored from before
	check("when global has forgotten it")

	// Made anew, under another trust domain.
	again := newOther(t, "better")
	again.name = "west"
	heed(map[string]policy.Zone{"west": {TrustDomain: again.td}, "north": {}})
	receive(t, b, again.bundle(), nil)
	trusted("made anew", again, true)
	check("made anew")
}
