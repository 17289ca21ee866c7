package ca_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/zone-cp/internal/ca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

func config(dir string, records store.Records, c *clock, log io.Writer) ca.Config {
	return ca.Config{
		Zone: "aws-east", TrustDomain: "aws-east.demo.example", Dir: dir, Records: records,
		Endpoints: []string{"127.0.0.1:1"}, Log: slog.New(slog.NewTextHandler(log, nil)), Now: c.now,
	}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{clock: &clock{at: time.Now()}, log: &safeBuffer{}}
	r.cfg = config(filepath.Join(t.TempDir(), "ca"), openStore(t), r.clock, r.log)
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
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(c.ServerTLS(true))))
	enrolpb.RegisterEnrolmentServer(srv, c.Service(func(caller ca.Caller, s enrolpb.Enrolment_AttendServer) error {
		return s.Send(&enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Refused{Refused: &enrolpb.Refused{Code: "who", Reason: caller.Proxy.String() + " " + caller.ID.String()}}})
	}, nil))
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

func openStore(t *testing.T) store.Records {
	t.Helper()
	s, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "zone.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
