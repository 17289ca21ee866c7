package policy

import (
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

func validateTrafficPolicy(r *report, res mesh.Resource, p *TrafficPolicy) {
	validateAttachment(r, res, p.Attachment, "Service", "HTTPRoute", "GRPCRoute")
	if p.Fault != nil {
		validateFault(r, *p.Fault)
	}
	if p.RateLimit != nil {
		validateRateLimit(r, *p.RateLimit, p.TargetRef)
	}
}
