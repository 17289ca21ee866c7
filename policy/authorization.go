package policy

import "strings"

// AuthorizationPolicy allows or denies requests to what it targets. For a Gateway, or with sectionName a listener
// of it, it decides at the ingress about visitors, who have no identity in the mesh. Policies add up and deny wins;
// where any allow policy targets a service, what none of them allows is denied.
type AuthorizationPolicy struct {
	// TargetRef is a Service (group "", kind Service), or an ExternalService that is reached through egress proxies, of the policy's own namespace, with sectionName a port of it by name, or nil
	// for the whole namespace; in namespace "comity-system" nil means the whole mesh.
	TargetRef *TargetRef `json:"targetRef,omitempty"`
	Action    Action     `json:"action"`
	// Mode says whether the policy decides. Default Enforce.
	Mode Mode `json:"mode,omitempty"`
	// Rules: one that matches suffices. A Deny without rules denies everything; an Allow without rules allows nothing; an
	// Audit without rules notes everything.
	Rules []Rule `json:"rules,omitempty"`
}

// Action is what a policy does on a match.
type Action string

// The actions of an AuthorizationPolicy. Audit never decides: it counts and logs what it matches, allowed or not.
const (
	Allow Action = "Allow"
	Deny  Action = "Deny"
	Audit Action = "Audit"
)

// Mode is whether a policy decides.
type Mode string

// The modes. Shadow decides nothing: counters and access logs say what would be decided if it did.
const (
	Enforce Mode = "Enforce"
	Shadow  Mode = "Shadow"
)

// Rule matches if one of From (or From is empty) and one of To (or To is empty) match, and all of When.
type Rule struct {
	From []Source    `json:"from,omitempty"`
	To   []Operation `json:"to,omitempty"`
	When *Condition  `json:"when,omitempty"`
}

// Source matches a caller; its set fields must all match, each by one of its values.
type Source struct {
	// Identities are exact SPIFFE IDs, or prefixes ending at "/". Those of visitors are in the certificates that a Gateway demands of
	// its clients.
	Identities []string `json:"identities,omitempty"`
	Namespaces []string `json:"namespaces,omitempty"`
	// ServiceAccounts of the namespaces above.
	ServiceAccounts []string `json:"serviceAccounts,omitempty"`
	// Zones of the caller, proven by its trust domain.
	Zones []string `json:"zones,omitempty"`
	// Addresses of visitors, of a policy for a Gateway, where they are all that can be said: IP addresses, or prefixes as
	// 192.0.2.0/24. They are as far to be believed as the proxies in front of the Gateway (AnnotationTrustedHops).
	Addresses []string `json:"addresses,omitempty"`
}

// Operation matches a request; its set fields must all match, each by one of its values, and of Headers each. Only Ports can
// be used for TCP ports.
type Operation struct {
	Methods []string `json:"methods,omitempty"`
	// Paths are exact, or prefixes when they end with "*".
	Paths   []string      `json:"paths,omitempty"`
	Headers []HeaderValue `json:"headers,omitempty"`
	Ports   []uint16      `json:"ports,omitempty"`
	// ServerNames that visitors of a Gateway ask for within TLS (SNI): names, or "*." and what comes after one label or more.
	ServerNames []string `json:"serverNames,omitempty"`
}

// HeaderValue matches a request header by one of its values: exact, a prefix when it ends with "*", anything for "*" alone. A header
// that is there several times must, for Allow, have the value as a whole; for Deny and Audit one of its values suffices.
type HeaderValue struct {
	Name   string   `json:"name"`
	Values []string `json:"values"`
}

// Condition matches what else is proven of a request. Empty conditions don't exist.
type Condition struct {
	// Claims of a token (JWT) that an AuthenticationPolicy had verified; each must match.
	Claims []Claim `json:"claims"`
}

// Claim matches a claim of the verified token by one of its values; a claim that is a list matches by one of its members, and
// the words of scope and scp are such a list. Numbers and booleans are compared as they are written in JSON.
type Claim struct {
	// Name is the claim; dots lead into objects, as in realm_access.roles. A dot that belongs to a name is written "\.".
	Name   string   `json:"name"`
	Values []string `json:"values"`
}

// Path is the claim's name, taken apart.
func (c Claim) Path() []string {
	var path []string
	var part strings.Builder
	for i := 0; i < len(c.Name); i++ {
		switch {
		case c.Name[i] == '\\' && i+1 < len(c.Name):
			i++
			part.WriteByte(c.Name[i])
		case c.Name[i] == '.':
			path = append(path, part.String())
			part.Reset()
		default:
			part.WriteByte(c.Name[i])
		}
	}
	return append(path, part.String())
}
