package envoy

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

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
	w.apply(t, echoPolicy("timeouts: {request: 1s}"))
	w.takes(t, slow, http.StatusGatewayTimeout, time.Second)
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

// twoZoned adds a service that echo-1 serves in zone one, and pay-1 in zone two.
func (w *world) twoZoned(t *testing.T) (host string) {
	t.Helper()
	w.service("shared", `{"app":"echo-1"}`, "one")
	w.service("shared", `{"app":"pay-1"}`, "two")
	w.base = append(w.base, resource("ServiceExport", "shop", "shared", `{}`))
	w.publish(t)
	return "shared.shop.svc.clusterset.local"
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

	// The health service is asked about the service that the policy names, which one of them says is not well.
	w.apps["echo-1"].health.SetServingStatus("shop.Echo", healthpb.HealthCheckResponse_NOT_SERVING)
	w.apps["echo-2"].health.SetServingStatus("shop.Echo", healthpb.HealthCheckResponse_SERVING)
	w.apply(t, "kind: TrafficPolicy\nmetadata: {name: echo}\nspec: {targetRef: {kind: Service, name: echo, sectionName: grpc}, healthCheck: {grpc: {service: shop.Echo}, interval: 1s, idleInterval: 1s, unhealthy: 1}}\n")
	eventually(t, "calls go to the one that is well", func() error {
		if n := web.stat(t, "cluster.echo.shop:9090.membership_healthy"); n != 1 {
			return fmt.Errorf("%d are healthy", n)
		}
		return nil
	})
	for range 10 {
		if app, err := w.callGRPC(t, "web", echoHost+":9090", "/test.Echo/Say", nil); err != nil || app != "echo-2" {
			t.Errorf("%q, %v", app, err)
		}
	}
}
