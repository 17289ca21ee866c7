package mesh

// Trial is what an Envoy said of a configuration that it was shown and does not run.
type Trial struct {
	// Refused is why it would not take it; empty if it would.
	Refused string `json:"refused,omitempty"`
}
