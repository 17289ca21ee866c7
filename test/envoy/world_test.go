package envoy

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"crypto/ecdsa"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/dataplane"
	"github.com/comity-mesh/comity/dataplane/metrics"
	"github.com/comity-mesh/comity/dataplane/sds"
	"github.com/comity-mesh/comity/dataplane/tap"
	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/translate"
)

// world is two zones with real Envoys, configured by the whole pipeline. A test changes what people ask for
// (apply) and looks at what requests meet.
//
// Zone one: web calls (its sidecar takes HTTP by host name); echo-1 and echo-2 serve `echo` together, and `echo-v1` and `echo-v2`
// alone. Zone two: pay-1 serves `pay`, which is exported, behind the ingress gate. All are of namespace shop, and everybody
// may call everybody. Services have the ports 80 (http), 9090 (grpc) and 7070 (tcp, named raw).
type world struct {
	t       *testing.T
	control *control
	zones   [2]*worldZone
	proxies map[mesh.ProxyID]*proxy
	apps    map[string]*app
	ports   appPorts
	net     string // 127.x.y.
	hosts   int
	keys    *keyCounts
	names   *nameServer   // that Envoys ask
	secrets string        // folder of certificates on their machines
	told    []mesh.Egress // of which zones tell each other, instead of those that they have
	golden  bool          // Envoys count no more than an agent lets them
	// base is what every world has; extra what the test asked for last.
	base, extra []mesh.Resource
}

type worldZone struct {
	topology.Input
	authority authority
	// former is believed as well, if it is there.
	former *authority
}

// bundle is whom the zones believe to speak for this one.
func (z *worldZone) bundle() []byte {
	out := z.authority.bundle()
	if z.former != nil {
		out = append(out, z.former.bundle()...)
	}
	return out
}

// proxy is a running Envoy of a world.
type proxy struct {
	*process
	id      mesh.ProxyID
	zone    *worldZone
	path    string // of its identity
	secrets *sds.Secrets
	tap     *tap.Server
}

// identify gives the proxy another certificate and key, as its agent does when it renews them, and returns the leaf.
func (p *proxy) identify(t *testing.T, a authority) *x509.Certificate {
	t.Helper()
	cert := a.issue(t, p.path)
	chain, err := chainOf(cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.secrets.SetIdentity(chain, cert.PrivateKey.(*ecdsa.PrivateKey)); err != nil {
		t.Fatal(err)
	}
	return chain[0]
}

// patient has proxies wait for each other: on a busy machine, who says nothing for a while is not dead. How they find out that somebody
// is, tests of failover show (failover_test.go), with the defaults.
const patient = `{"detection":{"connectTimeout":"10s","remoteConnectTimeout":"10s","keepalive":{"interval":"10s","timeout":"30s"}}}`

const everybodyMay = `{"action":"Allow","rules":[{}]}`

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOf(t, false)
}

func newWorldOf(t *testing.T, golden bool) *world {
	t.Helper()
	w := &world{
		golden: golden,
		t:      t, control: newControl(t), proxies: map[mesh.ProxyID]*proxy{}, apps: map[string]*app{}, keys: &keyCounts{n: map[string]int{}},
		net:   fmt.Sprintf("127.%d.%d.", 1+rand.IntN(254), rand.IntN(256)), // several worlds on one machine don't meet
		hosts: 1, names: startNameServer(t), secrets: t.TempDir(),
	}
	w.ports = appPorts{w.port(), w.port(), w.port()}
	for i, name := range []string{"one", "two"} {
		td := mesh.TrustDomain(name + ".example")
		w.zones[i] = &worldZone{Input: topology.Input{Zone: name, TrustDomain: td}, authority: newAuthority(t, td)}
	}
	w.base = []mesh.Resource{
		resource(mesh.KindZone, "", "one", `{"namespaces":["*"]}`), resource(mesh.KindZone, "", "two", `{"namespaces":["*"]}`),
		resource(mesh.KindServiceExport, "shop", "pay", `{}`), allow("everybody-may", everybodyMay),
		resource(mesh.KindMeshConfig, "", "default", patient),
	}
	w.service("web", `{"app":"web"}`, "one")
	w.service("echo", `{"echo":"yes"}`, "one")
	w.service("echo-v1", `{"app":"echo-1"}`, "one")
	w.service("echo-v2", `{"app":"echo-2"}`, "one")
	w.service("pay", `{"app":"pay-1"}`, "two")
	w.workload(0, "web", nil)
	w.workload(0, "echo-1", map[string]string{"echo": "yes"})
	w.workload(0, "echo-2", map[string]string{"echo": "yes"})
	w.workload(1, "pay-1", nil)
	w.zones[1].Ingresses = []topology.IngressProxy{{Name: "gate", BindAddress: w.host(), BindPorts: []uint16{w.port()}}}
	w.publish(t)
	return w
}

// port is one that nobody else has while the world is there.
func (w *world) port() uint16 {
	w.t.Helper()
	return freeporttest.Port(w.t)
}

func (w *world) host() string {
	w.hosts++
	return w.net + strconv.Itoa(w.hosts)
}

// service adds a service of shop that is made in one zone.
func (w *world) service(name, selector, zone string) {
	r := resource(mesh.KindService, "shop", name, fmt.Sprintf(`{"selector":%s,"ports":[
		{"name":"http","port":80,"targetPort":%d,"appProtocol":"http"},
		{"name":"grpc","port":9090,"targetPort":%d,"appProtocol":"grpc"},
		{"name":"raw","port":7070,"targetPort":%d}]}`, selector, w.ports.http, w.ports.grpc, w.ports.tcp))
	r.Origin = mesh.Origin(zone)
	w.base = append(w.base, r)
}

// workload adds a process with an app of its own; it runs from the next publish on. The app and the label `app` are called as it is.
func (w *world) workload(zone int, name string, labels map[string]string) {
	w.t.Helper()
	z, at, app := w.zones[zone], w.host(), w.host()
	w.apps[name] = startApp(w.t, name, app, w.ports, w.keys)
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels["app"] = name
	z.Workloads = append(z.Workloads, topology.Workload{
		Namespace: "shop", Name: name, Labels: labels, Healthy: true, Identity: z.TrustDomain.WorkloadID("shop", name),
		Spec: policy.Workload{
			ServiceAccount: name, Address: at, InboundPort: w.port(), AppAddress: app, OutboundPort: w.port(),
			Upstreams: []policy.Upstream{
				{Service: "echo", Port: 7070, LocalPort: w.port()}, {Service: "pay", Port: 7070, LocalPort: w.port()},
			},
		},
	})
}

// spec is the workload of a name.
func (w *world) spec(t *testing.T, name string) topology.Workload {
	t.Helper()
	for _, z := range w.zones {
		for _, wl := range z.Workloads {
			if wl.Name == name {
				return wl
			}
		}
	}
	t.Fatalf("there is no workload %s", name)
	return topology.Workload{}
}

// apply replaces what the test asked for before by the documents, and waits until every Envoy runs it. A document without
// metadata.namespace is of shop, one without `origin` is made at global.
func (w *world) apply(t *testing.T, documents string) {
	t.Helper()
	if refused := w.offer(t, documents); len(refused) > 0 {
		t.Fatalf("Envoys refuse:\n%s", strings.Join(refused, "\n"))
	}
}

// offer is apply for what Envoys may refuse: it returns what they say.
func (w *world) offer(t *testing.T, documents string) (refused []string) {
	t.Helper()
	w.extra = nil
	for i, doc := range strings.Split(documents, "\n---") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		var d struct {
			APIVersion string
			Kind       mesh.Kind
			Origin     mesh.Origin
			Metadata   struct {
				Name, Namespace string
				Annotations     map[string]string
			}
			Spec json.RawMessage
		}
		if err := yaml.UnmarshalStrict([]byte(doc), &d); err != nil {
			t.Fatalf("%s\n%v", doc, err)
		}
		r := resource(d.Kind, d.Metadata.Namespace, d.Metadata.Name, string(d.Spec))
		r.Annotations = d.Metadata.Annotations
		r.APIVersion, r.Created = d.APIVersion, mesh.Revision(i+1)
		if d.Origin != "" {
			r.Origin = d.Origin
		}
		info, ok := policy.Lookup(string(d.Kind))
		if !ok {
			t.Fatalf("there is no kind %q", d.Kind)
		}
		if info.Namespaced && r.Namespace == "" {
			r.Namespace = "shop"
		}
		if r.APIVersion == "" {
			r.APIVersion = info.APIVersion
		}
		if wrong := policy.Validate(r); wrong != nil {
			t.Fatalf("%s\n%+v", doc, wrong)
		}
		w.extra = append(w.extra, r)
	}
	return w.bring(t)
}

// resources are the base with what the test asked for, in place of what is called the same.
func (w *world) resources() []mesh.Resource {
	base := slices.DeleteFunc(slices.Clone(w.base), func(b mesh.Resource) bool {
		return slices.ContainsFunc(w.extra, func(r mesh.Resource) bool { return r.Key == b.Key })
	})
	return append(base, w.extra...)
}

// topologies are both zones as they are now.
func (w *world) topologies() (topos [2]*topology.Topology, issues [2][]topology.Issue) {
	roots := map[mesh.TrustDomain][]byte{}
	for _, z := range w.zones {
		roots[z.TrustDomain] = z.bundle()
	}
	for i, z := range w.zones {
		z.Roots, z.Resources, z.Remotes = roots, w.resources(), nil
		topos[i], _ = topology.Build(z.Input) // what it exports does not depend on the other
	}
	for i, z := range w.zones {
		other := w.zones[1-i]
		r := topology.Remote{Zone: other.Zone, TrustDomain: other.TrustDomain, Exports: topos[1-i].Exports()}
		for _, g := range other.Ingresses {
			r.Ingresses = append(r.Ingresses, topology.RemoteIngress{
				Ingress: mesh.Ingress{ID: g.Name, Host: g.BindAddress, Ports: g.BindPorts}, Addresses: []string{g.BindAddress},
			})
		}
		for _, g := range other.Egresses {
			r.Egresses = append(r.Egresses, mesh.Egress{Name: g.Name, Ready: g.Ready})
		}
		if w.told != nil {
			r.Egresses = w.told
		}
		z.Remotes = []topology.Remote{r}
	}
	for i, z := range w.zones {
		topos[i], issues[i] = topology.Build(z.Input)
	}
	return topos, issues
}

// publish brings every Envoy to what is wanted now, starting those that are not there, and fails the test if one refuses
// anything.
func (w *world) publish(t *testing.T) {
	t.Helper()
	if refused := w.bring(t); len(refused) > 0 {
		t.Fatalf("Envoys refuse:\n%s", strings.Join(refused, "\n"))
	}
}

// bring is publish, and returns what Envoys refuse.
func (w *world) bring(t *testing.T) (refused []string) {
	t.Helper()
	topos, _ := w.topologies()
	var ids []mesh.ProxyID
	for i, topo := range topos {
		tr := translate.New(topo, nil)
		for _, p := range topo.Proxies() {
			out, err := envoy.Build(tr.Proxy(p))
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range envoy.Validate(out) {
				t.Fatal(bad.Err)
			}
			id := p.ID
			w.control.publish(t, id.String(), out)
			if w.proxies[id] == nil {
				w.proxies[id] = w.start(w.zones[i], id)
			}
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		for _, r := range w.control.settled(t, id.String()) {
			refused = append(refused, id.String()+": "+r)
		}
		p := w.proxies[id]
		p.wait(t, "have nothing warming", func() error {
			if n := p.stat(t, "listener_manager.total_listeners_warming") + p.stat(t, "cluster_manager.warming_clusters"); n > 0 {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
	}
	return refused
}

// start runs the Envoy of a proxy with what its agent gives it: its identity and its zone's address.
func (w *world) start(z *worldZone, id mesh.ProxyID) *proxy {
	t := w.t
	t.Helper()
	path := "/fed/zone-" + string(id.Role) + "/" + id.Name
	if id.Role == mesh.RoleSidecar {
		path = "/ns/" + id.Namespace + "/sa/" + id.Name
	}
	dir, err := os.MkdirTemp("", "envoy") // short: a socket's path has at most 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &proxy{process: &process{name: id.String(), log: &lockedBuffer{}, exit: make(chan struct{})}, id: id, zone: z, path: path, secrets: sds.NewSecrets()}
	p.identify(t, z.authority)
	agent, err := sds.NewServer(p.secrets, w.secrets, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	l, err := sds.Listen(filepath.Join(dir, "sds"))
	if err != nil {
		t.Fatal(err)
	}
	p.tap = tap.NewServer(p.tapShare)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		go func() { _ = agent.KeepFiles(ctx) }() // ends with ctx
		_ = agent.Serve(ctx, l, p.tap.Register)
	}()
	t.Cleanup(func() { cancel(); <-ended })

	host, port, err := net.SplitHostPort(w.control.addr)
	if err != nil {
		t.Fatal(err)
	}
	grpcCluster := func(name string, address object) object {
		return object{
			"name": name, "type": "STATIC", "connect_timeout": "1s",
			"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
				"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": object{"http2_protocol_options": object{}},
			}},
			"load_assignment": object{"cluster_name": name, "endpoints": []any{object{"lb_endpoints": []any{object{"endpoint": object{"address": address}}}}}},
		}
	}
	ads := object{"ads": object{}, "resource_api_version": "V3"}
	boot := object{
		"node":                      object{"id": id.String(), "cluster": z.Zone, "locality": object{"zone": z.Zone}},
		"admin":                     object{"address": object{"socket_address": object{"address": "127.0.0.1", "port_value": 0}}},
		"layered_runtime":           object{"layers": []any{object{"name": "agent", "admin_layer": object{}}}},
		"typed_dns_resolver_config": w.names.resolver(),
		"stats_config":              w.statistics(),
		"stats_flush_on_admin":      true,
		"inline_headers":            dataplane.InlineHeaders(),
		"bootstrap_extensions":      dataplane.BootstrapExtensions(),
		"dynamic_resources": object{
			"ads_config": object{
				"api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
				"grpc_services": []any{object{"envoy_grpc": object{"cluster_name": "zone"}}},
			},
			"cds_config": ads, "lds_config": ads,
		},
		"static_resources": object{"clusters": []any{
			grpcCluster("zone", object{"socket_address": object{"address": host, "port_value": json.Number(port)}}),
			grpcCluster(envoy.LocalSDSCluster, object{"pipe": object{"path": filepath.Join(dir, "sds")}}),
			object{"name": "peers", "type": "STATIC"},
		}},
	}
	raw, err := json.Marshal(boot)
	if err != nil {
		t.Fatal(err)
	}
	p.run(t, dir, raw)
	return p
}

// statistics are counted as an agent has them counted; beyond the agent's choice all others too, for tests that look at them.
func (w *world) statistics() object {
	out := metrics.Bootstrap()
	if !w.golden {
		delete(out, "stats_matcher")
	}
	return out
}

// sidecar is the Envoy of a workload.
func (w *world) sidecar(t *testing.T, name string) *proxy {
	t.Helper()
	for id, p := range w.proxies {
		if id.Name == name {
			return p
		}
	}
	t.Fatalf("there is no proxy %s", name)
	return nil
}

// call is a request of an application to its sidecar.
type call struct {
	from   string // workload, default web
	to     string // host name, with a port if need be; default echo wherever it is
	method string // default GET
	path   string // default /
	header map[string]string
	body   string
	h2     bool // HTTP/2 with prior knowledge instead of HTTP/1.1
}

// reply is an answer, read.
type reply struct {
	status  int
	header  http.Header
	trailer http.Header
	body    string
	app     string // who answered, empty if a proxy did
	echoed  echoed // what it was asked
	took    time.Duration
	tls     *tls.ConnectionState // of who asked over TLS
	proto   string
}

const echoHost = "echo.shop.svc.clusterset.local"

// try makes a request over a connection of its own, so that what is applied before holds for it.
func (w *world) try(t *testing.T, c call) (reply, error) {
	t.Helper()
	return w.tryWith(t, client(t, c.h2), c)
}

// tryWith makes a request with a client that may keep its connections.
func (w *world) tryWith(t *testing.T, h *http.Client, c call) (reply, error) {
	t.Helper()
	from, to, method, path := "web", echoHost, http.MethodGet, "/"
	for _, set := range []struct{ p, v *string }{{&from, &c.from}, {&to, &c.to}, {&method, &c.method}, {&path, &c.path}} {
		if *set.v != "" {
			*set.p = *set.v
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+local(w.spec(t, from).Spec.OutboundPort)+path, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = to
	for k, v := range c.header {
		req.Header.Set(k, v)
	}
	return exchange(t, h, req)
}

// exchange makes a request as it is and reads the answer.
func exchange(t *testing.T, h *http.Client, req *http.Request) (reply, error) {
	t.Helper()
	began := time.Now()
	resp, err := h.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	r := reply{status: resp.StatusCode, header: resp.Header, trailer: resp.Trailer, body: string(body), app: resp.Header.Get("X-App"), took: time.Since(began)}
	if r.app != "" && bytes.HasPrefix(body, []byte("{")) {
		_ = json.Unmarshal(body, &r.echoed) // it may be cut off, which the caller sees
	}
	return r, err
}

// call makes a request that must be answered.
func (w *world) call(t *testing.T, c call) reply {
	t.Helper()
	r, err := w.try(t, c)
	if err != nil {
		t.Fatalf("%+v: %v", c, err)
	}
	return r
}

// tally makes n requests over kept connections and counts who answered; those that no app did by their status.
func (w *world) tally(t *testing.T, n int, c call) map[string]int {
	t.Helper()
	out, h := map[string]int{}, client(t, c.h2)
	for range n {
		r, err := w.tryWith(t, h, c)
		switch {
		case err != nil:
			out[err.Error()]++
		case r.app != "" && r.status == http.StatusOK:
			out[r.app]++
		default:
			out[strconv.Itoa(r.status)]++
		}
	}
	return out
}

// burst makes n requests, so many at a time over one connection, and returns their answers.
func (w *world) burst(t *testing.T, n, atATime int, of func(i int) call) []reply {
	t.Helper()
	out, h := make([]reply, n), client(t, true)
	var all sync.WaitGroup
	var next atomic.Int64
	for range atATime {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				r, err := w.tryWith(t, h, of(i))
				if err != nil {
					t.Errorf("request %d: %v", i, err)
				}
				out[i] = r
			}
		})
	}
	all.Wait()
	return out
}

// same is a burst of one request.
func same(c call) func(int) call { return func(int) call { return c } }

// byApp counts answers by who gave them; those that no app gave, or not with 200, by their status.
func byApp(replies []reply) map[string]int {
	out := map[string]int{}
	for _, r := range replies {
		if r.app != "" && r.status == http.StatusOK {
			out[r.app]++
		} else {
			out[strconv.Itoa(r.status)]++
		}
	}
	return out
}

// median of what answers took.
func median(of []time.Duration) time.Duration {
	of = slices.Sorted(slices.Values(of))
	return of[len(of)/2]
}

// callGRPC calls a method with an empty message, and returns who answered.
func (w *world) callGRPC(t *testing.T, from, to, method string, header map[string]string) (app string, err error) {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+local(w.spec(t, from).Spec.OutboundPort),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(to))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), metadata.New(header)), 20*time.Second)
	defer cancel()
	var got metadata.MD
	err = conn.Invoke(ctx, method, new(emptypb.Empty), new(emptypb.Empty), grpc.Header(&got))
	return strings.Join(got.Get("x-app"), ","), err
}

// dialTCP opens a connection by a workload's local port for a service, and returns it after the server's greeting, which
// names the app.
func (w *world) dialTCP(t *testing.T, from, service string) (net.Conn, string, error) {
	t.Helper()
	for _, u := range w.spec(t, from).Spec.Upstreams {
		if u.Service != service {
			continue
		}
		c := dial(t, local(u.LocalPort))
		line, err := readLine(c)
		return c, strings.TrimSpace(line), err
	}
	t.Fatalf("%s has no upstream %s", from, service)
	return nil, "", nil
}

// patience is how long a fact may take to come true, on a machine that is busy with others.
const patience = time.Minute

// eventually tries until f has no objection; for what Envoys do by themselves.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	limit, again := time.NewTimer(patience), time.NewTicker(10*time.Millisecond)
	defer limit.Stop()
	defer again.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-limit.C:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// want is what an answer must be like.
type want struct {
	status int    // default 200
	app    string // who answers, if it matters
	header map[string]string
	body   []string // parts of it
	// told are headers that the app gets; an empty value means that it must not.
	told map[string]string
	path string // that the app gets
}

func (x want) check(r reply) error {
	var errs []error
	wrong := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if x.status == 0 {
		x.status = http.StatusOK
	}
	if r.status != x.status {
		wrong("status %d, not %d: %s", r.status, x.status, r.body)
	}
	if x.app != "" && r.app != x.app {
		wrong("answered by %q, not by %s", r.app, x.app)
	}
	for k, v := range x.header {
		if got := r.header.Get(k); got != v {
			wrong("header %s is %q, not %q", k, got, v)
		}
	}
	for _, part := range x.body {
		if !strings.Contains(r.body, part) {
			wrong("%q is not in %q", part, r.body)
		}
	}
	for k, v := range x.told {
		if got := strings.Join(r.echoed.Header.Values(k), ", "); got != v {
			wrong("the app is told %s: %q, not %q", k, got, v)
		}
	}
	if x.path != "" && r.echoed.Path != x.path {
		wrong("the app is asked for %q, not %q", r.echoed.Path, x.path)
	}
	return errors.Join(errs...)
}

// feature is a row of a table test: what people ask for, and what then happens to requests.
type feature struct {
	name   string
	yaml   string
	expect []expectation
}

type expectation struct {
	call
	want
}

// table applies each feature in turn to the same running Envoys.
func (w *world) table(t *testing.T, features []feature) {
	for _, f := range features {
		t.Run(f.name, func(t *testing.T) {
			w.apply(t, f.yaml)
			for _, e := range f.expect {
				if err := e.check(w.call(t, e.call)); err != nil {
					t.Errorf("%+v: %v", e.call, err)
				}
			}
		})
	}
}
