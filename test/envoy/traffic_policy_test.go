package envoy

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// echoPolicy is a TrafficPolicy for echo, all of it or one port.
func echoPolicy(spec string) string {
	return "kind: TrafficPolicy\nmetadata: {name: echo}\nspec: {targetRef: {kind: Service, name: echo}, " + spec + "}\n"
}

// asked counts the requests that the apps of echo got since they last forgot.
func (w *world) asked() int {
	return len(w.apps["echo-1"].requests()) + len(w.apps["echo-2"].requests())
}

func (w *world) forget() {
	for _, a := range w.apps {
		a.forget()
	}
}

// TestTrafficTimeouts: a request that takes longer than it may is answered 504 in time, by the narrowest policy that says anything.
func TestTrafficTimeouts(t *testing.T) {
	w := newWorld(t)
	slow := call{header: map[string]string{doDelay: "5s"}}
	within := func(t *testing.T, c call, status int, most time.Duration) {
		t.Helper()
		r := w.call(t, c)
		if r.status != status || r.took > most {
			t.Errorf("%d after %s, want %d within %s: %s", r.status, r.took, status, most, r.body)
		}
	}
	w.apply(t, echoPolicy("timeouts: {request: 300ms}"))
	for _, to := range []string{echoHost, "echo.shop.one.mesh"} { // pinned to the zone, too
		slow.to = to
		within(t, slow, http.StatusGatewayTimeout, 3*time.Second)
	}
	if err := (want{}).check(w.call(t, call{header: map[string]string{doDelay: "20ms"}})); err != nil {
		t.Error(err)
	}

	// One try gets less, and what may be done twice is tried again, elsewhere.
	slow.to = echoHost
	w.apply(t, echoPolicy("timeouts: {request: 4s, backendRequest: 200ms}, retry: {attempts: 1}"))
	w.forget()
	within(t, slow, http.StatusGatewayTimeout, 3*time.Second)
	if a, b := len(w.apps["echo-1"].requests()), len(w.apps["echo-2"].requests()); a != 1 || b != 1 {
		t.Errorf("echo-1 and echo-2 were asked %d and %d times, want 1 and 1", a, b)
	}
	w.forget()
	slow.method = http.MethodPost
	within(t, slow, http.StatusGatewayTimeout, 3*time.Second)
	if n := w.asked(); n != 1 {
		t.Errorf("a POST was tried %d times", n)
	}

	// A rule may take longer than the rest of the service.
	w.apply(t, `
kind: HTTPRoute
metadata: {name: echo}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
  rules:
    - name: reports
      matches: [{path: {value: /reports}}]
      backendRefs: [{name: echo, port: 80}]
    - backendRefs: [{name: echo, port: 80}]
---
kind: TrafficPolicy
metadata: {name: echo}
spec: {targetRef: {kind: Service, name: echo}, timeouts: {request: 100ms}}
---
kind: TrafficPolicy
metadata: {name: reports}
spec: {targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: echo, sectionName: reports}, timeouts: {idle: 300ms}}
`)
	half := call{path: "/reports/1", header: map[string]string{doDelay: "200ms"}}
	if err := (want{}).check(w.call(t, half)); err != nil {
		t.Error(err)
	}
	half.path = "/x"
	within(t, half, http.StatusGatewayTimeout, 3*time.Second)
	idle := call{path: "/reports/1", header: map[string]string{doDelay: "5s"}}
	within(t, idle, http.StatusGatewayTimeout, 3*time.Second)
}

// TestTrafficRetry: failed requests are tried again on the statuses of the policy, as often as it says, elsewhere, and
// those that may not be done twice only where it says so.
func TestTrafficRetry(t *testing.T) {
	w := newWorld(t)
	n := 0
	failing := func(method string, times int) call {
		n++
		return call{method: method, header: map[string]string{doStatus: "500", doFail: strconv.Itoa(times), doKey: strconv.Itoa(n)}}
	}
	expect := func(t *testing.T, c call, status, tries int) {
		t.Helper()
		w.forget()
		if r := w.call(t, c); r.status != status || w.asked() != tries {
			t.Errorf("%s: %d after %d tries, want %d after %d", c.method, r.status, w.asked(), status, tries)
		}
	}
	expect(t, failing("GET", 2), 500, 1) // without a policy what the application says itself stands

	w.apply(t, echoPolicy(`retry: {attempts: 2, reasons: ["500"]}`))
	expect(t, failing("GET", 2), 200, 3)
	expect(t, failing("GET", 3), 500, 3)
	expect(t, failing("POST", 2), 500, 1)

	w.apply(t, echoPolicy(`retry: {attempts: 2, reasons: ["500"], requests: All}`))
	expect(t, failing("POST", 2), 200, 3)

	w.apply(t, echoPolicy(`retry: {attempts: 1, reasons: ["500"]}`))
	w.forget()
	for range 4 {
		w.call(t, failing("GET", 1))
	}
	if a, b := len(w.apps["echo-1"].requests()), len(w.apps["echo-2"].requests()); a != 4 || b != 4 {
		t.Errorf("echo-1 and echo-2 were asked %d and %d times; every retry goes to the other", a, b)
	}

	w.apply(t, echoPolicy(`retry: {attempts: 0}`))
	expect(t, call{header: map[string]string{doStatus: "503"}}, 503, 1)

	// The back-off is Envoy's: up to the base before the first retry, to three times that before the second, so only what is least is certain.
	w.apply(t, echoPolicy(`retry: {attempts: 3, reasons: ["500"], backOff: {base: 1ms, max: 1ms}}`))
	expect(t, failing("GET", 3), 200, 4)

	w.apply(t, `
kind: TrafficPolicy
metadata: {name: grpc}
spec: {targetRef: {kind: Service, name: echo, sectionName: grpc}, retry: {attempts: 2, reasons: [unavailable], requests: All}}
`)
	app, err := w.callGRPC(t, "web", echoHost+":9090", "/test.Echo/Say", map[string]string{doStatus: "14", doFail: "2", doKey: "grpc"})
	if err != nil || app == "" {
		t.Errorf("a gRPC call is not tried again: %v", err)
	}
}

// atOnce makes n requests at a time, each so many times, and counts the answers by their status.
func (w *world) atOnce(t *testing.T, n, each int, c call) map[int]int {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	got, h := map[int]int{}, client(t, true)
	for range n {
		all.Go(func() {
			for range each {
				r, err := w.tryWith(t, h, c)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				got[r.status]++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return got
}

// TestTrafficRetryBudget: when everything fails, retries add no more than the budget.
func TestTrafficRetryBudget(t *testing.T) {
	w := newWorld(t)
	failing := call{header: map[string]string{doStatus: "503", doDelay: "20ms"}}
	for _, c := range []struct {
		budget      string
		least, most int
	}{
		{``, 800, 800}, // three retries each
		{`, budget: {percent: 20, minimum: 1}`, 201, 270},
	} {
		w.apply(t, echoPolicy(`retry: {attempts: 3`+c.budget+`}`))
		w.forget()
		if got := w.atOnce(t, 40, 5, failing); got[503] != 200 {
			t.Errorf("%v", got)
		}
		if n := w.asked(); n < c.least || n > c.most {
			t.Errorf("200 requests with retries%s made %d, want %d to %d", c.budget, n, c.least, c.most)
		}
	}
}

// twoZoned adds a service that echo-1 serves in zone one, and pay-1 in zone two.
func (w *world) twoZoned(t *testing.T) (host string) {
	t.Helper()
	w.service("shared", `{"app":"echo-1"}`, "one")
	w.service("shared", `{"app":"pay-1"}`, "two")
	w.base = append(w.base, resource("ServiceExport", "shop", "shared", `{}`))
	w.publish(t)
	return "shared.shop.svc.clusterset.local"
}

// TestTrafficRetryInOtherZone: what this zone can't answer another one does, if it may be done twice.
func TestTrafficRetryInOtherZone(t *testing.T) {
	w := newWorld(t)
	host := w.twoZoned(t)
	fails := call{to: host, header: map[string]string{doStatus: "503"}}
	for _, c := range []struct {
		policy string
		method string
		local  int // tries here
		remote int
	}{
		{``, "GET", 2, 2}, // two and two, the default
		{`retry: {otherZoneAfter: 1, attempts: 1}`, "GET", 1, 1},
		{`retry: {otherZoneAfter: 0}`, "GET", 4, 0},
		{`retry: {otherZoneAfter: 1}`, "POST", 1, 0},
		{`retry: {otherZoneAfter: 1, attempts: 1, requests: All}`, "POST", 1, 1},
	} {
		doc := ""
		if c.policy != "" {
			doc = "kind: TrafficPolicy\nmetadata: {name: shared}\nspec: {targetRef: {kind: Service, name: shared}, " + c.policy + "}\n"
		}
		w.apply(t, doc)
		w.forget()
		fails.method = c.method
		r := w.call(t, fails)
		if a, b := len(w.apps["echo-1"].requests()), len(w.apps["pay-1"].requests()); r.status != 503 || a != c.local || b != c.remote {
			t.Errorf("%s with %q: %d after %d tries here and %d there, want %d and %d", c.method, c.policy, r.status, a, b, c.local, c.remote)
		}
	}
}

// TestTrafficConnections: what is beyond the limits is refused at once, and connections are replaced as the policy says.
func TestTrafficConnections(t *testing.T) {
	w := newWorld(t)
	web := w.sidecar(t, "web")
	const cluster = "cluster.echo.shop:80."
	w.apply(t, echoPolicy(`circuitBreaker: {maxRequests: 5}`))
	w.forget()
	got := w.atOnce(t, 8, 1, call{header: map[string]string{doDelay: "500ms"}})
	if got[200] != 5 || got[503] != 3 || w.asked() != 5 {
		t.Errorf("of 8 requests at a time %v, and %d came; 5 may", got, w.asked())
	}
	if n := web.stat(t, cluster+"upstream_rq_active_overflow"); n != 3 { // the flag UO
		t.Errorf("%d overflows", n)
	}
	if got := w.atOnce(t, 1, 8, call{}); got[200] != 8 {
		t.Errorf("one at a time: %v", got)
	}

	w.apply(t, echoPolicy(`connectionPool: {maxRequestsPerConnection: 2}`))
	before := web.stat(t, cluster+"upstream_cx_total")
	w.tally(t, 20, call{})
	if n := web.stat(t, cluster+"upstream_cx_total") - before; n < 10 || n > 12 {
		t.Errorf("%d connections for 20 requests, two each", n)
	}

	w.apply(t, echoPolicy(`connectionPool: {idle: 100ms}`))
	w.tally(t, 4, call{})
	eventually(t, "idle connections are closed", func() error {
		if n := web.stat(t, cluster+"upstream_cx_active"); n > 0 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})

	w.apply(t, echoPolicy(`connectionPool: {maxConnectionAge: 1s}`))
	eventually(t, "old connections are replaced", func() error {
		if got := w.tally(t, 2, call{}); got["echo-1"] != 1 {
			t.Fatalf("a request failed: %v", got)
		}
		if web.stat(t, cluster+"upstream_cx_max_duration_reached") == 0 {
			return errors.New("none is")
		}
		return nil
	})
}
