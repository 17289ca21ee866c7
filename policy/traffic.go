package policy

import (
	"github.com/comity-mesh/comity/mesh"
)

// TrafficPolicy says how traffic is treated on its way: how long it may take, what is tried again, how much of it
// is let through. Of several that apply to a request the one with the narrower target wins, field by field.
type TrafficPolicy struct {
	Attachment
	Timeouts       *Timeouts       `json:"timeouts,omitempty"`
	Retry          *Retry          `json:"retry,omitempty"`
	CircuitBreaker *CircuitBreaker `json:"circuitBreaker,omitempty"`
	ConnectionPool *ConnectionPool `json:"connectionPool,omitempty"`
	Outlier        *Outlier        `json:"outlier,omitempty"`
	HealthCheck    *EndpointCheck  `json:"healthCheck,omitempty"`
	LoadBalancer   *LoadBalancer   `json:"loadBalancer,omitempty"`
	Session        *Session        `json:"session,omitempty"`
	// Fault spoils a share of the requests on purpose, at the caller's side. Default none.
	Fault *Fault `json:"fault,omitempty"`
	// Layer is how much the sidecars of the servers understand: l7 requests, l4 bytes and who sends them. It is of whole ports.
	// Default l7.
	Layer mesh.Layer `json:"layer,omitempty"`
	// LoadShedding refuses requests while a workload is overloaded, at the server's side. Default none is.
	LoadShedding *LoadShedding `json:"loadShedding,omitempty"`
	// RateLimit bounds what each workload of the service takes, at the server's side. Default no bound.
	RateLimit *RateLimit `json:"rateLimit,omitempty"`
	// Dependencies are all that the workloads of the target call, so that their sidecars are told of nothing else; an empty list
	// says that they call nothing. Default everything.
	Dependencies []Dependency `json:"dependencies,omitempty"`
}

// block is a part of a spec.
type block struct {
	at    string // JSON pointer
	given bool
}

// ofConnections lists what a TrafficPolicy says of connections and endpoints instead of requests. It is the service's that answers, whatever
// routes lead there; everything else is of the service or route that was asked.
func (p *TrafficPolicy) ofConnections() []block {
	return []block{
		{"/spec/timeouts/connect", p.Timeouts != nil && p.Timeouts.Connect != ""},
		{"/spec/retry/budget", p.Retry != nil && p.Retry.Budget != nil},
		{"/spec/circuitBreaker", p.CircuitBreaker != nil},
		{"/spec/connectionPool", p.ConnectionPool != nil},
		{"/spec/outlier", p.Outlier != nil},
		{"/spec/healthCheck", p.HealthCheck != nil},
		{"/spec/loadBalancer", p.LoadBalancer != nil},
	}
}

// ServerSide names the fields that are given and that the servers' sidecars follow.
func (p *TrafficPolicy) ServerSide() []string {
	var out []string
	if p.RateLimit != nil {
		out = append(out, "rateLimit")
	}
	if p.LoadShedding != nil {
		out = append(out, "loadShedding")
	}
	return out
}

// ofMesh lists what needs a server of the mesh.
func (p *TrafficPolicy) ofMesh() []block {
	return []block{
		{"/spec/session", p.Session != nil},
		{"/spec/loadShedding", p.LoadShedding != nil},
		{"/spec/rateLimit", p.RateLimit != nil},
	}
}

func validateTrafficPolicy(r *report, res mesh.Resource, p *TrafficPolicy) {
	validateAttachment(r, res, p.Attachment, "Service", "HTTPRoute", "GRPCRoute", "ExternalService")
	switch t := p.TargetRef; {
	case t == nil, t.Kind == "Service":
	case t.Kind == "ExternalService":
		for _, block := range p.ofMesh() {
			if block.given {
				r.add(FieldError{
					Pointer: block.at, Code: CodeUnsupported, Message: "can't be said of an ExternalService: its servers are not of the mesh",
					Hint: "leave it out; circuitBreaker and connectionPool bound what callers do",
				})
			}
		}
	default:
		for _, block := range p.ofConnections() {
			if block.given {
				r.add(FieldError{
					Pointer: block.at, Code: CodeUnsupported, Message: "can't be said of a route: all routes to a service share its connections",
					Hint: "target the Service that answers, or one of its ports by sectionName",
				})
			}
		}
	}
	if p.Dependencies != nil {
		validateDependencies(r, p)
	}
	if p.Timeouts != nil {
		validateTimeouts(r, *p.Timeouts)
	}
	if p.Retry != nil {
		validateRetry(r, *p.Retry)
	}
	if p.CircuitBreaker != nil {
		validateCircuitBreaker(r, *p.CircuitBreaker)
	}
	if p.ConnectionPool != nil {
		validateConnectionPool(r, *p.ConnectionPool)
	}
	if p.Outlier != nil {
		validateOutlier(r, *p.Outlier)
	}
	if p.HealthCheck != nil {
		validateEndpointCheck(r, *p.HealthCheck)
	}
	if p.LoadBalancer != nil {
		validateLoadBalancer(r, *p.LoadBalancer)
	}
	if p.Session != nil {
		validateSession(r, *p.Session)
	}
	if p.Fault != nil {
		validateFault(r, *p.Fault)
	}
	if p.Layer != "" {
		r.oneOf("/spec/layer", string(p.Layer), string(mesh.LayerL7), string(mesh.LayerL4))
		if p.TargetRef != nil && p.TargetRef.Kind != "Service" {
			r.add(FieldError{Pointer: "/spec/layer", Code: CodeInvalid, Message: "a connection is of no route", Hint: "target the Service"})
		}
	}
	if p.LoadShedding != nil {
		validateLoadShedding(r, *p.LoadShedding)
	}
	if p.RateLimit != nil {
		validateRateLimit(r, *p.RateLimit, p.TargetRef)
	}
}
