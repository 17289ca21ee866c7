package envoy

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/xds/topology"
)

// TestCrossZone: client sidecar, ingress, server sidecar.
func TestCrossZone(t *testing.T) {
	m := newTwoZones(t)
	h1, h2 := client(t, false), client(t, true)
	const caller = "URI=spiffe://one.example/ns/shop/sa/web"
	m.web.wait(t, "reach pay", func() error {
		a, err := try(t, h1, "GET", m.webPort, "pay.shop.svc.clusterset.local", "/")
		if err == nil && a.status != 200 {
			err = errStatus(a)
		}
		return err
	})
	t.Run("by the name that means it wherever it is", func(t *testing.T) {
		a := get(t, h1, m.webPort, "pay.shop.svc.clusterset.local", "/x")
		expect(t, a, 200, "GET /x HTTP/1.1", caller)
		if strings.Contains(a.body, "liar") {
			t.Errorf("the application was told what the caller wrote itself: %q", a.body)
		}
	})
	t.Run("pinned to the zone, with a port", func(t *testing.T) {
		expect(t, get(t, h1, m.webPort, "pay.shop.two.mesh:8080", "/x"), 200, caller)
	})
	t.Run("gRPC: HTTP/2 to the application, with trailers", func(t *testing.T) {
		a := get(t, h2, m.webPort, "pay.shop.svc.clusterset.local:9090", "/x")
		expect(t, a, 200, "HTTP/2.0", caller)
		if a.trailer.Get("Grpc-Status") != "0" {
			t.Errorf("trailers: %v", a.trailer)
		}
	})
	t.Run("TCP by a local port", func(t *testing.T) {
		c := dial(t, local(m.webTCP))
		line, err := readLine(c)
		if err != nil || line != "secret banner\n" {
			t.Errorf("%q, %v", line, err)
		}
	})
	t.Run("a host that no service has", func(t *testing.T) {
		a := get(t, h1, m.webPort, "nobody.shop.svc.clusterset.local", "/")
		expect(t, a, 404, "NO-SUCH-SERVICE")
		if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
			t.Errorf("content type %q", ct)
		}
	})
	t.Run("a service that is not exported", func(t *testing.T) {
		expect(t, get(t, h1, m.webPort, "ledger.shop.two.mesh", "/"), 404)
		config, err := m.web.ask("/config_dump?include_eds")
		if err != nil || !strings.Contains(config, "pay.shop") || strings.Contains(config, "ledger") {
			t.Errorf("other zones are told of it: %v", err)
		}
	})
	t.Run("denied by a policy, which is named", func(t *testing.T) {
		for _, path := range []string{"/admin", "/admin/x", "//admin", "/x/../admin", "/%61dmin"} {
			expect(t, get(t, h1, m.webPort, "pay.shop.svc.clusterset.local", path), 403, "global/shop/no-admin", caller[4:])
		}
		expect(t, get(t, h1, m.webPort, "pay.shop.svc.clusterset.local", "/x%2f..%2fadmin"), 403, "ambiguous-path")
	})
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ingress is short for what the topology calls it.
type ingress = topology.RemoteIngress

// certificate is shown by a client.
type certificate = *tls.Certificate

type statusError string

func (e statusError) Error() string { return string(e) }

func errStatus(a answer) error { return statusError(a.body) }
