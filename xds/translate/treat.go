package translate

import (
	"math"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// treatOutbound edits the routes of a client by what TrafficPolicies say of the requests; each line is one
// feature, filters in the order in which requests meet them. What a route says of itself was set before, and stays.
func (tr *Translator) treatOutbound(p topology.Port, routes []ir.Route, t policy.TrafficPolicy) []ir.Route {
	var out []ir.Route
	for _, r := range routes {
		injectFault(&r, t.Fault)
		out = append(out, tr.withRetries(p, r)...)
	}
	return out
}

// perMillionOf is a percentage as Envoy counts shares.
func perMillionOf(percent float64) uint32 { return uint32(math.Round(percent * 10_000)) }
