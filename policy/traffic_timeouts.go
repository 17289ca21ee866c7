package policy

import (
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// Timeouts bound what callers wait for.
type Timeouts struct {
	// Request bounds a request with all of its tries, from its last byte to the last byte of the answer; then 504. Default
	// none, as 0s says: a default would cut streams and long polls, and what is right only the application knows.
	Request gatewayv1.Duration `json:"request,omitempty"`
	// BackendRequest bounds one try in the same way. Default none, as 0s says.
	BackendRequest gatewayv1.Duration `json:"backendRequest,omitempty"`
	// Idle ends a request on which neither side has sent anything for so long. Default 1h: streams may be silent
	// for minutes; after an hour somebody is gone and did not say so.
	Idle gatewayv1.Duration `json:"idle,omitempty"`
	// Connect bounds a connection to an endpoint, its TLS handshake included. Default: detection.connectTimeout of the MeshConfig
	// (250ms), or detection.remoteConnectTimeout (1s) where another zone serves the port, too.
	Connect gatewayv1.Duration `json:"connect,omitempty"`
}

// Lengths reads them; 0 stands for what is left to the default.
func (t Timeouts) Lengths() (request, backendRequest, idle, connect time.Duration) {
	return durationOr(t.Request, 0), durationOr(t.BackendRequest, 0), durationOr(t.Idle, 0), durationOr(t.Connect, 0)
}

func validateTimeouts(r *report, t Timeouts) {
	const at = "/spec/timeouts"
	if t == (Timeouts{}) {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "says nothing", Hint: "give request, backendRequest, idle or connect; request: 0s takes a wider policy's timeouts away"})
	}
	r.durationOrNone(at+"/request", t.Request, time.Millisecond, 24*time.Hour)
	r.durationOrNone(at+"/backendRequest", t.BackendRequest, time.Millisecond, 24*time.Hour)
	r.duration(at+"/idle", t.Idle, 10*time.Millisecond, 24*time.Hour)
	r.duration(at+"/connect", t.Connect, 10*time.Millisecond, time.Minute)
	if request, try, _, _ := t.Lengths(); request > 0 && try > request {
		r.add(FieldError{Pointer: at + "/backendRequest", Code: CodeOutOfRange, Message: "must not be above request, which bounds all tries together"}) // GEP-1742
	}
}
