package envoy

import (
	"fmt"
	"testing"
)

// TestStrangersRoutes: another namespace's route may lead to a service that granted it, and what is demanded of that route changes nothing of
// what the service's own servers demand.
func TestStrangersRoutes(t *testing.T) {
	w := newWorld(t)
	users, mallory := newIssuer(t, "https://users.example", "u1"), newIssuer(t, "https://mallory.example", "m1")
	w.apply(t, fmt.Sprintf(`
kind: AuthenticationPolicy
metadata: {name: users}
spec:
  targetRef: {kind: Service, name: echo-v1}
  jwt: {providers: [{name: users, issuer: %s, jwks: {inline: '%s'}}]}
---
kind: ReferenceGrant
metadata: {name: v1}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: evil}], to: [{group: "", kind: Service, name: echo-v1}]}
---
kind: Service
metadata: {name: front, namespace: evil}
spec: {selector: {app: front}, ports: [{name: http, port: 80, appProtocol: http}]}
---
kind: HTTPRoute
metadata: {name: r, namespace: evil}
spec: {parentRefs: [{group: "", kind: Service, name: front}], rules: [{matches: [{path: {value: /}}], backendRefs: [{name: echo-v1, namespace: shop, port: 80}]}]}
---
kind: AuthenticationPolicy
metadata: {name: own, namespace: evil}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}
  jwt: {mode: Optional, providers: [{name: m, issuer: %s, jwks: {inline: '%s'}}]}
`, users.name, users.jwks(t), mallory.name, mallory.jwks(t)))
	for _, to := range []string{"echo-v1.shop.svc.clusterset.local", "front.evil.svc.clusterset.local"} {
		for what, c := range map[string]struct {
			token  string
			status int
		}{"no token": {"", 401}, "a stranger's": {mallory.token(t, "ES256", nil), 401}, "a good one": {users.token(t, "ES256", nil), 200}} {
			asked := call{to: to}
			if c.token != "" {
				asked.header = bearer(c.token)
			}
			if r := w.call(t, asked); r.status != c.status {
				t.Errorf("%s with %s: %d, want %d", to, what, r.status, c.status)
			}
		}
	}
}

// TestAmbiguousPathsAtGateways: what a path means may be seen otherwise by applications, so that where paths decide at a Gateway, one with
// parameters (RFC 3986, 3.3) is refused, as in the mesh.
func TestAmbiguousPathsAtGateways(t *testing.T) {
	w, at := edgeWorld(t)
	v := visitor{at: at, port: w.port()}
	users := newIssuer(t, "https://users.example", "u1")
	gateway := fmt.Sprintf(`
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: comity, listeners: [{name: http, port: %d, protocol: HTTP}]}
---
kind: HTTPRoute
metadata: {name: r}
spec: {parentRefs: [{name: edge}], rules: [{name: open, matches: [{path: {value: /}}], backendRefs: [{name: echo-v1, port: 80}]}, {name: secret, matches: [{path: {value: /api/secret}}], backendRefs: [{name: echo-v1, port: 80}]}]}
---`, v.port)
	expect := func(t *testing.T, want map[string]int) {
		t.Helper()
		for path, status := range want {
			if r := v.must(t, "x.test", path); r.status != status {
				t.Errorf("%s: %d, want %d; the application saw %q", path, r.status, status, r.echoed.Path)
			}
		}
	}
	t.Run("that no policy looks at", func(t *testing.T) {
		w.apply(t, gateway[:len(gateway)-len("\n---")])
		expect(t, map[string]int{"/ok": 200, "/api;v=1/ok": 200})
	})
	t.Run("that an AuthorizationPolicy looks at", func(t *testing.T) {
		w.apply(t, gateway+`
kind: AuthorizationPolicy
metadata: {name: no-admin}
spec: {targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: edge}, action: Deny, rules: [{to: [{paths: ["/admin*", "/api/secret*", "/exact"]}]}]}
`)
		expect(t, map[string]int{
			"/ok": 200, "/admin": 403, "/public/..;/admin": 403, "/x;/../admin": 403, "/;/admin": 403, "/api;x/secret": 403, "/api%3b/secret": 403, "/exact;x": 403,
		})
	})
	t.Run("that decide whether a token is demanded", func(t *testing.T) {
		w.apply(t, gateway+fmt.Sprintf(`
kind: AuthenticationPolicy
metadata: {name: users}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: secret}
  jwt: {providers: [{name: users, issuer: %s, jwks: {inline: '%s'}}]}
`, users.name, users.jwks(t)))
		expect(t, map[string]int{"/ok": 200, "/api/secret": 401, "/;/api/secret": 403, "/api;x/secret": 403})
	})
}
