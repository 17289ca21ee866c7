package translate

import (
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
)

// boundTime bounds the requests of a route that has no bounds of its own. What bounds one try is with the retries, and
// what bounds a connection with the cluster.
func boundTime(r *ir.Route, t *policy.Timeouts) {
	if t == nil || r.Timeouts != (ir.Timeouts{}) || len(r.Backends) == 0 {
		return
	}
	request, _, idle, _ := t.Lengths()
	r.Timeouts = ir.Timeouts{Request: millis(request), Idle: millis(idle)}
}
