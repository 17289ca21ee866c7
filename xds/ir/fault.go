package ir

// Fault spoils a share of the requests on purpose.
type Fault struct {
	// Delay holds requests back before they are sent on; DelayPerMillion of them.
	Delay           Millis `json:"delayMs,omitempty"`
	DelayPerMillion uint32 `json:"delayPerMillion,omitempty"`
	// Abort answers with the HTTP status instead; AbortPerMillion of the requests. 0: none.
	Abort           uint32 `json:"abort,omitempty"`
	AbortPerMillion uint32 `json:"abortPerMillion,omitempty"`
}
