package envoy

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
)

// counted sums up a counter of the sidecars that serve echo.
func (w *world) counted(t *testing.T, counter string) int {
	t.Helper()
	n := 0
	for _, name := range []string{"echo-1", "echo-2"} {
		n += w.sidecar(t, name).stat(t, counter)
	}
	return n
}

// TestAuthorization: who may call is decided by what the rules say, deny wins, and a 403 is explained where that is wanted.
func TestAuthorization(t *testing.T) {
	w := newWorld(t)
	const refusedBy = "Comity-Refused-By"
	w.table(t, []feature{
		{
			name: "a refusal tells strangers nothing by default",
			yaml: `
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {targetRef: {kind: Service, name: echo}, action: Deny}
`,
			expect: []expectation{{want: want{status: 403, header: map[string]string{refusedBy: ""}, body: []string{"NOT-ALLOWED"}}}},
		},
		{
			name: "one caller may GET and not POST",
			yaml: `
kind: AuthorizationPolicy
metadata: {name: readers}
spec: {targetRef: {kind: Service, name: echo, sectionName: http}, action: Deny, rules: [{from: [{namespaces: [shop], serviceAccounts: [web]}], to: [{methods: [POST, DELETE]}]}]}
`,
			expect: []expectation{
				{want: want{}}, {call{method: "POST"}, want{status: 403}}, {call{method: "DELETE"}, want{status: 403}},
				{call{method: "POST", to: "echo-v1.shop.svc.clusterset.local"}, want{}},
			},
		},
		{
			name: "a denial by header is not escaped by saying more",
			yaml: `
kind: AuthorizationPolicy
metadata: {name: no-debug}
spec: {action: Deny, rules: [{to: [{headers: [{name: X-Debug, values: ["on", "trace*"]}]}]}]}
`,
			expect: []expectation{
				{want: want{}},
				{call{header: map[string]string{"x-debug": "off"}}, want{}},
				{call{header: map[string]string{"x-debug": "on"}}, want{status: 403}},
				{call{header: map[string]string{"x-debug": "trace-7"}}, want{status: 403}},
				{call{header: map[string]string{"x-debug": "off, on"}}, want{status: 403}},
				{call{header: map[string]string{"x-debug": "on ,off"}}, want{status: 403}},
				{call{header: map[string]string{"x-debug": "off,trace"}}, want{status: 403}},
				{call{header: map[string]string{"x-debug": "one"}}, want{}},
			},
		},
		{
			name: "the same account of two zones: only the one named",
			yaml: `
kind: AuthorizationPolicy
metadata: {name: not-from-one}
spec: {targetRef: {kind: Service, name: pay}, action: Deny, rules: [{from: [{zones: [one]}]}]}
`,
			expect: []expectation{{call{to: payHost}, want{status: 403}}, {call{from: "pay-1", to: payHost}, want{app: "pay-1"}}},
		},
	})

	t.Run("explained where that is configured", func(t *testing.T) {
		w.apply(t, `
kind: MeshConfig
metadata: {name: default}
spec: {explainRefusals: true}
---
kind: AuthorizationPolicy
metadata: {name: nobody}
spec: {targetRef: {kind: Service, name: echo}, action: Deny}
`)
		eventually(t, "explain", func() error { // connections from before go on as they began, until they are drained
			return want{
				status: 403, header: map[string]string{refusedBy: "rbac_access_denied_matched_policy[global/shop/nobody]"},
				body: []string{"global/shop/nobody", "spiffe://one.example/ns/shop/sa/web"},
			}.check(w.call(t, call{}))
		})
	})

	t.Run("of one port, gRPC too", func(t *testing.T) {
		w.apply(t, `
kind: AuthorizationPolicy
metadata: {name: not-grpc}
spec: {targetRef: {kind: Service, name: echo-v1}, action: Deny, rules: [{to: [{headers: [{name: x-team, values: ["*"]}], ports: [9090]}]}]}
`)
		if err := (want{}).check(w.call(t, call{to: "echo-v1.shop.svc.clusterset.local", header: map[string]string{"x-team": "a"}})); err != nil {
			t.Error(err) // of another port
		}
		if _, err := w.callGRPC(t, "web", "echo-v1.shop.svc.clusterset.local:9090", "/test.Echo/Say", map[string]string{"x-team": "a"}); err == nil || !strings.Contains(err.Error(), "PermissionDenied") {
			t.Errorf("gRPC: %v", err)
		}
	})
}

// TestManyPaths: what is looked up by path decides as if it were tried one by one.
func TestManyPaths(t *testing.T) {
	w := newWorld(t)
	var deny, allow []string
	for i := range 12 {
		deny = append(deny, fmt.Sprintf(`{to: [{methods: [DELETE], paths: ["/d%d*", "/deep/%d/x*"]}]}`, i, i))
		allow = append(allow, fmt.Sprintf(`{to: [{paths: ["/a%d", "/deep/%d/*"]}]}`, i, i))
	}
	w.base = slices.DeleteFunc(w.base, func(r mesh.Resource) bool { return r.Name == "everybody-may" })
	w.table(t, []feature{{
		name: "denials, then allowances, then neither",
		yaml: fmt.Sprintf(`
kind: AuthorizationPolicy
metadata: {name: denials}
spec: {action: Deny, rules: [%s, {to: [{methods: [PUT], paths: ["/deep/*"]}]}]}
---
kind: AuthorizationPolicy
metadata: {name: allowances}
spec: {action: Allow, rules: [%s, {to: [{methods: [POST]}]}]}
`, strings.Join(deny, ", "), strings.Join(allow, ", ")),
		expect: []expectation{
			{call{path: "/a3"}, want{}},
			{call{path: "/a3?q=1"}, want{}},
			{call{path: "/a33"}, want{status: 403}},
			{call{path: "/a1", method: "DELETE"}, want{}},
			{call{path: "/other"}, want{status: 403}},
			{call{path: "/other", method: "POST"}, want{}},
			{call{path: "/d3", method: "POST"}, want{}}, // the denial there is of another method
			{call{path: "/d3", method: "DELETE"}, want{status: 403}},
			{call{path: "/deep/4/x/y"}, want{}},
			{call{path: "/deep/4/x/y", method: "DELETE"}, want{status: 403}},
			{call{path: "/deep/4/x/y", method: "PUT"}, want{status: 403}}, // by the shorter of two
			{call{path: "/deep/99", method: "PUT"}, want{status: 403}},
			{call{path: "/deep/4/z", method: "DELETE"}, want{}},
		},
	}})
}

// TestShadowAndAudit: policies that don't decide change no answer; counters and logs say what they saw.
func TestShadowAndAudit(t *testing.T) {
	w := newWorld(t)
	log := filepath.Join(t.TempDir(), "access.log")
	w.apply(t, fmt.Sprintf(`
kind: MeshConfig
metadata: {name: default}
spec: {accessLog: {path: %s}}
`, log))
	listeners := w.sidecar(t, "echo-1").stat(t, "listener_manager.listener_in_place_updated") + w.sidecar(t, "echo-1").stat(t, "listener_manager.listener_modified")
	w.apply(t, fmt.Sprintf(`
kind: MeshConfig
metadata: {name: default}
spec: {accessLog: {path: %s}}
---
kind: AuthorizationPolicy
metadata: {name: no-delete}
spec: {targetRef: {kind: Service, name: echo}, mode: Shadow, action: Deny, rules: [{to: [{methods: [DELETE]}]}]}
---
kind: AuthorizationPolicy
metadata: {name: watch-all}
spec: {targetRef: {kind: Service, name: echo}, action: Audit}
---
kind: AuthorizationPolicy
metadata: {name: watch-admin}
spec: {targetRef: {kind: Service, name: echo}, action: Audit, rules: [{to: [{paths: ["/admin*"]}]}]}
---
kind: AuthorizationPolicy
metadata: {name: no-put}
spec: {targetRef: {kind: Service, name: echo}, action: Deny, rules: [{to: [{methods: [PUT]}]}]}
`, log))
	for _, c := range []struct {
		call
		status int
	}{{call{}, 200}, {call{method: "DELETE"}, 200}, {call{method: "DELETE", path: "/admin/x"}, 200}, {call{method: "PUT"}, 403}} {
		if r := w.call(t, c.call); r.status != c.status {
			t.Errorf("%s %s: %d, not %d", c.method, c.path, r.status, c.status)
		}
	}
	for counter, n := range map[string]int{
		"http.inbound/echo.shop.80/one.rbac.policy.global/shop/no-delete.shadow_denied": 2,
		"http.inbound/echo.shop.80/one.rbac.policy.global/shop/no-put.shadow_denied":    1,
		"http.inbound/echo.shop.80/one.rbac.policy.global/shop/no-put.denied":           1,
		"http.inbound/echo.shop.80/one.rbac.policy.global/shop/no-delete.denied":        0,
		"filter_chain.rbac.audit_.policy.global/shop/watch-all.shadow_allowed":          4,
		"filter_chain.rbac.audit_.policy.global/shop/watch-admin.shadow_allowed":        1,
		"http.inbound/echo.shop.80/one.rbac.shadow_denied":                              3,
	} {
		if got := w.counted(t, counter); got != n {
			t.Errorf("%s is %d, not %d", counter, got, n)
		}
	}
	if n := w.sidecar(t, "echo-1").stat(t, "listener_manager.listener_in_place_updated") + w.sidecar(t, "echo-1").stat(t, "listener_manager.listener_modified"); n != listeners {
		t.Error("a policy changed a listener")
	}
	eventually(t, "log them", func() error {
		out, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		for _, line := range []string{
			`"method":"DELETE"`, `"shadow":"denied"`, `"shadowPolicy":"global/shop/no-delete"`, `"audit":"global/shop/watch-all"`, `"audit":"global/shop/watch-admin"`,
			"rbac_access_denied_matched_policy[global/shop/no-put]",
		} {
			if !strings.Contains(string(out), line) {
				return fmt.Errorf("%s is not in\n%s", line, out)
			}
		}
		return nil
	})
}

// TestPermissive: plaintext is refused on a strict port and taken on a permissive one, from callers of whom nothing is believed.
func TestPermissive(t *testing.T) {
	w := newWorld(t)
	w.service("legacy", `{"app":"legacy"}`, "one")
	w.workload(0, "legacy", nil)
	z := w.zones[0]
	spec := &z.Workloads[len(z.Workloads)-1].Spec
	spec.Address = w.host() // the application stays where it is, as on loopback
	plain := func(method, path string) (reply, error) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+net.JoinHostPort(spec.Address, fmt.Sprint(w.ports.http))+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://one.example/ns/shop/sa/web")
		return exchange(t, client(t, false), req)
	}
	w.apply(t, "")
	if r, err := plain("GET", "/"); err == nil {
		t.Errorf("a strict port answers plaintext: %d", r.status)
	}
	const permissive = `
kind: AuthenticationPolicy
metadata: {name: moving-in}
spec: {targetRef: {kind: Service, name: legacy}, mtls: {mode: Permissive}}
`
	w.apply(t, permissive)
	r, err := plain("GET", "/x")
	if err != nil {
		t.Fatal(err)
	}
	if err := (want{app: "legacy", path: "/x", told: map[string]string{"X-Forwarded-Client-Cert": ""}}).check(r); err != nil {
		t.Error(err)
	}
	if err := (want{app: "legacy"}).check(w.call(t, call{to: "legacy.shop.svc.clusterset.local"})); err != nil {
		t.Errorf("mTLS beside it: %v", err)
	}
	raw := dial(t, net.JoinHostPort(spec.Address, fmt.Sprint(w.ports.tcp)))
	if line, err := readLine(raw); err != nil || line == "" {
		t.Errorf("TCP: %q, %v", line, err)
	}
	p := w.sidecar(t, "legacy")
	for counter, n := range map[string]int{
		"http.plaintext/legacy.shop:80.downstream_rq_total": 1, "tcp.plaintext/legacy.shop:7070.downstream_cx_total": 1,
	} {
		if got := p.stat(t, counter); got != n {
			t.Errorf("%s is %d, not %d", counter, got, n)
		}
	}
	_ = raw.Close()
	eventually(t, "count callers by address", func() error { // when requests and connections end
		for _, port := range []string{"80", "7070"} {
			if n := p.stat(t, "comity.plaintext.port.legacy.shop."+port+".source.127.0.0.1"); n != 1 {
				return fmt.Errorf("port %s: %d", port, n)
			}
		}
		return nil
	})

	t.Run("nobody in plaintext is allowed by name, and all are denied by one", func(t *testing.T) {
		w.apply(t, permissive+`
---
kind: AuthorizationPolicy
metadata: {name: not-guest}
spec: {targetRef: {kind: Service, name: legacy}, action: Deny, rules: [{from: [{namespaces: [guest]}], to: [{paths: ["/private*"]}]}]}
`)
		for path, status := range map[string]int{"/": 200, "/private": 403, "/x/..//private": 403, "/private%2f": 403} {
			r, err := plain("GET", path)
			if err != nil || r.status != status {
				t.Errorf("%s: %d, not %d, %v", path, r.status, status, err)
			}
		}
		if err := (want{}).check(w.call(t, call{to: "legacy.shop.svc.clusterset.local", path: "/private"})); err != nil {
			t.Error(err)
		}
		w.base = slices.DeleteFunc(w.base, func(r mesh.Resource) bool { return r.Name == "everybody-may" })
		w.apply(t, permissive+`
---
kind: AuthorizationPolicy
metadata: {name: shop-may}
spec: {action: Allow, rules: [{from: [{namespaces: [shop]}]}]}
`)
		if r, err := plain("GET", "/"); err != nil || r.status != 403 {
			t.Errorf("allowed by a name: %d, %v", r.status, err)
		}
		if err := (want{}).check(w.call(t, call{to: "legacy.shop.svc.clusterset.local"})); err != nil {
			t.Error(err)
		}
	})
	t.Run("a strict port of a permissive namespace", func(t *testing.T) {
		w.apply(t, `
kind: AuthenticationPolicy
metadata: {name: moving-in}
spec: {mtls: {mode: Permissive}}
---
kind: AuthenticationPolicy
metadata: {name: not-http}
spec: {targetRef: {kind: Service, name: legacy, sectionName: http}, mtls: {mode: Strict}}
`)
		eventually(t, "close the port", func() error { // a listener that was removed drains first
			if r, err := plain("GET", "/"); err == nil {
				return fmt.Errorf("answered %d", r.status)
			}
			return nil
		})
	})
}
