package signals

// Metrics of a proxy about the rules of HTTPRoutes and GRPCRoutes that have a name, at who asks. Labels: RouteNamespace, Route, Rule.
const (
	// RuleRequests are the answers of backends; what the proxy answers itself, as a fault, is of no backend. Further label: CodeClass.
	RuleRequests = "comity_rule_requests_total"
	// RuleRetries are attempts after the first.
	RuleRetries = "comity_rule_retries_total"
)

// Labels of them.
const (
	RouteNamespace = "route_namespace"
	Route          = "route"
	Rule           = "rule"
)
