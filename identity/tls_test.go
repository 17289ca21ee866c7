package identity_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

// serve answers every connection with "ok" and returns its address.
func serve(t *testing.T, cfg *tls.Config) string {
	t.Helper()
	tcp, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis := tls.NewListener(tcp, cfg)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			// A refused handshake shows as an error of this write; the client sees it too.
			_, _ = io.WriteString(c, "ok")
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = lis.Close()
		<-done
	})
	return lis.Addr().String()
}

// ask makes one handshake and reads the answer.
func ask(t *testing.T, addr string, cfg *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	c, err := (&tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: cfg}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer c.Close()
	got, err := io.ReadAll(c)
	if err == nil && string(got) != "ok" {
		err = errors.New("the answer is " + string(got))
	}
	tc, ok := c.(*tls.Conn)
	if !ok {
		t.Fatal("not a TLS connection")
	}
	return tc.ConnectionState(), err
}

func TestMutualTLS(t *testing.T) {
	now := time.Now()
	a, b := newZone(t, "a.example", now), newZone(t, "b.example", now)
	both := identity.NewBundles(a.bundle(), b.bundle())
	front := "spiffe://a.example/ns/web/sa/front"
	pay := "spiffe://b.example/ns/shop/sa/pay"
	addr := serve(t, identity.ServerTLS(b.certSource(t, "/ns/shop/sa/pay"), both, identity.AuthorizeOneOf(front), identity.TLSOptions{}))

	client := func(cert identity.CertSource, bundles identity.BundleSource, server string) *tls.Config {
		return identity.ClientTLS(cert, bundles, identity.AuthorizeOneOf(server), identity.TLSOptions{})
	}
	good := a.certSource(t, "/ns/web/sa/front")
	state, err := ask(t, addr, client(good, both, pay))
	if err != nil {
		t.Fatal(err)
	}
	if id, err := identity.PeerID(state); err != nil || id.String() != pay {
		t.Errorf("PeerID = %q, %v", id, err)
	}
	if state.Version != tls.VersionTLS13 {
		t.Errorf("version %x", state.Version)
	}
	forger := newRogue(t, "b.example", now)
	forged := forger.forge(t, nil, name{tagURI, front})
	for what, cfg := range map[string]*tls.Config{
		"19 no certificate":                   client(nil, both, pay),
		"another caller":                      client(a.certSource(t, "/ns/web/sa/other"), both, pay),
		"the same path in another domain":     client(b.certSource(t, "/ns/web/sa/front"), both, pay),
		"1 the caller's name under b":         client(func() (*tls.Certificate, error) { return identity.TLSCertificate(forged, forger.key), nil }, both, pay),
		"a server that is not the wanted one": client(good, both, "spiffe://b.example/ns/shop/sa/ledger"),
		"no trust in the server":              client(good, a.bundle(), pay),
	} {
		if _, err := ask(t, addr, cfg); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	old := client(good, both, pay)
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, err := ask(t, addr, old); err == nil {
		t.Error("19 TLS 1.2: accepted")
	}
	nobody := identity.ServerTLS(good, both, nil, identity.TLSOptions{})
	if _, err := ask(t, serve(t, nobody), client(good, both, front)); err == nil {
		t.Error("a server without authorizer let a client in")
	}
}

// switchable is a BundleSource whose trust can end.
type switchable struct {
	identity.Bundles
	off atomic.Bool
}

func (s *switchable) BundleFor(td mesh.TrustDomain) (identity.Bundle, bool) {
	if s.off.Load() && td == "a.example" {
		return identity.Bundle{}, false
	}
	return s.Bundles.BundleFor(td)
}

// 20: a session from before the revocation opens nothing after it.
func TestNoResumptionAfterRevocation(t *testing.T) {
	now := time.Now()
	a, b := newZone(t, "a.example", now), newZone(t, "b.example", now)
	trust := &switchable{Bundles: identity.NewBundles(a.bundle(), b.bundle())}
	addr := serve(t, identity.ServerTLS(b.certSource(t, "/ns/shop/sa/pay"), trust, identity.AuthorizeTrustDomain("a.example"), identity.TLSOptions{}))
	cfg := identity.ClientTLS(a.certSource(t, "/ns/web/sa/front"), b.bundle(), identity.AuthorizeTrustDomain("b.example"), identity.TLSOptions{})
	cfg.SessionTicketsDisabled = false
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	cfg.ServerName = "pay" // the cache's key
	for range 2 {
		state, err := ask(t, addr, cfg)
		if err != nil {
			t.Fatal(err)
		}
		if state.DidResume {
			t.Error("the session was resumed")
		}
	}
	trust.off.Store(true)
	if _, err := ask(t, addr, cfg); err == nil {
		t.Error("a client of a removed trust domain got in")
	}
}

func TestPinnedClientTLS(t *testing.T) {
	now := time.Now()
	a := newZone(t, "a.example", now)
	is, key := a.leaf(t, "/fed/zone-cp")
	withRoot := identity.TLSCertificate(a.issuer.WithRoot(is), key)
	optional := identity.TLSOptions{ClientCertOptional: true}
	addr := serve(t, identity.ServerTLS(func() (*tls.Certificate, error) { return withRoot, nil }, a.bundle(), identity.AuthorizeTrustDomain("a.example"), optional))
	pin := identity.KeyPin(a.root.Root())
	state, err := ask(t, addr, identity.PinnedClientTLS(nil, pin, "/fed/zone-cp", identity.TLSOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	got, err := identity.PinnedBundle(state, pin, "/fed/zone-cp", now)
	if err != nil || got.TrustDomain != "a.example" || !got.Authorities[0].Equal(a.root.Root()) {
		t.Errorf("PinnedBundle = %v, %v", got, err)
	}
	if _, err := ask(t, addr, identity.PinnedClientTLS(nil, pin, identity.GlobalCPPath, identity.TLSOptions{})); err == nil {
		t.Error("another path: accepted")
	}
	other := identity.KeyPin(newZone(t, "a.example", now).root.Root())
	if _, err := ask(t, addr, identity.PinnedClientTLS(nil, other, "/fed/zone-cp", identity.TLSOptions{})); err == nil {
		t.Error("another pin: accepted")
	}
	// The real root in the chain of a leaf that it never signed.
	forger := newRogue(t, "a.example", now)
	leaf := forger.forge(t, nil, name{tagURI, "spiffe://a.example/fed/zone-cp"})
	cert := identity.TLSCertificate([]*x509.Certificate{leaf[0], forger.cert, a.root.Root()}, forger.key)
	mitm := serve(t, identity.ServerTLS(func() (*tls.Certificate, error) { return cert, nil }, a.bundle(), identity.AuthorizeTrustDomain("a.example"), optional))
	if _, err := ask(t, mitm, identity.PinnedClientTLS(nil, pin, "/fed/zone-cp", identity.TLSOptions{})); err == nil {
		t.Error("a stranger that shows the root: accepted")
	}
}
