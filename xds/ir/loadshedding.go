package ir

// LoadShedding bounds how many requests are under way, and answers those that are too many 429. The bound shrinks while half of
// the requests exceed the latency, and grows while they don't.
type LoadShedding struct {
	Latency Millis `json:"latencyMs"`
	// Always may be under way.
	Always uint32 `json:"always"`
}
