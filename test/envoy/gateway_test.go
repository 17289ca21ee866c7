package envoy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/xds/topology"
)

// edgeWorld is a world whose zone one has an ingress too: it serves Gateways at the returned address.
func edgeWorld(t *testing.T) (w *world, at string) {
	t.Helper()
	w = newWorld(t)
	at = w.host()
	w.zones[0].Ingresses = []topology.IngressProxy{{Name: "edge", BindAddress: at, BindPorts: []uint16{w.port()}}}
	return w, at
}

// visitor is a client outside of the mesh.
type visitor struct {
	at   string
	port uint16
	tls  *tls.Config // nil: without
	h1   bool        // HTTP/1.1 only
}

func (v visitor) client(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: v.tls}
	tr.Protocols.SetHTTP1(true)
	tr.Protocols.SetHTTP2(!v.h1)
	tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(v.at, strconv.Itoa(int(v.port))))
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: notFollowed, Timeout: 30 * time.Second}
}

// get asks a Gateway for a host and path.
func (v visitor) get(t *testing.T, host, path string, header ...string) (reply, error) {
	t.Helper()
	return v.getWith(t, v.client(t), host, path, header...)
}

func (v visitor) getWith(t *testing.T, h *http.Client, host, path string, header ...string) (reply, error) {
	t.Helper()
	scheme := "http"
	if v.tls != nil {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, scheme+"://"+host+":"+strconv.Itoa(int(v.port))+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
			continue
		}
		req.Header[header[i]] = []string{header[i+1]} // as it is written
	}
	resp, err := h.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	r := reply{status: resp.StatusCode, header: resp.Header, body: string(body), app: resp.Header.Get("X-App"), tls: resp.TLS, proto: resp.Proto}
	if r.app != "" {
		if err := json.Unmarshal(body, &r.echoed); err != nil {
			t.Fatal(err)
		}
	}
	return r, err
}

// must is get of what must be answered.
func (v visitor) must(t *testing.T, host, path string, header ...string) reply {
	t.Helper()
	r, err := v.get(t, host, path, header...)
	if err != nil {
		t.Fatalf("%s%s: %v", host, path, err)
	}
	return r
}

const edgeRoute = `
kind: HTTPRoute
metadata: {name: %s}
spec:
  parentRefs: [{name: edge%s}]
  hostnames: [%s]
  rules: [{backendRefs: [{name: %s, port: 80}]}]
`

// TestGateway: requests from outside by host, with TLS by server name, and with certificates of clients.
func TestGateway(t *testing.T) {
	w, at := edgeWorld(t)
	ca, partners := newPublicCA(t), newPublicCA(t)
	first := ca.issue(t, "pay.example.com")
	w.putSecret(t, "shop-cert", ca.issue(t, "shop.example.com", "*.shop.example.com"), nil)
	w.putSecret(t, "pay-cert", first, nil)
	w.putSecret(t, "partners", partners.issue(t, "unused"), partners.pem())
	plain, secure, strict, modern, open := w.port(), w.port(), w.port(), w.port(), w.port()
	w.apply(t, fmt.Sprintf(`
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: comity
  tls:
    frontend:
      default: {}
      perPort:
      - {port: %[3]d, tls: {validation: {caCertificateRefs: [{group: "", kind: Secret, name: partners}]}}}
      - {port: %[5]d, tls: {validation: {mode: AllowInsecureFallback, caCertificateRefs: [{group: "", kind: Secret, name: partners}]}}}
  listeners:
  - {name: http, port: %[1]d, protocol: HTTP}
  - {name: shop, port: %[2]d, protocol: HTTPS, hostname: "*.example.com", tls: {certificateRefs: [{name: shop-cert}]}}
  - {name: pay, port: %[2]d, protocol: HTTPS, hostname: pay.example.com, tls: {certificateRefs: [{name: pay-cert}]}}
  - {name: strict, port: %[3]d, protocol: HTTPS, tls: {certificateRefs: [{name: shop-cert}]}}
  - {name: open, port: %[5]d, protocol: HTTPS, tls: {certificateRefs: [{name: shop-cert}]}}
  - {name: modern, port: %[4]d, protocol: HTTPS, tls: {certificateRefs: [{name: shop-cert}], options: {mesh.comity.dev/tls-minimum: "1.3"}}}
  - {name: nokey, port: %[4]d, protocol: HTTPS, hostname: nokey.example.com, tls: {certificateRefs: [{name: gone}]}}
---
`, plain, secure, strict, modern, open)+fmt.Sprintf(edgeRoute, "shop", "", `shop.example.com, "*.shop.example.com"`, "echo")+"---"+fmt.Sprintf(edgeRoute, "pay", "", "pay.example.com", "pay"))

	http1 := visitor{at: at, port: plain}
	t.Run("hosts", func(t *testing.T) {
		for host, app := range map[string]string{"shop.example.com": "echo-", "a.b.shop.example.com": "echo-", "pay.example.com": "pay-1", "PAY.example.com": "pay-1"} {
			if r := http1.must(t, host, "/x"); r.status != 200 || !strings.HasPrefix(r.app, app) || r.echoed.Path != "/x" {
				t.Errorf("%s: %+v", host, r)
			}
		}
		if r := http1.must(t, "other.example.com", "/"); r.status != 404 || !strings.Contains(r.body, "NO-ROUTE") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("headers", func(t *testing.T) {
		r := http1.must(t, "shop.example.com", "/", "X-Forwarded-For", "192.0.2.7", "X-Forwarded-Proto", "https", "X-Forwarded-Client-Cert", "URI=spiffe://one.example/ns/shop/sa/web",
			"X-Envoy-Upstream-Rq-Timeout-Ms", "1", "Comity-Client-Certificate-Subject", "CN=root")
		h := r.echoed.Header
		if got := h.Get("X-Forwarded-For"); !strings.HasPrefix(got, "192.0.2.7,") {
			t.Errorf("x-forwarded-for is %q", got)
		}
		if h.Get("X-Forwarded-Proto") != "http" || !strings.HasSuffix(h.Get("X-Forwarded-Client-Cert"), ";URI=spiffe://one.example/fed/zone-ingress/edge") {
			t.Errorf("%v", h)
		}
		for k := range h {
			if strings.HasPrefix(k, "X-Envoy") || strings.HasPrefix(k, "Comity-") {
				t.Errorf("the application is told %s: %v", k, h[k])
			}
		}
		if r := http1.must(t, "shop.example.com", "/", "x_forwarded_for", "192.0.2.7"); r.status != 400 {
			t.Errorf("a header with underscores: %d", r.status)
		}
		if r := http1.must(t, "shop.example.com", "/a/%2e%2e/b//c"); r.status != 200 || r.echoed.Path != "/b/c" {
			t.Errorf("%d %s", r.status, r.echoed.Path)
		}
		if r := http1.must(t, "shop.example.com", "/a%2fb"); r.status != 307 || !strings.HasSuffix(r.header.Get("Location"), "/a/b") {
			t.Errorf("an escaped slash: %d %v", r.status, r.header)
		}
	})
	t.Run("TLS", func(t *testing.T) {
		for host, name := range map[string]string{"shop.example.com": "shop.example.com", "x.shop.example.com": "shop.example.com", "pay.example.com": "pay.example.com"} {
			r := visitor{at: at, port: secure, tls: &tls.Config{RootCAs: ca.pool()}}.must(t, host, "/")
			if r.status != 200 || r.tls.PeerCertificates[0].DNSNames[0] != name || r.tls.Version != tls.VersionTLS13 || r.proto != "HTTP/2.0" {
				t.Errorf("%s: %d over %s with %v, TLS %x", host, r.status, r.proto, r.tls.PeerCertificates[0].DNSNames, r.tls.Version)
			}
			if got := r.echoed.Header.Get("X-Forwarded-Proto"); got != "https" {
				t.Errorf("x-forwarded-proto is %q", got)
			}
		}
		old := visitor{at: at, port: secure, h1: true, tls: &tls.Config{RootCAs: ca.pool(), MaxVersion: tls.VersionTLS12}}
		if r := old.must(t, "pay.example.com", "/"); r.status != 200 || r.tls.Version != tls.VersionTLS12 || r.proto != "HTTP/1.1" {
			t.Errorf("%d over %s, TLS %x", r.status, r.proto, r.tls.Version)
		}
		old.tls = &tls.Config{RootCAs: ca.pool(), MaxVersion: tls.VersionTLS11} //nolint:gosec // that it is refused is the point
		if r, err := old.get(t, "pay.example.com", "/"); err == nil {
			t.Errorf("TLS 1.1: %d", r.status)
		}
		old = visitor{at: at, port: modern, tls: &tls.Config{RootCAs: ca.pool(), MaxVersion: tls.VersionTLS12}}
		if r, err := old.get(t, "shop.example.com", "/"); err == nil {
			t.Errorf("TLS 1.2 where 1.3 is the least: %d", r.status)
		}
		if r, err := (visitor{at: at, port: secure, tls: &tls.Config{InsecureSkipVerify: true}}).get(t, "elsewhere.example.org", "/"); err == nil { //nolint:gosec // nobody answers
			t.Errorf("a server name of no listener: %d", r.status)
		}
		if r, err := (visitor{at: at, port: modern, tls: &tls.Config{InsecureSkipVerify: true}}).get(t, "nokey.example.com", "/"); err == nil { //nolint:gosec // nobody answers
			t.Errorf("a listener without its certificate: %d", r.status)
		}
		// A connection for one listener has nothing of another one's.
		if r := (visitor{at: at, port: secure, tls: &tls.Config{RootCAs: ca.pool()}}).must(t, "shop.example.com", "/", "Host", "pay.example.com"); r.status != 421 {
			t.Errorf("another listener's host: %d", r.status)
		}
	})
	t.Run("clients", func(t *testing.T) {
		cert := partners.issue(t, "partner, one")
		known := visitor{at: at, port: strict, tls: &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{*cert}}}
		sum := sha256.Sum256(cert.Certificate[0])
		r := known.must(t, "shop.example.com", "/", "Comity-Client-Certificate-Subject", "CN=root")
		if got := r.echoed.Header.Get("Comity-Client-Certificate-Sha256"); got != hex.EncodeToString(sum[:]) {
			t.Errorf("%v", r.echoed.Header)
		}
		if got := strings.Join(r.echoed.Header.Values("Comity-Client-Certificate-Subject"), ";"); got != `CN=partner\, one` {
			t.Errorf("the subject is %q", got)
		}
		known.tls = &tls.Config{RootCAs: ca.pool()}
		if r, err := known.get(t, "shop.example.com", "/"); err == nil {
			t.Errorf("without a certificate: %d", r.status)
		}
		known.tls.Certificates = []tls.Certificate{*ca.issue(t, "partner, one")}
		if r, err := known.get(t, "shop.example.com", "/"); err == nil {
			t.Errorf("with somebody else's certificate: %d", r.status)
		}
	})
	t.Run("clients as they like", func(t *testing.T) {
		for _, certs := range [][]tls.Certificate{nil, {*partners.issue(t, "partner")}, {*ca.issue(t, "partner")}} {
			v := visitor{at: at, port: open, tls: &tls.Config{RootCAs: ca.pool(), Certificates: certs}}
			r := v.must(t, "shop.example.com", "/", "Comity-Client-Certificate-Subject", "CN=root")
			if r.status != 200 || r.echoed.Header.Get("Comity-Client-Certificate-Subject") != "" {
				t.Errorf("%d %v", r.status, r.echoed.Header)
			}
		}
	})
	t.Run("renewal", func(t *testing.T) {
		v := visitor{at: at, port: secure, tls: &tls.Config{RootCAs: ca.pool()}}
		kept := v.client(t)
		shows := func(r reply, c *tls.Certificate) bool {
			return bytes.Equal(r.tls.PeerCertificates[0].Raw, c.Certificate[0])
		}
		r, err := v.getWith(t, kept, "pay.example.com", "/")
		if err != nil || !shows(r, first) {
			t.Fatal(r, err)
		}
		second := ca.issue(t, "pay.example.com")
		w.putSecret(t, "pay-cert", second, nil)
		eventually(t, "the renewed certificate is shown", func() error {
			if r := v.must(t, "pay.example.com", "/"); !shows(r, second) {
				return fmt.Errorf("the old one is")
			}
			return nil
		})
		if r, err := v.getWith(t, kept, "pay.example.com", "/"); err != nil || r.status != 200 || !shows(r, first) {
			t.Errorf("the connection from before: %d, %v", r.status, err)
		}
	})
}

// TestGatewayBehindProxies: what proxies in front say of the client is believed as far as the Gateway trusts them, and a Gateway
// whose class nobody has is served by nobody.
func TestGatewayBehindProxies(t *testing.T) {
	w, at := edgeWorld(t)
	port, other := w.port(), w.port()
	w.apply(t, fmt.Sprintf(`
kind: GatewayClass
metadata: {name: ours}
spec: {controllerName: mesh.comity.dev/gateway}
---
kind: Gateway
metadata: {name: edge, annotations: {mesh.comity.dev/trusted-hops: "1"}}
spec: {gatewayClassName: ours, listeners: [{name: http, port: %d, protocol: HTTP}]}
---
kind: Gateway
metadata: {name: edge2}
spec: {gatewayClassName: theirs, listeners: [{name: http, port: %d, protocol: HTTP}]}
---
`, port, other)+fmt.Sprintf(edgeRoute, "shop", "", "shop.example.com", "echo"))
	r := visitor{at: at, port: port}.must(t, "shop.example.com", "/", "X-Forwarded-For", "203.0.113.9, 192.0.2.7", "X-Forwarded-Proto", "https")
	if r.status != 200 || r.echoed.Header.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("%d %v", r.status, r.echoed.Header)
	}
	if r, err := (visitor{at: at, port: other}).get(t, "shop.example.com", "/"); err == nil {
		t.Errorf("a Gateway of nobody's class: %d", r.status)
	}
}

// TestGatewayRoutes: what a route says of requests holds for those from outside, redirects to HTTPS first, and what policies say of
// the route.
func TestGatewayRoutes(t *testing.T) {
	w, at := edgeWorld(t)
	ca := newPublicCA(t)
	w.putSecret(t, "www", ca.issue(t, "www.example.com"), nil)
	plain, secure := w.port(), w.port()
	w.apply(t, fmt.Sprintf(`
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: comity
  listeners:
  - {name: http, port: %d, protocol: HTTP}
  - {name: https, port: %d, protocol: HTTPS, tls: {certificateRefs: [{name: www}]}}
---
kind: HTTPRoute
metadata: {name: to-https}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  hostnames: [www.example.com]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: %[2]d, statusCode: 301}}]}]
---
kind: HTTPRoute
metadata: {name: site}
spec:
  parentRefs: [{name: edge, sectionName: https}]
  hostnames: [www.example.com]
  rules:
  - matches: [{path: {value: /shop}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 80}}}
    backendRefs: [{name: echo-v1, port: 80}]
  - matches: [{headers: [{name: x-test, value: broken}]}]
    name: broken
    backendRefs: [{name: echo-v1, port: 80}]
  - matches: [{queryParams: [{name: v, value: "2"}]}]
    backendRefs: [{name: echo-v2, port: 80}]
  - backendRefs: [{name: pay, port: 80}]
---
kind: TrafficPolicy
metadata: {name: broken}
spec: {targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: site, sectionName: broken}, fault: {abort: {percent: 100, status: 418}}}
`, plain, secure))
	r := visitor{at: at, port: plain}.must(t, "www.example.com", "/a?b=c")
	if want := fmt.Sprintf("https://www.example.com:%d/a?b=c", secure); r.status != 301 || r.header.Get("Location") != want {
		t.Errorf("%d %v, want %s", r.status, r.header, want)
	}
	v := visitor{at: at, port: secure, tls: &tls.Config{RootCAs: ca.pool()}}
	if r := v.must(t, "www.example.com", "/shop/x"); r.app != "echo-1" || r.echoed.Path != "/x" {
		t.Errorf("%q got %s", r.app, r.echoed.Path)
	}
	eventually(t, "the copy arrives", func() error {
		for _, q := range w.apps["echo-2"].requests() {
			if q.Path == "/x" {
				return nil
			}
		}
		return fmt.Errorf("it has not")
	})
	for path, app := range map[string]string{"/?v=2": "echo-2", "/": "pay-1"} {
		if r := v.must(t, "www.example.com", path); r.app != app {
			t.Errorf("%s: %d by %q", path, r.status, r.app)
		}
	}
	if r := v.must(t, "www.example.com", "/", "X-Test", "broken"); r.status != 418 {
		t.Errorf("the policy of a rule: %d", r.status)
	}
}

// tlsApp answers every connection over TLS with its name, as a server whose certificate no proxy has.
func tlsApp(t *testing.T, at string, cert *tls.Certificate, name string) {
	t.Helper()
	l, err := tls.Listen("tcp", at, &tls.Config{Certificates: []tls.Certificate{*cert}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = fmt.Fprintln(c, name) // the caller may be gone
			_ = c.Close()
		}
	}()
}

// TestGatewayStreams: connections of clients outside reach servers in another zone, with TLS to the end, to the Gateway, and
// without.
func TestGatewayStreams(t *testing.T) {
	w, at := edgeWorld(t)
	ca := newPublicCA(t)
	vault, pay := w.port(), w.spec(t, "pay-1").Spec.AppAddress
	tlsApp(t, net.JoinHostPort(pay, strconv.Itoa(int(vault))), ca.issue(t, "vault.example.com"), "vault")
	w.putSecret(t, "raw", ca.issue(t, "raw.example.com"), nil)
	secure, plain := w.port(), w.port()
	w.apply(t, fmt.Sprintf(`
kind: Service
metadata: {name: vault}
origin: two
spec: {selector: {app: pay-1}, ports: [{port: 443, targetPort: %d}]}
---
kind: ServiceExport
metadata: {name: vault}
spec: {}
---
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: comity
  listeners:
  - {name: pass, port: %d, protocol: TLS, hostname: "*.example.com", tls: {mode: Passthrough}}
  - {name: end, port: %[2]d, protocol: TLS, hostname: raw.example.com, tls: {certificateRefs: [{name: raw}]}}
  - {name: plain, port: %d, protocol: TCP}
---
kind: TLSRoute
metadata: {name: vault}
spec: {parentRefs: [{name: edge, sectionName: pass}], hostnames: [vault.example.com], rules: [{backendRefs: [{name: vault, port: 443}]}]}
---
kind: TLSRoute
metadata: {name: raw}
spec: {parentRefs: [{name: edge}], hostnames: [raw.example.com], rules: [{backendRefs: [{name: pay, port: 7070}]}]}
---
kind: TCPRoute
metadata: {name: plain}
spec: {parentRefs: [{name: edge, sectionName: plain}], rules: [{backendRefs: [{name: echo-v1, port: 7070}, {name: pay, port: 7070}]}]}
`, vault, secure, plain))
	hello := func(host string) (string, *x509.Certificate, error) {
		c, err := tls.Dial("tcp", net.JoinHostPort(at, strconv.Itoa(int(secure))), &tls.Config{RootCAs: ca.pool(), ServerName: host})
		if err != nil {
			return "", nil, err
		}
		defer c.Close()
		line, err := readLine(c)
		return strings.TrimSpace(line), c.ConnectionState().PeerCertificates[0], err
	}
	for host, app := range map[string]string{"vault.example.com": "vault", "raw.example.com": "pay-1"} {
		line, cert, err := hello(host)
		if err != nil || line != app || cert.Subject.CommonName != host {
			t.Errorf("%s: %q, %v", host, line, err)
		}
	}
	if line, _, err := hello("other.example.com"); err == nil {
		t.Errorf("a name without a route: %q", line)
	}
	seen := map[string]int{}
	for range 20 {
		c := dial(t, net.JoinHostPort(at, strconv.Itoa(int(plain))))
		line, err := readLine(c)
		if err != nil {
			t.Fatal(err)
		}
		seen[strings.TrimSpace(line)]++
		_ = c.Close()
	}
	if seen["echo-1"] == 0 || seen["pay-1"] == 0 || seen["echo-1"]+seen["pay-1"] != 20 {
		t.Errorf("%v", seen)
	}
}

// TestGatewayOfTwoZones: the host of a Gateway that both zones serve is reached by either's ingress. It goes on when the
// service's part in one zone ends, and when that zone's ingress does; and a new Gateway cuts no connection between zones.
func TestGatewayOfTwoZones(t *testing.T) {
	w, at := edgeWorld(t)
	w.publish(t)
	lane, app, err := w.dialTCP(t, "web", "pay")
	if err != nil || app != "pay-1" {
		t.Fatal(app, err)
	}
	defer lane.Close()
	w.workload(0, "pay-0", map[string]string{"pay": "yes"})
	w.service("pay", `{"pay":"yes"}`, "one")
	port := w.port()
	w.apply(t, fmt.Sprintf(`
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: comity, listeners: [{name: http, port: %d, protocol: HTTP}]}
---
`, port)+fmt.Sprintf(edgeRoute, "pay", "", "pay.example.com", "pay"))
	one, two := visitor{at: at, port: port}, visitor{at: w.zones[1].Ingresses[0].BindAddress, port: port}
	served := func(v visitor, by string) {
		t.Helper()
		for range 20 {
			if r := v.must(t, "pay.example.com", "/"); r.status != 200 || r.app != by {
				t.Errorf("%d by %q, not by %s: %s", r.status, r.app, by, r.body)
			}
		}
	}
	served(one, "pay-0")
	served(two, "pay-1")
	w.sidecar(t, "pay-0").kill()
	served(one, "pay-1")
	w.sidecar(t, "edge").kill()
	if r, err := one.get(t, "pay.example.com", "/"); err == nil {
		t.Errorf("an ingress that is gone: %+v", r)
	}
	served(two, "pay-1")
	if _, err := fmt.Fprintln(lane, "still there"); err != nil {
		t.Error(err)
	}
	if line, err := readLine(lane); err != nil || line != "still there\n" {
		t.Errorf("the connection between zones: %q, %v", line, err)
	}
}
