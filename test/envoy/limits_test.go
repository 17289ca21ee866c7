package envoy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const limited = `
kind: TrafficPolicy
metadata: {name: limit}
spec:
  targetRef: {kind: Service, name: %s}
  rateLimit: %s
`

// TestRateLimit: each row of a limit that is refilled so slowly that a test never sees it.
func TestRateLimit(t *testing.T) {
	w := newWorld(t)
	limit := func(t *testing.T, service, spec string) { t.Helper(); w.apply(t, fmt.Sprintf(limited, service, spec)) }
	const echo1 = "echo-v1.shop.svc.clusterset.local"
	passed := func(t *testing.T, n int, c call) int {
		t.Helper()
		ok := 0
		for status, count := range w.tally(t, n, c) {
			if _, err := strconv.Atoi(status); err != nil {
				ok += count // an app's name
			} else if status != "429" {
				t.Errorf("%d answers are %s", count, status)
			}
		}
		return ok
	}

	t.Run("no more than the bucket holds, and then 429 that says when and who", func(t *testing.T) {
		limit(t, "echo-v1", `{requests: [{name: all, limit: {count: 10, per: 1h}}]}`)
		if n := passed(t, 25, call{to: echo1}); n != 10 {
			t.Errorf("%d requests passed, not 10", n)
		}
		r := w.call(t, call{to: echo1})
		wait, err := strconv.Atoi(r.header.Get("Retry-After"))
		if err != nil || wait < 1 || wait > 360 {
			t.Errorf("retry-after: %q", r.header.Get("Retry-After"))
		}
		var p struct{ Code, Title, Detail, Caller string }
		if err := json.Unmarshal([]byte(r.body), &p); err != nil || p.Code != "RATE-LIMITED" || p.Detail != "global/shop/limit/all" ||
			p.Caller != "spiffe://one.example/ns/shop/sa/web" || r.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%v %q %v", err, r.body, r.header)
		}
		if err := (want{app: "echo-2"}).check(w.call(t, call{to: "echo-v2.shop.svc.clusterset.local"})); err != nil {
			t.Errorf("another service: %v", err)
		}
	})
	t.Run("as fast as the bucket is filled", func(t *testing.T) {
		limit(t, "echo-v1", `{requests: [{limit: {count: 10, per: 1s}}]}`)
		begin, ok, refused := time.Now(), 0, 0
		for time.Since(begin) < 3*time.Second {
			if r := w.call(t, call{to: echo1}); r.status == http.StatusOK {
				ok++
			} else if refused++; r.status != http.StatusTooManyRequests {
				t.Fatalf("answered %d", r.status)
			}
		}
		if most := 11 + int(10*time.Since(begin).Seconds()); ok < 35 || ok > most || refused == 0 {
			t.Errorf("%d passed and %d did not in %s, want from 35 to %d", ok, refused, time.Since(begin), most)
		}
	})
	t.Run("a caller that makes noise leaves a quiet one alone", func(t *testing.T) {
		limit(t, "echo-v1", `{requests: [{limit: {count: 10, per: 1h}, each: {caller: true}, overrides: [{caller: "spiffe://one.example/ns/shop/sa/echo-2", limit: {count: 20, per: 1h}}]}]}`)
		for caller, most := range map[string]int{"web": 10, "echo-2": 20} {
			if n := passed(t, 60, call{from: caller, to: echo1}); n != most {
				t.Errorf("%d requests of %s passed, not %d", n, caller, most)
			}
		}
		if n := passed(t, 5, call{from: "echo-1", to: echo1}); n != 5 {
			t.Errorf("%d of 5 requests of the quiet caller passed", n)
		}
	})
	t.Run("by the value of a header, where none is a value", func(t *testing.T) {
		limit(t, "echo-v1", `{requests: [{limit: {count: 3, per: 1h}, each: {header: X-Tenant}}]}`)
		for _, tenant := range []string{"a", "b", ""} {
			c := call{to: echo1}
			if tenant != "" {
				c.header = map[string]string{"x-tenant": tenant}
			}
			if n := passed(t, 8, c); n != 3 {
				t.Errorf("%d requests of tenant %q passed, not 3", n, tenant)
			}
		}
	})
	t.Run("only of requests that match", func(t *testing.T) {
		limit(t, "echo-v1", `{requests: [{limit: {count: 2, per: 1h}, match: {method: POST, path: {type: PathPrefix, value: /order}, headers: [{name: x-kind, value: bulk}]}}]}`)
		bulk := map[string]string{"x-kind": "bulk"}
		if n := passed(t, 6, call{to: echo1, method: "POST", path: "/order/new?a=b", header: bulk}); n != 2 {
			t.Errorf("%d of those that match passed, not 2", n)
		}
		for _, c := range []call{
			{to: echo1, path: "/order", header: bulk}, {to: echo1, method: "POST", path: "/orders", header: bulk}, {to: echo1, method: "POST", path: "/order"},
		} {
			if n := passed(t, 4, c); n != 4 {
				t.Errorf("%+v: %d of 4 passed", c, n)
			}
		}
	})
	t.Run("of a rule of a route, at the servers to which it leads", func(t *testing.T) {
		w.apply(t, `
kind: HTTPRoute
metadata: {name: echo}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
  rules:
    - {name: pay, matches: [{path: {value: /pay}}], backendRefs: [{name: echo-v1, port: 80}]}
    - {backendRefs: [{name: echo-v1, port: 80}]}
---
kind: TrafficPolicy
metadata: {name: pay}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: echo, sectionName: pay}
  rateLimit: {requests: [{limit: {count: 2, per: 1h}}]}
`)
		if n := passed(t, 6, call{path: "/pay/x"}); n != 2 {
			t.Errorf("%d passed, not 2", n)
		}
		for _, c := range []call{{path: "/payment"}, {to: echo1, path: "/pay/x"}} {
			if n := passed(t, 4, c); n != 4 {
				t.Errorf("%+v: %d of 4 passed", c, n)
			}
		}
	})
	t.Run("gRPC says RESOURCE_EXHAUSTED", func(t *testing.T) {
		limit(t, "echo-v1", `{requests: [{limit: {count: 2, per: 1h}}]}`)
		got := map[codes.Code]int{}
		for range 5 {
			_, err := w.callGRPC(t, "web", echo1+":9090", "/test.Echo/Say", nil)
			got[status.Code(err)]++
		}
		if got[codes.OK] != 2 || got[codes.ResourceExhausted] != 3 {
			t.Errorf("%v", got)
		}
	})
	t.Run("across zones, each zone's callers by themselves", func(t *testing.T) {
		limit(t, "pay", `{requests: [{limit: {count: 4, per: 1h}}]}`)
		for _, caller := range []string{"web", "pay-1"} {
			if n := passed(t, 9, call{from: caller, to: payHost}); n != 4 {
				t.Errorf("%d of %s passed, not 4", n, caller)
			}
		}
	})
	t.Run("connections that come too fast are closed", func(t *testing.T) {
		held, _, err := w.dialTCP(t, "web", "pay")
		if err != nil {
			t.Fatal(err)
		}
		limit(t, "echo", `{connections: {limit: {count: 5, per: 1h}}}`)
		open, closed := 0, 0
		for range 20 {
			if _, app, err := w.dialTCP(t, "web", "echo"); err == nil && app != "" {
				open++
			} else {
				closed++
			}
		}
		// echo has two servers, each of which counts for itself, and a client that is cut off tries the other one.
		counted := 0
		for _, name := range []string{"echo-1", "echo-2"} {
			counted += w.sidecar(t, name).stat(t, "local_rate_limit.global/shop/limit/echo.shop/7070.rate_limited")
		}
		if open != 10 || closed != 10 || counted < 10 {
			t.Errorf("%d open, %d closed, %d counted", open, closed, counted)
		}
		if _, err := fmt.Fprintln(held, "still here"); err != nil {
			t.Fatal(err)
		}
		line := make([]byte, len("still here\n"))
		if _, err := io.ReadFull(held, line); err != nil || !strings.HasPrefix(string(line), "still") {
			t.Errorf("a connection to another service was cut: %q, %v", line, err)
		}
	})
}
