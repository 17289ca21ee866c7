package translate

import "github.com/comity-mesh/comity/xds/ir"

// keepSession brings the requests of a route to the endpoint where their session began. The first word counts: what a
// route says of itself wins over what policies say.
func keepSession(r *ir.Route, s *ir.Session) {
	if s == nil {
		return
	}
	for _, f := range r.Filters.After {
		if f.Session != nil {
			return
		}
	}
	r.Filters.After = append(r.Filters.After, ir.Filter{Session: s})
}
