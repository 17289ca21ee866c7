package ir

// Timeouts bound the requests of a route. Each of them 0 means that nothing does.
type Timeouts struct {
	// Request is from the request's end to the answer's end, all tries included; it answers 504.
	Request Millis `json:"requestMs,omitempty"`
	// Idle is how long a request or its answer may stand still; 0 is the listener's own.
	Idle Millis `json:"idleMs,omitempty"`
}
