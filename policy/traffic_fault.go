package policy

import (
	"fmt"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Fault spoils requests on purpose, to see what callers do then.
type Fault struct {
	// Match says which requests can be spoiled, as in an HTTPRoute but without queryParams. Default all.
	Match     *gatewayv1.HTTPRouteMatch `json:"match,omitempty"`
	Delay     *FaultDelay               `json:"delay,omitempty"`
	Abort     *FaultAbort               `json:"abort,omitempty"`
	Bandwidth *FaultBandwidth           `json:"bandwidth,omitempty"`
}

// FaultDelay holds requests back.
type FaultDelay struct {
	// Percent of the requests, with up to four decimals.
	Percent float64            `json:"percent"`
	For     gatewayv1.Duration `json:"for"`
}

// FaultAbort answers instead of the service. Exactly one of Status and GRPCStatus is set.
type FaultAbort struct {
	// Percent of the requests, with up to four decimals.
	Percent float64 `json:"percent"`
	// Status is an HTTP status from 400 to 599.
	Status uint32 `json:"status,omitempty"`
	// GRPCStatus is a code from 1 to 16, as in 14 for UNAVAILABLE.
	GRPCStatus uint32 `json:"grpcStatus,omitempty"`
}

// FaultBandwidth makes bodies slow, in KiB a second from 1 to 1048576. 0 leaves them as fast as they are.
type FaultBandwidth struct {
	// Response is of each answer, Request of all requests of a sidecar together.
	Response uint64 `json:"response,omitempty"`
	Request  uint64 `json:"request,omitempty"`
	// Percent of the answers, with up to four decimals. Default 100.
	Percent float64 `json:"percent,omitempty"`
}

// Length is how long requests are held back.
func (d FaultDelay) Length() time.Duration { return durationOr(d.For, 0) }

// Share is the percentage of the answers.
func (b FaultBandwidth) Share() float64 {
	if b.Percent == 0 {
		return 100
	}
	return b.Percent
}

// Spoiled is Match with its defaults, nil for all requests.
func (f Fault) Spoiled() *gatewayv1.HTTPRouteMatch { return plainMatch(f.Match) }

const maxBandwidth = 1 << 20

func validateFault(r *report, f Fault) {
	const at = "/spec/fault"
	if f.Delay == nil && f.Abort == nil && f.Bandwidth == nil {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "says nothing", Hint: "give delay, abort or bandwidth"})
	}
	if f.Match != nil {
		validatePlainMatch(r, at+"/match", *f.Match)
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
		switch {
		case a.Status != 0 && a.GRPCStatus != 0:
			r.add(FieldError{Pointer: at + "/abort", Code: CodeInvalid, Message: "must say either status or grpcStatus", Hint: "status for HTTP, grpcStatus for gRPC"})
		case a.GRPCStatus != 0:
			r.number(at+"/abort/grpcStatus", &a.GRPCStatus, 1, 16)
		case a.Status < 400 || a.Status > 599:
			r.add(FieldError{Pointer: at + "/abort/status", Code: CodeOutOfRange, Message: "must be an HTTP status from 400 to 599"})
		}
	}
	if f.Bandwidth != nil {
		validateFaultBandwidth(r, at+"/bandwidth", f)
	}
}

func validateFaultBandwidth(r *report, at string, f Fault) {
	b := *f.Bandwidth
	if b.Response == 0 && b.Request == 0 {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "says nothing", Hint: "give response, request or both, in KiB a second"})
	}
	for field, n := range map[string]uint64{"/response": b.Response, "/request": b.Request} {
		if n > maxBandwidth {
			r.add(FieldError{Pointer: at + field, Code: CodeOutOfRange, Message: fmt.Sprintf("must be from 0 to %d KiB a second", maxBandwidth)})
		}
	}
	if b.Percent != 0 {
		r.percent(at+"/percent", b.Percent)
	}
	if b.Request != 0 && (f.Match != nil || b.Percent != 0) {
		r.unsupported(at+"/request", "slowing down some of the requests", "leave out match and percent, or attach the policy to the rule of an HTTPRoute")
	}
}
