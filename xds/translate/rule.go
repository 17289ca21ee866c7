package translate

import (
	"cmp"
	"strconv"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
)

// The defaults of what a rule leaves out, those of the Gateway API where it has some.
const (
	redirectStatus = 302
	ruleAttempts   = 1  // one more, where a rule asks for retries and does not say how many
	ruleBackOff    = 25 // milliseconds
)

// follow edits a route of a rule by all that it says besides where requests go; each line is one field. What it says is
// the narrowest word, so it stays when policies edit the route.
func (tr *Translator) follow(r *ir.Route, m policy.RouteMatch) {
	for _, f := range m.Does.Filters {
		tr.filter(r, m, f)
	}
	tr.ruleRetry(r, m.Does)
}

// filter edits a route by one filter of its rule.
func (tr *Translator) filter(r *ir.Route, m policy.RouteMatch, f gatewayv1.HTTPRouteFilter) {
	switch {
	case f.CORS != nil:
		r.Filters.After = append(r.Filters.After, ir.Filter{CORS: corsOf(*f.CORS)})
	case f.ResponseHeaderModifier != nil:
		r.Response = headerEdits(*f.ResponseHeaderModifier)
	case len(r.Backends) == 0: // the others change what a backend is asked for
	case f.RequestHeaderModifier != nil:
		r.Request = headerEdits(*f.RequestHeaderModifier)
	case f.URLRewrite != nil:
		r.Rewrite = rewriteOf(r.Rewrite, *f.URLRewrite)
	case f.RequestMirror != nil:
		to, err := tr.t.Backend(m.Route, f.RequestMirror.BackendRef)
		if share := policy.MirrorShare(*f.RequestMirror); err == nil && share > 0 {
			r.Mirrors = append(r.Mirrors, ir.Mirror{Cluster: tr.backendName(to), Host: tr.hostOutside(to), PerMillion: share})
		}
	}
}

// rewriteOf is what is said already, where f says nothing else.
func rewriteOf(said *ir.Rewrite, f gatewayv1.HTTPURLRewriteFilter) *ir.Rewrite {
	out := orNone(said)
	out.Host, out.Path = cmp.Or(hostOf(f.Hostname), out.Host), cmp.Or(pathEdit(f.Path), out.Path)
	return &out
}

// redirectOf is the redirect among filters, nil if there is none.
func redirectOf(filters []gatewayv1.HTTPRouteFilter) *ir.Redirect {
	for _, f := range filters {
		if d := f.RequestRedirect; d != nil {
			out := &ir.Redirect{Status: redirectStatus, Host: hostOf(d.Hostname), Path: pathEdit(d.Path)}
			if d.StatusCode != nil {
				out.Status = uint32(*d.StatusCode)
			}
			if d.Scheme != nil {
				out.Scheme = *d.Scheme
			}
			if d.Port != nil {
				out.Port = uint16(*d.Port)
			}
			return out
		}
	}
	return nil
}

func hostOf(h *gatewayv1.PreciseHostname) string {
	if h == nil {
		return ""
	}
	return strings.ToLower(string(*h))
}

func pathEdit(p *gatewayv1.HTTPPathModifier) *ir.PathEdit {
	switch {
	case p == nil:
		return nil
	case p.Type == gatewayv1.FullPathHTTPPathModifier && p.ReplaceFullPath != nil:
		return &ir.PathEdit{Full: *p.ReplaceFullPath}
	case p.ReplacePrefixMatch != nil:
		return &ir.PathEdit{Prefix: *p.ReplacePrefixMatch}
	}
	return nil
}

func headerEdits(f gatewayv1.HTTPHeaderFilter) ir.HeaderEdits {
	var out ir.HeaderEdits
	for _, h := range f.Set {
		out.Set = append(out.Set, ir.Header{Name: strings.ToLower(string(h.Name)), Value: h.Value})
	}
	for _, h := range f.Add {
		out.Add = append(out.Add, ir.Header{Name: strings.ToLower(string(h.Name)), Value: h.Value})
	}
	for _, name := range f.Remove {
		out.Remove = append(out.Remove, strings.ToLower(name))
	}
	return out
}

func corsOf(f gatewayv1.HTTPCORSFilter) *ir.CORS {
	out := &ir.CORS{Credentials: f.AllowCredentials != nil && *f.AllowCredentials, MaxAge: 5}
	if f.MaxAge > 0 {
		out.MaxAge = uint32(f.MaxAge)
	}
	for _, o := range f.AllowOrigins {
		if p, err := policy.OriginPattern(string(o)); err == nil {
			out.Origins = append(out.Origins, p)
		}
	}
	for _, m := range f.AllowMethods {
		out.Methods = append(out.Methods, string(m))
	}
	for _, h := range f.AllowHeaders {
		out.Headers = append(out.Headers, string(h))
	}
	for _, h := range f.ExposeHeaders {
		out.Expose = append(out.Expose, string(h))
	}
	return out
}

// ruled is what policies say of the requests of a rule, narrowed by what it says of their time itself, field by field.
func ruled(t policy.TrafficPolicy, rule *gatewayv1.HTTPRouteRule) policy.TrafficPolicy {
	if rule.Timeouts == nil {
		return t
	}
	times := orNone(t.Timeouts)
	if d := rule.Timeouts.Request; d != nil {
		times.Request = *d
	}
	if d := rule.Timeouts.BackendRequest; d != nil {
		times.BackendRequest = *d
		if t.Retry != nil {
			again := *t.Retry
			again.PerTryTimeout = ""
			t.Retry = &again
		}
	}
	t.Timeouts = &times
	return t
}

// ruleRetry tries requests again as the rule says. How long a try takes is with the other times.
func (tr *Translator) ruleRetry(r *ir.Route, rule *gatewayv1.HTTPRouteRule) {
	t := rule.Retry
	if t == nil || len(r.Backends) == 0 {
		return
	}
	r.Retry = safeRetry(tr.settings.Retry)
	r.Retry.Attempts = ruleAttempts
	r.Retry.BackOff, r.Retry.MaxBackOff = ruleBackOff, 10*ruleBackOff
	if t.Attempts != nil {
		r.Retry.Attempts = uint32(*t.Attempts) //nolint:gosec // validated
	}
	if b := millis(policy.Length(t.Backoff)); b > 0 {
		r.Retry.BackOff, r.Retry.MaxBackOff = b, 10*b
	}
	// A rule that asks for retries has them for whatever ended without an answer, too, tries that took too long included (GEP-1731).
	r.Retry.On = append(r.Retry.On, ir.RetryNoAnswer)
	for _, c := range t.Codes {
		r.Retry.On = append(r.Retry.On, ir.RetryOn(strconv.Itoa(int(c))))
	}
}

// matchHeaders and matchQuery are the conditions of a match.
func matchHeaders(list []gatewayv1.HTTPHeaderMatch) []ir.HeaderMatch {
	var out []ir.HeaderMatch
	for _, h := range list {
		out = append(out, valueMatch(strings.ToLower(string(h.Name)), h.Value, h.Type != nil && *h.Type == gatewayv1.HeaderMatchRegularExpression))
	}
	return out
}

func matchQuery(list []gatewayv1.HTTPQueryParamMatch) []ir.HeaderMatch {
	var out []ir.HeaderMatch
	for _, q := range list {
		out = append(out, valueMatch(string(q.Name), q.Value, q.Type != nil && *q.Type == gatewayv1.QueryParamMatchRegularExpression))
	}
	return out
}

func valueMatch(name, value string, regex bool) ir.HeaderMatch {
	if regex {
		return ir.HeaderMatch{Name: name, Regex: value}
	}
	return ir.HeaderMatch{Name: name, Value: value}
}
