package translate

import (
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
)

// injectFault spoils requests where they begin, so that the retries of the mesh don't hide it.
func injectFault(r *ir.Route, f *policy.Fault) {
	if f == nil {
		return
	}
	out := &ir.Fault{}
	if d := f.Delay; d != nil {
		out.Delay, out.DelayPerMillion = millis(d.Length()), perMillionOf(d.Percent)
	}
	if a := f.Abort; a != nil {
		out.Abort, out.AbortPerMillion = a.Status, perMillionOf(a.Percent)
	}
	r.Filters.After = append(r.Filters.After, ir.Filter{Fault: out})
}
