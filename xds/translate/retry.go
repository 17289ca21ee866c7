package translate

import (
	"net/http"
	"slices"

	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// safeRetry is for every request: no application can have seen it.
func (tr *Translator) safeRetry() *ir.Retry {
	s := tr.settings.Retry
	return &ir.Retry{
		On:       []ir.RetryOn{ir.RetryConnectFailure, ir.RetryRefusedStream, ir.RetryResetBeforeRequest},
		Attempts: s.Attempts, BackOff: millis(s.BackOff), MaxBackOff: millis(s.MaxBackOff),
	}
}

// idempotentRetry is for requests that may be done twice (RFC 9110, 9.2.2).
func (tr *Translator) idempotentRetry() *ir.Retry {
	r := tr.safeRetry()
	r.On = append(r.On, ir.RetryReset, ir.RetryUnavailable, ir.RetryTimeout)
	r.PerTry, r.Hedge = millis(tr.settings.Retry.PerTryTimeout), tr.settings.Retry.Hedge
	return r
}

func idempotent() []string {
	return []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodTrace}
}

// withRetries splits a route by whether a request may be done twice. The virtual host's retries are the
// safe ones, so the second half needs none of its own.
func (tr *Translator) withRetries(p topology.Port, r ir.Route) []ir.Route {
	if p.Protocol == topology.GRPC || len(r.Backends) == 0 {
		return []ir.Route{r} // always POST, or an answer of the proxy itself
	}
	again := r
	again.Retry = tr.idempotentRetry()
	if len(r.Match.Methods) == 0 {
		again.Match.Methods = idempotent()
		return []ir.Route{again, r}
	}
	for _, m := range r.Match.Methods {
		if !slices.Contains(idempotent(), m) {
			return []ir.Route{r}
		}
	}
	return []ir.Route{again}
}
