package envoy

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"testing"

	"github.com/comity-mesh/comity/xds/topology"
)

// TestCrowd: what only a service of many endpoints shows.
func TestCrowd(t *testing.T) {
	w := newWorld(t)
	w.service("crowd", `{"crowd":"yes"}`, "one")
	w.service("five", `{"five":"yes"}`, "one")
	for i := range 10 {
		labels := map[string]string{"crowd": "yes"}
		if i < 5 {
			labels["five"] = "yes"
		}
		w.workload(0, "crowd-"+strconv.Itoa(i), labels)
	}
	w.publish(t)
	t.Run("keys", w.keysOfCrowd)
	t.Run("one bad of five", w.outlierOfCrowd)
}

// keysOfCrowd: of ten endpoints one goes and comes back. Its keys move, and few others do.
func (w *world) keysOfCrowd(t *testing.T) {
	const n, gone = 500, "crowd-7"
	homes := func(t *testing.T) []string {
		t.Helper()
		out := make([]string, n)
		for key, r := range w.burst(t, n, 8, func(key int) call {
			return call{to: "crowd.shop", header: map[string]string{"x-user": "user-" + strconv.Itoa(key)}}
		}) {
			if out[key] = r.app; r.status != http.StatusOK {
				t.Errorf("key %d: %d", key, r.status)
			}
		}
		return out
	}
	for _, c := range []struct {
		algorithm string
		besides   int // keys that may move but need not
	}{
		{"Maglev", n / 50},
		{"RingHash", n * 3 / 20}, // each of nine has a ninth of the ring where it had a tenth
	} {
		t.Run(c.algorithm, func(t *testing.T) {
			w.apply(t, "kind: TrafficPolicy\nmetadata: {name: crowd}\nspec: {targetRef: {kind: Service, name: crowd}, loadBalancer: {algorithm: "+c.algorithm+", hash: [{header: x-user}]}}\n")
			before, again := homes(t), homes(t)
			i := slices.IndexFunc(w.zones[0].Workloads, func(wl topology.Workload) bool { return wl.Name == gone })
			pod := w.zones[0].Workloads[i]
			w.zones[0].Workloads = slices.Delete(w.zones[0].Workloads, i, i+1)
			w.publish(t)
			without := homes(t)
			w.zones[0].Workloads = append(w.zones[0].Workloads, pod)
			w.publish(t)
			back := homes(t)
			keys, besides := map[string]int{}, 0
			for key, app := range before {
				keys[app]++
				if again[key] != app {
					t.Errorf("key %d went to %s, and then to %s", key, app, again[key])
				}
				if without[key] == gone {
					t.Errorf("key %d went to who is gone", key)
				}
				if app != gone && without[key] != app {
					besides++
				}
				if back[key] != app {
					t.Errorf("when %s is back, key %d goes to %s instead of %s", gone, key, back[key], app)
				}
			}
			t.Logf("%v; %d moved besides those of %s", keys, besides, gone)
			if keys[gone] < n/20 || keys[gone] > n/5 || besides > c.besides {
				t.Errorf("of %d keys %d were of who went, and %d others moved, want at most %d: %v", n, keys[gone], besides, c.besides, keys)
			}
		})
	}
}

// outlierOfCrowd: of five endpoints one is bad. It is taken out, requests succeed, and when it is well it is taken back.
func (w *world) outlierOfCrowd(t *testing.T) {
	web, bad := w.sidecar(t, "web"), w.apps["crowd-2"]
	out := func() int { return web.stat(t, "cluster.five.shop:80.outlier_detection.ejections_active") }
	// A POST is not tried again: what fails is seen.
	work := call{to: "five.shop", method: http.MethodPost, path: "/work"}
	ejected := func(t *testing.T, ejection string) {
		t.Helper()
		bad.ill("/work", http.StatusInternalServerError)
		w.apply(t, "kind: TrafficPolicy\nmetadata: {name: five}\nspec: {targetRef: {kind: Service, name: five}, outlier: {answers: ServerErrors, gatewayFailures: 3, interval: 1s, ejection: "+ejection+"}}\n")
		eventually(t, "the bad one is taken out", func() error {
			w.tally(t, 5, work)
			if n := out(); n != 1 {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
	}
	ejected(t, "1m")
	const n = 3000
	got := byApp(w.burst(t, n, 8, same(work)))
	good := 0
	for _, app := range []string{"crowd-0", "crowd-1", "crowd-3", "crowd-4"} {
		if good += got[app]; got[app] < n/5 {
			t.Errorf("%s has hardly any: %v", app, got)
		}
	}
	if good < n*999/1000 {
		t.Errorf("of %d requests succeeded %d: %v", n, good, got)
	}

	ejected(t, "1s")
	bad.ill("", 0)
	eventually(t, "it is taken back", func() error {
		if got := w.tally(t, 10, work); got["crowd-2"] != 2 {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
}
