package envoy

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// layered is the steps of a change between layers in order: both ways are served while one is said.
func layered(service, layer string) string {
	if layer == "" {
		return ""
	}
	return fmt.Sprintf(`
kind: TrafficPolicy
metadata: {name: layer-%[1]s}
spec: {targetRef: {kind: Service, name: %[1]s, sectionName: http}, layer: %[2]s}
---
kind: TrafficPolicy
metadata: {name: layer-%[1]s-grpc}
spec: {targetRef: {kind: Service, name: %[1]s, sectionName: grpc}, layer: %[2]s}
`, service, layer)
}

// TestLayerSwitch: a service goes from l7 to l4 and back under load, in the zone and across zones, and no request fails.
func TestLayerSwitch(t *testing.T) {
	w := newWorld(t)
	for _, service := range []string{"echo", "pay"} {
		t.Run(service, func(t *testing.T) {
			host := service + ".shop.svc.clusterset.local"
			load := w.load(t, host)
			for _, layer := range []string{"l7", "l4", "l7", "l4", "l7", ""} {
				w.apply(t, layered(service, layer))
				load.more(t, 100)
				// What says that the bytes are not understood: the sidecar adds the caller's name to requests alone.
				r := w.call(t, call{to: host})
				told := r.echoed.Header.Get("X-Forwarded-Client-Cert") != ""
				if told != (layer != "l4") {
					t.Errorf("layer %q: the app is told who calls: %v", layer, told)
				}
			}
			load.unharmed(t)
		})
	}
}

// TestLayer4: what still holds where nobody looks at requests, and what doesn't.
func TestLayer4(t *testing.T) {
	w := newWorld(t)
	layer := layered("echo", "l4") + "---" + layered("pay", "l4")
	w.apply(t, layer)
	t.Run("every protocol, in the zone and across", func(t *testing.T) {
		for _, service := range []string{"echo", "pay"} {
			host := service + ".shop.svc.clusterset.local"
			if err := (want{path: "/x?y=z"}).check(w.call(t, call{to: host, path: "/x?y=z", method: "POST", body: "hello"})); err != nil {
				t.Error(err)
			}
			for range 5 {
				if app, err := w.callGRPC(t, "web", host+":9090", "/test.Echo/Say", nil); err != nil || app == "" {
					t.Errorf("%s over gRPC: %q, %v", service, app, err)
				}
			}
		}
		if got := w.tally(t, 40, call{}); got["echo-1"]+got["echo-2"] != 40 || got["echo-1"] == 0 || got["echo-2"] == 0 {
			t.Errorf("%v", got)
		}
	})
	t.Run("routes and faults at the client", func(t *testing.T) {
		w.apply(t, layer+`---
kind: TrafficPolicy
metadata: {name: broken}
spec: {targetRef: {kind: Service, name: echo, sectionName: http}, fault: {match: {path: {value: /broken}}, abort: {percent: 100, status: 418}}}
`)
		if err := (want{status: 418}).check(w.call(t, call{path: "/broken"})); err != nil {
			t.Error(err)
		}
	})
	// What changes of who may call holds from the next connection: these callers have none yet.
	t.Run("who may not call is refused in the handshake", func(t *testing.T) {
		w.apply(t, layer+`---
kind: AuthorizationPolicy
metadata: {name: not-web}
spec: {targetRef: {kind: Service, name: echo}, action: Deny, rules: [{from: [{namespaces: [shop], serviceAccounts: [echo-1]}]}]}
`)
		if err := (want{status: 503}).check(w.call(t, call{from: "echo-1"})); err != nil {
			t.Error(err)
		}
		if err := (want{app: "pay-1"}).check(w.call(t, call{to: payHost})); err != nil {
			t.Error(err)
		}
	})
	t.Run("a policy that looks at requests lets nobody in", func(t *testing.T) {
		w.apply(t, layer+`---
kind: AuthorizationPolicy
metadata: {name: no-admin}
spec: {targetRef: {kind: Service, name: echo}, action: Deny, rules: [{to: [{paths: ["/admin*"]}]}]}
`)
		if err := (want{status: 503}).check(w.call(t, call{from: "echo-2", path: "/harmless"})); err != nil {
			t.Error(err)
		}
	})
	t.Run("by a local port as TCP", func(t *testing.T) {
		web := &w.zones[0].Workloads[0].Spec
		for i := range web.Upstreams {
			if web.Upstreams[i].Service == "pay" {
				web.Upstreams[i].Port = 80
			}
		}
		w.apply(t, layer)
		for _, u := range web.Upstreams {
			if u.Service != "pay" {
				continue
			}
			c := dial(t, local(u.LocalPort))
			if _, err := fmt.Fprintf(c, "GET /raw HTTP/1.1\r\nHost: whoever\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.Header.Get("X-App") != "pay-1" {
				t.Fatal(resp, err)
			}
			_ = resp.Body.Close()
		}
	})
}

// TestLayerMixed: one service is of layer l4 in one zone and of l7 in another; a client speaks to each as it is.
func TestLayerMixed(t *testing.T) {
	w := newWorld(t)
	w.service("echo", `{"app":"pay-1"}`, "two")
	w.base = append(w.base, resource("ServiceExport", "shop", "echo", `{}`))
	w.apply(t, strings.ReplaceAll(layered("echo", "l4"), "kind: TrafficPolicy", "kind: TrafficPolicy\norigin: two"))
	for zone, told := range map[string]bool{"one": true, "two": false} {
		for range 4 {
			r := w.call(t, call{to: "echo.shop." + zone + ".mesh"})
			if got := r.echoed.Header.Get("X-Forwarded-Client-Cert") != ""; got != told {
				t.Errorf("%s: told who calls: %v", zone, got)
			}
		}
	}
	w.apply(t, strings.ReplaceAll(layered("echo", "l4"), "kind: TrafficPolicy", "kind: TrafficPolicy\norigin: two")+`---
kind: FailoverPolicy
metadata: {name: both}
spec: {targetRef: {kind: Service, name: echo}, tiers: [{name: all, zones: [{zone: one}, {zone: two}]}]}
`)
	got := w.tally(t, 60, call{})
	if got["pay-1"] == 0 || got["echo-1"]+got["echo-2"] == 0 || got["pay-1"]+got["echo-1"]+got["echo-2"] != 60 {
		t.Errorf("%v", got)
	}
}
