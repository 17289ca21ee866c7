package envoy

import (
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
)

// TestStreams: what an application connects to by a local port goes where TCPRoutes and TLSRoutes of the service say, to other
// zones too.
func TestStreams(t *testing.T) {
	w := newWorld(t)
	greeting := func() string {
		c, app, err := w.dialTCP(t, "web", "echo")
		if err != nil {
			return "closed"
		}
		_ = c.Close()
		return app
	}
	t.Run("weights", func(t *testing.T) {
		w.apply(t, `
kind: TCPRoute
metadata: {name: echo}
spec:
  parentRefs: [{group: "", kind: Service, name: echo}]
  rules: [{backendRefs: [{name: echo-v1, port: 7070, weight: 9}, {name: pay, port: 7070, weight: 3}, {name: gone, port: 7070, weight: 3}]}]
---
kind: TCPRoute
metadata: {name: late}
spec:
  parentRefs: [{group: "", kind: Service, name: echo}]
  rules: [{backendRefs: [{name: echo-v2, port: 7070}]}]
`)
		seen := map[string]int{}
		for range 150 {
			seen[greeting()]++
		}
		if seen["echo-1"] < 60 || seen["pay-1"] < 10 || seen["closed"] < 10 || seen["echo-1"]+seen["pay-1"]+seen["closed"] != 150 {
			t.Errorf("%v", seen)
		}
		_, issues := w.topologies()
		if !strings.Contains(fmt.Sprint(issues[0]), "global/TCPRoute/shop/late overridden by global/TCPRoute/shop/echo") {
			t.Errorf("the route that lost is not told: %+v", issues[0])
		}
	})
	t.Run("server name", func(t *testing.T) {
		ca := newPublicCA(t)
		vault := w.port()
		tlsApp(t, net.JoinHostPort(w.spec(t, "pay-1").Spec.AppAddress, strconv.Itoa(int(vault))), ca.issue(t, "vault.example.com"), "vault")
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
kind: TLSRoute
metadata: {name: vault}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 7070}]
  hostnames: [vault.example.com]
  rules: [{backendRefs: [{name: vault, port: 443}]}]
`, vault))
		at := local(w.spec(t, "web").Spec.Upstreams[0].LocalPort)
		hello := func(host string) (string, error) {
			c, err := tls.Dial("tcp", at, &tls.Config{RootCAs: ca.pool(), ServerName: host})
			if err != nil {
				return "", err
			}
			defer c.Close()
			return readLine(c)
		}
		if line, err := hello("vault.example.com"); err != nil || line != "vault\n" {
			t.Errorf("%q, %v", line, err)
		}
		if line, err := hello("other.example.com"); err == nil {
			t.Errorf("a name without a route: %q", line)
		}
	})
	t.Run("without a route", func(t *testing.T) {
		w.apply(t, "")
		seen := map[string]int{}
		for range 40 {
			seen[greeting()]++
		}
		if seen["echo-1"] == 0 || seen["echo-2"] == 0 || seen["echo-1"]+seen["echo-2"] != 40 {
			t.Errorf("%v", seen)
		}
	})
}
