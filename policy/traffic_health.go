package policy

import (
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Outlier is when an endpoint is taken out of use by what requests to it meet. What it leaves out is as
// detection.outlier of the MeshConfig says.
type Outlier struct {
	OutlierDetection
	// Answers that count against an endpoint. Default NoAnswer.
	Answers OutlierAnswers `json:"answers,omitempty"`
	// FailurePercentage takes those out that fail a share of their requests, in a row or not. Default none.
	FailurePercentage *FailurePercentage `json:"failurePercentage,omitempty"`
}

// OutlierAnswers says what answers count against the endpoint that gave them.
type OutlierAnswers string

// The values of OutlierAnswers.
const (
	CountNoAnswer      OutlierAnswers = "NoAnswer"      // its sidecar says that the application doesn't answer
	CountGatewayErrors OutlierAnswers = "GatewayErrors" // 502, 503 and 504 as well, though they may be passed on from deeper in the call graph
	CountServerErrors  OutlierAnswers = "ServerErrors"  // every 5xx
)

// FailurePercentage looks at what an endpoint did in each interval.
type FailurePercentage struct {
	// Threshold in percent from which on it is taken out.
	Threshold uint32 `json:"threshold"`
	// MinimumRequests in an interval, below which nothing is said of an endpoint. Default 20: of fewer, one is more than 5 %.
	MinimumRequests *uint32 `json:"minimumRequests,omitempty"`
	// MinimumEndpoints with so many requests. Default 2: with one there is nobody to compare with, nor to go to.
	MinimumEndpoints *uint32 `json:"minimumEndpoints,omitempty"`
}

// Bounds fills in the defaults.
func (f FailurePercentage) Bounds() (requests, endpoints uint32) {
	return numberOr(f.MinimumRequests, 20), numberOr(f.MinimumEndpoints, 2)
}

// Narrow is the settings with what a policy says of them.
func (s OutlierSettings) Narrow(o OutlierDetection) OutlierSettings {
	return OutlierSettings{
		LocalFailures: numberOr(o.LocalFailures, s.LocalFailures), GatewayFailures: numberOr(o.GatewayFailures, s.GatewayFailures),
		Interval: durationOr(o.Interval, s.Interval), Ejection: durationOr(o.Ejection, s.Ejection),
		MaxEjectionPercent: numberOr(o.MaxEjectionPercent, s.MaxEjectionPercent),
	}
}

// EndpointCheck asks endpoints of the caller's zone whether they are well, from the proxy of each caller. Exactly one of HTTP,
// GRPC and TCP is set.
type EndpointCheck struct {
	HTTP *HTTPCheck `json:"http,omitempty"`
	GRPC *GRPCCheck `json:"grpc,omitempty"`
	// TCP makes an mTLS session with the endpoint's sidecar.
	TCP *struct{} `json:"tcp,omitempty"`
	// Interval between checks where there is traffic. Default 10s: what fails in between is found by the requests themselves.
	Interval gatewayv1.Duration `json:"interval,omitempty"`
	// IdleInterval where there is none. Default 60s: a mesh in which everybody checks everybody is to be quiet.
	IdleInterval gatewayv1.Duration `json:"idleInterval,omitempty"`
	// Timeout of a check. Default 1s: ten times what a local answer takes.
	Timeout gatewayv1.Duration `json:"timeout,omitempty"`
	// Unhealthy after so many failures in a row. Default 3: a stalled machine is no dead one.
	Unhealthy *uint32 `json:"unhealthy,omitempty"`
	// Healthy again after so many. Default 1: requests find out the rest.
	Healthy *uint32 `json:"healthy,omitempty"`
}

// HTTPCheck asks the application; 200 to 399 is well.
type HTTPCheck struct {
	// Path. Default "/".
	Path string `json:"path,omitempty"`
}

// GRPCCheck asks grpc.health.v1.Health.
type GRPCCheck struct {
	// Service to ask for. Default "", the whole server.
	Service string `json:"service,omitempty"`
}

// EndpointCheckSettings is the numbers of an EndpointCheck with every default filled in.
type EndpointCheckSettings struct {
	Interval, IdleInterval, Timeout time.Duration
	Unhealthy, Healthy              uint32
}

// Settings fills in the defaults.
func (c EndpointCheck) Settings() EndpointCheckSettings {
	return EndpointCheckSettings{
		Interval: durationOr(c.Interval, 10*time.Second), IdleInterval: durationOr(c.IdleInterval, time.Minute), Timeout: durationOr(c.Timeout, time.Second),
		Unhealthy: numberOr(c.Unhealthy, 3), Healthy: numberOr(c.Healthy, 1),
	}
}

func validateOutlier(r *report, o Outlier) {
	const at = "/spec/outlier"
	validateOutlierDetection(r, at, o.OutlierDetection)
	r.oneOf(at+"/answers", string(o.Answers), "", string(CountNoAnswer), string(CountGatewayErrors), string(CountServerErrors))
	if f := o.FailurePercentage; f != nil {
		r.number(at+"/failurePercentage/threshold", &f.Threshold, 1, 100)
		r.number(at+"/failurePercentage/minimumRequests", f.MinimumRequests, 1, 1_000_000)
		r.number(at+"/failurePercentage/minimumEndpoints", f.MinimumEndpoints, 1, 10_000)
	}
}

func validateEndpointCheck(r *report, c EndpointCheck) {
	const at = "/spec/healthCheck"
	given := 0
	for _, yes := range []bool{c.HTTP != nil, c.GRPC != nil, c.TCP != nil} {
		if yes {
			given++
		}
	}
	if given != 1 {
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "must be exactly one of http, grpc and tcp"})
	}
	if c.HTTP != nil && c.HTTP.Path != "" && !cleanPath(c.HTTP.Path) {
		r.invalid(at+"/http/path", "must begin with / and be plain ASCII without spaces")
	}
	if c.GRPC != nil {
		r.text(at+"/grpc/service", c.GRPC.Service)
	}
	// A second at least: every caller's proxy checks every endpoint.
	r.duration(at+"/interval", c.Interval, time.Second, time.Hour)
	r.duration(at+"/idleInterval", c.IdleInterval, time.Second, time.Hour)
	r.duration(at+"/timeout", c.Timeout, 10*time.Millisecond, time.Minute)
	r.number(at+"/unhealthy", c.Unhealthy, 1, 100)
	r.number(at+"/healthy", c.Healthy, 1, 100)
}
