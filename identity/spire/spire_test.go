package spire_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/identity/spire"
	"github.com/comity-mesh/comity/mesh"
)

const td = mesh.TrustDomain("onprem.example")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// spireAgent is a Workload API as SPIFFE describes it: the metadata header is demanded, each message
// is the full state, no identity is PermissionDenied.
type spireAgent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	mu      sync.Mutex
	state   *workload.X509SVIDResponse // nil: no identity
	changed chan struct{}
}

func (a *spireAgent) set(r *workload.X509SVIDResponse) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state = r
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *spireAgent) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	for {
		a.mu.Lock()
		state, changed := a.state, a.changed
		a.mu.Unlock()
		if state == nil {
			return status.Error(codes.PermissionDenied, "no identity issued")
		}
		if err := stream.Send(state); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// spireServer answers GetBundle and bumps the sequence on every change, as SPIRE does.
type spireServer struct {
	bundlev1.UnimplementedBundleServer
	mu     sync.Mutex
	bundle *types.Bundle
}

func (s *spireServer) GetBundle(_ context.Context, r *bundlev1.GetBundleRequest) (*types.Bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bundle == nil {
		return nil, status.Error(codes.Unavailable, "starting")
	}
	m, b := r.GetOutputMask(), &types.Bundle{TrustDomain: s.bundle.GetTrustDomain()}
	if m == nil || m.GetX509Authorities() {
		b.X509Authorities = s.bundle.GetX509Authorities()
	}
	if m == nil || m.GetRefreshHint() {
		b.RefreshHint = s.bundle.GetRefreshHint()
	}
	if m == nil || m.GetSequenceNumber() {
		b.SequenceNumber = s.bundle.GetSequenceNumber()
	}
	return b, nil
}

func (s *spireServer) set(seq uint64, roots ...*x509.Certificate) {
	b := &types.Bundle{TrustDomain: string(td), SequenceNumber: seq, RefreshHint: 60}
	for _, c := range roots {
		b.X509Authorities = append(b.X509Authorities, &types.X509Certificate{Asn1: c.Raw})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bundle = b
}

// listen serves on a Unix socket and returns its path.
func listen(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.sock")
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	register(srv)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(lis) // ends with Stop
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-done
	})
	return path
}

func authority(t *testing.T) *identity.Authority {
	t.Helper()
	a, err := identity.NewRoot(td, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// svid is what an agent sends for one identity.
func svid(t *testing.T, a *identity.Authority, path string, roots ...*x509.Certificate) *workload.X509SVIDResponse {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.NewID(td, path)
	if err != nil {
		t.Fatal(err)
	}
	is, err := a.Sign(key.Public(), id, 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	v := &workload.X509SVID{SpiffeId: id.String(), X509SvidKey: der}
	for _, c := range is.Chain {
		v.X509Svid = append(v.X509Svid, c.Raw...)
	}
	for _, c := range roots {
		v.Bundle = append(v.Bundle, c.Raw...)
	}
	return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{v}}
}

func open(t *testing.T, cfg spire.Config) *spire.Source {
	t.Helper()
	cfg.TrustDomain, cfg.Log = td, slog.New(slog.DiscardHandler)
	s, err := spire.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// eventually waits for a fact that has no channel of its own.
func eventually(t *testing.T, what string, fact func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("it never came: %s", what)
		}
	}
}

func next(t *testing.T, ch <-chan identity.Bundle) identity.Bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	select {
	case b := <-ch:
		return b
	case <-ctx.Done():
		t.Fatal("no bundle came")
		return identity.Bundle{}
	}
}

func TestAgent(t *testing.T) {
	a, b := authority(t), authority(t)
	ag := &spireAgent{changed: make(chan struct{})}
	path := listen(t, func(s *grpc.Server) { workload.RegisterSpiffeWorkloadAPIServer(s, ag) })
	src := open(t, spire.Config{AgentSocket: path})
	eventually(t, "the refusal", func() bool { return src.Err() != nil })
	if _, err := src.Certificate(td.ZoneCPID())(); err == nil {
		t.Error("a certificate without an identity")
	}
	ag.set(svid(t, a, "/fed/zone-cp", a.Root()))
	updates := src.Updates(t.Context())
	first := next(t, updates)
	if len(first.Authorities) != 1 || !first.Authorities[0].Equal(a.Root()) {
		t.Fatalf("bundle %+v", first)
	}
	eventually(t, "the certificate", func() bool { _, err := src.Certificate(td.ZoneCPID())(); return err == nil })

	// SPIRE rotates: the new root comes beside the old one.
	ag.set(svid(t, b, "/fed/zone-cp", a.Root(), b.Root()))
	second := next(t, updates)
	if len(second.Authorities) != 2 || second.Sequence <= first.Sequence {
		t.Fatalf("after the rotation: %d authorities, sequence %d after %d", len(second.Authorities), second.Sequence, first.Sequence)
	}
	eventually(t, "the new certificate", func() bool {
		cert, err := src.Certificate(td.ZoneCPID())()
		return err == nil && cert.Leaf.CheckSignatureFrom(b.Root()) == nil
	})
	// A handshake with it, by our own rules.
	tcp, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis := tls.NewListener(tcp, identity.ServerTLS(src.Certificate(td.ZoneCPID()), second, identity.AuthorizeTrustDomain(td), identity.TLSOptions{ClientCertOptional: true}))
	t.Cleanup(func() { _ = lis.Close() })
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		if c, err := lis.Accept(); err == nil {
			_, _ = io.WriteString(c, "ok") // makes the handshake; the client judges it
			_ = c.Close()
		}
	}()
	dialer := &tls.Dialer{Config: identity.ClientTLS(nil, second, identity.AuthorizeOneOf(td.ZoneCPID()), identity.TLSOptions{})}
	c, err := dialer.DialContext(t.Context(), "tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	<-accepted

	// A bundle without a single usable root changes nothing.
	leaf, err := src.Certificate(td.ZoneCPID())()
	if err != nil {
		t.Fatal(err)
	}
	ag.set(svid(t, b, "/fed/zone-cp", leaf.Leaf))
	eventually(t, "the complaint", func() bool { return errors.Is(src.Err(), identity.ErrBundle) })
	if got, err := src.Bundle(t.Context()); err != nil || !got.Equal(second) {
		t.Errorf("the last good bundle is gone: %v", err)
	}
	if _, err := src.Issue(t.Context(), nil, identity.ID{}, 0); !errors.Is(err, identity.ErrCannotIssue) {
		t.Errorf("Issue = %v", err)
	}
}

func TestServer(t *testing.T) {
	a, b := authority(t), authority(t)
	ag := &spireAgent{changed: make(chan struct{}), state: svid(t, a, "/fed/zone-cp", a.Root())}
	srv := &spireServer{}
	src := open(t, spire.Config{
		AgentSocket:  listen(t, func(s *grpc.Server) { workload.RegisterSpiffeWorkloadAPIServer(s, ag) }),
		ServerSocket: listen(t, func(s *grpc.Server) { bundlev1.RegisterBundleServer(s, srv) }),
		Poll:         5 * time.Millisecond,
	})
	eventually(t, "the server's failure", func() bool { return src.Err() != nil && strings.Contains(src.Err().Error(), "server") })
	srv.set(7, a.Root())
	updates := src.Updates(t.Context())
	first := next(t, updates)
	if first.Sequence != 7 || first.RefreshHint != time.Minute || len(first.Authorities) != 1 {
		t.Fatalf("bundle %+v", first)
	}
	eventually(t, "peace", func() bool { return src.Err() == nil })
	srv.set(8, a.Root(), b.Root())
	if got := next(t, updates); got.Sequence != 8 || len(got.Authorities) != 2 {
		t.Fatalf("bundle %+v", got)
	}
	srv.set(6, b.Root())
	eventually(t, "the refused rollback", func() bool { return errors.Is(src.Err(), identity.ErrRollback) })
	srv.set(8, b.Root())
	eventually(t, "the refused conflict", func() bool { return errors.Is(src.Err(), identity.ErrBundleConflict) })
	srv.set(9)
	if got := next(t, updates); got.Sequence != 9 || len(got.Authorities) != 0 {
		t.Fatalf("bundle %+v", got)
	}
}
