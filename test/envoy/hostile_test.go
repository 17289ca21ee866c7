package envoy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/comity-mesh/comity/mesh"
)

// sni is what zone `source` asks for to reach a port of pay.
func sni(source string, port uint16) string {
	return mesh.ServicePort{Zone: "two", Namespace: "shop", Service: "pay", Port: port}.SNI(source)
}

// handshake shows a certificate to an address. With TLS 1.3 a client learns that it was refused only
// when it reads, so a silent peer is read from until it says something or the connection ends.
func handshake(t *testing.T, addr, serverName string, cert *tls.Certificate) (*tls.Conn, error) {
	t.Helper()
	cfg := &tls.Config{
		ServerName: serverName, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, // what the client thinks of the server is not the question here
	}
	if cert != nil {
		// Not Certificates: Go keeps back one whose CA the server does not list, and then nothing is proven.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	c := tls.Client(dial(t, addr), cfg)
	if err := c.HandshakeContext(t.Context()); err != nil {
		return nil, err
	}
	return c, nil
}

// ask sends a request over HTTP/2 with a certificate.
func ask(t *testing.T, addr, serverName string, cert *tls.Certificate, path string) (answer, error) {
	t.Helper()
	c, err := handshake(t, addr, serverName, cert)
	if err != nil {
		return answer{}, err
	}
	return over(t, only(t, c), path)
}

// only speaks HTTP/2 over one connection and makes no other.
func only(t *testing.T, c *tls.Conn) http.RoundTripper {
	t.Helper()
	rest := make(chan *tls.Conn, 1)
	rest <- c
	close(rest)
	tr := &http.Transport{Protocols: new(http.Protocols), DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		if c := <-rest; c != nil {
			return c, nil
		}
		return nil, errors.New("the connection was cut")
	}}
	tr.Protocols.SetHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

func over(t *testing.T, rt http.RoundTripper, path string) (answer, error) {
	t.Helper()
	return overTo(t, rt, "https://pay"+path)
}

func overTo(t *testing.T, rt http.RoundTripper, url string) (answer, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, body: string(body)}, err
}

// half begins a request and never ends its headers. What it returns reports how that ends, not later than a minute from now.
func half(t *testing.T, addr, serverName string, cert *tls.Certificate) (ends func() error) {
	t.Helper()
	c, err := handshake(t, addr, serverName, cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "pay"}, {":path", "/"}} {
		if err := enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.Write([]byte(http2.ClientPreface))
	f := http2.NewFramer(c, c)
	if err := errors.Join(err, f.WriteSettings(), f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes()})); err != nil {
		t.Fatal(err)
	}
	return func() error {
		for {
			switch frame, err := f.ReadFrame(); {
			case errors.Is(err, os.ErrDeadlineExceeded):
				return errors.New("it is waited for")
			case err != nil: // the connection is cut
				return nil
			case frame.Header().StreamID == 1: // an answer, or the end of the stream
				return nil
			}
		}
	}
}

// TestRefusals plays the attackers, at the ingress and at the sidecar.
func TestRefusals(t *testing.T) {
	m := newTwoZones(t)
	web, guest := m.one.issue(t, "/ns/shop/sa/web"), m.one.issue(t, "/ns/shop/sa/guest")
	halves := map[string]func() error{}
	for _, addr := range []string{local(m.payPort), local(m.gateTLS)} {
		halves[addr] = half(t, addr, sni("one", 8080), &guest)
	}
	defer func() {
		for addr, ends := range halves {
			if err := ends(); err != nil {
				t.Errorf("half a request at %s, of somebody who may not call: %v", addr, err)
			}
		}
	}()
	threeAny := m.three.issue(t, "/ns/shop/sa/any")
	threeAlien := m.three.issue(t, "/ns/other/sa/any")
	direct, gate := local(m.payPort), local(m.gateTLS)

	for _, addr := range []string{direct, gate} {
		a, err := ask(t, addr, sni("one", 8080), &web, "/")
		if err != nil {
			t.Fatal(err)
		}
		expect(t, a, 200, ";URI=spiffe://one.example/ns/shop/sa/web")
	}
	a, err := ask(t, gate, sni("three", 8080), &threeAny, "/")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, a, 200)

	t.Run("denied for the want of a policy", func(t *testing.T) {
		for cert, zone := range map[*tls.Certificate]string{&guest: "one", &threeAlien: "three"} {
			a, err := ask(t, gate, sni(zone, 8080), cert, "/")
			if err != nil {
				t.Fatal(err)
			}
			expect(t, a, 403, "default-deny:no-AuthorizationPolicy-allows", "NOT-ALLOWED")
		}
	})

	forgedTwo := m.one.forge(t, "spiffe://one.example/ns/shop/sa/guest", "spiffe://one.example/ns/shop/sa/web")
	webAndThree := m.three.forge(t, "spiffe://three.example/ns/shop/sa/any", "spiffe://one.example/ns/shop/sa/web")
	stolen := m.three.forge(t, "spiffe://one.example/ns/shop/sa/web")
	dirty := m.three.forge(t, "spiffe://three.example/ns/shop/sa/x,y")
	semicolon := m.three.forge(t, "spiffe://three.example/ns/shop/sa/x;URI=spiffe:%2F%2Fone.example")
	none := tls.Certificate{}
	t.Run("refused", func(t *testing.T) {
		for name, c := range map[string]struct {
			cert *tls.Certificate
			zone string
		}{
			"a second URI of the same zone":        {&forgedTwo, "one"},
			"a second URI of another zone":         {&webAndThree, "three"},
			"another zone's identity, own chain":   {&stolen, "three"},
			"another zone's identity, its chain":   {&stolen, "one"},
			"an honest certificate, another chain": {&threeAny, "one"},
			"a comma in the path":                  {&dirty, "three"},
			"syntax of XFCC in the path":           {&semicolon, "three"},
			"no certificate":                       {&none, "one"},
		} {
			for _, addr := range []string{direct, gate} {
				a, err := ask(t, addr, sni(c.zone, 8080), c.cert, "/")
				if err == nil && a.status != http.StatusForbidden {
					t.Errorf("%s: answered %d: %s", name, a.status, a.body)
				}
			}
		}
	})

	t.Run("no chain for it", func(t *testing.T) {
		ledger := mesh.ServicePort{Zone: "two", Namespace: "shop", Service: "ledger", Port: 8080}
		for name, serverName := range map[string]string{
			"not exported":       ledger.SNI("one"),
			"no such port":       sni("one", 8081),
			"no such service":    "one.8080.nothing.shop.two.mesh",
			"no source label":    mesh.ServicePort{Zone: "two", Namespace: "shop", Service: "pay", Port: 8080}.SNISuffix(),
			"a zone not trusted": sni("four", 8080),
			"none":               "",
		} {
			for _, addr := range []string{direct, gate} {
				if _, err := handshake(t, addr, serverName, &web); err == nil {
					t.Errorf("%s: %s took the handshake", name, addr)
				}
			}
		}
		if n := m.gate.stat(t, "listener.lane:"+portText(m.gateTLS)+".no_filter_chain_match"); n == 0 {
			t.Error("the ingress did not count them")
		}
	})

	t.Run("not TLS", func(t *testing.T) {
		for _, hello := range []string{"GET / HTTP/1.1\r\nHost: pay.shop\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\xff\xff\x00\x00", strings.Repeat("\x00", 4096)} {
			for _, addr := range []string{direct, gate} {
				c := dial(t, addr)
				fmt.Fprint(c, hello)
				if out, err := io.ReadAll(c); len(out) > 0 && out[0] != 21 || errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%q was answered %q, %v", hello[:3], out, err)
				}
			}
		}
	})

	t.Run("TLS 1.2", func(t *testing.T) {
		c := tls.Client(dial(t, direct), &tls.Config{ServerName: sni("one", 8080), MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, Certificates: []tls.Certificate{web}})
		if err := c.HandshakeContext(t.Context()); err == nil {
			t.Error("the handshake succeeded")
		}
	})

	t.Run("TCP is refused before the banner", func(t *testing.T) {
		allowedFirst := m.one.forge(t, "spiffe://one.example/ns/shop/sa/web", "spiffe://one.example/ns/shop/sa/guest")
		banner := func(zone string, cert *tls.Certificate) (string, error) {
			c, err := handshake(t, gate, sni(zone, 7070), cert)
			if err != nil {
				return "", err
			}
			return readLine(c)
		}
		if s, err := banner("one", &web); err != nil || s != "secret banner\n" {
			t.Errorf("an allowed caller got %q, %v", s, err)
		}
		if s, err := banner("three", &threeAny); err != nil || s != "secret banner\n" {
			t.Errorf("a caller allowed by prefix got %q, %v", s, err)
		}
		for name, c := range map[string]struct {
			cert *tls.Certificate
			zone string
		}{"denied": {&guest, "one"}, "other namespace": {&threeAlien, "three"}, "stolen": {&stolen, "one"}, "none": {&none, "one"},
			"a second URI": {&forgedTwo, "one"}, "a second URI after one that is allowed": {&allowedFirst, "one"}, "a second URI of another zone": {&webAndThree, "three"},
			"a comma in the path": {&dirty, "three"}, "syntax of XFCC": {&semicolon, "three"}, "an honest certificate, another chain": {&threeAny, "one"}} {
			if s, err := banner(c.zone, c.cert); err == nil || s != "" {
				t.Errorf("%s: got %q, %v", name, s, err)
			}
		}
	})
}

// TestServerIdentity: a sidecar must not talk to who is not the service, whoever vouches for it.
func TestServerIdentity(t *testing.T) {
	m := newTwoZones(t)
	h1 := client(t, false)
	rootOne, keyOne := plainRoot(t, "two.example")
	const control = "the service itself"
	for name, cert := range map[string]tls.Certificate{
		control:                             m.two.issue(t, "/ns/shop/sa/pay"),
		"another service of the zone":       m.two.issue(t, "/ns/shop/sa/guest"),
		"another zone, its own name":        m.three.issue(t, "/ns/shop/sa/pay"),
		"another zone, the expected name":   m.three.forge(t, "spiffe://two.example/ns/shop/sa/pay"),
		"another zone, two names":           m.three.forge(t, "spiffe://three.example/ns/shop/sa/pay", "spiffe://two.example/ns/shop/sa/pay"),
		"the expected name, unknown root":   forge(t, rootOne, keyOne, "spiffe://two.example/ns/shop/sa/pay"),
		"no name":                           m.two.forge(t),
		"the expected name in another case": m.two.forge(t, "spiffe://two.example/ns/shop/sa/PAY"),
	} {
		t.Run(name, func(t *testing.T) {
			l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
				Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
			})
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "impostor") }), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
			srv.Protocols = new(http.Protocols)
			srv.Protocols.SetHTTP2(true)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = srv.Serve(l) // until it is closed below
			}()
			defer func() {
				srv.Close()
				<-done
			}()
			in := m.client
			in.Remotes = append(in.Remotes[:0:0], in.Remotes...)
			in.Remotes[0].Ingresses = ingressAt(l.Addr())
			m.web.update(t, resources(t, in, mesh.RoleSidecar), "cluster.pay.shop:8080.update_success")
			a, err := try(t, h1, "GET", m.webPort, "pay.shop.two.mesh", "/")
			if name == control {
				expect(t, a, 200, "impostor") // so that the refusals are not of something else
				return
			}
			if err != nil || a.status != 503 || strings.Contains(a.body, "impostor") {
				t.Errorf("answered %d %q, %v", a.status, a.body, err)
			}
		})
	}
}

func ingressAt(a net.Addr) []ingress {
	return []ingress{{Ingress: mesh.Ingress{ID: "x", Host: "127.0.0.1", Ports: []uint16{portOf(a)}}, Addresses: []string{"127.0.0.1"}}}
}

func portText(p uint16) string { return fmt.Sprint(p) }
