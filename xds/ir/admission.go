package ir

// Admission decides which connections of a chain are passed on, by who calls: when the handshake is over, and before the application
// hears of them. It comes by itself, so that a change touches neither the listener nor the connections that are there.
type Admission struct {
	Name string `json:"name"`
	// To is where those lead that are let in; nil where the chain relays them, with what is noted of them.
	To *HostPort `json:"to,omitempty"`
	// Authorization decides; of a caller's Decisions the first counts, since there are no requests to look at.
	Authorization Authorization `json:"authorization,omitzero"`
	// Visitors decides instead, of those who have no identity in the mesh.
	Visitors *Visitors `json:"visitors,omitempty"`
	// Audits decide nothing and are noted.
	Audits []Audit `json:"audits,omitempty"`

	Sources Sources `json:"sources,omitempty"`
}
