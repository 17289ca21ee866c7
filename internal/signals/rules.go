package signals

// Metrics of a proxy about the rules of HTTPRoutes and GRPCRoutes that have a name, at who asks. Labels: RouteNamespace, Route, Rule.
const (
	// RuleRequests are the answers of backends; what the proxy answers itself, as a fault, is of no backend. Further label: CodeClass.
	RuleRequests = "comity_rule_requests_total"
	// RuleRetries are attempts after the first.
	RuleRetries = "comity_rule_retries_total"
	// RuleDuration in seconds, of rules whose durations a policy wants.
	RuleDuration = "comity_rule_request_duration_seconds"
)

// TimedRules is what Envoy's names for rules begin with whose durations it measures, by the zone's configuration.
const TimedRules = "timed/"

// Labels of them.
const (
	RouteNamespace = "route_namespace"
	Route          = "route"
	Rule           = "rule"
)
