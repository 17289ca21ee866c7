package publish

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/ads"
	"github.com/comity-mesh/comity/zone-cp/internal/ca"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
	"github.com/comity-mesh/comity/zone-cp/internal/exports"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
)

// running is a zone's publisher with its store and xDS server, and one workload "web" with a real Envoy.
type running struct {
	t        *testing.T
	store    *sqlitestore.Store
	id       mesh.ProxyID
	inbound  int
	outbound int
	dir      string
	xds      string
	spoil    func([]envoy.Resource) []envoy.Resource
	ca       *ca.CA
	try      func(context.Context, mesh.ProxyID, []byte) (string, error) // of Config; may be nil
	p        *Publisher
	stop     func()
	whole    *testing.T // t is the subtest's
}

const patient = 20 * time.Second

// until asks until f has no objection.
func until(t *testing.T, what string, f func() error) {
	t.Helper()
	deadline := time.After(patient)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func newRunning(t *testing.T, spoil func([]envoy.Resource) []envoy.Resource) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "pub") // short: a socket's path has at most 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &running{t: t, whole: t, id: mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "web"}, inbound: int(freeporttest.Port(t)), outbound: int(freeporttest.Port(t)), dir: dir, spoil: spoil}
	if r.store, err = sqlitestore.Open(t.Context(), filepath.Join(dir, "zone.db"), sqlitestore.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.store.Close() })
	r.ca, err = ca.Open(ca.Config{Zone: "east", TrustDomain: "east.example", Dir: filepath.Join(dir, "ca"), Records: r.store, Endpoints: []string{"127.0.0.1:1"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.ca.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.xds = l.Addr().String()
	_ = l.Close()
	return r
}

// run runs the publisher and its xDS server until stop, at the latest until the end of the whole test.
func (r *running) run() {
	r.t.Helper()
	log := slog.New(slog.NewTextHandler(logTo{r.whole}, nil))
	own, err := r.ca.Bundle(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	book, err := imports.Open(r.t.Context(), r.store, "east", own, time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	resolver, err := imports.NewResolver(r.t.Context(), nil, r.store, log)
	if err != nil {
		r.t.Fatal(err)
	}
	ledger, err := exports.OpenLedger(r.t.Context(), r.store, "east", "east.example", "life", r.ca.StatementSigner())
	if err != nil {
		r.t.Fatal(err)
	}
	picture := discovery.Picture{Workloads: []topology.Workload{{
		Namespace: "shop", Name: "web", Labels: map[string]string{"app": "web"}, Healthy: true,
		Identity: mesh.TrustDomain("east.example").WorkloadID("shop", "web"),
		Spec:     policy.Workload{ServiceAccount: "web", Address: "127.0.0.1", InboundPort: uint16(r.inbound), OutboundPort: uint16(r.outbound)},
	}}}
	if r.try != nil {
		picture.Agents = map[mesh.ProxyID]discovery.Agent{r.id: {Attending: true, Tries: true, Healthy: true}}
	}
	p, err := New(Config{
		Zone: "east", TrustDomain: "east.example", Store: r.store, Source: still{picture}, Book: book, Resolver: resolver, Keys: issuerKeys(r.t, r.store), Ledger: ledger, Peers: alone(r.t, r.store, book, ledger), TrustUntil: forever, Identity: r.ca,
		Statuses: federation.NewStatusBook("00"), Offer: func([]identity.Statement) {}, Log: log, Metrics: prometheus.NewRegistry(), Try: r.try,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	p.spoil, r.p = r.spoil, p
	x, err := ads.NewServer(ads.Config{
		Log: log, Metrics: prometheus.NewRegistry(), Observer: p.Observer(),
		Authorize: func(_ context.Context, _ []*x509.Certificate, node string) (mesh.ProxyID, error) {
			return mesh.ParseProxyID(node)
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	p.Serve(x)
	l, err := net.Listen("tcp", r.xds)
	if err != nil {
		r.t.Fatal(err)
	}
	server := grpc.NewServer(ads.ServerOptions()...)
	x.Register(server)
	ctx, cancel := context.WithCancel(r.whole.Context())
	done := make(chan struct{}, 3)
	go func() { _ = server.Serve(l); done <- struct{}{} }() // ends with Stop
	go func() { x.Run(ctx); done <- struct{}{} }()
	go func() {
		if err := p.Run(ctx); err != nil {
			r.whole.Error(err)
		}
		done <- struct{}{}
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		server.Stop()
		for range 3 {
			<-done
		}
	})
	r.whole.Cleanup(r.stop)
	select {
	case <-p.Ready():
	case <-time.After(patient):
		r.t.Fatal("nothing was published")
	}
}

type logTo struct{ t *testing.T }

func (w logTo) Write(b []byte) (int, error) { w.t.Logf("%s", bytes.TrimSpace(b)); return len(b), nil }

// secrets is the agent's part: it answers every request with the proxy's identity.
type secrets struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	chain, key []byte
}

func (s secrets) DeltaSecrets(stream secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	for {
		in, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, name := range in.GetResourceNamesSubscribe() {
			bytesOf := func(b []byte) *corev3.DataSource {
				return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
			}
			body, err := anypb.New(&tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: bytesOf(s.chain), PrivateKey: bytesOf(s.key)}}})
			if err != nil {
				return err
			}
			err = stream.Send(&discoveryv3.DeltaDiscoveryResponse{TypeUrl: envoy.TypeSecret, Nonce: "1", Resources: []*discoveryv3.Resource{{Name: name, Version: "1", Resource: body}}})
			if err != nil {
				return err
			}
		}
	}
}

// envoy starts the Envoy of the workload.
func (r *running) envoy() {
	r.t.Helper()
	binary, err := envoybin.Path()
	if err != nil {
		r.t.Fatal(err) // make tools installs it
	}
	root, err := identity.NewRoot("east.example", time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		r.t.Fatal(err)
	}
	id, err := identity.NewID("east.example", "/ns/shop/sa/web")
	if err != nil {
		r.t.Fatal(err)
	}
	issued, err := root.Sign(key.Public(), id, 0, time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	pem, err := identity.PEMKey(key)
	if err != nil {
		r.t.Fatal(err)
	}
	socket := filepath.Join(r.dir, "sds")
	l, err := net.Listen("unix", socket)
	if err != nil {
		r.t.Fatal(err)
	}
	agent := grpc.NewServer()
	secretv3.RegisterSecretDiscoveryServiceServer(agent, secrets{chain: identity.PEMCertificates(issued.Chain...), key: pem})
	go func() { _ = agent.Serve(l) }() // ends with Stop
	r.t.Cleanup(agent.Stop)
	host, port, err := net.SplitHostPort(r.xds)
	if err != nil {
		r.t.Fatal(err)
	}
	cluster := func(name, address string) string {
		return fmt.Sprintf(`{"name": %q, "type": "STATIC", "connect_timeout": "1s", "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
   "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}},
  "load_assignment": {"cluster_name": %q, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": %s}}]}]}}`, name, name, address)
	}
	bootstrap := fmt.Sprintf(`{"node": {"id": %q, "cluster": "test"}, "dynamic_resources": {
  "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
   "grpc_services": [{"envoy_grpc": {"cluster_name": "xds", "retry_policy": {"retry_back_off": {"base_interval": "0.05s", "max_interval": "0.2s"}}}}]},
  "cds_config": {"ads": {}, "resource_api_version": "V3"}, "lds_config": {"ads": {}, "resource_api_version": "V3"}},
 "static_resources": {"clusters": [%s, %s]}}`, r.id.String(),
		cluster("xds", fmt.Sprintf(`{"socket_address": {"address": %q, "port_value": %s}}`, host, port)),
		cluster(envoy.LocalSDSCluster, fmt.Sprintf(`{"pipe": {"path": %q}}`, socket)))
	file := filepath.Join(r.dir, "bootstrap.json")
	if err := os.WriteFile(file, []byte(bootstrap), 0o600); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", file, "--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error")
	cmd.Stdout, cmd.Stderr = logTo{r.t}, logTo{r.t}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

// apply commits resources as one revision.
func (r *running) apply(list ...mesh.Resource) {
	r.t.Helper()
	b := store.Batch{Actor: "test", Source: "test"}
	for _, x := range list {
		b.Writes = append(b.Writes, store.Write{Resource: x})
	}
	if _, err := r.store.Apply(r.t.Context(), b); err != nil {
		r.t.Fatal(err)
	}
}

func made(t *testing.T, kind mesh.Kind, name string, spec any) mesh.Resource {
	t.Helper()
	info, _ := policy.Lookup(string(kind))
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	return mesh.Resource{Key: mesh.Key{Origin: "east", Kind: kind, Namespace: "shop", Name: name}, APIVersion: info.APIVersion, Spec: raw}
}

// status is the resource's in the zone's store.
func (r *running) status(x mesh.Resource) (mesh.ResourceStatus, error) {
	var s mesh.ResourceStatus
	rec, err := r.store.GetRecord(r.t.Context(), statusBucket("east"), x.Key.String())
	if err != nil {
		return s, err
	}
	now, err := r.store.Get(r.t.Context(), x.Key)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(rec.Value, &s); err != nil {
		return s, err
	}
	if s.Wanted != now.Changed {
		return s, fmt.Errorf("%s is told of revision %d, not yet of %d", x.Key, s.Wanted, now.Changed)
	}
	return s, nil
}

// clean waits until a resource is applied everywhere and nobody refuses it.
func (r *running) clean(list ...mesh.Resource) {
	r.t.Helper()
	for _, x := range list {
		until(r.t, x.Key.String()+" is applied", func() error {
			s, err := r.status(x)
			if err == nil && (s.State != mesh.StateApplied || s.Acked != s.Total || len(s.Rejections) > 0) {
				err = fmt.Errorf("%+v", s)
			}
			return err
		})
	}
}

// refused waits until the status of a resource names the Envoy and its reason.
func (r *running) refused(x mesh.Resource, reason string) mesh.ResourceStatus {
	r.t.Helper()
	var s mesh.ResourceStatus
	until(r.t, x.Key.String()+" is refused", func() error {
		var err error
		if s, err = r.status(x); err == nil && (s.State != mesh.StateRejected || len(s.Rejections) != 1 ||
			s.Rejections[0].Proxy != r.id.String() || !bytes.Contains([]byte(s.Rejections[0].Error), []byte(reason))) {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
	return s
}

// answer asks a host through the sidecar and returns the status and the code of Comity's own refusals.
func (r *running) answer(host, path string) (int, string) {
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", r.outbound, path), nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	var problem struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(body, &problem) // another form of answer has no code
	return resp.StatusCode, problem.Code
}

func (r *running) answers(host, path, code string) {
	r.t.Helper()
	until(r.t, host+path+" answers "+code, func() error {
		if status, got := r.answer(host, path); got != code {
			return fmt.Errorf("%d %s", status, got)
		}
		return nil
	})
}
