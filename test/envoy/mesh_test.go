package envoy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/translate"
)

// The mesh of the tests: zone one calls, zone two serves pay (HTTP 8080, gRPC-like HTTP/2 9090, TCP
// 7070) through its ingress, and zone three is trusted by zone two as well. ledger of zone two is not
// exported.
type twoZones struct {
	one, two, three  authority
	client, server   topology.Input
	web, gate, pay   *process
	webPort          uint16 // web's outbound HTTP
	webTCP           uint16 // web's upstream to pay:7070
	payPort, gateTLS uint16
}

func resource(kind mesh.Kind, namespace, name, spec string) mesh.Resource {
	return mesh.Resource{
		Key:  mesh.Key{Origin: mesh.OriginGlobal, Kind: kind, Namespace: namespace, Name: name},
		Spec: json.RawMessage(spec),
	}
}

func allow(name, spec string) mesh.Resource {
	return resource(mesh.KindAuthorizationPolicy, "shop", name, spec)
}

const (
	webMayPay = `{"targetRef":{"kind":"Service","name":"pay"},"action":"Allow","rules":[{"from":[{"identities":["spiffe://one.example/ns/shop/sa/web"]}]}]}`
	// threeMayPay lets a whole namespace of zone three in, by prefix.
	threeMayPay = `{"targetRef":{"kind":"Service","name":"pay"},"action":"Allow","rules":[{"from":[{"zones":["three"],"namespaces":["shop"]}]}]}`
	noAdmin     = `{"targetRef":{"kind":"Service","name":"pay"},"action":"Deny","rules":[{"to":[{"paths":["/admin*"],"ports":[8080,9090]}]}]}`
)

func newTwoZones(t *testing.T) *twoZones {
	t.Helper()
	m := &twoZones{
		one: newAuthority(t, "one.example"), two: newAuthority(t, "two.example"), three: newAuthority(t, "three.example"),
		webPort: freeporttest.Port(t), webTCP: freeporttest.Port(t), payPort: freeporttest.Port(t), gateTLS: freeporttest.Port(t),
	}
	roots := map[mesh.TrustDomain][]byte{"one.example": m.one.bundle(), "two.example": m.two.bundle(), "three.example": m.three.bundle()}
	zones := []mesh.Resource{
		resource(mesh.KindZone, "", "one", `{"namespaces":["*"]}`),
		resource(mesh.KindZone, "", "two", `{"namespaces":["shop"]}`),
		resource(mesh.KindZone, "", "three", `{"namespaces":["shop"]}`),
	}
	h1, h2, raw := httpApp(t, false), httpApp(t, true), tcpApp(t)
	service := func(name string) mesh.Resource {
		return resource(mesh.KindService, "shop", name, fmt.Sprintf(`{"selector":{"app":"pay"},"ports":[
			{"name":"http","port":8080,"targetPort":%d,"appProtocol":"http"},
			{"name":"grpc","port":9090,"targetPort":%d,"appProtocol":"grpc"},
			{"name":"raw","port":7070,"targetPort":%d}]}`, h1, h2, raw))
	}
	m.server = topology.Input{
		Zone: "two", TrustDomain: "two.example", Roots: roots,
		Resources: append(zones,
			service("pay"), service("ledger"), resource(mesh.KindServiceExport, "shop", "pay", `{}`),
			resource(mesh.KindMeshConfig, "", "default", `{"explainRefusals":true}`),
			allow("web-may-pay", webMayPay), allow("three-may-pay", threeMayPay), allow("no-admin", noAdmin),
		),
		Workloads: []topology.Workload{{
			Namespace: "shop", Name: "pay-1", Labels: map[string]string{"app": "pay"}, Healthy: true,
			Identity: "spiffe://two.example/ns/shop/sa/pay",
			Spec:     policy.Workload{ServiceAccount: "pay", Address: "127.0.0.1", InboundPort: m.payPort},
		}},
		Ingresses: []topology.IngressProxy{{Name: "gate", BindAddress: "127.0.0.1", BindPorts: []uint16{m.gateTLS}}},
		Remotes:   []topology.Remote{{Zone: "one", TrustDomain: "one.example"}, {Zone: "three", TrustDomain: "three.example"}},
	}
	serverTopo, _ := topology.Build(m.server)
	m.client = topology.Input{
		Zone: "one", TrustDomain: "one.example", Roots: roots, Resources: zones,
		Workloads: []topology.Workload{{
			Namespace: "shop", Name: "web-1", Labels: map[string]string{"app": "web"}, Healthy: true,
			Identity: "spiffe://one.example/ns/shop/sa/web",
			Spec: policy.Workload{
				ServiceAccount: "web", Address: "127.0.0.1", InboundPort: freeporttest.Port(t), OutboundPort: m.webPort,
				Upstreams: []policy.Upstream{{Service: "pay", Port: 7070, LocalPort: m.webTCP}},
			},
		}},
		Remotes: []topology.Remote{{
			Zone: "two", TrustDomain: "two.example", Exports: serverTopo.Exports(),
			Ingresses: []topology.RemoteIngress{{Ingress: mesh.Ingress{ID: "gate", Host: "127.0.0.1", Ports: []uint16{m.gateTLS}}, Addresses: []string{"127.0.0.1"}}},
		}},
	}
	m.pay = startEnvoy(t, "pay", resources(t, m.server, mesh.RoleSidecar), m.two.secret(t, m.two.issue(t, "/ns/shop/sa/pay")))
	m.gate = startEnvoy(t, "gate", resources(t, m.server, mesh.RoleIngress), nil)
	m.web = startEnvoy(t, "web", resources(t, m.client, mesh.RoleSidecar), m.one.secret(t, m.one.issue(t, "/ns/shop/sa/web")))
	return m
}

// resources runs the pipeline for the one proxy of a role.
func resources(t *testing.T, in topology.Input, role mesh.Role) []envoy.Resource {
	t.Helper()
	topo, _ := topology.Build(in)
	for _, p := range topo.Proxies() {
		if p.ID.Role != role {
			continue
		}
		out, err := envoy.Build(translate.Proxy(topo, p))
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range envoy.Validate(out) {
			t.Fatal(bad.Err)
		}
		return out
	}
	t.Fatalf("no %s in zone %s", role, in.Zone)
	return nil
}

// httpApp answers with what it was told of its caller, over HTTP/1.1 or HTTP/2 with prior knowledge.
// /stream sends a line at once and then one for each line it gets.
func httpApp(t *testing.T, h2 bool) uint16 {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Grpc-Status")
		if r.Header.Get("x_forwarded_client_cert") != "" {
			fmt.Fprint(w, "the caller's own word about itself arrived ")
		}
		fmt.Fprintf(w, "%s %s %s caller=%s", r.Method, r.URL.Path, r.Proto, r.Header.Get("X-Forwarded-Client-Cert"))
		w.Header().Set("Grpc-Status", "0")
	})
	s := httptest.NewUnstartedServer(mux)
	if h2 {
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
	}
	s.Start()
	t.Cleanup(s.Close)
	return portOf(s.Listener.Addr())
}

// tcpApp greets first and then echoes lines.
func tcpApp(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				fmt.Fprintln(c, "secret banner")
				_, _ = io.Copy(c, c) // until the peer is gone
			}()
		}
	}()
	return portOf(l.Addr())
}

func portOf(a net.Addr) uint16 { return uint16(a.(*net.TCPAddr).Port) }

func local(port uint16) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))) }

// answer is a response, read.
type answer struct {
	status  int
	body    string
	header  http.Header
	trailer http.Header
}

// get asks through a sidecar's outbound port for a host.
func get(t *testing.T, c *http.Client, port uint16, host, path string) answer {
	t.Helper()
	a, err := try(t, c, http.MethodGet, port, host, path)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func try(t *testing.T, c *http.Client, method string, port uint16, host, path string) (answer, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+local(port)+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	req.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://one.example/ns/shop/sa/liar")
	req.Header.Set("x_forwarded_client_cert", "URI=spiffe://one.example/ns/shop/sa/liar") // the same, to a CGI application
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(body), resp.Header, resp.Trailer}, err
}

// notFollowed has a client show redirects as they come.
func notFollowed(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func client(t *testing.T, h2 bool) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: notFollowed}
}

func expect(t *testing.T, a answer, status int, parts ...string) {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d, not %d: %s", a.status, status, a.body)
	}
	if strings.Contains(a.body, "own word") {
		t.Error(a.body)
	}
	for _, p := range parts {
		if !strings.Contains(a.body, p) {
			t.Errorf("%q is not in %q", p, a.body)
		}
	}
}

func readLine(c net.Conn) (string, error) { return bufio.NewReader(c).ReadString('\n') }
