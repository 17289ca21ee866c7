package translate

import (
	"math"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
)

// treatOutbound edits the routes of a client by what TrafficPolicies say of the requests; each line is one
// feature, in the order in which requests meet their filters.
func (tr *Translator) treatOutbound(routes []ir.Route, t policy.TrafficPolicy) {
	for i := range routes {
		r := &routes[i]
		injectFault(r, t.Fault)
	}
}

// perMillionOf is a percentage as Envoy counts shares.
func perMillionOf(percent float64) uint32 { return uint32(math.Round(percent * 10_000)) }
