package ir

import "net/netip"

// Forward leads wherever the host of a request says. What it resolves is remembered by the cluster and by the filter
// that resolves, which therefore must say the same.
type Forward struct {
	// Refused are ranges of addresses that no host may be at.
	Refused []netip.Prefix `json:"refused"`
}

// Count counts the requests that pass, by name.
type Count struct {
	Name string `json:"name"` // letters, digits and _
}
