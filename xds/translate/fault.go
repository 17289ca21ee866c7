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
	out := &ir.Fault{Match: plainMatch(f.Spoiled())}
	if d := f.Delay; d != nil {
		out.Delay, out.DelayPerMillion = millis(d.Length()), perMillionOf(d.Percent)
	}
	if a := f.Abort; a != nil {
		out.Abort, out.AbortGRPC, out.AbortPerMillion = a.Status, a.GRPCStatus, perMillionOf(a.Percent)
	}
	slow := uint64(0)
	if b := f.Bandwidth; b != nil {
		slow = b.Request
		if b.Response > 0 {
			out.Slow, out.SlowPerMillion = b.Response, perMillionOf(b.Share())
		}
	}
	if out.DelayPerMillion+out.AbortPerMillion+out.SlowPerMillion > 0 {
		r.Filters.After = append(r.Filters.After, ir.Filter{Fault: out})
	}
	if slow > 0 {
		r.Filters.After = append(r.Filters.After, ir.Filter{SlowRequests: &ir.SlowRequests{Rate: slow}})
	}
}
