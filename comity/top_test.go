package main

import (
	"math"
	"testing"

	"github.com/comity-mesh/comity/mesh"
)

// TestQuantile: durations are told as Prometheus' histogram_quantile tells them from the same buckets.
func TestQuantile(t *testing.T) {
	f := mesh.Flow{Bounds: []float64{0.001, 0.01, 0.1}, Durations: []uint64{50, 40, 8, 2}}
	for share, want := range map[float64]float64{0.25: 0.5, 0.5: 1, 0.9: 10, 0.95: 66.25, 0.99: 100} {
		if got := quantile(f, share); got == nil || math.Abs(*got-want) > 1e-9 {
			t.Errorf("%v of the requests: %v ms, not %v", share, got, want)
		}
	}
	if quantile(mesh.Flow{}, 0.5) != nil {
		t.Error("a duration of no requests")
	}
}

func TestRowOf(t *testing.T) {
	r := rowOf("east", 2, mesh.Flow{
		Requests: map[string]uint64{"2xx": 90, "4xx": 4, "5xx": 5, "none": 1}, GRPCErrors: map[string]uint64{"UNAVAILABLE": 3, "NOT_FOUND": 7},
	})
	if r.Count != 100 || r.Failed != 9 || r.Requests != 50 || *r.Success != 0.91 {
		t.Errorf("%+v, success %v", r, *r.Success)
	}
}
