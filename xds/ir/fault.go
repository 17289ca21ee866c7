package ir

// Fault spoils a share of the requests on purpose.
type Fault struct {
	// Match says which requests can be spoiled, nil all of them.
	Match *Match `json:"match,omitempty"`
	// Delay holds requests back before they are sent on; DelayPerMillion of them.
	Delay           Millis `json:"delayMs,omitempty"`
	DelayPerMillion uint32 `json:"delayPerMillion,omitempty"`
	// Abort answers with the HTTP status instead, AbortGRPC with the gRPC status; AbortPerMillion of the requests. Both 0: none.
	Abort           uint32 `json:"abort,omitempty"`
	AbortGRPC       uint32 `json:"abortGrpc,omitempty"`
	AbortPerMillion uint32 `json:"abortPerMillion,omitempty"`
	// Slow is how fast the body of an answer comes, in KiB/s; SlowPerMillion of them. 0: as fast as it is.
	Slow           uint64 `json:"slowKiBps,omitempty"`
	SlowPerMillion uint32 `json:"slowPerMillion,omitempty"`
}

// SlowRequests holds back the bodies of requests: all of those that pass the filter together have so many KiB a second.
type SlowRequests struct {
	Rate uint64 `json:"kiBps"`
}
