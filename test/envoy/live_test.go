package envoy

import (
	"bufio"
	"fmt"
	"slices"
	"testing"

	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/translate"
)

// TestPolicyOnLiveConnection: an authorization change holds from the next request, and cuts nothing.
func TestPolicyOnLiveConnection(t *testing.T) {
	m := newTwoZones(t)
	web := m.one.issue(t, "/ns/shop/sa/web")
	c, err := handshake(t, local(m.gateTLS), sni("one", 8080), &web)
	if err != nil {
		t.Fatal(err)
	}
	cc := only(t, c)
	request := func() answer {
		t.Helper()
		a, err := over(t, cc, "/")
		if err != nil {
			t.Fatalf("the connection was cut: %v", err)
		}
		return a
	}
	tcp, err := handshake(t, local(m.gateTLS), sni("one", 7070), &web)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(tcp)
	if s, err := lines.ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", s, err)
	}
	expect(t, request(), 200)

	before := resources(t, m.server, mesh.RoleSidecar)
	denied := m.server
	denied.Resources = append(slices.Clone(m.server.Resources), allow("not-web",
		`{"targetRef":{"kind":"Service","name":"pay"},"action":"Deny","rules":[{"from":[{"identities":["spiffe://one.example/ns/shop/sa/web"]}]}]}`))
	after := resources(t, denied, mesh.RoleSidecar)
	for i, r := range before {
		if (r.Type == envoy.TypeListener || r.Type == envoy.TypeCluster) && r.Version != after[i].Version {
			t.Errorf("a policy changed %s, which cuts connections", r)
		}
	}
	const rds, ecds = "http.inbound/pay.shop:8080/one.rds.inbound/pay.shop:8080/one.config_reload", "extension_config_discovery.network_filter.admission/inbound/pay.shop:7070/one.config_reload"
	m.pay.update(t, after, rds, ecds)
	expect(t, request(), 403, "global/shop/not-web")
	if _, err := handshakeLine(t, m, &web); err == nil {
		t.Error("TCP still takes the caller")
	}
	if _, err := fmt.Fprintln(tcp, "still here"); err != nil {
		t.Errorf("TCP connection was cut: %v", err)
	}
	if s, err := lines.ReadString('\n'); err != nil || s != "still here\n" {
		t.Errorf("TCP connection was cut: %q, %v", s, err)
	}
	m.pay.update(t, before, rds, ecds)
	expect(t, request(), 200)
}

func handshakeLine(t *testing.T, m *twoZones, cert certificate) (string, error) {
	t.Helper()
	c, err := handshake(t, local(m.gateTLS), sni("one", 7070), cert)
	if err != nil {
		return "", err
	}
	return readLine(c)
}

// TestEndOfTrust: when a zone is no longer believed, its connections end, and nobody else's do.
func TestEndOfTrust(t *testing.T) {
	m := newTwoZones(t)
	web, other := m.one.issue(t, "/ns/shop/sa/web"), m.three.issue(t, "/ns/shop/sa/any")
	open := func(zone string, cert certificate) (write func(string) error, read func() (string, error)) {
		c, err := handshake(t, local(m.gateTLS), sni(zone, 7070), cert)
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(c)
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		return func(s string) error { _, err := fmt.Fprintln(c, s); return err }, func() (string, error) { return r.ReadString('\n') }
	}
	writeOne, readOne := open("one", &web)
	_, readThree := open("three", &other)

	without := m.server
	without.Remotes = m.server.Remotes[:1]
	m.pay.update(t, resources(t, without, mesh.RoleSidecar), "listener_manager.lds.update_success")
	if s, err := readThree(); err == nil {
		t.Errorf("zone three's connection goes on: %q", s)
	}
	if _, err := handshake(t, local(m.gateTLS), sni("three", 7070), &other); err == nil {
		t.Error("zone three is still accepted")
	}
	if err := writeOne("still here"); err != nil {
		t.Error(err)
	}
	if s, err := readOne(); err != nil || s != "still here\n" {
		t.Errorf("zone one's connection was cut: %q, %v", s, err)
	}
}

// TestFailover: local first, the other zone when the local one is gone, and back.
func TestFailover(t *testing.T) {
	m := newTwoZones(t)
	dead := freeporttest.Port(t)
	in := m.client
	in.Resources = append(slices.Clone(in.Resources), resource(mesh.KindService, "shop", "pay",
		`{"selector":{"app":"local-pay"},"ports":[{"name":"http","port":8080,"appProtocol":"http"}]}`))
	w := in.Workloads[0]
	w.Name, w.Labels, w.Identity = "pay-local", map[string]string{"app": "local-pay"}, "spiffe://one.example/ns/shop/sa/pay"
	w.Spec.InboundPort, w.Spec.OutboundPort, w.Spec.Upstreams = dead, 0, nil
	in.Workloads = []topology.Workload{in.Workloads[0], w}
	topo, issues := topology.Build(in)
	if len(issues) > 0 {
		t.Fatal(issues)
	}
	out, err := envoy.Build(translate.Proxy(topo, proxyNamed(t, topo, "web-1")))
	if err != nil {
		t.Fatal(err)
	}
	m.web.update(t, out, "cluster_manager.cds.update_success")
	h1 := client(t, false)
	for range 20 {
		// Nothing listens on the local endpoint's port: every request must get through all the same.
		expect(t, get(t, h1, m.webPort, "pay.shop.svc.clusterset.local", "/"), 200)
	}
	expect(t, get(t, h1, m.webPort, "pay.shop.one.mesh", "/"), 503) // pinned is pinned
	expect(t, get(t, h1, m.webPort, "pay.shop.two.mesh", "/"), 200)
	if n := m.web.stat(t, "cluster.pay.shop:8080.outlier_detection.ejections_active"); n != 1 {
		t.Errorf("%d endpoints are ejected, not the dead one", n)
	}
}

func proxyNamed(t *testing.T, topo *topology.Topology, name string) topology.Proxy {
	t.Helper()
	for _, p := range topo.Proxies() {
		if p.ID.Name == name {
			return p
		}
	}
	t.Fatalf("no proxy %s", name)
	return topology.Proxy{}
}

// TestPlanted: what passes our validation and is refused by Envoy can only be planted in the IR; this
// is how tests of the quarantine make one, and no user can.
func TestPlanted(t *testing.T) {
	m := newTwoZones(t)
	topo, _ := topology.Build(m.server)
	p := translate.Proxy(topo, proxyNamed(t, topo, "pay-1"))
	p.Clusters = append(slices.Clone(p.Clusters), ir.Cluster{
		Name: "planted", Protocol: ir.Bytes, ConnectTimeout: 250, Fixed: &ir.HostPort{Address: "not an address", Port: 1},
	})
	out, err := envoy.Build(p)
	if err != nil {
		t.Fatal(err)
	}
	if bad := envoy.Validate(out); len(bad) > 0 {
		t.Fatalf("it is refused before Envoy sees it: %v", bad[0].Err)
	}
	m.pay.update(t, out, "cluster_manager.cds.update_rejected")
	web := m.one.issue(t, "/ns/shop/sa/web")
	a, err := ask(t, local(m.payPort), sni("one", 8080), &web, "/")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, a, 200) // the rest works
}
