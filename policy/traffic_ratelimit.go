package policy

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// RateLimit bounds what a service takes: each workload counted at its own sidecar, or all of them together.
type RateLimit struct {
	// Requests that are understood (HTTP, gRPC). All limits that match a request must have room for it; each counts by itself.
	Requests []RequestLimit `json:"requests,omitempty"`
	// Shared limits are counted for all workloads together, by a service that their sidecars ask.
	Shared *SharedLimits `json:"shared,omitempty"`
	// Connections bounds how fast new ones are taken, on ports that are passed on as bytes.
	Connections *ConnectionLimit `json:"connections,omitempty"`
}

// RequestLimit is a bucket of tokens that fills steadily. A request takes a token, and one that finds none is answered 429
// (gRPC: RESOURCE_EXHAUSTED) with the seconds until there is one in Retry-After.
type RequestLimit struct {
	// Name is told to who was refused, after that of the policy. Default none.
	Name  string `json:"name,omitempty"`
	Limit Limit  `json:"limit"`
	CountedRequests
	// Overrides are the buckets of callers that get another one, with each.caller only.
	Overrides []LimitOverride `json:"overrides,omitempty"`
}

// CountedRequests says which requests a limit counts, and which of them by themselves.
type CountedRequests struct {
	// Match says which requests count, as in an HTTPRoute but without queryParams. Default all.
	Match *gatewayv1.HTTPRouteMatch `json:"match,omitempty"`
	// Each gives everybody a bucket of their own. Default one bucket for all.
	Each *LimitEach `json:"each,omitempty"`
}

// SharedLimits are kept by a rate limit service, which has the numbers: whoever serves
// envoy.service.ratelimit.v3.RateLimitService does. It is asked about each request that a limit counts.
type SharedLimits struct {
	// Service that is asked over gRPC, by mTLS as every other. The AuthorizationPolicies of that service must allow those who ask.
	Service ServiceAddress `json:"service"`
	// Domain tells the service whose limits are meant. Default the namespace of the policy.
	Domain string `json:"domain,omitempty"`
	// Timeout of an answer. Default 20ms: it is part of every request.
	Timeout gatewayv1.Duration `json:"timeout,omitempty"`
	// FailClosed answers 503 when the service does not answer. Default false: requests are let through.
	FailClosed bool          `json:"failClosed,omitempty"`
	Requests   []SharedLimit `json:"requests"`
}

// SharedLimit asks whether there is room for a request, by the descriptor (limit, Name), (caller, SPIFFE ID) or (limit, Name), (header, value);
// requests without the header say (none, none).
type SharedLimit struct {
	Name string `json:"name"`
	CountedRequests
}

// DefaultSharedTimeout is that of SharedLimits.
const DefaultSharedTimeout = 20 * time.Millisecond

// Wait is how long an answer is waited for.
func (s SharedLimits) Wait() time.Duration { return durationOr(s.Timeout, DefaultSharedTimeout) }

// Limit is how much is let through in how long.
type Limit struct {
	Count uint32 `json:"count"`
	// Per is from 50ms to 1h. Default 1s.
	Per gatewayv1.Duration `json:"per,omitempty"`
	// Burst is how many may come at once after a time without any. Default count.
	Burst uint32 `json:"burst,omitempty"`
}

// LimitEach says by what requests are told apart. Exactly one field is set.
type LimitEach struct {
	// Caller is the SPIFFE ID that the connection proved.
	Caller bool `json:"caller,omitempty"`
	// Header is a request header; requests without it share a bucket.
	Header string `json:"header,omitempty"`
}

// LimitOverride is the bucket of one caller.
type LimitOverride struct {
	Caller string `json:"caller"` // SPIFFE ID
	Limit  Limit  `json:"limit"`
}

// ConnectionLimit closes connections that come too fast, before anything of them is read.
type ConnectionLimit struct {
	Limit Limit `json:"limit"`
}

// Interval is in which the count is let through.
func (l Limit) Interval() time.Duration { return durationOr(l.Per, time.Second) }

// Size is how many may come at once.
func (l Limit) Size() uint32 { return cmp.Or(l.Burst, l.Count) }

// Counted is Match with its defaults, nil for all requests.
func (l CountedRequests) Counted() *gatewayv1.HTTPRouteMatch { return plainMatch(l.Match) }

func plainMatch(m *gatewayv1.HTTPRouteMatch) *gatewayv1.HTTPRouteMatch {
	if m == nil {
		return nil
	}
	whole := withDefaults(*m)
	return &whole
}

// Bounds of what Envoy counts: it fills a bucket at most every 50 ms.
const (
	maxRequestLimits  = 16
	maxLimitOverrides = 64
	maxLimitCount     = 1_000_000_000
)

func validateRateLimit(r *report, l RateLimit, target *TargetRef) {
	const at = "/spec/rateLimit"
	if len(l.Requests) == 0 && l.Shared == nil && l.Connections == nil {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "says nothing", Hint: "give requests, shared, connections or all of them"})
	}
	r.atMost(at+"/requests", len(l.Requests), maxRequestLimits)
	for i, one := range l.Requests {
		validateRequestLimit(r, ptr(at+"/requests", i), one)
	}
	if l.Shared != nil {
		validateSharedLimits(r, *l.Shared)
	}
	if c := l.Connections; c != nil {
		if target != nil && target.Kind != "Service" {
			r.add(FieldError{Pointer: at + "/connections", Code: CodeInvalid, Message: "a connection is of no route", Hint: "target the Service"})
		}
		validateLimit(r, at+"/connections/limit", c.Limit)
	}
}

func validateRequestLimit(r *report, at string, l RequestLimit) {
	if l.Name != "" {
		r.checked(at+"/name", l.Name, mesh.CheckLabel)
	}
	validateLimit(r, at+"/limit", l.Limit)
	validateCounted(r, at, l.CountedRequests)
	if len(l.Overrides) > 0 && (l.Each == nil || !l.Each.Caller) {
		r.add(FieldError{Pointer: at + "/overrides", Code: CodeInvalid, Message: "need a limit for each caller", Hint: "set each: {caller: true}"})
	}
	r.atMost(at+"/overrides", len(l.Overrides), maxLimitOverrides)
	seen := map[string]bool{}
	for i, o := range l.Overrides {
		oat := ptr(at+"/overrides", i)
		r.checked(oat+"/caller", o.Caller, checkOneIdentity)
		if seen[o.Caller] {
			r.add(FieldError{Pointer: oat + "/caller", Code: CodeDuplicate, Message: fmt.Sprintf("%q is listed twice", clip(o.Caller))})
		}
		seen[o.Caller] = true
		validateLimit(r, oat+"/limit", o.Limit)
	}
}

func validateCounted(r *report, at string, c CountedRequests) {
	if c.Match != nil {
		validatePlainMatch(r, at+"/match", *c.Match)
	}
	if e := c.Each; e != nil {
		switch {
		case e.Caller == (e.Header != ""):
			r.add(FieldError{Pointer: at + "/each", Code: CodeInvalid, Message: "must say either caller or header", Hint: "make two limits, one for each: a request needs room in both"})
		case e.Header != "" && !headerName.MatchString(e.Header):
			r.invalid(at+"/each/header", "%q is no header name", clip(e.Header))
		}
	}
}

func validateSharedLimits(r *report, s SharedLimits) {
	const at = "/spec/rateLimit/shared"
	validateServiceAddress(r, at+"/service", s.Service)
	if s.Domain != "" {
		r.checked(at+"/domain", s.Domain, mesh.CheckLabel)
	}
	r.duration(at+"/timeout", s.Timeout, time.Millisecond, time.Minute)
	if len(s.Requests) == 0 {
		r.required(at + "/requests")
	}
	r.atMost(at+"/requests", len(s.Requests), maxRequestLimits)
	seen := map[string]bool{}
	for i, one := range s.Requests {
		oat := ptr(at+"/requests", i)
		r.checked(oat+"/name", one.Name, mesh.CheckLabel)
		if seen[one.Name] {
			r.add(FieldError{Pointer: oat + "/name", Code: CodeDuplicate, Message: fmt.Sprintf("%q is listed twice", clip(one.Name))})
		}
		seen[one.Name] = true
		validateCounted(r, oat, one.CountedRequests)
	}
}

func validateLimit(r *report, at string, l Limit) {
	r.number(at+"/count", &l.Count, 1, maxLimitCount)
	r.duration(at+"/per", l.Per, 50*time.Millisecond, time.Hour)
	if l.Burst > maxLimitCount {
		r.number(at+"/burst", &l.Burst, 1, maxLimitCount)
	}
}

// validatePlainMatch is for matches where only headers can be looked at, of which the path is one.
func validatePlainMatch(r *report, at string, m gatewayv1.HTTPRouteMatch) {
	if len(m.QueryParams) > 0 {
		r.unsupported(at+"/queryParams", "matching query parameters here", "attach the policy to the rule of an HTTPRoute that matches them")
		return
	}
	validateMatch(r, at, m)
}

// checkOneIdentity accepts a SPIFFE ID, and no prefix.
func checkOneIdentity(id string) error {
	if strings.HasSuffix(id, "/") {
		return fmt.Errorf("%q is a prefix; one caller is meant", clip(id))
	}
	return checkIdentity(id)
}
