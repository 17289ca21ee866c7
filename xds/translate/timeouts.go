package translate

import (
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
)

// boundTime bounds the requests of a route. What bounds one try is with the retries, and
// what bounds a connection with the cluster.
func boundTime(r *ir.Route, t *policy.Timeouts) {
	if t == nil || len(r.Backends) == 0 {
		return
	}
	request, _, idle, _ := t.Lengths()
	r.Timeouts = ir.Timeouts{Request: millis(request), Idle: millis(idle)}
}
