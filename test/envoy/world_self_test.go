package envoy

import (
	"testing"
)

// TestWorld: requests of every kind get through before anything is asked for, and a policy holds at once.
func TestWorld(t *testing.T) {
	w := newWorld(t)
	if got := w.tally(t, 40, call{}); got["echo-1"] != 20 || got["echo-2"] != 20 {
		t.Errorf("round robin: %v", got)
	}
	r := w.call(t, call{to: payHost, path: "/x?y=z", method: "POST", body: "hello"})
	if err := (want{app: "pay-1", path: "/x?y=z"}).check(r); err != nil || r.echoed.Body != "hello" {
		t.Error(err, r.echoed)
	}
	for _, service := range []string{"echo", "pay"} {
		if _, app, err := w.dialTCP(t, "web", service); err != nil || app == "" {
			t.Errorf("%s over TCP: %q, %v", service, app, err)
		}
		if app, err := w.callGRPC(t, "web", service+".shop.svc.clusterset.local:9090", "/test.Echo/Say", nil); err != nil || app == "" {
			t.Errorf("%s over gRPC: %q, %v", service, app, err)
		}
	}
	h := client(t, true)
	if r, err := w.tryWith(t, h, call{}); err != nil || r.status != 200 {
		t.Fatal(r, err)
	}
	w.table(t, []feature{{
		name: "a fault",
		yaml: `
kind: TrafficPolicy
metadata: {name: broken}
spec: {targetRef: {kind: Service, name: echo}, fault: {abort: {percent: 100, status: 418}}}
`,
		expect: []expectation{{want: want{status: 418}}, {call{to: payHost}, want{app: "pay-1"}}},
	}})
	// The connection from before is still there, and the policy holds on it.
	if r, err := w.tryWith(t, h, call{}); err != nil || r.status != 418 {
		t.Error(r, err)
	}
	if n := w.sidecar(t, "web").stat(t, "listener_manager.listener_modified") + w.sidecar(t, "web").stat(t, "listener_manager.listener_in_place_updated"); n > 0 {
		t.Errorf("%d listeners were changed by a policy", n)
	}
	w.apply(t, "")
	if err := (want{}).check(w.call(t, call{})); err != nil {
		t.Error(err)
	}
}
