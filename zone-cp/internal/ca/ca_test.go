package ca_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/zone-cp/internal/ca"
)

// memory is store.Records in memory, with the contract's compare-and-set and atomic writes.
type memory struct {
	mu   sync.Mutex
	seq  map[string]uint64
	recs map[string]map[string]store.Record
}

var _ store.Records = (*memory)(nil)

func newMemory() *memory {
	return &memory{seq: map[string]uint64{}, recs: map[string]map[string]store.Record{}}
}

func (m *memory) PutRecords(_ context.Context, bucket string, writes ...store.RecordWrite) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range writes {
		if w.IfVersion != nil && m.recs[bucket][w.Key].Version != *w.IfVersion {
			return 0, fmt.Errorf("%s: %w", w.Key, store.ErrConflict)
		}
	}
	m.seq[bucket]++
	if m.recs[bucket] == nil {
		m.recs[bucket] = map[string]store.Record{}
	}
	for _, w := range writes {
		if w.Delete {
			delete(m.recs[bucket], w.Key)
			continue
		}
		m.recs[bucket][w.Key] = store.Record{Key: w.Key, Value: bytes.Clone(w.Value), Version: m.seq[bucket]}
	}
	return m.seq[bucket], nil
}

func (m *memory) GetRecord(_ context.Context, bucket, key string) (store.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.recs[bucket][key]
	if !ok {
		return store.Record{}, fmt.Errorf("%s: %w", key, store.ErrNotFound)
	}
	return r, nil
}

func (m *memory) ListRecords(_ context.Context, bucket, prefix string) ([]store.Record, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []store.Record
	for k, r := range m.recs[bucket] {
		if strings.HasPrefix(k, prefix) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b store.Record) int { return strings.Compare(a.Key, b.Key) })
	return out, m.seq[bucket], nil
}

func (m *memory) WatchRecords(ctx context.Context, _ string) <-chan struct{} {
	ch := make(chan struct{}, 1)
	ch <- struct{}{}
	context.AfterFunc(ctx, func() { close(ch) })
	return ch
}

// clock is a clock that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// safeBuffer is a log that several goroutines write.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// rig is a zone's authority with its enrolment service on loopback.
type rig struct {
	*ca.CA
	cfg   ca.Config
	clock *clock
	log   *safeBuffer
	addr  string
}

func config(t *testing.T, dir string, records store.Records, c *clock, log io.Writer) ca.Config {
	t.Helper()
	return ca.Config{
		Zone: "aws-east", TrustDomain: "aws-east.demo.example", Dir: dir, Records: records,
		Endpoints: []string{"127.0.0.1:1"}, Log: slog.New(slog.NewTextHandler(log, nil)), Now: c.now,
	}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{clock: &clock{at: time.Now()}, log: &safeBuffer{}}
	r.cfg = config(t, filepath.Join(t.TempDir(), "ca"), newMemory(), r.clock, r.log)
	r.open(t)
	return r
}

func (r *rig) open(t *testing.T) {
	t.Helper()
	c, err := ca.Open(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.CA = c
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(c.ServerTLS(true))))
	enrolpb.RegisterEnrolmentServer(srv, c.Service(func(caller ca.Caller, s enrolpb.Enrolment_AttendServer) error {
		return s.Send(&enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Refused{Refused: &enrolpb.Refused{Code: "who", Reason: caller.Proxy.String() + " " + caller.ID.String()}}})
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(lis) // ends with Stop
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-done
		_ = c.Close() // a test may have closed it before
	})
	r.addr = lis.Addr().String()
}

// conn is a client connection whose TLS session is known.
type conn struct {
	enrolpb.EnrolmentClient
	exporter []byte
}

func dial(t *testing.T, addr string, cfg *tls.Config) conn {
	t.Helper()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	c := conn{EnrolmentClient: enrolpb.NewEnrolmentClient(cc)}
	// Any answer, even a refusal, brings the TLS state.
	var p peer.Peer
	_, err = c.Renew(t.Context(), &enrolpb.RenewRequest{}, grpc.Peer(&p))
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		t.Fatalf("no TLS session: %v", err)
	}
	if c.exporter, err = identity.Exporter(info.State); err != nil {
		t.Fatal(err)
	}
	return c
}

func (r *rig) pinned(t *testing.T) conn {
	t.Helper()
	return dial(t, r.addr, identity.PinnedClientTLS(nil, r.Pin(), "/fed/zone-cp", identity.TLSOptions{Now: r.clock.now}))
}

func (r *rig) mutual(t *testing.T, chain [][]byte, key *ecdsa.PrivateKey) conn {
	t.Helper()
	certs, err := identity.ParseDERChain(chain)
	if err != nil {
		t.Fatal(err)
	}
	cert := identity.TLSCertificate(certs, key)
	return dial(t, r.addr, identity.ClientTLS(func() (*tls.Certificate, error) { return cert, nil }, r,
		identity.AuthorizeOneOf(r.TrustDomain().ZoneCPID()), identity.TLSOptions{Now: r.clock.now}))
}

func (r *rig) token(t *testing.T, limit int) identity.EnrolToken {
	t.Helper()
	tok, err := r.CreateToken(t.Context(), ca.TokenSpec{Role: mesh.RoleSidecar, Namespace: "shop", ServiceAccount: "web", TTL: time.Hour, Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	// Through its text, as an agent gets it.
	text, err := tok.Text()
	if err != nil {
		t.Fatal(err)
	}
	if tok, err = identity.ParseEnrolToken(text); err != nil {
		t.Fatal(err)
	}
	return tok
}

func newKey(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := identity.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, csr
}

func request(t *testing.T, tok identity.EnrolToken, exporter, csr []byte, p mesh.ProxyID) *enrolpb.EnrolRequest {
	t.Helper()
	proof, err := tok.Prove(identity.EnrolTranscript{Exporter: exporter, CSR: csr, TokenID: tok.ID, Proxy: p}.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return &enrolpb.EnrolRequest{Role: string(p.Role), Namespace: p.Namespace, Name: p.Name, TokenId: tok.ID, Csr: csr, Proof: proof}
}

var web1 = mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "web-1"}

func serial(t *testing.T, chain [][]byte) string {
	t.Helper()
	c, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return identity.SerialOf(c)
}

func wantCode(t *testing.T, err error, code codes.Code, word string) {
	t.Helper()
	if status.Code(err) != code || !strings.HasPrefix(status.Convert(err).Message(), word+":") {
		t.Errorf("error = %v, want %s %s", err, code, word)
	}
}

func TestEnrolRenewReattest(t *testing.T) {
	r := newRig(t)
	tok := r.token(t, 1)
	key, csr := newKey(t)
	c := r.pinned(t)
	resp, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1))
	if err != nil {
		t.Fatal(err)
	}
	if resp.GetSpiffeId() != "spiffe://aws-east.demo.example/ns/shop/sa/web" || resp.GetZone() != "aws-east" {
		t.Fatalf("enrolled as %v", resp)
	}
	first := serial(t, resp.GetCertificateChain())
	if p, ok := r.Lookup(first); !ok || p != web1 {
		t.Fatalf("Lookup = %v, %v", p, ok)
	}

	t.Run("attend over mTLS", func(t *testing.T) {
		stream, err := r.mutual(t, resp.GetCertificateChain(), key).Attend(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n, err := stream.Recv()
		if err != nil || n.GetRefused().GetReason() != web1.String()+" spiffe://aws-east.demo.example/ns/shop/sa/web" {
			t.Fatalf("notice %v, %v", n, err)
		}
	})
	t.Run("attend without a certificate", func(t *testing.T) {
		stream, err := r.pinned(t).Attend(t.Context())
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unauthenticated {
			t.Fatalf("error %v", err)
		}
	})
	t.Run("renew over mTLS with a new key", func(t *testing.T) {
		key2, csr2 := newKey(t)
		got, err := r.mutual(t, resp.GetCertificateChain(), key).Renew(t.Context(), &enrolpb.RenewRequest{Role: "sidecar", Namespace: "shop", Name: "web-1", Csr: csr2})
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := r.Lookup(serial(t, got.GetCertificateChain())); !ok || p != web1 {
			t.Fatalf("Lookup = %v, %v", p, ok)
		}
		r.mutual(t, got.GetCertificateChain(), key2)
	})
	t.Run("renew as another proxy", func(t *testing.T) {
		_, csr2 := newKey(t)
		_, err := r.mutual(t, resp.GetCertificateChain(), key).Renew(t.Context(), &enrolpb.RenewRequest{Role: "sidecar", Namespace: "shop", Name: "web-2", Csr: csr2})
		wantCode(t, err, codes.PermissionDenied, ca.CodeNotEnrolled)
	})

	t.Run("restart, then the instance key after the certificate's end", func(t *testing.T) {
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		pin := r.Pin()
		r.open(t)
		if r.Pin() != pin {
			t.Fatal("the root changed over a restart")
		}
		if p, ok := r.Lookup(first); !ok || p != web1 {
			t.Fatalf("after a restart Lookup = %v, %v", p, ok)
		}
		r.clock.advance(identity.LeafTTL + time.Minute)
		if _, ok := r.Lookup(first); ok {
			t.Error("an expired certificate is still known")
		}
		c := r.pinned(t)
		_, csr2 := newKey(t)
		proof, err := identity.SignTranscript(key, identity.RenewTranscript{Exporter: c.exporter, CSR: csr2, Who: web1.String()}.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		req := &enrolpb.RenewRequest{Role: "sidecar", Namespace: "shop", Name: "web-1", Csr: csr2, Proof: proof}
		got, err := c.Renew(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := r.Lookup(serial(t, got.GetCertificateChain())); !ok || p != web1 {
			t.Fatalf("Lookup = %v, %v", p, ok)
		}
		// The same proof on another connection is worth nothing.
		_, err = r.pinned(t).Renew(t.Context(), req)
		wantCode(t, err, codes.PermissionDenied, ca.CodeNotEnrolled)
		// Nor after the instance was removed.
		if err := r.RemoveInstance(t.Context(), web1); err != nil {
			t.Fatal(err)
		}
		if _, ok := r.Lookup(serial(t, got.GetCertificateChain())); ok {
			t.Error("a removed instance's certificate is still known")
		}
		_, err = c.Renew(t.Context(), req)
		wantCode(t, err, codes.PermissionDenied, ca.CodeNotEnrolled)
	})
}

func TestEnrolRefuses(t *testing.T) {
	r := newRig(t)
	c := r.pinned(t)
	tok := r.token(t, 1)
	_, csr := newKey(t)

	t.Run("wrong namespace", func(t *testing.T) {
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "bank", Name: "web-1"}))
		wantCode(t, err, codes.PermissionDenied, ca.CodeTokenMismatch)
	})
	t.Run("wrong role", func(t *testing.T) {
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, mesh.ProxyID{Role: mesh.RoleIngress, Name: "web-1"}))
		wantCode(t, err, codes.PermissionDenied, ca.CodeTokenMismatch)
	})
	t.Run("proof of another connection", func(t *testing.T) {
		_, err := c.Enrol(t.Context(), request(t, tok, r.pinned(t).exporter, csr, web1))
		wantCode(t, err, codes.PermissionDenied, ca.CodeRefused)
	})
	t.Run("proof for another request", func(t *testing.T) {
		req := request(t, tok, c.exporter, csr, web1)
		_, req.Csr = newKey(t)
		_, err := c.Enrol(t.Context(), req)
		wantCode(t, err, codes.PermissionDenied, ca.CodeRefused)
	})
	t.Run("unknown token", func(t *testing.T) {
		other := tok
		other.ID = "0123456789abcdef"
		_, err := c.Enrol(t.Context(), request(t, other, c.exporter, csr, web1))
		wantCode(t, err, codes.PermissionDenied, ca.CodeRefused)
	})
	t.Run("oversize request", func(t *testing.T) {
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, make([]byte, identity.MaxCSRBytes+1), web1))
		wantCode(t, err, codes.InvalidArgument, ca.CodeMalformed)
	})
	t.Run("name that is none", func(t *testing.T) {
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "../x~y"}))
		wantCode(t, err, codes.InvalidArgument, ca.CodeMalformed)
	})
	t.Run("used up", func(t *testing.T) {
		if _, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1)); err != nil {
			t.Fatal(err)
		}
		// Again with the same key: the same instance, not another one.
		if _, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1)); err != nil {
			t.Fatal(err)
		}
		_, csr2 := newKey(t)
		web2 := mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "web-2"}
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr2, web2))
		wantCode(t, err, codes.FailedPrecondition, ca.CodeTokenUsedUp)
	})
	t.Run("name held by another identity", func(t *testing.T) {
		other, err := r.CreateToken(t.Context(), ca.TokenSpec{Role: mesh.RoleSidecar, Namespace: "shop", ServiceAccount: "admin", TTL: time.Hour, Limit: 9})
		if err != nil {
			t.Fatal(err)
		}
		_, csr2 := newKey(t)
		_, err = c.Enrol(t.Context(), request(t, other, c.exporter, csr2, web1))
		wantCode(t, err, codes.AlreadyExists, ca.CodeNameTaken)
	})
	t.Run("revoked", func(t *testing.T) {
		tok := r.token(t, 1)
		if err := r.RevokeToken(t.Context(), tok.ID); err != nil {
			t.Fatal(err)
		}
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1))
		wantCode(t, err, codes.PermissionDenied, ca.CodeTokenRevoked)
	})
	t.Run("expired", func(t *testing.T) {
		tok := r.token(t, 1)
		r.clock.advance(time.Hour + time.Second)
		_, err := c.Enrol(t.Context(), request(t, tok, c.exporter, csr, web1))
		wantCode(t, err, codes.PermissionDenied, ca.CodeTokenExpired)
	})
	log := r.log.String()
	for _, code := range []string{ca.CodeTokenMismatch, ca.CodeRefused, ca.CodeTokenUsedUp, ca.CodeTokenExpired, ca.CodeTokenRevoked} {
		if !strings.Contains(log, "code="+code) {
			t.Errorf("no refusal with %s in the log", code)
		}
	}
	text, err := tok.Text()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log, text) || strings.Contains(log, "PRIVATE") {
		t.Error("a secret is in the log")
	}
}

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
	nc, err := tls.Dial("tcp", r.addr, cfg)
	if err == nil {
		// In TLS 1.3 the server's refusal comes with the first read.
		_, err = nc.Read(make([]byte, 1))
		_ = nc.Close()
	}
	if err == nil {
		t.Error("a certificate of another authority got in")
	}
	// And the pin of one zone does not open the other.
	if _, err := tls.Dial("tcp", r.addr, identity.PinnedClientTLS(nil, other.Pin(), "/fed/zone-cp", identity.TLSOptions{})); err == nil {
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
