package ca_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/zone-cp/internal/ca"
)

// Fifty agents with one token of limit one: exactly one gets in.
func TestTokenRace(t *testing.T) {
	r := newRig(t)
	tok := r.token(t, 1)
	c := r.pinned(t)
	var wg sync.WaitGroup
	errs := make(chan error, 50)
	for i := range 50 {
		_, csr := newKey(t)
		req := request(t, tok, c.exporter, csr, mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: fmt.Sprintf("web-%d", i)})
		wg.Go(func() {
			_, err := c.Enrol(t.Context(), req)
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	in := 0
	for err := range errs {
		if err == nil {
			in++
			continue
		}
		wantCode(t, err, codes.FailedPrecondition, ca.CodeTokenUsedUp)
	}
	if in != 1 {
		t.Errorf("%d agents got in", in)
	}
}

func TestReplacedInstanceLosesItsCertificates(t *testing.T) {
	r := newRig(t)
	tok := r.token(t, 2)
	c := r.pinned(t)
	key, csr := newKey(t)
	resp, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1))
	if err != nil {
		t.Fatal(err)
	}
	_, csr2 := newKey(t)
	if _, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr2, web1)); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Lookup(serial(t, resp.GetCertificateChain())); ok {
		t.Error("the replaced instance's certificate is still known")
	}
	_, err = r.mutual(t, resp.GetCertificateChain(), key).Renew(t.Context(), &enrolpb.RenewRequest{Role: "sidecar", Namespace: "shop", Name: "web-1", Csr: csr2})
	wantCode(t, err, codes.FailedPrecondition, ca.CodeProofNeeded)
}

func TestForeignCertificateEndsInTheHandshake(t *testing.T) {
	r := newRig(t)
	other := newRig(t) // the same names, other keys
	tok := other.token(t, 1)
	c := other.pinned(t)
	key, csr := newKey(t)
	resp, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := identity.ParseDERChain(resp.GetCertificateChain())
	if err != nil {
		t.Fatal(err)
	}
	cfg := identity.ClientTLS(func() (*tls.Certificate, error) { return identity.TLSCertificate(certs, key), nil }, r,
		identity.AuthorizeTrustDomain(r.TrustDomain()), identity.TLSOptions{})
	cfg.NextProtos = []string{"h2"}
	nc, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", r.addr)
	if err == nil {
		// In TLS 1.3 the server's refusal comes with the first read.
		_, err = nc.Read(make([]byte, 1))
		_ = nc.Close()
	}
	if err == nil {
		t.Error("a certificate of another authority got in")
	}
	// And the pin of one zone does not open the other.
	pinned := &tls.Dialer{Config: identity.PinnedClientTLS(nil, other.Pin(), "/fed/zone-cp", identity.TLSOptions{})}
	if _, err := pinned.DialContext(t.Context(), "tcp", r.addr); err == nil {
		t.Error("another zone's pin was accepted")
	}
}

func TestOpenKeepsKeysSealed(t *testing.T) {
	r := newRig(t)
	files, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		path := filepath.Join(r.cfg.Dir, f.Name())
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), st.Mode())
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte("PRIVATE KEY")) {
			t.Errorf("%s holds a key in the clear", f.Name())
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	t.Run("another trust domain", func(t *testing.T) {
		cfg := r.cfg
		cfg.TrustDomain = "other.example"
		if _, err := ca.Open(cfg); err == nil {
			t.Error("opened")
		}
	})
	t.Run("another zone's sealed key in its place", func(t *testing.T) {
		cfg := r.cfg
		cfg.Zone = "gcp-west"
		if _, err := ca.Open(cfg); err == nil {
			t.Error("opened")
		}
	})
	t.Run("lost sealing key", func(t *testing.T) {
		if err := os.Remove(filepath.Join(r.cfg.Dir, "kek")); err != nil {
			t.Fatal(err)
		}
		if _, err := ca.Open(r.cfg); err == nil {
			t.Error("opened")
		}
	})
}

func TestIssuerAndServerRenewAtHalfLife(t *testing.T) {
	r := newRig(t)
	first, err := r.ServerCertificate()
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.ServerCertificate()
	if err != nil || again != first {
		t.Fatalf("a second certificate at once: %v", err)
	}
	r.clock.advance(identity.LeafTTL/2 + time.Minute)
	next, err := r.ServerCertificate()
	if err != nil || next == first {
		t.Fatalf("no new certificate at half-life: %v", err)
	}
	r.clock.advance(identity.IntermediateTTL / 2)
	late, err := r.ServerCertificate()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(late.Certificate[1], first.Certificate[1]) {
		t.Error("the issuing authority was not renewed")
	}
	if !bytes.Equal(late.Certificate[2], first.Certificate[2]) {
		t.Error("the root changed")
	}
	r.pinned(t)
}

func TestLedgerSurvivesATornLine(t *testing.T) {
	r := newRig(t)
	tok := r.token(t, 1)
	c := r.pinned(t)
	_, csr := newKey(t)
	resp, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(r.cfg.Dir, "issued.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"serial":"abc","pro`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r.open(t)
	if _, ok := r.Lookup(serial(t, resp.GetCertificateChain())); !ok {
		t.Error("the ledger lost a certificate")
	}
}

func TestStatementSigner(t *testing.T) {
	r := newRig(t)
	now := r.clock.now()
	b, err := r.Bundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.StatementSigner().Sign(identity.Statement{
		Kind: "export", Zone: "aws-east", TrustDomain: r.TrustDomain(), Incarnation: "1", Sequence: 1, Subject: "shop/pay",
		Issued: now, LeaseUntil: now.Add(time.Hour), Payload: []byte("{}"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.VerifyStatement(s, b, now); err != nil {
		t.Error(err)
	}
}
