package translate

import (
	"net/http"
	"slices"
	"time"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// safeRetry is for every request: no application can have seen it.
func safeRetry(s policy.RetrySettings) *ir.Retry {
	return &ir.Retry{
		On:       []ir.RetryOn{ir.RetryConnectFailure, ir.RetryRefusedStream, ir.RetryResetBeforeRequest},
		Attempts: s.Attempts, BackOff: millis(s.BackOff), MaxBackOff: millis(s.MaxBackOff),
		OtherHost: s.OtherHost, OtherZoneAfter: s.OtherZoneAfter,
	}
}

// twiceRetry is for requests that may be done twice.
func twiceRetry(s policy.RetrySettings) *ir.Retry {
	r := safeRetry(s)
	for _, reason := range s.Reasons {
		r.On = append(r.On, ir.RetryOn(reason))
	}
	r.PerTry, r.Hedge = millis(s.PerTryTimeout), s.Hedge
	return r
}

// idempotent are the methods of requests that may be done twice (RFC 9110, 9.2.2).
func idempotent() []string {
	return []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodTrace}
}

// retries gives a route its retries, split by whether a request may be done twice. The virtual host's are the mesh's safe
// ones, which the second half needs to repeat only where a policy says something else. A route that says
// itself what is tried again keeps its word, and is told only how long a try may take.
func (tr *Translator) retries(p topology.Port, r ir.Route, t policy.TrafficPolicy) []ir.Route {
	_, try, _, _ := orNone(t.Timeouts).Lengths()
	switch {
	case len(r.Backends) == 0:
		return []ir.Route{r}
	case r.Retry != nil:
		own := *r.Retry
		own.PerTry, r.Retry = millis(try), &own
		return []ir.Route{r}
	}
	s := tr.settings.Retry.Narrow(t.Retry)
	twice, once := twiceRetry(s), safeRetry(s)
	twice.PerTry = perTry(s, t.Retry, try)
	if once.PerTry = millis(try); t.Retry == nil && try == 0 {
		once = nil
	}
	return splitRetries(p, r, s.All, twice, once)
}

// retriesOutside is retries for an ExternalService: without a policy nothing is added to the virtual host's, since who counts
// calls, or bills them, is not of the mesh; and never is a second request sent while the first is under way.
func (tr *Translator) retriesOutside(p topology.Port, r ir.Route, t policy.TrafficPolicy) []ir.Route {
	s := tr.settings.Retry
	s.PerTryTimeout, s.Hedge = 0, false
	s = s.Narrow(t.Retry)
	_, try, _, _ := orNone(t.Timeouts).Lengths()
	once := safeRetry(s)
	once.PerTry = millis(try)
	if t.Retry == nil {
		if r.Retry == nil && try > 0 {
			r.Retry = once
		}
		return []ir.Route{r}
	}
	twice := twiceRetry(s)
	twice.PerTry = perTry(s, t.Retry, try)
	return splitRetries(p, r, s.All, twice, once)
}

// perTry is how long a try of a request that may be done twice takes at most: what a policy says of retries, else of any try, else
// what is so in the mesh.
func perTry(s policy.RetrySettings, said *policy.Retry, anyTry time.Duration) ir.Millis {
	if orNone(said).PerTryTimeout != "" || anyTry == 0 {
		return millis(s.PerTryTimeout)
	}
	return millis(anyTry)
}

// splitRetries gives a route the retries for requests that may be done twice, and those for the others.
func splitRetries(p topology.Port, r ir.Route, all bool, twice, once *ir.Retry) []ir.Route {
	with := func(again *ir.Retry) ir.Route {
		out := r
		out.Retry = again
		return out
	}
	switch {
	case all:
		return []ir.Route{with(twice)}
	case p.Protocol == topology.GRPC: // always POST
		return []ir.Route{with(once)}
	case len(r.Match.Methods) == 0:
		again := with(twice)
		again.Match.Methods = idempotent()
		return []ir.Route{again, with(once)}
	case slices.ContainsFunc(r.Match.Methods, func(m string) bool { return !slices.Contains(idempotent(), m) }):
		return []ir.Route{with(once)}
	}
	return []ir.Route{with(twice)}
}

func orNone[T any](p *T) T {
	if p != nil {
		return *p
	}
	return *new(T)
}
