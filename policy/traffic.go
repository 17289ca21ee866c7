package policy

import (
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// TrafficPolicy says how traffic is treated on its way: how long it may take, what is tried again, how much of it
// is let through. Of several that apply to a request the one with the narrower target wins, field by field.
type TrafficPolicy struct {
	Attachment
	// Fault spoils a share of the requests on purpose, at the caller's side. Default none.
	Fault *Fault `json:"fault,omitempty"`
	// RateLimit bounds what each workload of the service takes, at the server's side. Default no bound.
	RateLimit *RateLimit `json:"rateLimit,omitempty"`
}

// Fault spoils requests on purpose, to see what callers do then.
type Fault struct {
	Delay *FaultDelay `json:"delay,omitempty"`
	Abort *FaultAbort `json:"abort,omitempty"`
}

// FaultDelay holds requests back.
type FaultDelay struct {
	// Percent of the requests, with up to four decimals.
	Percent float64            `json:"percent"`
	For     gatewayv1.Duration `json:"for"`
}

// FaultAbort answers instead of the service.
type FaultAbort struct {
	// Percent of the requests, with up to four decimals.
	Percent float64 `json:"percent"`
	// Status is an HTTP status from 400 to 599.
	Status uint32 `json:"status"`
}

// Length is how long requests are held back.
func (d FaultDelay) Length() time.Duration { return durationOr(d.For, 0) }

func validateTrafficPolicy(r *report, res mesh.Resource, p *TrafficPolicy) {
	validateAttachment(r, res, p.Attachment, "Service", "HTTPRoute", "GRPCRoute")
	if p.Fault != nil {
		validateFault(r, *p.Fault)
	}
	if p.RateLimit != nil {
		validateRateLimit(r, *p.RateLimit, p.TargetRef)
	}
}

func validateFault(r *report, f Fault) {
	const at = "/spec/fault"
	if f.Delay == nil && f.Abort == nil {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "says nothing", Hint: "give delay, abort or both"})
	}
	if d := f.Delay; d != nil {
		r.percent(at+"/delay/percent", d.Percent)
		if d.For == "" {
			r.required(at + "/delay/for")
		}
		r.duration(at+"/delay/for", d.For, time.Millisecond, time.Hour)
	}
	if a := f.Abort; a != nil {
		r.percent(at+"/abort/percent", a.Percent)
		if a.Status < 400 || a.Status > 599 {
			r.add(FieldError{Pointer: at + "/abort/status", Code: CodeOutOfRange, Message: "must be an HTTP status from 400 to 599"})
		}
	}
}
