package envoy

import (
	"fmt"
	"testing"
)

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
