package sds

import (
	"bytes"
	"crypto/ecdsa"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/identity"
)

// put writes a certificate and a key where the agent looks for those of shop/bank.
func put(t *testing.T, dir string, issued identity.Issued, key *ecdsa.PrivateKey) {
	t.Helper()
	pem, err := identity.PEMKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "shop", "bank", "tls.key"), pem)
	write(t, filepath.Join(dir, "shop", "bank", "tls.crt"), identity.PEMCertificates(issued.Chain...))
}

func write(t *testing.T, file string, raw []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSecretsFromFiles(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	var log bytes.Buffer
	s, err := NewServer(NewSecrets(), dir, slog.New(slog.NewTextHandler(&log, nil)), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	const name = CertificatePrefix + "shop/bank"
	sent := map[string]string{}
	ask := func(name string) {
		t.Helper()
		if err := s.subscribe(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{name}}, sent); err != nil {
			t.Fatal(err)
		}
	}
	got := func() *tlsv3.Secret {
		t.Helper()
		r := s.delta(sent)
		if len(r.GetResources()) != 1 {
			t.Fatalf("%d resources: %s", len(r.GetResources()), log.String())
		}
		m := &tlsv3.Secret{}
		if err := r.GetResources()[0].GetResource().UnmarshalTo(m); err != nil {
			t.Fatal(err)
		}
		return m
	}

	// What is not there is answered as removed, so that Envoy does not wait, and comes when it is there.
	ask(name)
	if r := s.delta(sent); len(r.GetRemovedResources()) != 1 {
		t.Fatalf("got %v", r)
	}
	issued, key := a.issue()
	put(t, dir, issued, key)
	s.readAll()
	first := got().GetTlsCertificate().GetCertificateChain().GetInlineBytes()
	if !bytes.Equal(first, identity.PEMCertificates(issued.Chain...)) {
		t.Error("another chain than that of the file")
	}

	// A key that belongs to another certificate changes nothing, and is in no log.
	_, other := a.issue()
	put(t, dir, issued, other)
	s.readAll()
	s.readAll()
	if r := s.delta(sent); r != nil {
		t.Errorf("got %v", r)
	}
	if n := strings.Count(log.String(), "are no pair"); n != 1 || strings.Contains(log.String(), "PRIVATE") {
		t.Errorf("%d lines: %s", n, log.String())
	}
	put(t, dir, issued, key)
	s.readAll()
	if r := s.delta(sent); r != nil {
		t.Error("what did not change is sent again")
	}
	if !strings.Contains(log.String(), "as it should be again") {
		t.Error(log.String())
	}

	// Authorities, of a folder and the machine's own.
	clear(sent)
	roots := a.ca.Bundle(1)
	write(t, filepath.Join(dir, "shop", "bank", "ca.crt"), roots.PEM())
	ask(AuthorityPrefix + "shop/bank")
	if v := got().GetValidationContext(); !bytes.Equal(v.GetTrustedCa().GetInlineBytes(), roots.PEM()) {
		t.Error("other authorities than those of the file")
	}
	clear(sent)
	t.Setenv("SSL_CERT_FILE", filepath.Join(dir, "shop", "bank", "ca.crt"))
	ask(SystemRoots)
	got()

	// No name leads out of the folder.
	clear(sent)
	for _, name := range []string{CertificatePrefix + "../shop/bank", CertificatePrefix + "shop/../shop/bank", CertificatePrefix + "shop", CertificatePrefix + "/etc"} {
		ask(name)
	}
	if r := s.delta(sent); len(r.GetResources()) != 0 {
		t.Errorf("got %v", r)
	}
}

// TestProblemsWithFiles: what is missing or expired is told, and what is well again is not any more.
func TestProblemsWithFiles(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	s, err := NewServer(NewSecrets(), dir, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	told := func(want string) {
		t.Helper()
		select {
		case <-s.ProblemsChanged():
		default:
			t.Error("there is no news")
		}
		got := s.Problems()
		switch {
		case want == "" && len(got) > 0, want != "" && (len(got) != 1 || got[0].Name != CertificatePrefix+"shop/bank" || !strings.Contains(got[0].Reason, want)):
			t.Errorf("got %+v, want %q", got, want)
		}
	}
	s.want(CertificatePrefix + "shop/bank")
	told("no such file")
	issued, key := a.issue()
	put(t, dir, issued, key)
	s.readAll()
	told("")
	s.now = func() time.Time { return issued.Leaf.NotAfter.Add(time.Second) }
	s.readAll()
	told("has expired at")
	s.readAll()
	if len(s.ProblemsChanged()) != 0 {
		t.Error("the same is told again")
	}
}
