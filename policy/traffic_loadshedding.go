package policy

import (
	"cmp"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// LoadShedding refuses requests at the server while it takes longer than it should, so that those that it takes are
// answered in time. Requests with the header `comity-criticality: low` are refused first.
type LoadShedding struct {
	// Latency is how long an answer takes when the service is well, half of them less; from 1ms to 1m.
	Latency gatewayv1.Duration `json:"latency"`
	// AlwaysConcurrent is how many requests may be under way whatever they take, from 1 to 10000. Default 10.
	AlwaysConcurrent uint32 `json:"alwaysConcurrent,omitempty"`
}

// How a caller says what a request is worth.
const (
	CriticalityHeader = "comity-criticality"
	LowCriticality    = "low"
)

// Well is the latency of a service that is not overloaded.
func (l LoadShedding) Well() time.Duration { return durationOr(l.Latency, 0) }

// Always is how many requests are never refused.
func (l LoadShedding) Always() uint32 { return cmp.Or(l.AlwaysConcurrent, 10) }

func validateLoadShedding(r *report, l LoadShedding) {
	const at = "/spec/loadShedding"
	if l.Latency == "" {
		r.required(at + "/latency")
	}
	r.duration(at+"/latency", l.Latency, time.Millisecond, time.Minute)
	if l.AlwaysConcurrent != 0 {
		r.number(at+"/alwaysConcurrent", &l.AlwaysConcurrent, 1, 10_000)
	}
}
