package exports

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"crypto/tls"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
)

const td = mesh.TrustDomain("east.example")

func signer(t *testing.T) (*identity.StatementSigner, identity.Bundle) {
	t.Helper()
	now := time.Now()
	root, err := identity.NewRoot(td, now)
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.ParseID(td.ZoneCPID())
	if err != nil {
		t.Fatal(err)
	}
	issued, err := root.Sign(key.Public(), id, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	cert := identity.TLSCertificate(issued.Chain, key)
	return identity.NewStatementSigner(func() (*tls.Certificate, error) { return cert, nil }), root.Bundle(1)
}

func open(t *testing.T, s *sqlitestore.Store, g *identity.StatementSigner) *Ledger {
	t.Helper()
	l, err := OpenLedger(t.Context(), s, "east", td, "life", g)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestOnlyWhatChangedIsSigned(t *testing.T) {
	s, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "zone.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	g, bundle := signer(t)
	l := open(t, s, g)
	now := time.Now()
	set := func(at time.Time, want int, exports ...mesh.Export) []identity.Statement {
		t.Helper()
		claims, withheld, err := Compute(Input{Bundle: bundle, Exports: exports, Zone: &policy.Zone{Namespaces: []string{"shop"}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range withheld {
			if w.Namespace == "shop" {
				t.Fatalf("withheld: %+v", w)
			}
		}
		fresh, err := l.Set(t.Context(), claims, at)
		if err != nil {
			t.Fatal(err)
		}
		if len(fresh) != want {
			t.Fatalf("%d new statements, want %d: %+v", len(fresh), want, fresh)
		}
		for _, f := range fresh {
			if err := identity.VerifyStatement(f, bundle, at); err != nil {
				t.Fatal(err)
			}
		}
		return fresh
	}
	pay := mesh.Export{Namespace: "shop", Service: "pay", Ready: 1, Total: 2}
	set(now, 3, pay, mesh.Export{Namespace: "bank", Service: "vault"}) // bundle, ingress, pay; never vault
	set(now, 0, pay)
	pay.Ready = 2
	changed := set(now, 1, pay)[0]
	if changed.Kind != federation.StatementExport || changed.Subject != "shop/pay" {
		t.Fatalf("%+v", changed)
	}

	l = open(t, s, g) // after a restart
	set(now, 0, pay)
	gone := set(now, 1)[0]
	if !gone.Withdrawn || gone.Sequence <= changed.Sequence {
		t.Fatalf("%+v after sequence %d", gone, changed.Sequence)
	}
	set(now, 0)
	back := set(now, 1, pay)[0]
	if back.Withdrawn || back.Sequence <= gone.Sequence {
		t.Fatalf("%+v after sequence %d", back, gone.Sequence)
	}
	if at := l.RenewAt(); at.Sub(now) > Lease/2 || at.Sub(now) < Lease/2-time.Minute {
		t.Fatalf("renewal after %s", at.Sub(now))
	}
}

func TestNobodyReadyStillAdvertises(t *testing.T) {
	a := discovery.Ingress{Advertised: mesh.Ingress{ID: "a"}}
	b := discovery.Ingress{Advertised: mesh.Ingress{ID: "b"}}
	if n := len(ingressSet([]discovery.Ingress{a, b}, nil).Ingresses); n != 2 {
		t.Fatalf("%d of 2 advertised though none is better", n)
	}
	b.Ready = true
	if got := ingressSet([]discovery.Ingress{a, b}, nil).Ingresses; len(got) != 1 || got[0].ID != "b" {
		t.Fatalf("%+v", got)
	}
}

// Other zones are told of every egress, and of those that serve: they may have another zone to leave by.
func TestEgressesAreAdvertised(t *testing.T) {
	got := ingressSet(nil, []topology.EgressProxy{{Name: "out-1", Address: "10.0.0.1", Ready: true}, {Name: "out-2"}}).Egresses
	if want := []mesh.Egress{{Name: "out-1", Ready: true}, {Name: "out-2"}}; !slices.Equal(got, want) {
		t.Fatalf("%+v", got)
	}
}
