package envoy

import (
	"fmt"
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/comity-mesh/comity/xds/ir"
)

const corsFilter = "envoy.filters.http.cors"

// headerOptions are what is set and added. Envoy removes before it adds.
func headerOptions(e ir.HeaderEdits) []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	add := func(list []ir.Header, how corev3.HeaderValueOption_HeaderAppendAction) {
		for _, h := range list {
			out = append(out, &corev3.HeaderValueOption{
				Header: &corev3.HeaderValue{Key: h.Name, Value: literal(h.Value)}, AppendAction: how, KeepEmptyValue: true,
			})
		}
	}
	add(e.Set, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	add(e.Add, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	return out
}

// literal keeps Envoy from reading a value as a format: "%" begins a command operator there.
func literal(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// redirect answers with where to ask instead.
func redirect(m ir.Match, r ir.Redirect) (*routev3.RedirectAction, error) {
	a := &routev3.RedirectAction{HostRedirect: r.Host, PortRedirect: uint32(r.Port)}
	if r.Scheme != "" {
		a.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: r.Scheme}
	}
	switch r.Status {
	case 301:
		a.ResponseCode = routev3.RedirectAction_MOVED_PERMANENTLY
	case 302:
		a.ResponseCode = routev3.RedirectAction_FOUND
	case 303:
		a.ResponseCode = routev3.RedirectAction_SEE_OTHER
	case 307:
		a.ResponseCode = routev3.RedirectAction_TEMPORARY_REDIRECT
	case 308:
		a.ResponseCode = routev3.RedirectAction_PERMANENT_REDIRECT
	default:
		return nil, fmt.Errorf("status %d is no redirect", r.Status)
	}
	if r.Path != nil {
		switch prefix, pattern := pathEdit(m.Path, *r.Path); {
		case pattern != nil:
			a.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: pattern}
		case r.Path.Full != "":
			a.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: r.Path.Full}
		case prefix != "":
			a.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: prefix}
		}
	}
	return a, nil
}

// rewrite changes what the backend is asked for.
func rewrite(a *routev3.RouteAction, m ir.Match, r ir.Rewrite) {
	if r.Host != "" {
		a.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: r.Host}
	}
	if r.Path != nil {
		a.PrefixRewrite, a.RegexRewrite = pathEdit(m.Path, *r.Path)
	}
}

// pathEdit is how Envoy edits a path, by prefix or by pattern. Both leave the query alone.
func pathEdit(m ir.PathMatch, e ir.PathEdit) (prefix string, pattern *matcherv3.RegexMatchAndSubstitute) {
	replace := func(what, by string) *matcherv3.RegexMatchAndSubstitute {
		// A backslash begins a reference to a group.
		return &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: what}, Substitution: strings.ReplaceAll(by, `\`, `\\`)}
	}
	if e.Full != "" {
		return "", replace("^/.*", e.Full)
	}
	to := strings.TrimSuffix(e.Prefix, "/")
	switch {
	case m.Value == "/" && to == "":
		return "", nil // as it is
	case m.Value == "/":
		return to + "/", nil
	case to == "":
		// Envoy would make "//x" of "/a/x" without "/a".
		return "", replace("^"+regexp.QuoteMeta(m.Value)+"/*", "/")
	}
	return to, nil
}

func mirrors(list []ir.Mirror) []*routev3.RouteAction_RequestMirrorPolicy {
	var out []*routev3.RouteAction_RequestMirrorPolicy
	for _, m := range list {
		out = append(out, &routev3.RouteAction_RequestMirrorPolicy{
			Cluster: m.Cluster, HostRewriteLiteral: m.Host, DisableShadowHostSuffixAppend: true,
			RuntimeFraction: &corev3.RuntimeFractionalPercent{DefaultValue: perMillion(m.PerMillion)},
		})
	}
	return out
}

func cors(c ir.CORS) *corsv3.CorsPolicy {
	m := &corsv3.CorsPolicy{
		AllowMethods: strings.Join(c.Methods, ", "), AllowHeaders: strings.Join(c.Headers, ", "), ExposeHeaders: strings.Join(c.Expose, ", "),
		MaxAge: fmt.Sprint(c.MaxAge),
		// A request of an origin that may not read the answer is for the application to decide; browsers keep the answer from the page.
		ForwardNotMatchingPreflights: no(),
	}
	if c.Credentials {
		m.AllowCredentials = yes()
	}
	for _, o := range c.Origins {
		m.AllowOriginStringMatch = append(m.AllowOriginStringMatch, matching(o))
	}
	return m
}

// queryMatchers take the first parameter of a name.
func queryMatchers(list []ir.HeaderMatch) []*routev3.QueryParameterMatcher {
	var out []*routev3.QueryParameterMatcher
	for _, q := range list {
		out = append(out, &routev3.QueryParameterMatcher{
			Name: q.Name, QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{StringMatch: valueMatcher(q)},
		})
	}
	return out
}

func valueMatcher(h ir.HeaderMatch) *matcherv3.StringMatcher {
	if h.Regex != "" {
		return matching(h.Regex)
	}
	return exactly(h.Value)
}
