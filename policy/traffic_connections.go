package policy

import (
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// CircuitBreaker bounds what each caller's proxy has under way to a service port at a time. What is beyond is answered 503 at once, and not
// tried again.
type CircuitBreaker struct {
	// MaxConnections. Default 65536, as for all but maxRetries: bounds against running out of memory and ports. A service's own
	// bound is for its policy to say; any guess fails requests of one that is well.
	MaxConnections *uint32 `json:"maxConnections,omitempty"`
	// MaxPendingRequests wait for a connection. Over HTTP/2 they do only while the first connections are made.
	MaxPendingRequests *uint32 `json:"maxPendingRequests,omitempty"`
	// MaxRequests that were sent and not answered.
	MaxRequests *uint32 `json:"maxRequests,omitempty"`
	// MaxRetries. Default 1000: in a failover all that was under way is tried again (with Envoy's 3, a hundred requests failed in
	// a test with 200 a second). A retry.budget takes its place.
	MaxRetries *uint32 `json:"maxRetries,omitempty"`
}

// ConnectionPool says how long connections to endpoints are used. Of HTTP ports only: those of TCP ports are as long as their callers'.
type ConnectionPool struct {
	// MaxRequestsPerConnection replaces a connection that carried so many. Default no bound: age spreads load as well, and
	// under little load costs fewer handshakes.
	MaxRequestsPerConnection *uint32 `json:"maxRequestsPerConnection,omitempty"`
	// MaxConnectionAge replaces older ones, each when its requests are answered. Default 1m: HTTP/2 through an ingress ties a connection to one
	// endpoint, and replacing it is what spreads load.
	MaxConnectionAge gatewayv1.Duration `json:"maxConnectionAge,omitempty"`
	// Idle closes connections without requests. Default 1m: each costs a ping a second.
	Idle gatewayv1.Duration `json:"idle,omitempty"`
}

// Lengths reads them; 0 stands for what is left to the default.
func (p ConnectionPool) Lengths() (age, idle time.Duration) {
	return durationOr(p.MaxConnectionAge, 0), durationOr(p.Idle, 0)
}

// The bounds of what a proxy holds at a time.
const (
	leastAtATime = 1
	mostAtATime  = 65536
)

func validateCircuitBreaker(r *report, c CircuitBreaker) {
	const at = "/spec/circuitBreaker"
	if c == (CircuitBreaker{}) {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "says nothing", Hint: "give maxConnections, maxPendingRequests, maxRequests or maxRetries"})
	}
	r.number(at+"/maxConnections", c.MaxConnections, leastAtATime, mostAtATime)
	r.number(at+"/maxPendingRequests", c.MaxPendingRequests, leastAtATime, mostAtATime)
	r.number(at+"/maxRequests", c.MaxRequests, leastAtATime, mostAtATime)
	r.number(at+"/maxRetries", c.MaxRetries, leastAtATime, mostAtATime)
}

func validateConnectionPool(r *report, p ConnectionPool) {
	const at = "/spec/connectionPool"
	if p == (ConnectionPool{}) {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "says nothing", Hint: "give maxRequestsPerConnection, maxConnectionAge or idle"})
	}
	r.number(at+"/maxRequestsPerConnection", p.MaxRequestsPerConnection, 1, 1_000_000)
	r.duration(at+"/maxConnectionAge", p.MaxConnectionAge, time.Second, 24*time.Hour)
	r.duration(at+"/idle", p.Idle, 100*time.Millisecond, 24*time.Hour)
}
