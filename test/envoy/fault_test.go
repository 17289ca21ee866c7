package envoy

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestFault: only requests that match are spoiled, about as many as the policy says, and in the way it says.
func TestFault(t *testing.T) {
	w := newWorld(t)
	w.apply(t, `
kind: TrafficPolicy
metadata: {name: chaos}
spec:
  targetRef: {kind: Service, name: echo}
  fault:
    match: {headers: [{name: x-test, value: "yes"}], path: {value: /pay}}
    abort: {percent: 10, status: 503}
    delay: {percent: 20, for: 500ms}
`)
	spoiled := call{path: "/pay/now?x=y", header: map[string]string{"x-test": "yes"}, method: "POST"} // a POST is not tried again
	const n = 600
	aborted, late := 0, 0
	for _, r := range w.burst(t, n, 30, same(spoiled)) {
		if r.status == http.StatusServiceUnavailable {
			aborted++
		}
		if r.took >= 450*time.Millisecond {
			late++
		}
	}
	web := w.sidecar(t, "web")
	aborts, delayed := web.stat(t, "filter_chain.fault.aborts_injected"), web.stat(t, "filter_chain.fault.delays_injected")
	// Five standard deviations of 600 tries around 10 % and 20 %.
	if aborted != aborts || aborted < 23 || aborted > 97 || delayed < 71 || delayed > 169 {
		t.Errorf("of %d requests %d were aborted (%d counted) and %d delayed", n, aborted, aborts, delayed)
	}
	// A busy machine makes others late, too, but not many by half a second.
	if late < delayed || late > delayed+n/20 {
		t.Errorf("%d requests were delayed, and the caller waited for %d", delayed, late)
	}
	for _, c := range []call{{path: "/pay"}, {path: "/payment", header: spoiled.header}} {
		if got := w.tally(t, 100, c); got["echo-1"]+got["echo-2"] != 100 {
			t.Errorf("%+v does not match, and is spoiled: %v", c, got)
		}
	}
	if got := web.stat(t, "filter_chain.fault.delays_injected"); got != delayed {
		t.Errorf("%d requests that don't match were delayed", got-delayed)
	}

	t.Run("gRPC status", func(t *testing.T) {
		w.apply(t, `
kind: TrafficPolicy
metadata: {name: chaos}
spec: {targetRef: {kind: Service, name: echo, sectionName: grpc}, fault: {abort: {percent: 100, grpcStatus: 9}}}
`)
		if _, err := w.callGRPC(t, "web", echoHost+":9090", "/test.Echo/Say", nil); status.Code(err) != codes.FailedPrecondition {
			t.Error(err)
		}
	})
	t.Run("slow bodies", func(t *testing.T) {
		w.apply(t, `
kind: TrafficPolicy
metadata: {name: chaos}
spec: {targetRef: {kind: Service, name: echo}, fault: {bandwidth: {response: 64, request: 64}}}
`)
		// 32 KiB at 64 KiB a second take half a second, less what the bucket holds at first.
		if r := w.call(t, call{header: map[string]string{doBody: "32768"}}); r.took < 300*time.Millisecond || len(r.body) != 32768 {
			t.Errorf("an answer of %d bytes took %s", len(r.body), r.took)
		}
		if r := w.call(t, call{method: "POST", body: strings.Repeat("x", 65536)}); r.took < 300*time.Millisecond {
			t.Errorf("a request took %s", r.took)
		}
	})
}
