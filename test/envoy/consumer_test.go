package envoy

import (
	"testing"
)

// inNamespace makes a workload of zone one one of another namespace, before it is published.
func (w *world) inNamespace(name, namespace string) {
	for i := range w.zones[0].Workloads {
		if wl := &w.zones[0].Workloads[i]; wl.Name == name {
			wl.Namespace, wl.Identity = namespace, w.zones[0].TrustDomain.WorkloadID(namespace, name)
		}
	}
}

// TestConsumerRoutes: the same request goes elsewhere by who makes it: a namespace's own routes, and those of one of its service
// accounts, stand in place of the service's.
func TestConsumerRoutes(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"teller", "audit"} {
		w.workload(0, name, nil)
		w.inNamespace(name, "bank")
	}
	w.publish(t)
	const grant = `
---
kind: ReferenceGrant
metadata: {name: bank}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: bank}, {group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: bank}]
  to: [{group: "", kind: Service}]`
	producer := route(`[{` + toV1 + `}]`)
	consumer := producer + grant + `
---
kind: HTTPRoute
metadata: {name: of-bank, namespace: bank}
spec:
  parentRefs: [{group: "", kind: Service, namespace: shop, name: echo}]
  rules: [{name: pay, matches: [{path: {value: /pay}}], backendRefs: [{namespace: shop, name: echo-v2, port: 80}]}]
---
kind: TrafficPolicy
metadata: {name: impatient, namespace: bank}
spec: {targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: of-bank, sectionName: pay}, timeouts: {request: 200ms}}`
	slow := with(doDelay, "500ms")
	w.table(t, []feature{{
		name: "the service's own hold for everybody",
		yaml: producer + grant,
		expect: []expectation{
			{call{from: "web", path: "/pay"}, want{app: "echo-1"}},
			{call{from: "teller", path: "/pay"}, want{app: "echo-1"}},
		},
	}, {
		name: "those of a namespace hold in it alone, with their policies",
		yaml: consumer,
		expect: []expectation{
			{call{from: "web", path: "/pay"}, want{app: "echo-1"}},
			{call{from: "teller", path: "/pay"}, want{app: "echo-2"}},
			{call{from: "audit", path: "/pay"}, want{app: "echo-2"}},
			{call{from: "teller", path: "/other"}, want{status: 404, body: []string{"NO-ROUTE"}}},
			{call{from: "web", path: "/other"}, want{app: "echo-1"}},
			{call{from: "web", path: "/pay", header: slow}, want{app: "echo-1"}},
			{call{from: "teller", path: "/pay", header: slow}, want{status: 504}},
		},
	}, {
		name: "those of a service account hold for it alone",
		yaml: consumer + `
---
kind: HTTPRoute
metadata: {name: of-audit, namespace: bank, annotations: {mesh.comity.dev/callers: "audit, nobody"}}
spec:
  parentRefs: [{group: "", kind: Service, namespace: shop, name: echo}]
  rules: [{backendRefs: [{namespace: shop, name: echo-v1, port: 80}]}]
---
kind: HTTPRoute
metadata: {name: of-web, annotations: {mesh.comity.dev/callers: web}}
spec:
  parentRefs: [{group: "", kind: Service, name: echo}]
  rules: [{` + toV2 + `}]`,
		expect: []expectation{
			{call{from: "web", path: "/pay"}, want{app: "echo-2"}},
			{call{from: "echo-1", path: "/pay"}, want{app: "echo-1"}},
			{call{from: "teller", path: "/pay"}, want{app: "echo-2"}},
			{call{from: "audit", path: "/pay"}, want{app: "echo-1"}},
		},
	}})
	t.Run("gRPC", func(t *testing.T) {
		w.apply(t, `
kind: GRPCRoute
metadata: {name: echo}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 9090}]
  rules: [{backendRefs: [{name: echo-v1, port: 9090}]}]
---
kind: GRPCRoute
metadata: {name: of-bank, namespace: bank}
spec:
  parentRefs: [{group: "", kind: Service, namespace: shop, name: echo, port: 9090}]
  rules: [{matches: [{method: {service: shop.Pay}}], backendRefs: [{namespace: shop, name: echo-v2, port: 9090}]}]`+grant)
		for from, app := range map[string]string{"web": "echo-1", "teller": "echo-2"} {
			if got, err := w.callGRPC(t, from, echoHost+":9090", "/shop.Pay/Charge", nil); err != nil || got != app {
				t.Errorf("from %s: %q, %v, not %s", from, got, err, app)
			}
		}
	})
}
