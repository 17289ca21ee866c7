package ir

import "net/netip"

// Authorization decides by the caller's SPIFFE ID, then by the request. A caller that no pattern
// covers is refused, and so is one whose certificate carries more than one URI or one that is not
// canonical.
type Authorization struct {
	// Callers is sorted. A caller obeys its own exact pattern, else the longest prefix.
	Callers []Caller `json:"callers,omitempty"`
	// Shadow is what would hold if policies in shadow mode decided, which is counted and logged; empty where there are none.
	Shadow []Caller `json:"shadow,omitempty"`
}

// Audit notes which requests a policy is about, allowed or not.
type Audit struct {
	Policy string `json:"policy"`
	// Callers as those of an Authorization; what their decisions allow is noted.
	Callers []Caller `json:"callers"`
}

// Caller is what the callers of a pattern may do. The empty pattern, which then is the only one, is for callers who don't say who
// they are.
type Caller struct {
	Identity Pattern `json:"identity"`
	// Decisions: the first that matches counts; the last matches everything.
	Decisions []Decision `json:"decisions"`
}

// Pattern is a SPIFFE ID, or a prefix of IDs that ends at "/".
type Pattern string

// Prefix reports whether the pattern is a prefix.
func (p Pattern) Prefix() bool { return p != "" && p[len(p)-1] == '/' }

// Decision is what a rule of a policy says about a request.
type Decision struct {
	// Policy is who decided: `origin/namespace/name`, or the name of a default.
	Policy string `json:"policy"`
	Allow  bool   `json:"allow"`
	// Any of these matches; empty matches every request.
	Requests []RequestMatch `json:"requests,omitempty"`
}

// RequestMatch is met when all that is set is met, each by one of its values.
type RequestMatch struct {
	Methods []string       `json:"methods,omitempty"`
	Paths   []PathMatch    `json:"paths,omitempty"`
	Headers []HeaderValues `json:"headers,omitempty"` // all of them
	Claims  []ClaimValues  `json:"claims,omitempty"`  // all of them
	// Addresses are ranges, in one of which the client must be.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	// Identities, of one of which the client's certificate must be, which was verified.
	Identities []IdentityMatch `json:"identities,omitempty"`
	// ServerNames, for one of which the client must have asked within TLS: exact, or "*.suffix".
	ServerNames []string `json:"serverNames,omitempty"`
	// AmbiguousPath is met by paths with an escaped slash or a semicolon, of which applications make different things.
	AmbiguousPath bool `json:"ambiguousPath,omitempty"`
}

// HeaderValues is met by a request whose header has one of the values.
type HeaderValues struct {
	Name   string      `json:"name"` // lower case
	Values []TextMatch `json:"values"`
	// AmongOthers is met by one of several values of a header too, not only by the header as a whole.
	AmongOthers bool `json:"amongOthers,omitempty"`
}

// IdentityMatch is met by a certificate with the SPIFFE ID.
type IdentityMatch struct {
	Identity Pattern `json:"identity"`
	// AmongOthers is met by one of several IDs too.
	AmongOthers bool `json:"amongOthers,omitempty"`
}

// TextMatch compares a text; an empty prefix takes any.
type TextMatch struct {
	Prefix bool   `json:"prefix,omitempty"`
	Value  string `json:"value"`
}

// ClaimValues is met by a request whose verified token has one of the values, or a list with one of them, where the path leads.
type ClaimValues struct {
	Path   []string `json:"path"`
	Values []string `json:"values"`
}
