package translate

import (
	"slices"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
)

// shedLoad makes two routes of one, each with a bound of its own: for requests of low criticality one that shrinks as soon as answers
// take longer than they should, down to one request, and for the others one that waits until they take twice as long.
func shedLoad(r ir.Route, l *policy.LoadShedding) []ir.Route {
	if l == nil {
		return []ir.Route{r}
	}
	low := r
	low.Match.Headers = append(slices.Clip(low.Match.Headers), ir.HeaderMatch{Name: policy.CriticalityHeader, Value: policy.LowCriticality})
	low.Filters.Load = []ir.Filter{{LoadShedding: &ir.LoadShedding{Latency: millis(l.Well()), Always: 1}}}
	r.Filters.Load = []ir.Filter{{LoadShedding: &ir.LoadShedding{Latency: 2 * millis(l.Well()), Always: l.Always()}}}
	return []ir.Route{low, r}
}
