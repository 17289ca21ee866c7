package envoy

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// sessionOf begins a session, and returns who answered and the call that goes on with it.
func (w *world) sessionOf(t *testing.T, c call) (app string, again call) {
	t.Helper()
	r := w.call(t, c)
	again = c
	if again.header = maps.Clone(c.header); again.header == nil {
		again.header = map[string]string{}
	}
	for _, cookie := range r.header.Values("Set-Cookie") {
		name, _, _ := strings.Cut(cookie, ";")
		again.header["Cookie"] = strings.TrimPrefix(again.header["Cookie"]+"; "+name, "; ")
	}
	if v := r.header.Get("X-Sid"); v != "" {
		again.header["X-Sid"] = v
	}
	if r.app == "" || maps.Equal(again.header, c.header) {
		t.Fatalf("no session was begun: %d %v", r.status, r.header)
	}
	return r.app, again
}

// TestRouteSessionShares: of several backends a session keeps the one where it began, and the endpoint there, whatever becomes of the
// weights; weights divide those that begin (GEP-1619).
func TestRouteSessionShares(t *testing.T) {
	w := newWorld(t)
	w.workload(0, "echo-1b", map[string]string{"version": "1"})
	for i := range w.zones[0].Workloads {
		if wl := &w.zones[0].Workloads[i]; wl.Name == "echo-1" {
			wl.Labels["version"] = "1"
		}
	}
	w.service("first", `{"version":"1"}`, "one")
	w.publish(t)
	grpc := func(header map[string]string) call { // an empty message, as gRPC frames it
		header["Content-Type"], header["Te"] = "application/grpc", "trailers"
		return call{to: echoHost + ":9090", method: http.MethodPost, path: "/shop.Pay/Charge", header: header, body: "\x00\x00\x00\x00\x00", h2: true}
	}
	for _, x := range []struct {
		kind, persistence string
		port              int
		call
	}{
		{"HTTPRoute", "{sessionName: a-b.sid}", 80, call{header: with("Cookie", "theme=dark")}}, {"HTTPRoute", "{type: Header, sessionName: X-Sid}", 80, call{}},
		{"HTTPRoute", "{}", 80, call{h2: true}}, {"GRPCRoute", "{type: Header, sessionName: X-Sid}", 9090, grpc(map[string]string{})},
	} {
		t.Run(x.kind+" "+x.persistence, func(t *testing.T) {
			rule := func(first, second int, more string) string {
				return fmt.Sprintf(`
kind: %[1]s
metadata: {name: echo}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: %[2]d}]
  rules: [{sessionPersistence: %[3]s, backendRefs: [{name: first, port: %[2]d, weight: %[4]d}, {name: echo-v2, port: %[2]d, weight: %[5]d}%[6]s]}]
`, x.kind, x.port, x.persistence, first, second, more)
			}
			w.apply(t, rule(7, 3, ""))
			began, sessions := map[string]int{}, map[string]call{}
			for range 200 {
				app, again := w.sessionOf(t, x.call)
				began[app]++
				sessions[app] = again
			}
			if n := began["echo-2"]; n < 30 || n > 95 || began["echo-1"] == 0 || began["echo-1b"] == 0 {
				t.Errorf("of 70 to 30 began %v", began) // 5 sigma are 33
			}
			keep := func(when string) {
				t.Helper()
				for app, again := range sessions {
					if got := w.tally(t, 20, again); got[app] != 20 {
						t.Errorf("%s: a session at %s: %v", when, app, got)
					}
				}
			}
			keep("70 to 30")
			w.apply(t, rule(1, 0, ""))
			keep("second at 0")
			w.apply(t, rule(0, 1, ""))
			keep("first at 0")
			w.apply(t, rule(0, 1, fmt.Sprintf(", {name: pay, port: %d, weight: 9}, {name: nobody, port: %[1]d, weight: 90}", x.port)))
			keep("most of it elsewhere, or nowhere")
			w.apply(t, rule(0, 0, ""))
			keep("nothing to begin with")
			if r := w.call(t, x.call); r.app != "" {
				t.Errorf("all weights 0: %d by %q", r.status, r.app)
			}
		})
	}
	t.Run("what the application sees", func(t *testing.T) {
		w.apply(t, route(`[{sessionPersistence: {sessionName: sid}, backendRefs: [{name: first, port: 80}, {name: echo-v2, port: 80}]}]`))
		_, again := w.sessionOf(t, call{header: with("Cookie", "theme=dark")})
		r := w.call(t, again)
		if c := r.echoed.Header.Get("Cookie"); !strings.HasPrefix(c, "theme=dark; sid=") || strings.Contains(c, ".") || r.header.Get("Set-Cookie") != "" {
			t.Errorf("of %q it sees %q, and answers %v", again.header["Cookie"], c, r.header)
		}
	})
	t.Run("cookies of the application's own", func(t *testing.T) {
		r := w.call(t, call{header: with(doAnswer, "Set-Cookie=sids=its")})
		if got := r.header.Values("Set-Cookie"); len(got) != 2 || got[0] != "sids=its" || !strings.HasPrefix(got[1], "sid=") {
			t.Errorf("%q", got)
		}
	})
	t.Run("a backend that is taken away, and one that nobody serves any more", func(t *testing.T) {
		both := route(`[{sessionPersistence: {type: Header, sessionName: X-Sid}, backendRefs: [{name: echo-v2, port: 80}, {name: spare, port: 80}]}]`)
		only := route(`[{sessionPersistence: {type: Header, sessionName: X-Sid}, backendRefs: [{name: spare, port: 80}]}]`)
		const spare = `
---
kind: Service
metadata: {name: spare}
spec: {selector: {app: %s}, ports: [{port: 80, targetPort: %d, appProtocol: http}]}`
		w.apply(t, route(`[{sessionPersistence: {type: Header, sessionName: X-Sid}, `+toV2+`}]`))
		_, again := w.sessionOf(t, call{})
		w.apply(t, only+fmt.Sprintf(spare, "pay-0", w.ports.http))
		if r := w.call(t, again); r.status != http.StatusServiceUnavailable {
			t.Errorf("nobody serves what is left: %d by %q", r.status, r.app)
		}
		w.apply(t, only+fmt.Sprintf(spare, "echo-1", w.ports.http))
		moved, anew := w.sessionOf(t, again)
		if got := w.tally(t, 10, anew); moved != "echo-1" || got[moved] != 10 {
			t.Errorf("of a backend that was taken away it goes on at %s: %v", moved, got)
		}
		w.apply(t, both+fmt.Sprintf(spare, "echo-1", w.ports.http))
		if got := w.tally(t, 20, anew); got["echo-1"] != 20 {
			t.Errorf("%v", got)
		}
		w.apply(t, strings.Replace(both, "{name: spare, port: 80}", "{name: spare, port: 80, weight: 0}", 1)+fmt.Sprintf(spare, "nobody", w.ports.http))
		if moved, anew := w.sessionOf(t, anew); moved != "echo-2" || w.tally(t, 10, anew)[moved] != 10 {
			t.Errorf("of a backend that nobody serves it goes on at %s", moved)
		}
	})
	t.Run("with a script that edits the request", func(t *testing.T) { // Envoy then chooses the route anew
		w.apply(t, route(`[{name: it, sessionPersistence: {sessionName: sid}, backendRefs: [{name: first, port: 80, weight: 9}, {name: echo-v2, port: 80}]}]`)+`
---
kind: Extension
metadata: {name: mark}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: echo}
  side: Client
  lua: {inline: "function envoy_on_request(h) h:headers():add('x-marked', 'yes') end"}`)
		for range 20 {
			app, again := w.sessionOf(t, call{})
			if got := w.tally(t, 10, again); got[app] != 10 {
				t.Errorf("a session at %s: %v", app, got)
			}
			if r := w.call(t, again); r.echoed.Header.Get("X-Marked") != "yes" {
				t.Errorf("%v", r.echoed.Header)
			}
		}
	})
	t.Run("a policy's, from before the service had a route", func(t *testing.T) {
		const policy = `
---
kind: TrafficPolicy
metadata: {name: echo}
spec: {targetRef: {kind: Service, name: echo}, session: {cookie: {name: home}}}`
		w.apply(t, policy)
		app, again := w.sessionOf(t, call{})
		w.apply(t, route(`[{backendRefs: [{name: echo, port: 80, weight: 1}, {name: pay, port: 80, weight: 9}]}]`)+policy)
		if got := w.tally(t, 20, again); got[app] != 20 {
			t.Errorf("a session at %s: %v", app, got)
		}
	})
}

// TestRouteShares: each backend of a rule has its share to a few sigma, also of those that are not there, and those that do something of their own
// with the request; and rules that lead nowhere say so.
func TestRouteShares(t *testing.T) {
	w := newWorld(t)
	w.apply(t, route(`
    - matches: [{path: {value: /half}}]
      backendRefs: [{name: nobody, port: 80, weight: 1000000}, {name: echo-v1, port: 80, weight: 500000}, {name: echo-v2, port: 80, weight: 500000}]
    - matches: [{path: {value: /each}}]
      backendRefs:
        - {name: echo-v1, port: 80, weight: 5, filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}}}]}
        - {name: echo-v1, port: 80, weight: 3, filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /two}}}]}
        - {name: pay, port: 80, weight: 2, filters: [{type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 80}}}]}
    - {matches: [{path: {value: /none}}]}
    - {matches: [{path: {value: /empty}}], backendRefs: []}
    - {matches: [{path: {value: /weightless}}], backendRefs: [{name: echo-v1, port: 80, weight: 0}], filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Rule, value: "5"}]}}]}
    - {matches: [{path: {value: /kinds}}], backendRefs: [{name: echo-v1, port: 7070}]}`))
	const n = 1000
	if got := w.tally(t, n, call{path: "/half"}); got["500"] < 420 || got["500"] > 580 || got["echo-1"] < 180 || got["echo-2"] < 180 || got["500"]+got["echo-1"]+got["echo-2"] != n {
		t.Errorf("of a half and two quarters: %v", got) // 5 sigma are 80 and 68
	}
	seen := map[string]int{}
	for range n {
		r := w.call(t, call{path: "/each/x"})
		switch {
		case r.app != "":
			seen[r.app+" "+r.echoed.Host+r.echoed.Path]++
		default:
			seen[fmt.Sprint(r.status, " ", r.header.Get("Location"))]++
		}
	}
	one, two, three := seen["echo-1 inner.example/one/x"], seen["302 http://"+echoHost+"/two"], seen["pay-1 "+echoHost+"/each/x"]
	if one < 420 || one > 580 || two < 225 || two > 375 || three < 135 || three > 265 || one+two+three != n {
		t.Errorf("of 5, 3 and 2: %v", seen)
	}
	eventually(t, "copies of the third", func() error {
		if got := len(w.apps["echo-2"].requests()); got < three {
			return fmt.Errorf("%d of %d", got, three)
		}
		return nil
	})
	for path, said := range map[string]string{"/none": "leads the request nowhere", "/empty": "has no backendRefs", "/weightless": "all their weights are 0", "/kinds": "NO-BACKEND"} {
		if r := w.call(t, call{path: path}); r.status != http.StatusInternalServerError || !strings.Contains(r.body, said) {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
	if r := w.call(t, call{path: "/weightless"}); r.header.Get("X-Rule") != "5" {
		t.Errorf("%v", r.header)
	}

	t.Run("gRPC", func(t *testing.T) {
		w.apply(t, `
kind: GRPCRoute
metadata: {name: echo}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 9090}]
  rules:
    - {matches: [{method: {service: a.None}}]}
    - {matches: [{method: {service: a.Weightless}}], backendRefs: [{name: echo-v1, port: 9090, weight: 0}]}
    - {matches: [{method: {service: a.Gone}}], backendRefs: [{name: nobody, port: 9090}]}
    - {matches: [{method: {service: a.Half}}], backendRefs: [{name: nobody, port: 9090}, {name: echo-v1, port: 9090}]}`)
		for method, want := range map[string]codes.Code{"/a.None/X": codes.Unavailable, "/a.Weightless/X": codes.Unavailable, "/a.Gone/X": codes.Unavailable, "/b.Other/X": codes.Unimplemented} {
			if app, err := w.callGRPC(t, "web", echoHost+":9090", method, nil); status.Code(err) != want {
				t.Errorf("%s: %q, %v, not %s", method, app, err, want)
			}
		}
		seen := map[codes.Code]int{}
		for range 60 {
			_, err := w.callGRPC(t, "web", echoHost+":9090", "/a.Half/X", nil)
			seen[status.Code(err)]++
		}
		if len(seen) != 2 || seen[codes.OK] < 10 || seen[codes.Unavailable] < 10 {
			t.Errorf("of two backends one is not there: %v", seen)
		}
	})
	t.Run("TCP", func(t *testing.T) {
		w.apply(t, `
kind: TCPRoute
metadata: {name: echo}
spec:
  parentRefs: [{group: "", kind: Service, name: echo}]
  rules: [{backendRefs: [{name: echo-v1, port: 7070, weight: 0}, {name: pay, port: 7070, weight: 0}]}]`)
		for range 5 {
			if c, app, err := w.dialTCP(t, "web", "echo"); err == nil {
				_ = c.Close()
				t.Errorf("all weights 0: answered by %q", app)
			}
		}
	})
}
