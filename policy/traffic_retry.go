package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Retry says which failed requests are tried again. What it leaves out is as detection.retry of the MeshConfig says. Requests
// that no application can have seen (the connection failed, or was refused) are tried again whatever they are, unless attempts
// is 0.
type Retry struct {
	// Attempts beyond the first; 0 turns retries off. Default that of the MeshConfig, 3.
	Attempts *uint32 `json:"attempts,omitempty"`
	// Reasons beyond those, for the requests of Requests: HTTP statuses, "reset" (the connection or the try ended without an answer), and
	// of gRPC "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable". Default
	// reset, 503 and 504: what proxies answer when there is nobody behind them.
	Reasons []RetryReason `json:"reasons,omitempty"`
	// Requests that may be done twice. Default Idempotent: only those whose method says so (RFC 9110, 9.2.2), which no gRPC
	// call does.
	Requests RetryRequests `json:"requests,omitempty"`
	// BackOff between tries. Default that of the MeshConfig, 5ms to 50ms.
	BackOff *BackOff `json:"backOff,omitempty"`
	// PerTryTimeout gives a try up so that another can follow; unlike timeouts.backendRequest it does not bound
	// requests that are not tried again. Default that of the MeshConfig, none.
	PerTryTimeout gatewayv1.Duration `json:"perTryTimeout,omitempty"`
	// OtherHost tries elsewhere each time, while there is somebody else. Default true: what failed just now fails again.
	OtherHost *bool `json:"otherHost,omitempty"`
	// OtherZoneAfter is how many tries a tier of zones gets before the next one is tried, 0 for no end. Default 2: the
	// first may be an accident, and the third of three retries must be left for another zone.
	OtherZoneAfter *uint32 `json:"otherZoneAfter,omitempty"`
	// Budget bounds retries by what else is under way. Default none: when a zone dies everything under way is a retry,
	// and a budget would fail it. The circuit breaker's maxRetries holds instead.
	Budget *RetryBudget `json:"budget,omitempty"`
}

// RetryReason is a reason to try a request again: an HTTP status or a name.
type RetryReason string

// RetryRequests says which requests may be done twice.
type RetryRequests string

// The values of RetryRequests.
const (
	RetryIdempotent RetryRequests = "Idempotent"
	RetryAll        RetryRequests = "All"
)

// RetryBudget bounds the retries that one caller has under way to a service port.
type RetryBudget struct {
	// Percent of the requests that are under way or wait. Default 20: the most that retries may add to the load.
	Percent *float64 `json:"percent,omitempty"`
	// Minimum of retries at a time whatever the percentage, without which nothing is tried again where little goes on. Default 3.
	Minimum *uint32 `json:"minimum,omitempty"`
}

// RetrySettings is a Retry with every default filled in.
type RetrySettings struct {
	Attempts            uint32
	Reasons             []RetryReason // beyond those that no application can have seen
	All                 bool          // for every request, idempotent or not
	BackOff, MaxBackOff time.Duration
	PerTryTimeout       time.Duration // 0: none
	Hedge               bool
	OtherHost           bool
	OtherZoneAfter      uint32 // 0: never
}

// Narrow is the settings with what a policy says of them; nil says nothing.
func (s RetrySettings) Narrow(r *Retry) RetrySettings {
	if r == nil {
		return s
	}
	s.Attempts = numberOr(r.Attempts, s.Attempts)
	if len(r.Reasons) > 0 {
		s.Reasons = r.Reasons
	}
	s.All = r.Requests == RetryAll
	if b := r.BackOff; b != nil {
		s.BackOff, s.MaxBackOff = durationOr(b.Base, s.BackOff), durationOr(b.Max, s.MaxBackOff)
		s.MaxBackOff = max(s.BackOff, s.MaxBackOff)
	}
	if t := durationOr(r.PerTryTimeout, 0); t > 0 {
		s.PerTryTimeout = t
	}
	if r.OtherHost != nil {
		s.OtherHost = *r.OtherHost
	}
	s.OtherZoneAfter = numberOr(r.OtherZoneAfter, s.OtherZoneAfter)
	return s
}

// Bounds fills in the defaults.
func (b RetryBudget) Bounds() (percent float64, minimum uint32) {
	percent = 20
	if b.Percent != nil {
		percent = *b.Percent
	}
	return percent, numberOr(b.Minimum, 3)
}

// What a reason may be besides a gRPC status.
const (
	retryReset                        = "reset"
	leastRetryStatus, mostRetryStatus = 400, 599
)

// grpcReasons are the gRPC statuses that Envoy can try again on.
func grpcReasons() []string {
	return []string{"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"}
}

func validateRetry(r *report, t Retry) {
	const at = "/spec/retry"
	r.number(at+"/attempts", t.Attempts, 0, 10)
	r.oneOf(at+"/requests", string(t.Requests), "", string(RetryIdempotent), string(RetryAll))
	r.atMost(at+"/reasons", len(t.Reasons), 32)
	for i, reason := range t.Reasons {
		validateRetryReason(r, ptr(at+"/reasons", i), reason, t)
		if slices.Contains(t.Reasons[:i], reason) {
			r.add(FieldError{Pointer: ptr(at+"/reasons", i), Code: CodeDuplicate, Message: "is listed twice"})
		}
	}
	if t.BackOff != nil {
		validateBackOff(r, at+"/backOff", *t.BackOff)
	}
	r.duration(at+"/perTryTimeout", t.PerTryTimeout, 10*time.Millisecond, time.Hour)
	r.number(at+"/otherZoneAfter", t.OtherZoneAfter, 0, 10)
	if b := t.Budget; b != nil {
		if b.Percent != nil {
			r.percent(at+"/budget/percent", *b.Percent)
		}
		r.number(at+"/budget/minimum", b.Minimum, 0, 10_000)
	}
}

func validateRetryReason(r *report, at string, reason RetryReason, t Retry) {
	if slices.Contains(grpcReasons(), string(reason)) {
		if t.Requests != RetryAll {
			r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "gRPC calls are POST, which is not idempotent: this would never happen", Hint: "write requests: All, if the calls may be done twice"})
		}
		return
	}
	if n, err := strconv.Atoi(string(reason)); err == nil {
		if n < leastRetryStatus || n > mostRetryStatus || len(reason) != 3 {
			r.add(FieldError{Pointer: at, Code: CodeOutOfRange, Message: fmt.Sprintf("must be an HTTP status from %d to %d", leastRetryStatus, mostRetryStatus)})
		}
		return
	}
	choices := []string{retryReset}
	known := fmt.Sprintf("an HTTP status from %d to %d or %s", leastRetryStatus, mostRetryStatus, retryReset)
	if t.Requests == RetryAll {
		choices = append(choices, grpcReasons()...)
		known = fmt.Sprintf("an HTTP status from %d to %d or one of %s", leastRetryStatus, mostRetryStatus, strings.Join(choices, ", "))
	}
	if string(reason) == retryReset {
		return
	}
	f := FieldError{Pointer: at, Code: CodeInvalid, Message: fmt.Sprintf("%q is no reason to try again: name %s", clip(string(reason)), known), Choices: choices}
	f.suggest(string(reason))
	r.add(f)
}
