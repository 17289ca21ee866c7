package identity_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

// zone is an honest trust domain for tests.
type zone struct {
	td           mesh.TrustDomain
	root, issuer *identity.Authority
	now          time.Time
}

func newZone(t *testing.T, td mesh.TrustDomain, now time.Time) zone {
	t.Helper()
	root, err := identity.NewRoot(td, now)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := root.NewIntermediate(now)
	if err != nil {
		t.Fatal(err)
	}
	return zone{td, root, issuer, now}
}

func (z zone) id(t *testing.T, path string) identity.ID {
	t.Helper()
	id, err := identity.NewID(z.td, path)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (z zone) leaf(t *testing.T, path string) (identity.Issued, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	is, err := z.issuer.Sign(key.Public(), z.id(t, path), 0, z.now)
	if err != nil {
		t.Fatal(err)
	}
	return is, key
}

func (z zone) bundle() identity.Bundle { return z.root.Bundle(1) }

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestAuthorityIssuesWhatVerifyPeerAccepts(t *testing.T) {
	now := time.Now()
	a, b := newZone(t, "a.example", now), newZone(t, "b.example", now)
	is, _ := a.leaf(t, "/ns/shop/sa/web")
	id, err := identity.VerifyPeer(is.Chain, identity.NewBundles(a.bundle(), b.bundle()), now)
	if err != nil || id.String() != "spiffe://a.example/ns/shop/sa/web" {
		t.Fatalf("VerifyPeer = %v, %v", id, err)
	}
	// A validator's clock 4 minutes behind still accepts a fresh certificate.
	if _, err := identity.VerifyPeer(is.Chain, a.bundle(), now.Add(-4*time.Minute)); err != nil {
		t.Errorf("clock behind: %v", err)
	}
	if _, err := identity.VerifyPeer(is.Chain, b.bundle(), now); !errors.Is(err, identity.ErrPeer) {
		t.Errorf("without a bundle for a.example: %v", err)
	}
	if _, err := identity.VerifyPeer(is.Chain, a.bundle(), now.Add(identity.LeafTTL+time.Second)); !errors.Is(err, identity.ErrPeer) {
		t.Errorf("a second after its end: %v", err)
	}
	if !identity.NameConstrained(a.root.Certificate(), a.td) || !identity.NameConstrained(a.issuer.Certificate(), a.td) {
		t.Error("an authority lacks its name constraints")
	}
	if is.Leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(is.Leaf.Subject.Names) != 0 || is.Serial == "" {
		t.Errorf("leaf: key usage %v, subject %v, serial %q", is.Leaf.KeyUsage, is.Leaf.Subject, is.Serial)
	}
}

func TestSignRefuses(t *testing.T) {
	now := time.Now()
	a, b := newZone(t, "a.example", now), newZone(t, "b.example", now)
	key := newKey(t)
	for name, id := range map[string]identity.ID{
		"another trust domain": b.id(t, "/ns/x/sa/y"),
		"SPIRE's prefix":       a.id(t, "/spire/agent"),
		"nobody":               {},
	} {
		if _, err := a.issuer.Sign(key.Public(), id, 0, now); err == nil {
			t.Errorf("signed for %s", name)
		}
	}
	if _, err := a.issuer.Sign(key.Public(), a.id(t, "/ns/x/sa/y"), 25*time.Hour, now); err == nil {
		t.Error("signed for 25 hours")
	}
	late := now.Add(identity.IntermediateTTL - time.Hour)
	is, err := a.issuer.Sign(key.Public(), a.id(t, "/ns/x/sa/y"), 0, late)
	if err != nil || is.Leaf.NotAfter.After(a.issuer.Certificate().NotAfter) {
		t.Errorf("leaf ends %v, issuer %v: %v", is.Leaf.NotAfter, a.issuer.Certificate().NotAfter, err)
	}
	if _, err := a.issuer.Sign(key.Public(), a.id(t, "/ns/x/sa/y"), 0, now.Add(identity.IntermediateTTL+time.Hour)); err == nil {
		t.Error("an expired authority signed")
	}
	if _, err := a.issuer.NewIntermediate(now); err == nil {
		t.Error("an intermediate made an intermediate")
	}
}

// safeLog is a buffer that a child process and the test use at the same time.
type safeLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *safeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *safeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
