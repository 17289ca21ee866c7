package signals

// Authorization counts requests, and TCP connections when they end, by what policies decided about them. Labels: Policy, Action, Mode.
const Authorization = "comity_authorization_total"

// Labels of Authorization.
const (
	// Policy is `origin/namespace/name`, or the name of a default.
	Policy = "policy"
	// Action is Allow, Deny or, of what a policy only noted, Audit.
	Action = "action"
	// Mode is Enforce, or Shadow for what would have been decided.
	Mode = "mode"
)

// Values of the labels.
const (
	Allow   = "allow"
	Deny    = "deny"
	Audit   = "audit"
	Enforce = "enforce"
	Shadow  = "shadow"
)

// MaxDecisions bounds the series of a proxy; the policy of all further ones is Other.
const MaxDecisions = 1000
