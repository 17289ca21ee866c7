package envoy

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/translate"
)

// TestNoPolicyIsClosed: a route table that came without its authorization lets nobody in.
func TestNoPolicyIsClosed(t *testing.T) {
	m := newTwoZones(t)
	topo, _ := topology.Build(m.server)
	p := translate.Proxy(topo, proxyNamed(t, topo, "pay-1"))
	p.Routes = slices.Clone(p.Routes)
	for i := range p.Routes {
		p.Routes[i].Hosts = slices.Clone(p.Routes[i].Hosts)
		p.Routes[i].Hosts[0].Authorization = nil
	}
	out, err := envoy.Build(p)
	if err != nil {
		t.Fatal(err)
	}
	m.pay.update(t, out, "http.inbound/pay.shop:8080/one.rds.inbound/pay.shop:8080/one.config_reload")
	web := m.one.issue(t, "/ns/shop/sa/web")
	a, err := ask(t, local(m.payPort), sni("one", 8080), &web, "/")
	if err != nil {
		t.Fatal(err)
	}
	expect(t, a, 403)
}

// TestDeniedGRPC: a gRPC caller gets a gRPC status that names the policy.
func TestDeniedGRPC(t *testing.T) {
	m := newTwoZones(t)
	c := client(t, true)
	m.web.wait(t, "reach pay", func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+local(m.webPort)+"/admin.Service/Do", strings.NewReader("\x00\x00\x00\x00\x00"))
		if err != nil {
			return err
		}
		req.Host = "pay.shop.svc.clusterset.local:9090"
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("TE", "trailers")
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if got := resp.Header.Get("Grpc-Status"); got != "7" {
			return fmt.Errorf("grpc-status %q: %v", got, resp.Header)
		}
		if msg := resp.Header.Get("Grpc-Message"); !strings.Contains(msg, "no-admin") {
			return fmt.Errorf("grpc-message %q", msg)
		}
		return nil
	})
}

// TestDeniedWithinPrefix: TCP of a namespace is allowed but for one account, which the handshake can't
// tell; nothing that it sends may arrive.
func TestDeniedWithinPrefix(t *testing.T) {
	m := newTwoZones(t)
	m.server.Resources = append(slices.Clone(m.server.Resources), allow("not-guest",
		`{"targetRef":{"kind":"Service","name":"pay"},"action":"Deny","rules":[{"from":[{"zones":["three"],"namespaces":["shop"],"serviceAccounts":["guest"]}]}]}`))
	m.pay.update(t, resources(t, m.server, mesh.RoleSidecar), "extension_config_discovery.network_filter.admission/inbound/pay.shop:7070/three.config_reload")
	for account, want := range map[string]bool{"guest": false, "any": true} {
		cert := m.three.issue(t, "/ns/shop/sa/"+account)
		m.pay.wait(t, "treat "+account+" as policy says", func() error {
			c, err := handshake(t, local(m.gateTLS), sni("three", 7070), &cert)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := fmt.Fprintln(c, "ping"); err != nil {
				return err
			}
			r := bufio.NewReader(c)
			var got string
			for {
				line, err := r.ReadString('\n')
				got += line
				if err != nil || line == "ping\n" {
					break
				}
			}
			if strings.Contains(got, "ping\n") != want {
				return fmt.Errorf("got %q", got)
			}
			return nil
		})
	}
}
