package translate

import (
	"cmp"
	"strings"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
)

// keepSession brings the requests of a route to the endpoint where their session began. The first word counts: what a
// route says of itself wins over what policies say.
func keepSession(r *ir.Route, s *ir.Session) {
	if s == nil || len(r.Backends) == 0 {
		return
	}
	for _, f := range r.Filters.After {
		if f.Session != nil {
			return
		}
	}
	r.Filters.After = append(r.Filters.After, ir.Filter{Session: s})
}

// sessionAsked is what a policy says of sessions, nil for nothing.
func sessionAsked(s *policy.Session) *ir.Session {
	if s == nil {
		return nil
	}
	out := &ir.Session{Header: strings.ToLower(s.Header), Strict: s.Strict}
	if s.Cookie != nil {
		out.Cookie = cookieOf(*s.Cookie)
	}
	return out
}

func cookieOf(c policy.Cookie) *ir.Cookie {
	return &ir.Cookie{Name: c.Name, TTL: millis(c.Length()), Path: cmp.Or(c.Path, "/")}
}
