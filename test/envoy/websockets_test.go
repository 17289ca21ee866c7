package envoy

import (
	"bufio"
	"context"
	"crypto/sha1" //nolint:gosec // the handshake's own, RFC 6455
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// serveUpgrade is what a WebSocket server does of RFC 6455 before the first frame; then it greets with its name and echoes.
func serveUpgrade(w http.ResponseWriter, r *http.Request, name string) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotImplemented)
		return
	}
	defer c.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n%s\n", acceptOf(r.Header.Get("Sec-WebSocket-Key")), name)
	if rw.Flush() == nil {
		_, _ = io.Copy(c, rw) // until the peer is gone
	}
}

// acceptOf proves to a client that its handshake was read as one.
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
	return base64.StdEncoding.EncodeToString(sum[:])
}

// upgraded is a connection after its handshake, or the answer that refused it.
type upgraded struct {
	net.Conn
	from   *bufio.Reader
	status int
	app    string
}

// upgrade asks a proxy for a protocol.
func upgrade(t *testing.T, at, host, path, protocol string, header map[string]string) upgraded {
	t.Helper()
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+at+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {protocol}, "Sec-WebSocket-Version": {"13"}, "Sec-WebSocket-Key": {key}}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	c := dial(t, at)
	if err := req.Write(c); err != nil {
		t.Fatal(err)
	}
	u := upgraded{Conn: c, from: bufio.NewReader(c)}
	resp, err := http.ReadResponse(u.from, req)
	if err != nil {
		t.Fatal(err)
	}
	u.status = resp.StatusCode
	if u.status != http.StatusSwitchingProtocols {
		defer resp.Body.Close()
		return u
	}
	if got := resp.Header.Get("Sec-WebSocket-Accept"); got != acceptOf(key) {
		t.Errorf("Sec-WebSocket-Accept is %q", got)
	}
	line, err := u.from.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	u.app = strings.TrimSpace(line)
	return u
}

// echo sends bytes and reads them back, at once: more than all buffers on the way would block who only writes.
func (u upgraded) echo(bytes string) error {
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(u, bytes)
		sent <- err
	}()
	got := make([]byte, len(bytes))
	if _, err := io.ReadFull(u.from, got); err != nil {
		return err
	}
	if string(got) != bytes {
		return fmt.Errorf("%d other bytes came back", len(got))
	}
	return <-sent
}

// TestWebSockets: WebSockets in the zone, across zones and through a Gateway; policies decide of the handshake, timeouts of requests end
// with it, and silence ends the rest.
func TestWebSockets(t *testing.T) {
	w, at := edgeWorld(t)
	port, secure, ca := w.port(), w.port(), newPublicCA(t)
	w.putSecret(t, "chat-cert", ca.issue(t, "chat.example.com"), nil)
	base := fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: chat}
spec: {selector: {app: echo-1}, ports: [{port: 80, targetPort: %d, appProtocol: kubernetes.io/ws}]}
---
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: comity
  listeners:
  - {name: http, port: %d, protocol: HTTP}
  - {name: https, port: %d, protocol: HTTPS, tls: {certificateRefs: [{name: chat-cert}]}}
---
`, w.ports.http, port, secure) + fmt.Sprintf(edgeRoute, "chat", "", "chat.example.com", "chat") + "---" + fmt.Sprintf(edgeRoute, "pay", "", "pay.example.com", "pay") + "---"
	w.apply(t, base)
	web, gateway := local(w.spec(t, "web").Spec.OutboundPort), net.JoinHostPort(at, strconv.Itoa(int(port)))
	for name, c := range map[string]struct{ at, host, app string }{
		"in the zone":                  {web, "chat.shop.svc.clusterset.local", "echo-1"},
		"across zones":                 {web, "pay.shop.svc.clusterset.local", "pay-1"},
		"through a Gateway":            {gateway, "chat.example.com", "echo-1"},
		"through a Gateway and across": {gateway, "pay.example.com", "pay-1"},
	} {
		t.Run(name, func(t *testing.T) {
			u := upgrade(t, c.at, c.host, "/", "websocket", nil)
			if u.status != http.StatusSwitchingProtocols || u.app != c.app {
				t.Fatalf("%d by %q", u.status, u.app)
			}
			for _, n := range []int{1, 1 << 20, 1} {
				if err := u.echo(strings.Repeat("x", n)); err != nil {
					t.Errorf("%d bytes: %v", n, err)
				}
			}
		})
	}
	// As browsers do on a connection that offers it.
	t.Run("from outside over HTTP/2", func(t *testing.T) {
		from, to := io.Pipe()
		defer to.Close()
		address := net.JoinHostPort(at, strconv.Itoa(int(secure)))
		resp := overHTTP2(t, &tls.Config{RootCAs: ca.pool(), ServerName: "chat.example.com", NextProtos: []string{"h2"}}, address, fmt.Sprintf("https://chat.example.com:%d/", secure), from)
		defer resp.Body.Close()
		go func() { _, _ = io.WriteString(to, "bytes\n") }()
		answer := bufio.NewReader(resp.Body)
		for _, want := range []string{"echo-1\n", "bytes\n"} {
			if line, err := answer.ReadString('\n'); err != nil || line != want {
				t.Errorf("%d: %q, not %q: %v", resp.StatusCode, line, want, err)
			}
		}
	})
	t.Run("another protocol", func(t *testing.T) {
		if u := upgrade(t, web, "pay.shop.svc.clusterset.local", "/", "tunnel", nil); u.status != http.StatusForbidden {
			t.Error(u.status)
		}
	})
	t.Run("gRPC goes on beside one that asks it for a WebSocket", func(t *testing.T) {
		const grpcPort = "pay.shop.svc.clusterset.local:9090"
		if u := upgrade(t, web, grpcPort, "/", "websocket", nil); u.status < 400 {
			t.Error(u.status)
		}
		if app, err := w.callGRPC(t, "web", grpcPort, "/test.Echo/Say", nil); err != nil || app != "pay-1" {
			t.Errorf("%q, %v", app, err)
		}
	})
	w.apply(t, base+`
kind: AuthorizationPolicy
metadata: {name: closed}
spec: {action: Deny, rules: [{to: [{methods: [GET], paths: [/closed]}]}]}
---
kind: TrafficPolicy
metadata: {name: whole}
spec: {targetRef: {group: "", kind: Service, name: chat}, timeouts: {request: 2s}}
---
kind: TrafficPolicy
metadata: {name: each-try}
spec: {targetRef: {group: "", kind: Service, name: pay}, timeouts: {backendRequest: 2s}, retry: {attempts: 0}}
`)
	t.Run("denied", func(t *testing.T) {
		for _, app := range []string{"echo-1", "pay-1"} {
			w.apps[app].forget()
		}
		for _, c := range [][2]string{{web, "chat.shop.svc.clusterset.local"}, {web, "pay.shop.svc.clusterset.local"}, {gateway, "pay.example.com"}} {
			if u := upgrade(t, c[0], c[1], "/closed", "websocket", nil); u.status != http.StatusForbidden {
				t.Errorf("%s: %d", c[1], u.status)
			}
		}
		for _, app := range []string{"echo-1", "pay-1"} {
			if got := w.apps[app].requests(); len(got) > 0 {
				t.Errorf("%s heard of it: %+v", app, got)
			}
		}
	})
	t.Run("a timeout is the handshake's", func(t *testing.T) {
		for _, host := range []string{"chat.shop.svc.clusterset.local", "pay.shop.svc.clusterset.local"} {
			u := upgrade(t, web, host, "/", "websocket", nil)
			if u.status != http.StatusSwitchingProtocols {
				t.Fatalf("%s: %d", host, u.status)
			}
			if late := upgrade(t, web, host, "/", "websocket", map[string]string{doDelay: "4s"}); late.status != http.StatusGatewayTimeout {
				t.Errorf("%s: a handshake of 4s is answered %d", host, late.status)
			}
			if err := u.echo("still here"); err != nil { // for longer than the timeout
				t.Errorf("%s: %v", host, err)
			}
		}
	})
	t.Run("silence ends it", func(t *testing.T) {
		w.apply(t, base+"kind: TrafficPolicy\nmetadata: {name: silence}\nspec: {timeouts: {idle: 1s}}\n")
		for host, by := range map[string]string{"chat.shop.svc.clusterset.local": web, "pay.shop.svc.clusterset.local": web, "chat.example.com": gateway} {
			u := upgrade(t, by, host, "/", "websocket", nil)
			if _, err := u.from.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("%s: %d, %v", host, u.status, err)
			}
		}
	})
}

// overHTTP2 asks for a WebSocket on a connection of HTTP/2 (RFC 8441).
//
//nolint:staticcheck // net/http itself sends no :protocol
func overHTTP2(t *testing.T, config *tls.Config, address, target string, from io.Reader) *http.Response {
	t.Helper()
	h := &http2.Transport{DialTLSContext: func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
		d := tls.Dialer{Config: config}
		return d.DialContext(ctx, network, address)
	}}
	t.Cleanup(h.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, target, from)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}}
	resp, err := h.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}
