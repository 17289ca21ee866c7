package publish

import (
	"testing"
	"time"

	"github.com/comity-mesh/comity/xds/topology"
)

// A drain counts from the first endpoints without the workload; one that was taken back counts anew.
func TestADrainCountsFromItsFirstPublication(t *testing.T) {
	var w withdrawn
	web := topology.Workload{Namespace: "shop", Name: "web"}
	start := time.Now()
	for i, c := range []struct {
		drained bool
		since   int // the build from which it counts; -1: it is not drained
	}{{false, -1}, {true, 1}, {true, 1}, {false, -1}, {true, 4}} {
		web.Draining = c.drained
		w.published([]topology.Workload{web}, start.Add(time.Duration(i)*time.Second))
		want := time.Time{}
		if c.since >= 0 {
			want = start.Add(time.Duration(c.since) * time.Second)
		}
		if got := w.since[web.ProxyID()]; !got.Equal(want) {
			t.Errorf("build %d: since %v, not %v", i, got, want)
		}
	}
}
