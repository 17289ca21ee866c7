package ads

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/snapshot"
)

// realEnvoy is an Envoy of a test under the harness's server.
type realEnvoy struct {
	t     *testing.T
	h     *harness
	id    mesh.ProxyID
	admin *http.Client
	rev   mesh.Revision
}

func startEnvoy(t *testing.T, first ...envoy.Resource) *realEnvoy {
	t.Helper()
	binary, err := envoybin.Path()
	if err != nil {
		t.Fatal(err) // make tools installs it
	}
	e := &realEnvoy{t: t, h: newHarness(t), id: mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: "shop", Name: "web"}}
	e.h.Assign(e.id, "v")
	e.publish(first...)
	dir, err := os.MkdirTemp("", "ads") // short: a socket's path has at most 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	host, port, _ := net.SplitHostPort(e.h.addr)
	socket := filepath.Join(dir, "admin.sock")
	bootstrap := fmt.Sprintf(`{
 "node": {"id": %q, "cluster": "test"},
 "admin": {"address": {"pipe": {"path": %q}}},
 "dynamic_resources": {
  "ads_config": {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
   "grpc_services": [{"envoy_grpc": {"cluster_name": "xds", "retry_policy": {"retry_back_off": {"base_interval": "0.05s", "max_interval": "0.2s"}}}}]},
  "cds_config": {"ads": {}, "resource_api_version": "V3"}, "lds_config": {"ads": {}, "resource_api_version": "V3"}},
 "static_resources": {"clusters": [{"name": "xds", "type": "STATIC", "connect_timeout": "1s",
  "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
   "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}},
  "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": %q, "port_value": %s}}}}]}]}}]}
}`, e.id.String(), socket, host, port)
	file := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(file, []byte(bootstrap), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
	cmd.Stdout, cmd.Stderr = testWriter{t}, testWriter{t}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	e.admin = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	t.Cleanup(e.admin.CloseIdleConnections)
	e.settled()
	return e
}

// publish makes the next revision.
func (e *realEnvoy) publish(list ...envoy.Resource) {
	e.t.Helper()
	e.rev++
	if err := e.h.Publish("v", e.rev, list); err != nil {
		e.t.Fatal(err)
	}
}

// settled waits for the ACK of the newest revision. Envoy's own timeouts are 15 s: what hangs on one fails.
func (e *realEnvoy) settled() {
	e.t.Helper()
	began := time.Now()
	await(e.t, fmt.Sprintf("revision %d", e.rev), e.h.acks, func(r mesh.Revision) bool { return r >= e.rev })
	if took := time.Since(began); took > 10*time.Second {
		e.t.Fatalf("revision %d took %v", e.rev, took)
	}
}

func (e *realEnvoy) get(path string) string {
	e.t.Helper()
	r, err := e.admin.Get("http://admin" + path)
	if err != nil {
		e.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		e.t.Fatal(err)
	}
	return string(b)
}

// clusters is what Envoy has, without the static one.
func (e *realEnvoy) clusters() string { return e.get("/clusters?format=json") }

func (e *realEnvoy) has(cluster string) bool {
	return strings.Contains(e.clusters(), `"name": "`+cluster+`"`) || strings.Contains(e.clusters(), `"name":"`+cluster+`"`)
}

// cut ends Envoy's stream; it comes back by itself.
func (e *realEnvoy) cut() {
	for _, st := range e.h.streams() {
		st.close(status.Error(codes.Unavailable, "cut by the test"))
	}
}

// responses are those that were sent, of all types.
func (e *realEnvoy) responses() float64 {
	sum := 0.0
	for _, t := range snapshot.Types() {
		sum += testutil.ToFloat64(e.h.metrics.responses[t])
	}
	return sum
}

// listener returns the address of a listener.
func (e *realEnvoy) listener(name string) string {
	e.t.Helper()
	var out struct {
		Statuses []struct {
			Name    string `json:"name"`
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if err := json.Unmarshal([]byte(e.get("/listeners?format=json")), &out); err != nil {
			e.t.Fatal(err)
		}
		for _, s := range out.Statuses {
			if s.Name == name {
				return net.JoinHostPort(s.Address.Socket.Address, strconv.Itoa(s.Address.Socket.Port))
			}
		}
	}
	e.t.Fatalf("no listener %q", name)
	return ""
}

// Resources of the tests. v makes contents differ.

func resource(t *testing.T, typ snapshot.Type, name, v string, m proto.Message) envoy.Resource {
	t.Helper()
	body, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return envoy.Resource{Type: typ.URL(), Name: name, Version: v, Body: body}
}

func edsCluster(t *testing.T, name, v string) envoy.Resource {
	return resource(t, snapshot.Cluster, name, v, &clusterv3.Cluster{
		Name: name, AltStatName: name + "-" + v, ConnectTimeout: durationpb.New(time.Second),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource()},
	})
}

// badCluster is refused by Envoy's validation.
func badCluster(t *testing.T, name, v string) envoy.Resource {
	return resource(t, snapshot.Cluster, name, v, &clusterv3.Cluster{
		Name: name, ConnectTimeout: durationpb.New(-time.Second), ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
	})
}

func adsSource() *corev3.ConfigSource {
	return &corev3.ConfigSource{ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}
}

func address(hostport string) *corev3.Address {
	host, port, _ := net.SplitHostPort(hostport)
	n, _ := strconv.Atoi(port)
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(n)},
	}}}
}

func assignment(t *testing.T, name, v string, addrs ...string) envoy.Resource {
	cla := &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{}}}
	for _, a := range addrs {
		cla.Endpoints[0].LbEndpoints = append(cla.Endpoints[0].LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(a)}},
		})
	}
	return resource(t, snapshot.Endpoint, name, v, cla)
}

func listener(t *testing.T, name, route, v string) envoy.Resource {
	router, err := anypb.New(&routerv3.Router{})
	if err != nil {
		t.Fatal(err)
	}
	hcm, err := anypb.New(&hcmv3.HttpConnectionManager{
		StatPrefix:     name + "-" + v,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: route, ConfigSource: adsSource()}},
		HttpFilters:    []*hcmv3.HttpFilter{{Name: "router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return resource(t, snapshot.Listener, name, v, &listenerv3.Listener{
		Name: name, Address: address("127.0.0.1:0"),
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{Name: "hcm", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: hcm}}}}},
	})
}

func route(t *testing.T, name, cluster, v string) envoy.Resource {
	return resource(t, snapshot.Route, name, v, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{
		Name: "all", Domains: []string{"*"}, Routes: []*routev3.Route{{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster}}},
		}},
	}}})
}

// badRoute names its virtual hosts twice, which Envoy refuses without naming the resource.
func badRoute(t *testing.T, name, v string) envoy.Resource {
	vh := &routev3.VirtualHost{Name: "same", Domains: []string{"*"}}
	return resource(t, snapshot.Route, name, v, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{vh, vh}})
}

func upstream(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func fetch(addr string) error {
	r, err := http.Get("http://" + addr + "/")
	if err != nil {
		return err
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", r.StatusCode)
	}
	return nil
}

func TestEnvoyGetsAllItNeeds(t *testing.T) {
	up := upstream(t)
	e := startEnvoy(t, edsCluster(t, "a", "1"), assignment(t, "a", "1", up), listener(t, "in", "r", "1"), route(t, "r", "a", "1"))
	addr := e.listener("in")
	if err := fetch(addr); err != nil {
		t.Fatal(err)
	}
	t.Run("a changed cluster is warm at once though its endpoints did not change", func(t *testing.T) {
		began := time.Now()
		e.publish(edsCluster(t, "a", "2"), assignment(t, "a", "1", up), listener(t, "in", "r", "1"), route(t, "r", "a", "1"))
		e.settled()
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("took %v", took)
		}
	})
	t.Run("a cluster without endpoints holds nothing up", func(t *testing.T) {
		e.publish(edsCluster(t, "a", "2"), edsCluster(t, "b", "1"), assignment(t, "a", "1", up), listener(t, "in", "r", "1"), route(t, "r", "a", "1"))
		e.settled()
		if !e.has("b") {
			t.Fatal(e.clusters())
		}
	})
	t.Run("endpoints come alone", func(t *testing.T) {
		e.publish(edsCluster(t, "a", "2"), edsCluster(t, "b", "1"), assignment(t, "a", "1", up), assignment(t, "b", "2", up), listener(t, "in", "r", "1"), route(t, "r", "a", "1"))
		e.settled()
		if !strings.Contains(e.get("/clusters"), "b::"+up) {
			t.Fatal(e.get("/clusters"))
		}
	})
	t.Run("a reconnect with nothing changed is told nothing, settles and serves", func(t *testing.T) {
		before := e.responses()
		e.cut()
		e.settled()
		if err := fetch(addr); err != nil {
			t.Fatal(err)
		}
		// What it was not told on its new stream it needed not: a changed cluster is warm at once.
		e.publish(edsCluster(t, "a", "3"), edsCluster(t, "b", "1"), assignment(t, "a", "1", up), assignment(t, "b", "2", up), listener(t, "in", "r", "1"), route(t, "r", "a", "1"))
		e.settled()
		if err := fetch(addr); err != nil {
			t.Fatal(err)
		}
		if n := e.responses() - before; n > 2 {
			t.Errorf("%v responses: more than the changed cluster and its endpoints", n)
		}
	})
	t.Run("a cut between a cluster and its ACK", func(t *testing.T) {
		for i := range 5 {
			e.publish(edsCluster(t, "a", fmt.Sprint("cut", i)), assignment(t, "a", "1", up), listener(t, "in", "r", "1"), route(t, "r", "a", "1"))
			e.cut()
			e.settled()
			if err := fetch(addr); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("what vanished while it was away is removed", func(t *testing.T) {
		e.publish(edsCluster(t, "a", "9"), edsCluster(t, "gone", "1"), assignment(t, "a", "1", up), listener(t, "in", "r", "1"), route(t, "r", "a", "1"))
		e.settled()
		e.cut()
		e.publish(edsCluster(t, "a", "9"), assignment(t, "a", "1", up), listener(t, "in", "r", "1"), route(t, "r", "a", "1"))
		e.settled()
		if e.has("gone") {
			t.Fatal(e.clusters())
		}
	})
}

func TestEnvoyRefusals(t *testing.T) {
	up := upstream(t)
	base := func(more ...envoy.Resource) []envoy.Resource {
		return append([]envoy.Resource{edsCluster(t, "a", "1"), assignment(t, "a", "1", up), listener(t, "in", "r", "1"), route(t, "r", "a", "1")}, more...)
	}
	e := startEnvoy(t, base()...)
	t.Run("one bad cluster among good ones", func(t *testing.T) {
		e.publish(base(edsCluster(t, "b", "1"), badCluster(t, "c", "bad"), edsCluster(t, "d", "1"), edsCluster(t, "f", "1"))...)
		r := await(t, "rejection", e.h.rejects, anything[Rejection])
		if r.Name != "c" || r.Type != snapshot.Cluster || r.Error == "" {
			t.Fatalf("%+v", r)
		}
		e.settled()
		for _, n := range []string{"a", "b", "d", "f"} {
			if !e.has(n) {
				t.Fatalf("no %s: %s", n, e.clusters())
			}
		}
		if e.has("c") {
			t.Fatal("c is there")
		}
	})
	t.Run("the fixed version lifts it", func(t *testing.T) {
		e.publish(base(edsCluster(t, "c", "good"))...)
		await(t, "lift", e.h.lifts, func(l snapshot.Lifted) bool { return l.Name == "c" })
		e.settled()
		if !e.has("c") || e.has("d") {
			t.Fatal(e.clusters())
		}
	})
	t.Run("the last good route stays", func(t *testing.T) {
		addr := e.listener("in")
		list := base()
		list[3] = badRoute(t, "r", "bad")
		e.publish(list...)
		r := await(t, "rejection", e.h.rejects, anything[Rejection])
		if r.Name != "r" || r.Type != snapshot.Route {
			t.Fatalf("%+v", r)
		}
		e.settled()
		if err := fetch(addr); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a cut in the middle of the search", func(t *testing.T) {
		e.publish(base(edsCluster(t, "g", "1"), badCluster(t, "h", "bad"), badCluster(t, "i", "bad"), edsCluster(t, "j", "1"))...)
		await(t, "rejection", e.h.rejects, anything[Rejection])
		e.cut()
		e.settled()
		if !e.has("g") || !e.has("j") || e.has("h") || e.has("i") {
			t.Fatal(e.clusters())
		}
	})
}

// TestEnvoyLosesNoRequest moves a route from cluster to cluster, each new and the old one removed, under
// traffic.
func TestEnvoyLosesNoRequest(t *testing.T) {
	up := upstream(t)
	at := func(i int) []envoy.Resource {
		name := fmt.Sprint("c", i)
		return []envoy.Resource{edsCluster(t, name, "1"), assignment(t, name, "1", up), listener(t, "in", "r", "1"), route(t, "r", name, fmt.Sprint(i))}
	}
	e := startEnvoy(t, at(0)...)
	addr := e.listener("in")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var total, failed int
	var last error
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			total++
			if err := fetch(addr); err != nil {
				failed, last = failed+1, err
			}
		}
	})
	for i := 1; i <= 30; i++ {
		e.publish(at(i)...)
		e.settled()
	}
	close(stop)
	wg.Wait()
	if failed > 0 {
		t.Fatalf("%d of %d requests failed, the last with %v", failed, total, last)
	}
	// Envoy acknowledges a removal a moment before it shows it.
	for deadline := time.Now().Add(patience); e.has("c29") && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if e.has("c29") || !e.has("c30") {
		t.Fatal(e.clusters())
	}
	t.Logf("%d requests", total)
}
