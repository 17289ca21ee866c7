package ir

// Visitors decides about requests, or connections, of who has no identity in the mesh.
type Visitors struct {
	// Decisions: the first that matches counts; the last matches everything.
	Decisions []Decision `json:"decisions"`
	// Shadow is what would hold if policies in shadow mode decided; empty where there are none.
	Shadow []Decision `json:"shadow,omitempty"`
}
