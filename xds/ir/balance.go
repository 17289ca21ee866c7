package ir

// Balance is how an endpoint is chosen within a priority, otherwise than by turns.
type Balance struct {
	Algorithm Algorithm `json:"algorithm"`
	// Hash is what ring and maglev choose by; the first that a request has counts.
	Hash      []HashOn   `json:"hash,omitempty"`
	SlowStart *SlowStart `json:"slowStart,omitempty"`
}

// Algorithm is a way of choosing.
type Algorithm string

// The algorithms.
const (
	RoundRobin   Algorithm = "roundRobin"
	LeastRequest Algorithm = "leastRequest"
	Random       Algorithm = "random"
	RingHash     Algorithm = "ringHash"
	Maglev       Algorithm = "maglev"
	ReportedLoad Algorithm = "reportedLoad" // by turns, weighted by what endpoints report (ORCA)
)

// HashOn is one property of a request. Exactly one field is set.
type HashOn struct {
	Header string  `json:"header,omitempty"` // lower case
	Cookie *Cookie `json:"cookie,omitempty"` // made for requests without it, if it has a TTL
	Query  string  `json:"query,omitempty"`
	// ForwardedFor is the first address of x-forwarded-for.
	ForwardedFor bool `json:"forwardedFor,omitempty"`
}

// SlowStart lets a new endpoint's weight grow within Window.
type SlowStart struct {
	Window           Millis  `json:"windowMs"`
	Aggression       float64 `json:"aggression"`
	MinWeightPercent float64 `json:"minWeightPercent"`
}
