package ads

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/snapshot"
)

// harness is a server on loopback whose events arrive on channels.
type harness struct {
	*Server
	addr     string
	acks     chan mesh.Revision
	rejects  chan Rejection
	lifts    chan snapshot.Lifted
	connects chan Proxy
	leaves   chan Proxy
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	h := &harness{
		acks: make(chan mesh.Revision, 1000), rejects: make(chan Rejection, 1000), lifts: make(chan snapshot.Lifted, 1000),
		connects: make(chan Proxy, 1000), leaves: make(chan Proxy, 1000),
	}
	srv, err := NewServer(Config{
		Authorize: func(_ context.Context, _ []*x509.Certificate, node string) (mesh.ProxyID, error) {
			return mesh.ParseProxyID(node)
		},
		Observer: Observer{
			OnAck:        func(_ mesh.ProxyID, _ snapshot.ViewKey, r mesh.Revision) { h.acks <- r },
			OnReject:     func(r Rejection) { h.rejects <- r },
			OnLift:       func(l snapshot.Lifted) { h.lifts <- l },
			OnConnect:    func(p Proxy) { h.connects <- p },
			OnDisconnect: func(p Proxy) { h.leaves <- p },
		},
		Log:     slog.New(slog.NewTextHandler(testWriter{t}, nil)),
		Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Server = srv
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	g := grpc.NewServer(ServerOptions()...)
	srv.Register(g)
	go func() { _ = g.Serve(l) }()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { srv.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended; g.Stop() })
	return h
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) { w.t.Logf("%s", b); return len(b), nil }

const patience = 20 * time.Second

func await[T any](t *testing.T, what string, c <-chan T, ok func(T) bool) T {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case v := <-c:
			if ok(v) {
				return v
			}
		case <-deadline:
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

func anything[T any](T) bool { return true }

// client is one delta stream as a test drives it by hand.
type client struct {
	t *testing.T
	discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	node *corev3.Node
}

func (h *harness) dial(t *testing.T, node string) *client {
	t.Helper()
	conn, err := grpc.NewClient(h.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &client{t, stream, &corev3.Node{Id: node}}
}

func (c *client) request(r *discovery.DeltaDiscoveryRequest) {
	c.t.Helper()
	r.Node, c.node = c.node, nil
	if err := c.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) subscribe(t snapshot.Type, names ...string) {
	c.t.Helper()
	c.request(&discovery.DeltaDiscoveryRequest{TypeUrl: t.URL(), ResourceNamesSubscribe: names})
}

// next receives a response; it must be of the type.
func (c *client) next(t snapshot.Type) *discovery.DeltaDiscoveryResponse {
	c.t.Helper()
	r, err := c.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	if r.TypeUrl != t.URL() {
		c.t.Fatalf("got %v, want a response about %s", r, t)
	}
	return r
}

func (c *client) ack(r *discovery.DeltaDiscoveryResponse) {
	c.t.Helper()
	c.request(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce})
}

func (c *client) nack(r *discovery.DeltaDiscoveryResponse, text string) {
	c.t.Helper()
	c.request(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce, ErrorDetail: &rpcstatus.Status{Code: 3, Message: text}})
}

func res(t snapshot.Type, name, version string) envoy.Resource {
	return envoy.Resource{Type: t.URL(), Name: name, Version: version, Sources: []mesh.Key{{Origin: "global", Kind: mesh.KindHTTPRoute, Name: name}}}
}

func names(r *discovery.DeltaDiscoveryResponse) string {
	s := ""
	for _, e := range r.Resources {
		s += e.Name + "=" + e.Version + " "
	}
	for _, n := range r.RemovedResources {
		s += "-" + n + " "
	}
	return s
}

func TestStreamWaitsForItsView(t *testing.T) {
	h := newHarness(t)
	c := h.dial(t, "sidecar~shop~web")
	c.subscribe(snapshot.Cluster)
	got := await(t, "connection", h.connects, anything)
	if got.ID.Name != "web" || got.View != "" {
		t.Fatalf("connected as %+v", got)
	}
	h.Assign(got.ID, "v")
	if err := h.Publish("v", 7, []envoy.Resource{res(snapshot.Cluster, "a", "1")}); err != nil {
		t.Fatal(err)
	}
	r := c.next(snapshot.Cluster)
	if names(r) != "a=1 " {
		t.Fatalf("got %s", names(r))
	}
	c.ack(r)
	await(t, "ack of revision 7", h.acks, func(r mesh.Revision) bool { return r == 7 })
	if err := h.Publish("v", 8, []envoy.Resource{res(snapshot.Cluster, "a", "1")}); err != nil {
		t.Fatal(err)
	}
	await(t, "revision 8 without a push", h.acks, func(r mesh.Revision) bool { return r == 8 })
	if p := h.Proxies(); len(p) != 1 || p[0].Acked != 8 {
		t.Fatalf("proxies %+v", p)
	}
}

func TestRefusedResourceIsQuarantinedAlone(t *testing.T) {
	h := newHarness(t)
	id := mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "web"}
	h.Assign(id, "v")
	publish := func(rev mesh.Revision, versions ...string) {
		var list []envoy.Resource
		for i, v := range versions {
			list = append(list, res(snapshot.Cluster, string(rune('a'+i)), v))
		}
		if err := h.Publish("v", rev, list); err != nil {
			t.Fatal(err)
		}
	}
	publish(1, "1", "1", "1", "1")
	c := h.dial(t, id.String())
	c.subscribe(snapshot.Cluster)
	c.ack(c.next(snapshot.Cluster))
	await(t, "revision 1", h.acks, func(r mesh.Revision) bool { return r == 1 })
	publish(2, "2", "2", "bad", "2")
	have := map[string]string{}
	for have["a"] != "2" || have["b"] != "2" || have["d"] != "2" || have["c"] != "1" {
		r := c.next(snapshot.Cluster)
		bad := false
		for _, e := range r.Resources {
			bad = bad || e.Version == "bad"
		}
		if bad {
			c.nack(r, "no good")
			continue
		}
		for _, e := range r.Resources {
			have[e.Name] = e.Version
		}
		c.ack(r)
	}
	rej := await(t, "rejection", h.rejects, anything)
	if rej.Name != "c" || rej.Version != "bad" || rej.Error != "no good" || rej.Proxy != id || len(rej.Sources) != 1 {
		t.Fatalf("rejection %+v", rej)
	}
	await(t, "revision 2", h.acks, func(r mesh.Revision) bool { return r == 2 })
	publish(3, "2", "2", "3", "2")
	if r := c.next(snapshot.Cluster); names(r) != "c=3 " {
		t.Fatalf("got %s", names(r))
	}
	if l := await(t, "lift", h.lifts, anything); l.Name != "c" || l.Version != "bad" {
		t.Fatalf("lifted %+v", l)
	}
}

func TestNewerStreamFencesTheOlder(t *testing.T) {
	h := newHarness(t)
	a := h.dial(t, "sidecar~shop~web")
	a.subscribe(snapshot.Cluster)
	await(t, "first", h.connects, anything)
	b := h.dial(t, "sidecar~shop~web")
	b.subscribe(snapshot.Cluster)
	if _, err := a.Recv(); status.Code(err) != codes.Aborted {
		t.Fatalf("older stream ended with %v", err)
	}
	c := h.dial(t, "nonsense")
	c.subscribe(snapshot.Cluster)
	if _, err := c.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Fatalf("unknown node got %v", err)
	}
	if p := h.Proxies(); len(p) != 1 {
		t.Fatalf("proxies %+v", p)
	}
}

// state is one state-of-the-world stream as a test drives it by hand.
type state struct {
	t *testing.T
	discovery.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	node *corev3.Node
}

func (h *harness) dialState(t *testing.T, node string) *state {
	t.Helper()
	conn, err := grpc.NewClient(h.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &state{t, stream, &corev3.Node{Id: node}}
}

// ask asks for names of a type, and answers to a response if r is not nil: no, if refusal is not empty.
func (s *state) ask(typ snapshot.Type, r *discovery.DiscoveryResponse, refusal string, names ...string) {
	s.t.Helper()
	m := &discovery.DiscoveryRequest{Node: s.node, TypeUrl: typ.URL(), ResourceNames: names, ResponseNonce: r.GetNonce()}
	if refusal != "" {
		m.ErrorDetail = &rpcstatus.Status{Message: refusal}
	}
	if err := s.Send(m); err != nil {
		s.t.Fatal(err)
	}
}

func (s *state) next(n int) *discovery.DiscoveryResponse {
	s.t.Helper()
	r, err := s.Recv()
	if err != nil {
		s.t.Fatal(err)
	}
	if len(r.GetResources()) != n {
		s.t.Fatalf("%d resources, want %d", len(r.GetResources()), n)
	}
	return r
}

// TestStateStreams: the streams of one proxyless workload live side by side, and it is as far as the last of them.
func TestStateStreams(t *testing.T) {
	h := newHarness(t)
	refused := make(chan Proxy, 10)
	h.conf.Observer.OnRefuse = func(p Proxy) { refused <- p }
	id := mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "caller"}
	h.Assign(id, "v")
	publish := func(revision mesh.Revision, versions ...string) {
		t.Helper()
		var out []envoy.Resource
		for i, v := range versions {
			out = append(out, envoy.Resource{Type: envoy.TypeRoute, Name: []string{"a", "b"}[i], Version: v, Body: []byte{}})
		}
		if err := h.Publish("v", revision, out); err != nil {
			t.Fatal(err)
		}
	}
	publish(1, "1", "1")
	a, b := h.dialState(t, id.String()), h.dialState(t, id.String())
	a.ask(snapshot.Route, nil, "", "a")
	a.ask(snapshot.Route, a.next(1), "", "a")
	await(t, "the first ACK", h.acks, func(r mesh.Revision) bool { return r == 1 })
	b.ask(snapshot.Route, nil, "", "b")
	b.ask(snapshot.Route, b.next(1), "", "b")

	publish(2, "1", "2")
	b.ask(snapshot.Route, b.next(1), "b is not to my taste", "b")
	if p := await(t, "the refusal", refused, anything[Proxy]); p.ID != id || p.LastError != "b is not to my taste" {
		t.Fatalf("refused by %+v", p)
	}
	list := h.Proxies()
	if len(list) != 1 || list[0].Acked != 1 || list[0].Nacks != 1 || list[0].LastError == "" || list[0].Current {
		t.Fatalf("the proxy is described as %+v", list)
	}
	if len(h.connects) != 1 || len(h.leaves) != 0 {
		t.Fatalf("%d connects and %d leaves of one workload", len(h.connects), len(h.leaves))
	}
	if err := b.CloseSend(); err != nil { // who lags leaves, and the others are where they are
		t.Fatal(err)
	}
	await(t, "the others' ACK", h.acks, func(r mesh.Revision) bool { return r == 2 })
	publish(3, "3", "2")
	a.ask(snapshot.Route, a.next(1), "", "a")
	await(t, "the last ACK", h.acks, func(r mesh.Revision) bool { return r == 3 })

	if err := a.CloseSend(); err != nil {
		t.Fatal(err)
	}
	await(t, "the end", h.leaves, func(p Proxy) bool { return p.ID == id })
	c := h.dialState(t, id.String())
	c.ask(snapshot.Route, nil, "", "a")
	c.next(1)
	h.dial(t, id.String()).subscribe(snapshot.Route, "a") // an Envoy takes the place of all
	if _, err := c.Recv(); status.Code(err) != codes.Aborted {
		t.Fatalf("the older stream ends with %v", err)
	}
}
