package envoy

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/topology"
)

// TestVersions: a version of a service is a Service of its own that selects by one label more. A workload whose label changes, and a
// Service whose selector does, move between the versions within 2 s, and no request fails meanwhile.
func TestVersions(t *testing.T) {
	w := newWorld(t)
	w.base = slices.DeleteFunc(w.base, func(r mesh.Resource) bool { return r.Kind == mesh.KindService && r.Name != "web" })
	w.service("echo", `{"echo":"yes"}`, "one")
	w.service("echo-v1", `{"echo":"yes","version":"1"}`, "one")
	w.service("echo-v2", `{"echo":"yes","version":"2"}`, "one")
	label := func(name, version string) {
		i := slices.IndexFunc(w.zones[0].Workloads, func(wl topology.Workload) bool { return wl.Name == name })
		w.zones[0].Workloads[i].Labels = map[string]string{"echo": "yes", "version": version}
	}
	w.workload(0, "echo-3", nil)
	label("echo-1", "1")
	label("echo-2", "1")
	label("echo-3", "2")
	w.apply(t, route(`
    - {matches: [{headers: [{name: X-Version, value: "2"}]}], `+toV2+`}
    - {`+toV1+`}`))
	first, second := call{}, call{header: with("X-Version", "2")}
	answer := func(c call, apps ...string) {
		t.Helper()
		got := w.tally(t, 30, c)
		for _, app := range apps {
			if got[app] == 0 {
				t.Errorf("%s does not answer: %v", app, got)
			}
		}
		if len(got) != len(apps) {
			t.Errorf("%v, not %v alone", got, apps)
		}
	}
	answer(first, "echo-1", "echo-2")
	answer(second, "echo-3")
	moves := func(what string, move func(), moved string) {
		t.Run(what, func(t *testing.T) {
			stop, failed := make(chan struct{}), make(chan map[string]int, 1)
			go func() {
				all := map[string]int{}
				for {
					for _, c := range []call{first, second} {
						for k, n := range w.tally(t, 5, c) {
							all[k] += n
						}
					}
					select {
					case <-stop:
						failed <- all
						return
					default:
					}
				}
			}()
			before := w.sidecar(t, "web").stat(t, "cluster.echo-v2.shop_80.outlier_detection.ejections_enforced_total")
			began := time.Now()
			move()
			eventually(t, moved+" answers for the second version", func() error {
				if got := w.tally(t, 8, second); got[moved] == 0 {
					return fmt.Errorf("%v", got)
				}
				return nil
			})
			took := time.Since(began)
			close(stop)
			for who, n := range <-failed {
				if !slices.Contains([]string{"echo-1", "echo-2", "echo-3"}, who) {
					t.Errorf("%d requests: %s", n, who)
				}
			}
			// A caller that hears of it before the workload's proxy does may be turned away twice, and eject the endpoint.
			ejected := w.sidecar(t, "web").stat(t, "cluster.echo-v2.shop_80.outlier_detection.ejections_enforced_total") - before
			t.Logf("%v, ejected %d times", took, ejected)
			if took > 2*time.Second && ejected == 0 {
				t.Errorf("it took %v", took)
			}
		})
	}
	moves("a label", func() { label("echo-2", "2"); w.publish(t) }, "echo-2")
	answer(first, "echo-1")
	answer(second, "echo-2", "echo-3")
	moves("a selector", func() {
		w.base = slices.DeleteFunc(w.base, func(r mesh.Resource) bool { return r.Name == "echo-v2" })
		w.service("echo-v2", `{"echo":"yes"}`, "one")
		w.publish(t)
	}, "echo-1")
}
