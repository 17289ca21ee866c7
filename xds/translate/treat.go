package translate

import (
	"math"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// treatOutbound edits the routes of a client by what TrafficPolicies say of the requests; each line is one
// feature, filters in the order in which requests meet them. What a route says of itself was set before, and stays.
func (tr *Translator) treatOutbound(p topology.Port, routes []ir.Route, t policy.TrafficPolicy) []ir.Route {
	var out []ir.Route
	for _, r := range routes {
		boundTime(&r, t.Timeouts)
		injectFault(&r, t.Fault)
		keepSession(&r, sessionAsked(t.Session))
		out = append(out, tr.retries(p, r, t)...)
	}
	return out
}

// treatOutside is treatOutbound for an ExternalService.
func (tr *Translator) treatOutside(p topology.Port, routes []ir.Route, t policy.TrafficPolicy) []ir.Route {
	var out []ir.Route
	for _, r := range routes {
		boundTime(&r, t.Timeouts)
		injectFault(&r, t.Fault)
		out = append(out, tr.retriesOutside(p, r, t)...)
	}
	return out
}

// outsideSources are the policies that said any of what treatOutside does.
func outsideSources(t policy.Merged[policy.TrafficPolicy]) ir.Sources {
	return saidBy(t, "Timeouts", "Fault", "Retry")
}

// treatInbound is what a server does with the requests that are allowed, by what TrafficPolicies say of them; each line is one
// feature, in the order in which requests meet them.
func (tr *Translator) treatInbound(t policy.Merged[policy.TrafficPolicy]) []ir.Filter {
	var out []ir.Filter
	out = append(out, tr.requestLimits(t.Spec.RateLimit, t.By("RateLimit"))...)
	return out
}

// inboundSources are the policies that said any of what treatInbound does.
func inboundSources(t policy.Merged[policy.TrafficPolicy]) ir.Sources {
	return saidBy(t, "RateLimit", "LoadShedding")
}

// clusterSources are those that said any of what treatCluster does.
func clusterSources(t policy.Merged[policy.TrafficPolicy]) ir.Sources {
	return saidBy(t, "Timeouts", "Retry", "CircuitBreaker", "ConnectionPool", "Outlier", "HealthCheck", "LoadBalancer")
}

// saidBy are the policies that said any of the fields.
func saidBy(t policy.Merged[policy.TrafficPolicy], fields ...string) ir.Sources {
	var out ir.Sources
	for _, field := range fields {
		if k := t.By(field); k != (mesh.Key{}) {
			out = append(out, k)
		}
	}
	return out
}

// treatCluster edits the connections of a client to a service port by what TrafficPolicies say of it; each line is one
// feature.
func (tr *Translator) treatCluster(c *ir.Cluster, p topology.Port, t policy.TrafficPolicy) {
	boundConnect(c, t.Timeouts)
	breakCircuit(c, t.CircuitBreaker, t.Retry)
	poolConnections(c, t.ConnectionPool)
	ejectOutliers(c, t.Outlier, tr.settings.Outlier)
	checkEndpoints(c, p, t.HealthCheck)
	balance(c, t.LoadBalancer)
}

// perMillionOf is a percentage as Envoy counts shares.
func perMillionOf(percent float64) uint32 { return uint32(math.Round(percent * 10_000)) }
