package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

func (z zone) certSource(t *testing.T, path string) identity.CertSource {
	t.Helper()
	is, key := z.leaf(t, path)
	cert := identity.TLSCertificate(is.Chain, key)
	return func() (*tls.Certificate, error) { return cert, nil }
}

// bundleStatement is the statement of zone name about a bundle, signed by z.
func (z zone) bundleStatement(t *testing.T, name string, b identity.Bundle, seq uint64, change func(*identity.Statement)) identity.Statement {
	t.Helper()
	b.Sequence = seq
	payload, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	s := identity.Statement{
		Kind: identity.KindBundle, Zone: name, TrustDomain: z.td, Incarnation: "i1", Sequence: seq, Subject: string(z.td),
		Issued: z.now.Add(time.Duration(seq) * time.Second), LeaseUntil: z.now.Add(24 * time.Hour), Payload: payload,
	}
	if change != nil {
		change(&s)
	}
	s, err = identity.NewStatementSigner(z.certSource(t, "/fed/zone-cp")).Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestVerifyStatement(t *testing.T) {
	now := time.Now().Truncate(time.Millisecond)
	a, b := newZone(t, "a.example", now), newZone(t, "b.example", now)
	s := a.bundleStatement(t, "a", a.bundle(), 1, nil)
	at := now.Add(time.Minute)
	if err := identity.VerifyStatement(s, a.bundle(), at); err != nil {
		t.Fatal(err)
	}
	if err := identity.VerifyStatement(s, a.bundle(), now.Add(13*time.Hour)); err != nil {
		t.Errorf("after its signer's certificate has ended: %v", err)
	}
	if err := identity.VerifyStatement(s, a.bundle(), now.Add(25*time.Hour)); !errors.Is(err, identity.ErrLeaseEnded) {
		t.Errorf("after its lease: %v", err)
	}
	if err := identity.VerifyStatement(s, a.bundle(), now.Add(-time.Hour)); !errors.Is(err, identity.ErrStatement) {
		t.Errorf("from the future: %v", err)
	}
	if err := identity.VerifyStatement(s, b.bundle(), at); !errors.Is(err, identity.ErrStatement) {
		t.Errorf("against another bundle: %v", err)
	}
	for what, change := range map[string]func(*identity.Statement){
		"kind":        func(s *identity.Statement) { s.Kind = "export" },
		"zone":        func(s *identity.Statement) { s.Zone = "b" },
		"incarnation": func(s *identity.Statement) { s.Incarnation = "i2" },
		"sequence":    func(s *identity.Statement) { s.Sequence++ },
		"subject":     func(s *identity.Statement) { s.Subject += "x" },
		"issued":      func(s *identity.Statement) { s.Issued = s.Issued.Add(time.Millisecond) },
		"lease":       func(s *identity.Statement) { s.LeaseUntil = s.LeaseUntil.Add(time.Millisecond) },
		"long lease":  func(s *identity.Statement) { s.LeaseUntil = s.Issued.Add(identity.MaxLease + time.Millisecond) },
		"withdrawn":   func(s *identity.Statement) { s.Withdrawn = true },
		"payload":     func(s *identity.Statement) { s.Payload = append([]byte(" "), s.Payload...) },
		"signature":   func(s *identity.Statement) { s.Signature = nil },
		"chain":       func(s *identity.Statement) { s.Chain = s.Chain[:1] },
		"no chain":    func(s *identity.Statement) { s.Chain = nil },
	} {
		changed := s
		change(&changed)
		if err := identity.VerifyStatement(changed, a.bundle(), at); !errors.Is(err, identity.ErrStatement) {
			t.Errorf("altered %s: %v", what, err)
		}
	}
	// A workload of the zone is not the zone.
	w := identity.Statement{Kind: "export", Zone: "a", TrustDomain: "a.example", Incarnation: "i1", Sequence: 1, Issued: now, LeaseUntil: now.Add(time.Hour)}
	w, err := identity.NewStatementSigner(a.certSource(t, "/ns/shop/sa/web")).Sign(w)
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.VerifyStatement(w, a.bundle(), at); !errors.Is(err, identity.ErrStatement) {
		t.Errorf("signed by a workload: %v", err)
	}
}

func TestBundleBook(t *testing.T) {
	now := time.Now().Truncate(time.Millisecond)
	at := now.Add(time.Minute)
	a, a2, b := newZone(t, "a.example", now), newZone(t, "a.example", now), newZone(t, "b.example", now)
	book := identity.NewBundleBook()
	own := newZone(t, "own.example", now)
	if err := book.Pin("own", own.bundle(), now); err != nil {
		t.Fatal(err)
	}
	accept := func(s identity.Statement) error {
		t.Helper()
		_, err := book.Accept(s, at)
		return err
	}
	roots := func(want ...*identity.Authority) {
		t.Helper()
		got, ok := book.BundleFor("a.example")
		if !ok || len(got.Authorities) != len(want) {
			t.Fatalf("a.example has %d authorities (%v), want %d", len(got.Authorities), ok, len(want))
		}
		for i := range want {
			if !got.Authorities[i].Equal(want[i].Root()) {
				t.Errorf("authority %d is another", i)
			}
		}
	}
	if err := accept(a.bundleStatement(t, "a", a.bundle(), 5, nil)); err != nil {
		t.Fatal(err)
	}
	roots(a.root)

	for what, c := range map[string]struct {
		s    identity.Statement
		want error
	}{
		"35 lower sequence":                 {a.bundleStatement(t, "a", a.bundle(), 4, nil), identity.ErrRollback},
		"35 same sequence, other content":   {a.bundleStatement(t, "a", identity.Bundle{TrustDomain: a.td, RefreshHint: time.Hour, Authorities: a.bundle().Authorities}, 5, nil), identity.ErrBundleConflict},
		"48 swapped roots":                  {a2.bundleStatement(t, "a", a2.bundle(), 6, nil), identity.ErrContinuity},
		"48 swapped in another incarnation": {a2.bundleStatement(t, "a", a2.bundle(), 6, func(s *identity.Statement) { s.Incarnation = "i2" }), identity.ErrContinuity},
		"24 another zone's trust domain":    {a.bundleStatement(t, "b", a.bundle(), 6, nil), identity.ErrOwner},
		"24 a second one of the zone":       {b.bundleStatement(t, "a", b.bundle(), 1, nil), identity.ErrOwner},
		"the pinned one":                    {own.bundleStatement(t, "own", own.bundle(), 9, nil), identity.ErrOwner},
		"25 a bundle with another's root": {a.bundleStatement(t, "a", identity.Bundle{TrustDomain: a.td,
			Authorities: []*x509.Certificate{a.root.Root(), own.root.Root()}}, 6, nil), identity.ErrBundle},
		"a subject that is another": {a.bundleStatement(t, "a", a.bundle(), 6, func(s *identity.Statement) { s.Subject = "b.example" }), identity.ErrStatement},
	} {
		if err := accept(c.s); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
	roots(a.root)

	// 15: the same root key in two trust domains, where the certificates name none.
	r := newRogue(t, "c.example", now)
	if err := book.Pin("c", r.bundle(), now); err != nil {
		t.Fatal(err)
	}
	r.td = "d.example"
	if err := book.Pin("d", r.bundle(), now); !errors.Is(err, identity.ErrSharedAuthority) {
		t.Errorf("15 one root in two trust domains: %v", err)
	}

	// Rotation: B joins under A, then A leaves under B.
	both := identity.Bundle{TrustDomain: a.td, Authorities: []*x509.Certificate{a.root.Root(), a2.root.Root()}}
	if err := accept(a.bundleStatement(t, "a", both, 6, nil)); err != nil {
		t.Fatal(err)
	}
	roots(a.root, a2.root)
	if err := accept(a2.bundleStatement(t, "a", a2.bundle(), 7, nil)); err != nil {
		t.Fatal(err)
	}
	roots(a2.root)
	if err := accept(a.bundleStatement(t, "a", a.bundle(), 8, nil)); !errors.Is(err, identity.ErrContinuity) {
		t.Errorf("the old root speaks again: %v", err)
	}
	// A renewed lease is no change; a new incarnation under the same roots is accepted, the old one never again.
	if changed, err := book.Accept(a2.bundleStatement(t, "a", a2.bundle(), 7, nil), at); changed || err != nil {
		t.Errorf("again: changed %v, %v", changed, err)
	}
	restored := func(s *identity.Statement) { s.Incarnation, s.Issued = "i2", now.Add(20*time.Second) }
	if err := accept(a2.bundleStatement(t, "a", a2.bundle(), 1, restored)); err != nil {
		t.Errorf("a restored zone: %v", err)
	}
	if err := accept(a2.bundleStatement(t, "a", a2.bundle(), 30, nil)); !errors.Is(err, identity.ErrRollback) {
		t.Errorf("the old incarnation: %v", err)
	}

	// Over a restart, from JSON.
	doc, err := json.Marshal(book)
	if err != nil {
		t.Fatal(err)
	}
	again := identity.NewBundleBook()
	if err := json.Unmarshal(doc, again); err != nil {
		t.Fatal(err)
	}
	got, ok := again.BundleFor("a.example")
	if want, _ := book.BundleFor("a.example"); !ok || !got.Equal(want) {
		t.Error("the book is another after a restart")
	}
	if _, err := again.Accept(a2.bundleStatement(t, "a", a2.bundle(), 30, nil), at); !errors.Is(err, identity.ErrRollback) {
		t.Errorf("the old incarnation after a restart: %v", err)
	}
	if _, ok := again.BundleFor("own.example"); ok {
		t.Error("a pinned bundle was exported")
	}

	// 29: removed, and nobody inherits the name.
	book.Remove("a.example")
	if _, ok := book.BundleFor("a.example"); ok {
		t.Error("a removed trust domain is trusted")
	}
	if err := accept(a2.bundleStatement(t, "a", a2.bundle(), 31, restored)); !errors.Is(err, identity.ErrRollback) {
		t.Errorf("29 after removal: %v", err)
	}
	fresh := newZone(t, "a.example", now)
	if err := accept(fresh.bundleStatement(t, "a", fresh.bundle(), 1, func(s *identity.Statement) { s.Incarnation = "i3"; s.Issued = now.Add(40 * time.Second) })); !errors.Is(err, identity.ErrOwner) {
		t.Errorf("29 another zone under the name: %v", err)
	}
	book.Release("a.example")
	if err := accept(fresh.bundleStatement(t, "a", fresh.bundle(), 1, func(s *identity.Statement) { s.Incarnation = "i3" })); err != nil {
		t.Errorf("after its release: %v", err)
	}
}

// 45: names that can be mistaken for each other.
func TestCheckDistinct(t *testing.T) {
	for _, c := range []struct {
		a, b mesh.TrustDomain
		ok   bool
	}{
		{"aws-east.demo.example", "gcp-west.demo.example", true},
		{"aws-east.demo.example", "global.demo.example", true},
		{"demo.example", "aws.demo.example", false},
		{"aws.demo.example", "demo.example", false},
		{"prod.z1.example", "prod.zl.example", false},
		{"z0.example", "zo.example", false},
		{"modern.example", "modem.example", false},
		{"a-b.example", "a.b.example", false},
		{"xn--80ak6aa92e.example", "b.example", false},
	} {
		if err := identity.CheckDistinct(c.a, c.b); (err == nil) != c.ok || err != nil && !errors.Is(err, identity.ErrLookalike) {
			t.Errorf("CheckDistinct(%s, %s) = %v", c.a, c.b, err)
		}
	}
}
