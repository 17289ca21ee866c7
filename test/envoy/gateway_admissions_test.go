package envoy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/xds/translate"
)

// TestGatewayAdmissions: who may come by listeners that pass on connections is decided before any service hears of them, by address, server
// name and the identity of a certificate; log and counters name the policy.
func TestGatewayAdmissions(t *testing.T) {
	w, at := edgeWorld(t)
	ca, partners := newPublicCA(t), newAuthority(t, "partner.example")
	log := filepath.Join(t.TempDir(), "access.log")
	w.putSecret(t, "raw", ca.issue(t, "raw.example.com"), nil)
	w.putSecret(t, "partners", ca.issue(t, "partners"), partners.bundle())
	secure, plain := w.port(), w.port()
	world := fmt.Sprintf(`
kind: MeshConfig
metadata: {name: default}
spec: {accessLog: {path: %s}}
---
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: comity
  listeners:
  - {name: end, port: %d, protocol: TLS, hostname: "*.example.com", tls: {certificateRefs: [{name: raw}]}}
  - {name: plain, port: %d, protocol: TCP}
  tls: {frontend: {default: {validation: {caCertificateRefs: [{group: "", kind: Secret, name: partners}]}}}}
---
kind: TLSRoute
metadata: {name: raw}
spec: {parentRefs: [{name: edge, sectionName: end}], hostnames: [raw.example.com], rules: [{backendRefs: [{name: pay, port: 7070}, {name: echo-v1, port: 7070, weight: 0}]}]}
---
kind: TCPRoute
metadata: {name: plain}
spec: {parentRefs: [{name: edge, sectionName: plain}], rules: [{backendRefs: [{name: echo-v1, port: 7070}, {name: pay, port: 7070}]}]}
`, log, secure, plain)
	rule := func(name, section, action, rules string) string {
		return fmt.Sprintf("\n---\nkind: AuthorizationPolicy\nmetadata: {name: %s}\nspec: {targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: edge%s}, action: %s, rules: %s}\n", name, section, action, rules)
	}
	// greeting is what a visitor from an address is told, by TLS where it shows a certificate of an identity.
	greeting := func(from, identity string) string {
		d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		port := plain
		if identity != "" {
			port = secure
		}
		c, err := d.Dial("tcp", net.JoinHostPort(at, strconv.Itoa(int(port))))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if identity != "" {
			cert := partners.issue(t, identity)
			secured := tls.Client(c, &tls.Config{RootCAs: ca.pool(), ServerName: "raw.example.com", Certificates: []tls.Certificate{cert}})
			line, _ := readLine(secured)
			return strings.TrimSpace(line)
		}
		line, _ := readLine(c)
		return strings.TrimSpace(line)
	}
	heard := func() int {
		return int(w.apps["pay-1"].connections.Load() + w.apps["echo-1"].connections.Load())
	}
	edge := func() *proxy { return w.sidecar(t, "edge") }
	var lines []map[string]any
	for _, c := range []struct {
		name, yaml     string
		from, identity string
		admitted       bool
		counter        string
		logged         map[string]any
	}{
		{
			"an address that is allowed", rule("office", "", "Allow", "[{from: [{addresses: [127.0.0.0/29]}]}]"), "127.0.0.1", "", true,
			"comity.authorization.policy.global/shop/office.decision.allowed",
			map[string]any{"decision": "allowed", "policy": "global/shop/office", "source": "127.0.0.1"},
		},
		{
			"another one", rule("office", "", "Allow", "[{from: [{addresses: [127.0.0.0/29]}]}]"), "127.0.0.9", "", false,
			"comity.authorization.policy." + strings.ReplaceAll(translate.DefaultDenyName, ":", ".") + ".decision.denied",
			map[string]any{"decision": "denied", "policy": translate.DefaultDenyName, "source": "127.0.0.9", "upstream": nil},
		},
		{
			"a denial by server name", rule("not-raw", "", "Deny", `[{from: [{addresses: [127.0.0.9]}], to: [{serverNames: ["*.example.com"]}]}]`), "127.0.0.9", "/app/a", false,
			"comity.authorization.policy.global/shop/not-raw.decision.denied",
			map[string]any{"decision": "denied", "policy": "global/shop/not-raw", "source": "127.0.0.9"},
		},
		{
			"which is not known without TLS", rule("not-raw", "", "Deny", `[{to: [{serverNames: ["*.example.com"]}]}]`), "127.0.0.1", "", false,
			"comity.authorization.policy.global/shop/not-raw.decision.denied",
			map[string]any{"decision": "denied", "policy": "global/shop/not-raw", "source": "127.0.0.1"},
		},
		{
			"an identity that is allowed", rule("partner", ", sectionName: end", "Allow", `[{from: [{identities: ["spiffe://partner.example/app/"]}]}]`), "127.0.0.1", "/app/a", true,
			"comity.authorization.policy.global/shop/partner.decision.allowed",
			map[string]any{"decision": "allowed", "policy": "global/shop/partner", "caller": "spiffe://partner.example/app/a"},
		},
		{
			"one that is not", rule("partner", ", sectionName: end", "Allow", `[{from: [{identities: ["spiffe://partner.example/app/"]}]}]`), "127.0.0.1", "/other/a", false,
			"comity.authorization.policy." + strings.ReplaceAll(translate.DefaultDenyName, ":", ".") + ".decision.denied",
			map[string]any{"decision": "denied", "policy": translate.DefaultDenyName, "caller": "spiffe://partner.example/other/a", "upstream": nil},
		},
		{
			"a shadow", rule("would-deny", "", "Deny, mode: Shadow", "[{from: [{addresses: [127.0.0.1]}]}]"), "127.0.0.1", "", true,
			"comity.authorization_shadow.policy.global/shop/would-deny.decision.denied",
			map[string]any{"decision": "allowed", "shadow": "denied", "shadowPolicy": "global/shop/would-deny"},
		},
		{
			"audits", rule("watch-a", "", "Audit", "[{from: [{addresses: [127.0.0.1]}]}]") + rule("watch-b", "", "Audit", "[{from: [{addresses: [127.0.0.9]}]}]"), "127.0.0.1", "", true,
			"comity.authorization_audit.policies.global/shop/watch-a,",
			map[string]any{"decision": "allowed", "audit": "global/shop/watch-a"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.apply(t, world+c.yaml)
			before, known := edge().stat(t, c.counter), heard()
			if app := greeting(c.from, c.identity); (app != "") != c.admitted {
				t.Errorf("it was told %q", app)
			}
			if n := heard() - known; !c.admitted && n != 0 {
				t.Error("a service heard of it")
			}
			eventually(t, "count it", func() error {
				if n := edge().stat(t, c.counter); n != before+1 {
					return fmt.Errorf("%s is %d, not one more than %d", c.counter, n, before)
				}
				return nil
			})
			c.logged["reporter"] = "gateway"
			lines = append(lines, c.logged)
		})
	}
	eventually(t, "log them", func() error {
		var missing []error
		for _, fields := range lines {
			missing = append(missing, logged(log, fields))
		}
		return errors.Join(missing...)
	})
}
