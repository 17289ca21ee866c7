package envoy

import (
	"net/http"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestBackends: where routes lead besides services of their own namespace.
func TestBackends(t *testing.T) {
	w := newWorld(t)
	// pay is in zone one, too.
	w.service("pay", `{"app":"echo-1"}`, "one")
	w.publish(t)
	to := func(backend string) string { return route(`[{backendRefs: [` + backend + `]}]`) }
	w.table(t, []feature{{
		name:   "a service wherever it is",
		yaml:   to(`{group: multicluster.x-k8s.io, kind: ServiceImport, name: pay, port: 80}`),
		expect: []expectation{{want: want{app: "echo-1"}}},
	}, {
		name:   "the same in another zone",
		yaml:   to(`{group: mesh.comity.dev, kind: ZoneService, name: pay.two, port: 80}`),
		expect: []expectation{{want: want{app: "pay-1"}}},
	}, {
		name:   "in a zone that has it not",
		yaml:   to(`{group: mesh.comity.dev, kind: ZoneService, name: echo.two, port: 80}`),
		expect: []expectation{{want: want{status: 500, body: []string{"NO-BACKEND"}}}},
	}, {
		name: "pinned to a zone by what the caller says",
		yaml: route(`
    - {matches: [{headers: [{name: x-zone, value: two}]}], backendRefs: [{group: mesh.comity.dev, kind: ZoneService, name: pay.two, port: 80}]}
    - {backendRefs: [{group: mesh.comity.dev, kind: ZoneService, name: pay.one, port: 80}]}`),
		expect: []expectation{
			{call{header: with("X-Zone", "two")}, want{app: "pay-1"}},
			{call{header: with("X-Zone", "one")}, want{app: "echo-1"}},
			{want: want{app: "echo-1"}},
		},
	}})
	w.apply(t, to(`{group: multicluster.x-k8s.io, kind: ServiceImport, name: pay, port: 80}`)+`
---
kind: FailoverPolicy
metadata: {name: both}
spec: {targetRef: {kind: Service, name: pay}, tiers: [{name: all, zones: [{zone: one}, {zone: two}]}]}
`)
	if got := w.tally(t, 40, call{}); got["echo-1"] == 0 || got["pay-1"] == 0 || got["echo-1"]+got["pay-1"] != 40 {
		t.Errorf("a service that two zones serve together: %v", got)
	}
	w.apply(t, to(`{group: mesh.comity.dev, kind: ZoneService, name: pay.one, port: 80, weight: 70}, {group: mesh.comity.dev, kind: ZoneService, name: pay.two, port: 80, weight: 30}`))
	const n = 3000 // 5 sigma are 125
	if got := byApp(w.burst(t, n, 10, same(call{}))); got["echo-1"]+got["pay-1"] != n || got["echo-1"] < n*7/10-125 || got["echo-1"] > n*7/10+125 {
		t.Errorf("%v of 70 to 30 between zones", got)
	}
	const other = `
---
kind: Service
metadata: {name: echo-v1, namespace: bank}
spec: {selector: {app: nobody}, ports: [{port: 80, appProtocol: http}]}`
	grant := func(name string) string {
		return `
---
kind: ReferenceGrant
metadata: {name: grant, namespace: bank}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: "", kind: Service, name: ` + name + `}]}`
	}
	in := to(`{name: echo-v1, namespace: bank, port: 80}`) + other
	w.table(t, []feature{
		{name: "of another namespace, not granted", yaml: in, expect: []expectation{{want: want{status: 500}}}},
		{name: "granted to another service", yaml: in + grant("echo-v2"), expect: []expectation{{want: want{status: 500}}}},
		{name: "granted", yaml: in + grant("echo-v1"), expect: []expectation{{want: want{status: 503}}}}, // it is asked; nobody serves it
	})
}

// TestGRPCRoute: methods go to where their rules say; statuses come through.
func TestGRPCRoute(t *testing.T) {
	w := newWorld(t)
	w.apply(t, `
kind: GRPCRoute
metadata: {name: methods}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 9090}]
  rules:
    - {matches: [{method: {service: shop.Pay}}], backendRefs: [{name: echo-v1, port: 9090}]}
    - {matches: [{method: {service: shop.Pay, method: Charge}}], backendRefs: [{name: echo-v2, port: 9090}]}
    - {matches: [{method: {service: shop.Pay, method: Charge}, headers: [{name: x-who, value: me}]}], backendRefs: [{name: echo-v1, port: 9090}]}
    - {matches: [{method: {method: Check}}], backendRefs: [{name: echo-v2, port: 9090}]}
    - {matches: [{method: {type: RegularExpression, service: "shop\\.S.*"}}], backendRefs: [{name: echo-v1, port: 9090}]}
`)
	const at = echoHost + ":9090"
	for _, c := range []struct {
		method string
		header map[string]string
		app    string
	}{
		{"/shop.Pay/Charge", nil, "echo-2"},
		{"/shop.Pay/Charge", map[string]string{"x-who": "me"}, "echo-1"},
		{"/shop.Pay/Refund", nil, "echo-1"},
		{"/health.Health/Check", nil, "echo-2"},
		{"/shop.Stock/List", nil, "echo-1"},
	} {
		if app, err := w.callGRPC(t, "web", at, c.method, c.header); err != nil || app != c.app {
			t.Errorf("%s %v: %q, %v, not %s", c.method, c.header, app, err, c.app)
		}
	}
	if _, err := w.callGRPC(t, "web", at, "/shop.Pay/Charge", map[string]string{doStatus: "8"}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a status of the application came as %v", err)
	}
	if _, err := w.callGRPC(t, "web", at, "/other.Service/Do", nil); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that no rule has: %v", err) // HTTP 404 to gRPC
	}
}

// TestGRPCRouteFilters: what a rule of a GRPCRoute does besides choosing: metadata of the rule and of one backend, copies, shares, and
// sessions.
func TestGRPCRouteFilters(t *testing.T) {
	w := newWorld(t)
	grpcRoute := func(rule string) string {
		return `
kind: GRPCRoute
metadata: {name: echo}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 9090}]
  rules: [{` + rule + `}]`
	}
	const at, method = echoHost + ":9090", "/shop.Pay/Charge"
	post := func(header map[string]string) call { // an empty message, as gRPC frames it
		header["content-type"], header["te"] = "application/grpc", "trailers"
		return call{to: at, method: http.MethodPost, path: method, header: header, body: "\x00\x00\x00\x00\x00", h2: true}
	}
	w.table(t, []feature{{
		name: "metadata and copies",
		yaml: grpcRoute(`filters: [
    {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: rule}], remove: [x-gone]}},
    {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-rule, value: "yes"}]}},
    {type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 9090}}}],
    backendRefs: [{name: echo-v1, port: 9090, filters: [
      {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-backend, value: one}]}},
      {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-from, value: one}]}}]}]`),
		expect: []expectation{{
			post(map[string]string{"x-set": "mine", "x-gone": "mine"}),
			want{app: "echo-1", header: map[string]string{"X-Rule": "yes", "X-From": "one"}},
		}},
	}})
	for _, app := range []string{"echo-1", "echo-2"} {
		eventually(t, app+" gets the call", func() error {
			for _, r := range w.apps[app].requests() {
				if r.Path == method && slices.Equal(r.Header["x-set"], []string{"rule"}) && r.Header["x-gone"] == nil { //nolint:staticcheck // gRPC keeps the names as they are sent
					return nil
				}
			}
			return errStatus(answer{body: "it does not"})
		})
	}
	w.apply(t, grpcRoute(`backendRefs: [{name: echo-v1, port: 9090, weight: 3}, {name: echo-v2, port: 9090, weight: 1}]`))
	seen := map[string]int{}
	for range 200 {
		app, err := w.callGRPC(t, "web", at, method, nil)
		if err != nil {
			t.Fatal(err)
		}
		seen[app]++
	}
	if seen["echo-2"] < 20 || seen["echo-2"] > 85 {
		t.Errorf("%v of 3 to 1", seen)
	}
	w.apply(t, grpcRoute(`sessionPersistence: {type: Header, sessionName: x-sid}, backendRefs: [{name: echo, port: 9090}]`))
	first := w.call(t, post(map[string]string{}))
	if got := w.tally(t, 20, post(with("x-sid", first.header.Get("x-sid")))); got[first.app] != 20 {
		t.Errorf("%v, not all %s", got, first.app)
	}
}
