package ir

// Breaker bounds what one proxy has under way to a cluster at a time; what is beyond is answered 503 at once. Each of them 0 leaves a
// bound that only keeps the proxy from running out of memory.
type Breaker struct {
	Connections uint32 `json:"connections,omitempty"`
	// Pending requests wait for a connection.
	Pending  uint32 `json:"pending,omitempty"`
	Requests uint32 `json:"requests,omitempty"`
	Retries  uint32 `json:"retries,omitempty"`
	// RetryPercent of the requests under way may be retries, and always RetryMinimum of them; it takes the place of Retries. 0: no
	// such bound.
	RetryPercent float64 `json:"retryPercent,omitempty"`
	RetryMinimum uint32  `json:"retryMinimum,omitempty"`
}
