package ir

// Visitors decides about requests of who has no identity in the mesh.
type Visitors struct {
	// Decisions: the first that matches counts; the last matches everything.
	Decisions []Decision `json:"decisions"`
}
