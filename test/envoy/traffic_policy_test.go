package envoy

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/comity-mesh/comity/xds/topology"
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
	// A busy machine makes it later, and nothing sooner.
	within := func(t *testing.T, c call, status int, least time.Duration) {
		t.Helper()
		r := w.call(t, c)
		if r.status != status || r.took < least*9/10 || r.took > least+3*time.Second {
			t.Errorf("%d after %s, want %d after %s: %s", r.status, r.took, status, least, r.body)
		}
	}
	w.apply(t, echoPolicy("timeouts: {request: 300ms}"))
	for _, to := range []string{echoHost, "echo.shop.one.mesh"} { // pinned to the zone, too
		slow.to = to
		within(t, slow, http.StatusGatewayTimeout, 300*time.Millisecond)
	}
	if err := (want{}).check(w.call(t, call{header: map[string]string{doDelay: "20ms"}})); err != nil {
		t.Error(err)
	}

	// One try gets less, and what may be done twice is tried again, elsewhere.
	slow.to = echoHost
	w.apply(t, echoPolicy("timeouts: {request: 4s, backendRequest: 200ms}, retry: {attempts: 1}"))
	w.forget()
	within(t, slow, http.StatusGatewayTimeout, 400*time.Millisecond)
	if a, b := len(w.apps["echo-1"].requests()), len(w.apps["echo-2"].requests()); a != 1 || b != 1 {
		t.Errorf("echo-1 and echo-2 were asked %d and %d times, want 1 and 1", a, b)
	}
	w.forget()
	slow.method = http.MethodPost
	within(t, slow, http.StatusGatewayTimeout, 200*time.Millisecond)
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
	within(t, half, http.StatusGatewayTimeout, 100*time.Millisecond)
	idle := call{path: "/reports/1", header: map[string]string{doDelay: "5s"}}
	within(t, idle, http.StatusGatewayTimeout, 300*time.Millisecond)

	// What a rule says of its time itself is the narrowest word, field by field.
	w.apply(t, `
kind: HTTPRoute
metadata: {name: echo}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
  rules:
    - {matches: [{path: {value: /endless}}], timeouts: {request: 0s}, backendRefs: [{name: echo, port: 80}]}
    - {matches: [{path: {value: /idle}}], timeouts: {request: 4s}, backendRefs: [{name: echo, port: 80}]}
    - {matches: [{path: {value: /tries}}], timeouts: {request: 4s, backendRequest: 200ms}, backendRefs: [{name: echo, port: 80}]}
---
kind: TrafficPolicy
metadata: {name: echo}
spec: {targetRef: {kind: Service, name: echo}, timeouts: {request: 100ms, idle: 500ms}, retry: {attempts: 1, reasons: ["500", reset]}}
`)
	if err := (want{}).check(w.call(t, call{path: "/endless", header: map[string]string{doDelay: "300ms"}})); err != nil {
		t.Errorf("a rule without a bound: %v", err)
	}
	within(t, call{path: "/idle", header: map[string]string{doDelay: "3s"}}, http.StatusGatewayTimeout, 500*time.Millisecond)
	w.forget()
	within(t, call{path: "/tries", header: map[string]string{doDelay: "3s"}}, http.StatusGatewayTimeout, 400*time.Millisecond)
	if n := w.asked(); n != 2 {
		t.Errorf("the policy's retries of a rule that bounds a try: %d tries, want 2", n)
	}
	if err := (want{}).check(w.call(t, call{path: "/tries", header: map[string]string{doStatus: "500", doFail: "1", doKey: "ruled"}})); err != nil {
		t.Errorf("the policy's reasons of a rule that bounds a try: %v", err)
	}
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

// homes says which app answers each of n keys, three times each; an empty name is for keys whose requests met several.
func (w *world) homes(t *testing.T, n int, c func(key string) call) map[string]string {
	t.Helper()
	out, h := map[string]string{}, client(t, false)
	for i := range n {
		key := strconv.Itoa(i)
		for range 3 {
			r, err := w.tryWith(t, h, c(key))
			if err != nil || r.status != http.StatusOK {
				t.Fatalf("key %s: %d, %v", key, r.status, err)
			}
			if was, ok := out[key]; ok && was != r.app {
				r.app = ""
			}
			out[key] = r.app
		}
	}
	return out
}

// TestTrafficHash: what is alike goes to one endpoint, and another endpoint takes its share and moves nothing else.
func TestTrafficHash(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name, spec string
		of         func(key string) call
	}{
		{"header", `algorithm: RingHash, hash: [{header: X-User}]`, func(k string) call { return call{header: map[string]string{"x-user": k}} }},
		{"query", `algorithm: Maglev, hash: [{query: user}]`, func(k string) call { return call{path: "/x?other=1&user=" + k} }},
		{"cookie", `algorithm: Maglev, hash: [{cookie: {name: user}}]`, func(k string) call { return call{header: map[string]string{"cookie": "a=b; user=" + k}} }},
		{"address", `algorithm: RingHash, hash: [{clientAddress: true}]`, func(k string) call {
			// What follows the first address differs from request to request.
			return call{header: map[string]string{"x-forwarded-for": "10.0.0." + k + ", 192.0.2." + strconv.Itoa(time.Now().Nanosecond()%255)}}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.apply(t, echoPolicy("loadBalancer: {"+c.spec+"}"))
			n := map[string]int{}
			for k, app := range w.homes(t, 40, c.of) {
				if n[app]++; app == "" {
					t.Errorf("key %s went to several", k)
				}
			}
			if n["echo-1"] < 5 || n["echo-2"] < 5 {
				t.Errorf("the keys are not spread: %v", n)
			}
		})
	}

	t.Run("a cookie is made", func(t *testing.T) {
		w.apply(t, echoPolicy("loadBalancer: {algorithm: RingHash, hash: [{cookie: {name: home, ttl: 1h}}]}"))
		first := w.call(t, call{})
		cookie := first.header.Get("Set-Cookie")
		pair, _, _ := strings.Cut(cookie, ";")
		if !strings.HasPrefix(pair, "home=") || !strings.Contains(cookie, "Max-Age=3600") {
			t.Fatalf("the cookie: %q", cookie)
		}
		for range 10 {
			if r := w.call(t, call{header: map[string]string{"cookie": pair}}); r.app != first.app {
				t.Fatalf("%s, and then %s", first.app, r.app)
			}
		}
	})

	t.Run("another endpoint", func(t *testing.T) {
		of := func(k string) call { return call{header: map[string]string{"x-user": k}} }
		w.apply(t, echoPolicy("loadBalancer: {algorithm: RingHash, hash: [{header: x-user}]}"))
		before := w.homes(t, 60, of)
		w.workload(0, "echo-3", map[string]string{"echo": "yes"})
		w.publish(t)
		moved, needlessly := 0, 0
		for k, app := range w.homes(t, 60, of) {
			switch {
			case app == before[k]:
			case app == "echo-3":
				moved++
			default:
				needlessly++ // the ring keeps its size, so the others have fewer places on it
			}
		}
		t.Logf("of 60 keys %d moved to the new endpoint, and %d between the others", moved, needlessly)
		if moved < 8 || moved > 32 || needlessly > 14 {
			t.Errorf("of 60 keys %d moved to the new endpoint, and %d between the others", moved, needlessly)
		}
	})
}

// TestTrafficSharesHold: whatever chooses endpoints, zones get their shares.
func TestTrafficSharesHold(t *testing.T) {
	w := newWorld(t)
	host := w.twoZoned(t)
	for _, c := range []struct {
		spec  string
		slack int
	}{
		{`algorithm: RoundRobin, slowStart: {window: 1ms}`, 2}, {`algorithm: LeastRequest`, 2}, {`algorithm: Random`, 45},
		{`algorithm: ReportedLoad`, 2}, {`algorithm: RingHash, hash: [{header: x-key}]`, 60}, {`algorithm: Maglev, hash: [{header: x-key}]`, 45},
	} {
		w.apply(t, `
kind: FailoverPolicy
metadata: {name: shared}
spec: {targetRef: {kind: Service, name: shared}, tiers: [{name: all, zones: [{zone: one, weight: 80}, {zone: two, weight: 20}]}]}
---
kind: TrafficPolicy
metadata: {name: shared}
spec: {targetRef: {kind: Service, name: shared}, loadBalancer: {`+c.spec+`}}
`)
		got, h := map[string]int{}, client(t, false)
		for i := range 500 {
			r, err := w.tryWith(t, h, call{to: host, header: map[string]string{"x-key": strconv.Itoa(i)}})
			if err != nil || r.status != http.StatusOK {
				t.Fatalf("%s: %d, %v", c.spec, r.status, err)
			}
			got[r.app]++
			if !strings.Contains(c.spec, "hash") || i > 20 {
				continue
			}
			if again := w.call(t, call{to: host, header: map[string]string{"x-key": strconv.Itoa(i)}}); again.app != r.app {
				t.Errorf("%s: key %d went to %s, and then to %s", c.spec, i, r.app, again.app)
			}
		}
		t.Logf("%s: %v", c.spec, got)
		if d := got["echo-1"] - 400; d < -c.slack || d > c.slack {
			t.Errorf("%s: %v, want 400 and 100", c.spec, got)
		}
	}
}

// TestTrafficLeastRequest: an endpoint that is busy gets less.
func TestTrafficLeastRequest(t *testing.T) {
	w := newWorld(t)
	w.apply(t, echoPolicy("loadBalancer: {algorithm: LeastRequest}"))
	// Requests that hang at both; those of the lower address end.
	busy := w.atOnce(t, 1, 1, call{header: map[string]string{doDelay: "1ms"}})
	if busy[200] != 1 {
		t.Fatal(busy)
	}
	first := make(chan string, 1)
	go func() {
		r, _ := w.try(t, call{header: map[string]string{doDelay: "5s"}})
		first <- r.app
	}()
	eventually(t, "a request hangs", func() error {
		if w.sidecar(t, "web").stat(t, "cluster.echo.shop:80.upstream_rq_active") == 0 {
			return errors.New("none does")
		}
		return nil
	})
	got := w.tally(t, 100, call{})
	hangs := <-first
	t.Logf("one request hangs at %s; 100 more: %v", hangs, got)
	if got[hangs] > 40 {
		t.Errorf("%s is busy and gets as much: %v", hangs, got)
	}
}

// TestTrafficReportedLoad: an endpoint that says it is busy gets less, in proportion, and as much again when it says so.
func TestTrafficReportedLoad(t *testing.T) {
	w := newWorld(t)
	w.apply(t, echoPolicy("loadBalancer: {algorithm: ReportedLoad}"))
	for _, c := range []struct {
		load1, load2 float64
		want         int // of 100 for echo-1
	}{{0.9, 0.1, 10}, {0.5, 0.5, 50}, {0.2, 0.8, 80}} {
		w.apps["echo-1"].report(c.load1)
		w.apps["echo-2"].report(c.load2)
		eventually(t, fmt.Sprintf("echo-1 at %g and echo-2 at %g", c.load1, c.load2), func() error {
			got := w.tally(t, 100, call{})
			if d := got["echo-1"] - c.want; d < -4 || d > 4 || got["echo-1"]+got["echo-2"] != 100 {
				return fmt.Errorf("%v, want %d for echo-1", got, c.want)
			}
			return nil
		})
	}
}

// TestTrafficSlowStart: a new endpoint gets less at first, and then its share.
func TestTrafficSlowStart(t *testing.T) {
	w := newWorld(t)
	w.workload(0, "echo-3", map[string]string{"echo": "yes"})
	late := &w.zones[0].Workloads[len(w.zones[0].Workloads)-1]
	late.Healthy = false // its identity is known, so that its coming changes endpoints alone
	w.apply(t, echoPolicy("loadBalancer: {slowStart: {window: 4s, aggression: 0.5}}"))
	old := time.NewTimer(4 * time.Second) // to a cluster that is new, all endpoints are
	<-old.C
	late.Healthy = true
	w.publish(t)
	if got := w.tally(t, 60, call{}); got["echo-3"] > 12 || got["echo-1"] < 20 {
		t.Errorf("at once: %v", got)
	}
	eventually(t, "it has its share", func() error {
		if got := w.tally(t, 60, call{}); got["echo-3"] < 19 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}

// TestTrafficSession: a session stays where it began while endpoints come, and begins anew when its own is gone.
func TestTrafficSession(t *testing.T) {
	w := newWorld(t)
	begin := func(t *testing.T, c call) (app string, again call) {
		t.Helper()
		r := w.call(t, c)
		again = c
		again.header = map[string]string{}
		if cookie, _, ok := strings.Cut(r.header.Get("Set-Cookie"), ";"); ok {
			again.header["cookie"] = cookie
		}
		if v := r.header.Get("X-Session"); v != "" {
			again.header["x-session"] = v
		}
		if len(again.header) == 0 {
			t.Fatalf("no session was begun: %v", r.header)
		}
		return r.app, again
	}
	for _, spec := range []string{`cookie: {name: home, ttl: 1h}`, `header: X-Session`} {
		w.apply(t, echoPolicy("session: {"+spec+"}"))
		app, again := begin(t, call{})
		if got := w.tally(t, 20, again); got[app] != 20 {
			t.Errorf("%s: a session at %s: %v", spec, app, got)
		}
		if got := w.tally(t, 20, call{}); got["echo-1"] != 10 {
			t.Errorf("%s: requests of no session: %v", spec, got)
		}
	}

	w.apply(t, echoPolicy(`session: {cookie: {name: home}}`))
	app, again := begin(t, call{})
	for _, name := range []string{"echo-3", "echo-4"} {
		w.workload(0, name, map[string]string{"echo": "yes"})
		w.publish(t)
		if got := w.tally(t, 20, again); got[app] != 20 {
			t.Errorf("with %s: a session at %s: %v", name, app, got)
		}
	}
	w.zones[0].Workloads = slices.DeleteFunc(w.zones[0].Workloads, func(wl topology.Workload) bool { return wl.Name == app })
	w.publish(t)
	moved, anew := begin(t, again)
	if got := w.tally(t, 20, anew); moved == app || got[moved] != 20 {
		t.Errorf("after the end of %s at %s: %v", app, moved, got)
	}
	w.apply(t, echoPolicy(`session: {cookie: {name: home}, strict: true}`))
	if r := w.call(t, again); r.status != http.StatusServiceUnavailable {
		t.Errorf("a strict session whose endpoint is gone: %d by %s", r.status, r.app)
	}
}

// TestTrafficSessionAcrossZones: what holds is the way into the other zone, not who answers behind it.
func TestTrafficSessionAcrossZones(t *testing.T) {
	w := newWorld(t)
	w.service("far", `{"far":"yes"}`, "two")
	w.base = append(w.base, resource("ServiceExport", "shop", "far", `{}`))
	w.workload(1, "far-1", map[string]string{"far": "yes"})
	w.workload(1, "far-2", map[string]string{"far": "yes"})
	w.publish(t)
	const host = "far.shop.svc.clusterset.local"
	w.apply(t, "kind: TrafficPolicy\nmetadata: {name: far}\nspec: {targetRef: {kind: Service, name: far}, session: {cookie: {name: home}}}\n")
	r := w.call(t, call{to: host})
	cookie, _, _ := strings.Cut(r.header.Get("Set-Cookie"), ";")
	in := call{to: host, header: map[string]string{"cookie": cookie}}
	if got := w.tally(t, 20, in); got[r.app] != 20 { // while the one connection through the lane lives
		t.Errorf("a session at %s: %v", r.app, got)
	}
	w.apply(t, "kind: TrafficPolicy\nmetadata: {name: far}\nspec: {targetRef: {kind: Service, name: far}, session: {cookie: {name: home}}, connectionPool: {maxRequestsPerConnection: 1}}\n")
	if got := w.tally(t, 20, in); got["far-1"] == 0 || got["far-2"] == 0 {
		t.Errorf("the page says that the session is one of the lane: %v", got)
	}
}

// TestTrafficOutlier: an endpoint that fails, as the policy counts, is taken out, and comes back.
func TestTrafficOutlier(t *testing.T) {
	w := newWorld(t)
	web := w.sidecar(t, "web")
	const ejected = "cluster.echo.shop:80.outlier_detection.ejections_active"
	w.apply(t, echoPolicy(`outlier: {answers: ServerErrors, gatewayFailures: 3, interval: 1s, ejection: 1s}`))
	bad := call{to: "echo-v1.shop.svc.clusterset.local", method: "POST", header: map[string]string{doStatus: "500"}}
	if got := w.tally(t, 20, bad); got["500"] != 20 {
		t.Errorf("another service: %v", got)
	}
	if n := web.stat(t, ejected); n != 0 {
		t.Errorf("%d endpoints of echo are out", n)
	}
	// Requests fail at whoever gets them, until nobody but one is left: the last is Envoy's own to keep or not.
	bad.to = ""
	for range 5 {
		w.call(t, bad)
	}
	if n := web.stat(t, ejected); n != 1 {
		t.Errorf("%d of two are out after five failures by turns, want 1", n)
	}
	got := w.tally(t, 20, call{})
	if len(got) != 1 {
		t.Errorf("one is out: %v", got)
	}
	eventually(t, "it comes back", func() error {
		if got := w.tally(t, 10, call{}); len(got) != 2 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})

	// Every second request fails at one of them, never in a row.
	w.apply(t, echoPolicy(`outlier: {answers: ServerErrors, interval: 500ms, ejection: 30s, failurePercentage: {threshold: 40, minimumRequests: 5}}`))
	h, turn := client(t, false), 0
	eventually(t, "the one that fails half of its requests is out", func() error {
		turn++
		c := call{method: "POST"}
		if turn%4 == 0 {
			c.header = map[string]string{doStatus: "500"}
		}
		if _, err := w.tryWith(t, h, c); err != nil {
			t.Fatal(err)
		}
		if n := web.stat(t, ejected); n != 1 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
}

// TestTrafficHealthCheck: endpoints are asked by the caller's proxy, with its identity; one that says that it is not well gets nothing.
func TestTrafficHealthCheck(t *testing.T) {
	w := newWorld(t)
	web := w.sidecar(t, "web")
	checks := func(app string) (n int) {
		for _, r := range w.apps[app].requests() {
			if r.Path == "/healthz" {
				if n++; !strings.Contains(r.Header.Get("X-Forwarded-Client-Cert"), "URI=spiffe://one.example/ns/shop/sa/") {
					t.Errorf("%s is asked by %q", app, r.Header.Get("X-Forwarded-Client-Cert"))
				}
			}
		}
		return n
	}
	w.apply(t, echoPolicy("healthCheck: {http: {path: /healthz}, interval: 1s, idleInterval: 1s, unhealthy: 1}"))
	eventually(t, "both are asked", func() error {
		if checks("echo-1") == 0 || checks("echo-2") == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	w.apps["echo-1"].ill("/healthz", http.StatusInternalServerError)
	eventually(t, "the one that is ill is known", func() error {
		if n := web.stat(t, "cluster.echo.shop:80.membership_healthy"); n != 1 {
			return fmt.Errorf("%d are healthy", n)
		}
		return nil
	})
	if got := w.tally(t, 20, call{}); got["echo-2"] != 20 {
		t.Errorf("echo-1 is ill: %v", got)
	}
	w.apps["echo-1"].ill("", 0)
	eventually(t, "it is well again", func() error {
		if got := w.tally(t, 10, call{}); got["echo-1"] != 5 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})

	// Of another zone's service nobody is asked through its ingress.
	w.apply(t, "kind: TrafficPolicy\nmetadata: {name: pay}\nspec: {targetRef: {kind: Service, name: pay}, healthCheck: {http: {path: /healthz}, interval: 1s, idleInterval: 1s}}\n")
	if r := w.call(t, call{to: payHost}); r.app != "pay-1" {
		t.Errorf("%d by %q", r.status, r.app)
	}
	for _, p := range []string{"web", "echo-1"} {
		if n := w.sidecar(t, p).stat(t, "cluster.pay.shop:80.health_check.attempt"); n != 0 {
			t.Errorf("%s asked %d times", p, n)
		}
	}

	// TCP: a session with the sidecar; of gRPC the health service.
	for _, c := range []struct{ port, number, spec string }{{"raw", "7070", "tcp: {}"}, {"grpc", "9090", "grpc: {}"}} {
		w.apply(t, "kind: TrafficPolicy\nmetadata: {name: echo}\nspec: {targetRef: {kind: Service, name: echo, sectionName: "+c.port+"}, healthCheck: {"+c.spec+", interval: 1s}}\n")
		eventually(t, "a check over "+c.port, func() error {
			if web.stat(t, "cluster.echo.shop:"+c.number+".health_check.success") == 0 {
				return errors.New("none succeeded")
			}
			return nil
		})
	}
}
