package sds

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

const td = mesh.TrustDomain("east.example")

// authority issues what is served.
type authority struct {
	t  *testing.T
	ca *identity.Authority
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	root, err := identity.NewRoot(td, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := root.NewIntermediate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return authority{t, ca}
}

func (a authority) issue() (identity.Issued, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		a.t.Fatal(err)
	}
	id, err := identity.WorkloadID(td, "shop", "web")
	if err != nil {
		a.t.Fatal(err)
	}
	issued, err := a.ca.Sign(key.Public(), id, time.Hour, time.Now())
	if err != nil {
		a.t.Fatal(err)
	}
	return issued, key
}

func (a authority) renew(s *Secrets) {
	a.t.Helper()
	issued, key := a.issue()
	if err := s.SetIdentity(issued.Chain, key); err != nil {
		a.t.Fatal(err)
	}
}

// serve starts a server and returns it with a client's connection.
func serve(t *testing.T, secrets *Secrets) (*Server, secretv3.SecretDiscoveryServiceClient, string) {
	t.Helper()
	s, err := NewServer(secrets, "", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sds") // short: a socket's path is bounded
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l, nil) }()
	cc, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, cc.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return s, secretv3.NewSecretDiscoveryServiceClient(cc), path
}

func TestDeltaPushesChangesOnly(t *testing.T) {
	a, secrets := newAuthority(t), NewSecrets()
	s, client, _ := serve(t, secrets)
	stream, err := client.DeltaSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(r *discoveryv3.DeltaDiscoveryRequest) {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	receive := func() *discoveryv3.DeltaDiscoveryResponse {
		t.Helper()
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// Asked before there is one: answered when there is. A name nobody knows is answered at once.
	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesSubscribe: []string{Identity, "other"}})
	if r := receive(); len(r.GetResources()) != 0 || len(r.GetRemovedResources()) != 1 || r.GetRemovedResources()[0] != "other" {
		t.Fatalf("got %v", r)
	}
	a.renew(secrets)
	first := receive()
	if len(first.GetResources()) != 1 || first.GetResources()[0].GetName() != Identity {
		t.Fatalf("got %d resources", len(first.GetResources()))
	}
	if err := secrets.SetRoots(a.ca.Bundle(1)); err != nil { // not subscribed: not sent
		t.Fatal(err)
	}
	a.renew(secrets)
	second := receive()
	if n := len(second.GetResources()); n != 1 || second.GetResources()[0].GetName() != Identity || second.GetNonce() == first.GetNonce() {
		t.Fatalf("got %d resources", n)
	}
	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResponseNonce: second.GetNonce(), ErrorDetail: &statuspb.Status{Message: "no"}})
	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesSubscribe: []string{ZoneRoots}})
	if r := receive(); len(r.GetResources()) != 1 || r.GetResources()[0].GetName() != ZoneRoots {
		t.Fatalf("got %v", r.GetResources())
	}
	if n := testutil.ToFloat64(s.metrics.nacks); n != 1 {
		t.Errorf("%v rejections counted", n)
	}

	// After a reconnect, what has not changed is not sent again.
	again, err := client.DeltaSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stream = again
	send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesSubscribe: []string{Identity, ZoneRoots},
		InitialResourceVersions: map[string]string{Identity: second.GetResources()[0].GetVersion()}})
	if r := receive(); len(r.GetResources()) != 1 || r.GetResources()[0].GetName() != ZoneRoots {
		t.Errorf("got %d resources", len(r.GetResources()))
	}
}

func TestStateOfTheWorld(t *testing.T) {
	a, secrets := newAuthority(t), NewSecrets()
	_, client, _ := serve(t, secrets)
	stream, err := client.StreamSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&discoveryv3.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{Identity}}); err != nil {
		t.Fatal(err)
	}
	var versions []string
	for range 2 {
		a.renew(secrets)
		r, err := stream.Recv()
		if err != nil || len(r.GetResources()) != 1 {
			t.Fatal(r.GetVersionInfo(), err)
		}
		versions = append(versions, r.GetVersionInfo())
		if err := stream.Send(&discoveryv3.DiscoveryRequest{TypeUrl: secretType, ResourceNames: []string{Identity}, VersionInfo: r.GetVersionInfo(), ResponseNonce: r.GetNonce()}); err != nil {
			t.Fatal(err)
		}
	}
	if versions[0] == versions[1] {
		t.Error("a renewal has the version of the one before")
	}
}

func TestUnusableSecretsAreNotServed(t *testing.T) {
	a, secrets := newAuthority(t), NewSecrets()
	issued, _ := a.issue()
	_, other := a.issue()
	if err := secrets.SetIdentity(issued.Chain, other); err == nil {
		t.Error("a certificate with another's key is served")
	}
	if err := secrets.SetRoots(identity.Bundle{TrustDomain: td}); err == nil {
		t.Error("no roots are served as roots")
	}
}

func TestNoiseIsClosedAndCounted(t *testing.T) {
	s, _, path := serve(t, NewSecrets())
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("PRI * HTTP/1.1\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection stays open")
	}
	if n := testutil.ToFloat64(s.metrics.refused.WithLabelValues("bytes")); n != 1 {
		t.Errorf("%v counted", n)
	}
}

// TestMain is also the stranger of TestAnotherUserIsRefused.
func TestMain(m *testing.M) {
	path := os.Getenv("COMITY_TEST_SOCKET")
	if path == "" {
		os.Exit(m.Run())
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		os.Exit(3)
	}
	_, _ = c.Write(preface) // may fail: the refusal comes without asking
	n, _ := io.Copy(io.Discard, c)
	os.Exit(int(min(n, 2))) // 0: closed without a byte
}

func TestAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	s, _, path := serve(t, NewSecrets())
	// As if the folder and the socket had been opened to everybody by mistake.
	if err := errors.Join(os.Chmod(filepath.Dir(path), 0o755), os.Chmod(path, 0o666)); err != nil { //nolint:gosec // the point of it
		t.Fatal(err)
	}
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(filepath.Dir(path), "stranger")
	if err := os.WriteFile(program, self, 0o755); err != nil { //nolint:gosec // for another user to run
		t.Fatal(err)
	}
	cmd := exec.Command(program) //nolint:gosec // a copy of this test
	cmd.Env, cmd.Dir = []string{"COMITY_TEST_SOCKET=" + path}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("the stranger was served, or could not run: %v %s", err, out.String())
	}
	if n := testutil.ToFloat64(s.metrics.refused.WithLabelValues("peer")); n != 1 {
		t.Errorf("%v counted", n)
	}
}
