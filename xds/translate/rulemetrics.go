package translate

import (
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
)

// countRule has who asks count what a rule with a name gets, as far as the policy for what is asked wants. The policy is that of the
// service and not of the caller, so that all callers have the same routes.
func countRule(r *ir.Route, m policy.RouteMatch, told *policy.Metrics) {
	r.Name = ruleName(m)
	if m.RuleName == "" {
		return
	}
	r.Counted, r.Timed = told.OfRules() != policy.RuleMetricsNone, told.OfRules() == policy.RuleMetricsDurations
}

// ruleMetricsSources is the policy that says what is told of rules, if any does: it is one that shapes routes.
func ruleMetricsSources(m policy.Merged[policy.TelemetryPolicy]) ir.Sources {
	if m.Spec.Metrics == nil || m.Spec.Metrics.Rules == "" {
		return nil
	}
	return ir.Sources{m.By("Metrics")}
}
