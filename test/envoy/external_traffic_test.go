package envoy

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/comity-mesh/comity/xds/topology"
)

// TestExternalTraffic: TrafficPolicies for an ExternalService hold where its server is asked: at the sidecar, and with an egress there.
func TestExternalTraffic(t *testing.T) {
	w := newWorld(t)
	at, port := w.host(), w.port()
	w.zones[0].Egresses = []topology.EgressProxy{{Name: "out", BindAddress: at, BindPorts: []uint16{port}, Address: at, Ports: []uint16{port}, Ready: true}}
	first, second := w.host(), w.host()
	w.apps["bank-1"], w.apps["bank-2"] = startApp(t, "bank-1", first, w.ports, w.keys), startApp(t, "bank-2", second, w.ports, w.keys)
	cluster := "cluster.external/bank.shop:80."
	for _, way := range []struct {
		proxy   string
		gateway bool
	}{{"web", false}, {"out", true}} {
		apply := func(t *testing.T, spec string) {
			t.Helper()
			policy := ""
			if spec != "" {
				policy = "---\nkind: TrafficPolicy\nmetadata: {name: bank}\nspec: {targetRef: {group: mesh.comity.dev, kind: ExternalService, name: bank, sectionName: web}, " + spec + "}\n"
			}
			w.apply(t, fmt.Sprintf(`
kind: ExternalService
metadata: {name: bank}
spec:
  hosts: [api.bank.example]
  ports: [{name: web, port: 80, targetPort: %d, protocol: http}]
  endpoints: [{address: %s}, {address: %s}]
  exit: {gateway: %t}
---
kind: TrafficPolicy
metadata: {name: of-the-namespace}
spec: {timeouts: {request: 1ms}}
`, w.ports.http, first, second, way.gateway)+policy)
		}
		key := 0
		// once is a call whose first try is answered 503.
		once := func(method string) call {
			key++
			return call{to: "api.bank.example", method: method, header: map[string]string{doStatus: "503", doFail: "1", doKey: fmt.Sprint(way.proxy, "-", key)}}
		}
		status := func(t *testing.T, c call, want int) {
			t.Helper()
			if r := w.call(t, c); r.status != want {
				t.Errorf("%s %v: %d, not %d: %s", c.method, c.header, r.status, want, r.body)
			}
		}
		t.Run(way.proxy, func(t *testing.T) {
			t.Run("without", func(t *testing.T) {
				apply(t, "")
				status(t, once(http.MethodGet), http.StatusServiceUnavailable)
				status(t, call{to: "api.bank.example", header: map[string]string{doDelay: "50ms"}}, http.StatusOK) // the namespace's is for the mesh's own
			})
			t.Run("timeouts", func(t *testing.T) {
				apply(t, `timeouts: {request: 200ms}`)
				status(t, call{to: "api.bank.example", header: map[string]string{doDelay: "10s"}}, http.StatusGatewayTimeout)
			})
			t.Run("retry", func(t *testing.T) {
				apply(t, `retry: {attempts: 2}`)
				status(t, once(http.MethodGet), http.StatusOK)
				status(t, once(http.MethodPost), http.StatusServiceUnavailable)
				apply(t, `retry: {attempts: 2, requests: All}`)
				status(t, once(http.MethodPost), http.StatusOK)
			})
			t.Run("fault", func(t *testing.T) {
				apply(t, `fault: {abort: {percent: 100, status: 418}}`)
				status(t, call{to: "api.bank.example"}, http.StatusTeapot)
			})
			t.Run("circuitBreaker", func(t *testing.T) {
				apply(t, `circuitBreaker: {maxRequests: 1}`)
				var wg sync.WaitGroup
				var mu sync.Mutex
				got := map[int]int{}
				for range 4 {
					wg.Go(func() {
						r, err := w.try(t, call{to: "api.bank.example", header: map[string]string{doDelay: "1s"}})
						mu.Lock()
						defer mu.Unlock()
						if got[r.status]++; err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				if got[http.StatusOK] == 0 || got[http.StatusServiceUnavailable] == 0 || len(got) != 2 {
					t.Errorf("%v", got)
				}
			})
			t.Run("connectionPool", func(t *testing.T) {
				apply(t, `connectionPool: {maxRequestsPerConnection: 1}`)
				before := w.sidecar(t, way.proxy).stat(t, cluster+"upstream_cx_total")
				w.tally(t, 10, call{to: "api.bank.example"})
				if n := w.sidecar(t, way.proxy).stat(t, cluster+"upstream_cx_total") - before; n != 10 {
					t.Errorf("10 requests over %d connections", n)
				}
			})
			t.Run("loadBalancer", func(t *testing.T) {
				apply(t, `loadBalancer: {algorithm: Maglev, hash: [{header: x-user}]}`)
				if got := w.tally(t, 20, call{to: "api.bank.example", header: map[string]string{"X-User": "ann"}}); len(got) != 1 || got["bank-1"]+got["bank-2"] != 20 {
					t.Errorf("one user: %v", got)
				}
				for _, algorithm := range []string{"LeastRequest", "Random", "ReportedLoad"} {
					apply(t, `loadBalancer: {algorithm: `+algorithm+`}`)
					if got := w.tally(t, 40, call{to: "api.bank.example"}); got["bank-1"] == 0 || got["bank-2"] == 0 || len(got) != 2 {
						t.Errorf("%s: %v", algorithm, got)
					}
				}
			})
			t.Run("outlier", func(t *testing.T) {
				apply(t, `outlier: {answers: ServerErrors, gatewayFailures: 2, interval: 250ms, ejection: 60s}`)
				w.apps["bank-1"].ill("/", http.StatusInternalServerError)
				t.Cleanup(func() { w.apps["bank-1"].ill("", 0) })
				eventually(t, "who fails gets nothing", func() error {
					if got := w.tally(t, 10, call{to: "api.bank.example"}); got["bank-2"] != 10 {
						return fmt.Errorf("%v", got)
					}
					return nil
				})
			})
			t.Run("healthCheck", func(t *testing.T) {
				apply(t, `healthCheck: {http: {path: /healthz}, interval: 1s, idleInterval: 1s, unhealthy: 1}`)
				w.apps["bank-2"].ill("/healthz", http.StatusInternalServerError)
				t.Cleanup(func() { w.apps["bank-2"].ill("", 0) })
				eventually(t, "who is ill gets nothing", func() error {
					if got := w.tally(t, 10, call{to: "api.bank.example"}); got["bank-1"] != 10 {
						return fmt.Errorf("%v", got)
					}
					return nil
				})
				// It is asked for by the service's name, as requests are.
				for _, q := range w.apps["bank-1"].requests() {
					if q.Path == "/healthz" && !strings.HasPrefix(q.Host, "api.bank.example") {
						t.Fatalf("asked for %q", q.Host)
					}
				}
			})
		})
	}
}
