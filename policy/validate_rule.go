package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// Bounds of what a rule of a route does.
const (
	maxFilters     = 16
	maxHeaderEdits = 16
	maxPattern     = 1024
	maxCORS        = 64
)

// validateFilters checks the filters of a rule, or of one of its backends. It reports whether the rule answers by itself.
func validateFilters(r *report, at string, rule gatewayv1.HTTPRouteRule, filters []gatewayv1.HTTPRouteFilter, ofBackend bool) (answers bool) {
	r.atMost(at, len(filters), maxFilters)
	seen := map[gatewayv1.HTTPRouteFilterType]bool{}
	for i, f := range filters {
		fat := ptr(at, i)
		if seen[f.Type] && f.Type != gatewayv1.HTTPRouteFilterRequestMirror {
			r.add(FieldError{Pointer: fat + "/type", Code: CodeDuplicate, Message: fmt.Sprintf("%s can be given once", f.Type)})
		}
		seen[f.Type] = true
		if !filterFits(r, fat, f) {
			continue
		}
		if ofBackend && f.Type == gatewayv1.HTTPRouteFilterCORS { // a preflight request comes before a backend is chosen
			r.unsupported(fat+"/type", "CORS of a single backend", "put it on the rule")
			continue
		}
		switch f.Type {
		case gatewayv1.HTTPRouteFilterRequestHeaderModifier:
			validateHeaderEdits(r, fat+"/requestHeaderModifier", *f.RequestHeaderModifier)
		case gatewayv1.HTTPRouteFilterResponseHeaderModifier:
			validateHeaderEdits(r, fat+"/responseHeaderModifier", *f.ResponseHeaderModifier)
		case gatewayv1.HTTPRouteFilterRequestRedirect:
			answers = true
			validateRedirect(r, fat+"/requestRedirect", rule, *f.RequestRedirect)
			if !ofBackend && len(rule.BackendRefs) > 0 {
				r.invalid(fat+"/requestRedirect", "a rule that redirects has no backendRefs")
			}
		case gatewayv1.HTTPRouteFilterURLRewrite:
			validateRewrite(r, fat+"/urlRewrite", rule, *f.URLRewrite)
		case gatewayv1.HTTPRouteFilterRequestMirror:
			validateMirror(r, fat+"/requestMirror", *f.RequestMirror)
		case gatewayv1.HTTPRouteFilterCORS:
			validateCORS(r, fat+"/cors", *f.CORS)
		case gatewayv1.HTTPRouteFilterExtensionRef, gatewayv1.HTTPRouteFilterExternalAuth:
		}
	}
	if seen[gatewayv1.HTTPRouteFilterRequestRedirect] && seen[gatewayv1.HTTPRouteFilterURLRewrite] {
		r.invalid(at, "a rule either redirects or rewrites")
	}
	return answers
}

// filterFits checks that a filter is of a type that is built and has just what its type says.
func filterFits(r *report, at string, f gatewayv1.HTTPRouteFilter) bool {
	fields := []struct {
		kind gatewayv1.HTTPRouteFilterType
		name string
		set  bool
	}{
		{gatewayv1.HTTPRouteFilterRequestHeaderModifier, "requestHeaderModifier", f.RequestHeaderModifier != nil},
		{gatewayv1.HTTPRouteFilterResponseHeaderModifier, "responseHeaderModifier", f.ResponseHeaderModifier != nil},
		{gatewayv1.HTTPRouteFilterRequestRedirect, "requestRedirect", f.RequestRedirect != nil},
		{gatewayv1.HTTPRouteFilterURLRewrite, "urlRewrite", f.URLRewrite != nil},
		{gatewayv1.HTTPRouteFilterRequestMirror, "requestMirror", f.RequestMirror != nil},
		{gatewayv1.HTTPRouteFilterCORS, "cors", f.CORS != nil},
	}
	switch f.Type {
	case gatewayv1.HTTPRouteFilterExtensionRef:
		r.unsupported(at+"/type", "ExtensionRef", "make an Extension that targets the route")
		return false
	case gatewayv1.HTTPRouteFilterExternalAuth:
		r.unsupported(at+"/type", "ExternalAuth", "make an Extension with externalAuthorization that targets the Service")
		return false
	}
	fits, choices := false, make([]string, len(fields))
	for i, k := range fields {
		choices[i] = string(k.kind)
		switch {
		case k.kind == f.Type && !k.set:
			r.required(at + "/" + k.name)
		case k.kind == f.Type:
			fits = true
		case k.set:
			r.invalid(at+"/"+k.name, "does not go with type %s", clip(string(f.Type)))
		}
	}
	r.oneOf(at+"/type", string(f.Type), choices...)
	return fits
}

func validateHeaderEdits(r *report, at string, e gatewayv1.HTTPHeaderFilter) {
	seen := map[string]bool{}
	check := func(at, name string) {
		name = strings.ToLower(name)
		switch {
		case !headerName.MatchString(name):
			r.invalid(at, "%q is no header name", clip(name))
		case name == "host" || strings.HasPrefix(name, ":"):
			r.add(FieldError{Pointer: at, Code: CodeUnsupported, Message: clip(name) + " can't be edited as a header", Hint: "use URLRewrite with hostname"})
		case name == "x-forwarded-client-cert":
			r.add(FieldError{Pointer: at, Code: CodeUnsupported, Message: "the mesh alone says who calls", Hint: "leave it out"})
		case seen[name]:
			r.add(FieldError{Pointer: at, Code: CodeDuplicate, Message: fmt.Sprintf("header %q is edited twice", clip(name))})
		}
		seen[name] = true
	}
	values := func(at string, headers []gatewayv1.HTTPHeader) {
		r.atMost(at, len(headers), maxHeaderEdits)
		for i, h := range headers {
			hat := ptr(at, i)
			check(hat+"/name", string(h.Name))
			if len(h.Value) > 4096 || strings.ContainsAny(h.Value, "\r\n\x00") {
				r.invalid(hat+"/value", "must be at most 4096 bytes without line breaks")
			}
		}
	}
	values(at+"/set", e.Set)
	values(at+"/add", e.Add)
	r.atMost(at+"/remove", len(e.Remove), maxHeaderEdits)
	for i, name := range e.Remove {
		check(ptr(at+"/remove", i), name)
	}
}

func validateRedirect(r *report, at string, rule gatewayv1.HTTPRouteRule, f gatewayv1.HTTPRequestRedirectFilter) {
	if f.Scheme != nil {
		r.oneOf(at+"/scheme", *f.Scheme, "http", "https")
	}
	if f.Hostname != nil {
		r.checked(at+"/hostname", string(*f.Hostname), mesh.CheckSubdomain)
	}
	if f.Port != nil && (*f.Port < 1 || *f.Port > 65535) {
		r.add(FieldError{Pointer: at + "/port", Code: CodeOutOfRange, Message: "must be a port from 1 to 65535"})
	}
	if f.StatusCode != nil {
		switch *f.StatusCode {
		case 301, 302, 303, 307, 308:
		default:
			r.add(FieldError{Pointer: at + "/statusCode", Code: CodeOutOfRange, Message: "must be 301, 302, 303, 307 or 308"})
		}
	}
	if f.Path != nil {
		validatePathEdit(r, at+"/path", rule, *f.Path)
	}
}

func validateRewrite(r *report, at string, rule gatewayv1.HTTPRouteRule, f gatewayv1.HTTPURLRewriteFilter) {
	if f.Hostname != nil {
		r.checked(at+"/hostname", string(*f.Hostname), mesh.CheckSubdomain)
	}
	if f.Path != nil {
		validatePathEdit(r, at+"/path", rule, *f.Path)
	}
	if f.Hostname == nil && f.Path == nil {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "rewrites nothing", Hint: "give hostname, path or both"})
	}
}

func validatePathEdit(r *report, at string, rule gatewayv1.HTTPRouteRule, p gatewayv1.HTTPPathModifier) {
	noPrefix := slices.ContainsFunc(rule.Matches, func(m gatewayv1.HTTPRouteMatch) bool {
		return m.Path != nil && m.Path.Type != nil && *m.Path.Type != gatewayv1.PathMatchPathPrefix
	})
	switch choices := []string{string(gatewayv1.FullPathHTTPPathModifier), string(gatewayv1.PrefixMatchHTTPPathModifier)}; {
	case noPrefix && p.Type == gatewayv1.PrefixMatchHTTPPathModifier:
		r.add(FieldError{Pointer: at + "/type", Code: CodeInvalid, Message: "every match of the rule must be a PathPrefix to be replaced", Hint: "use ReplaceFullPath, or split the rule"})
	case noPrefix:
		r.oneOf(at+"/type", string(p.Type), choices[0])
	default:
		r.oneOf(at+"/type", string(p.Type), choices...)
	}
	value, name := p.ReplaceFullPath, "replaceFullPath"
	if p.Type == gatewayv1.PrefixMatchHTTPPathModifier {
		value, name = p.ReplacePrefixMatch, "replacePrefixMatch"
	}
	switch {
	case value == nil:
		r.required(at + "/" + name)
	case *value == "" && p.Type == gatewayv1.PrefixMatchHTTPPathModifier: // as "/"
	default:
		validatePathValue(r, at+"/"+name, *value)
	}
	if p.ReplaceFullPath != nil && p.ReplacePrefixMatch != nil {
		r.invalid(at, "replaces the full path or the prefix, not both")
	}
}

func validateMirror(r *report, at string, f gatewayv1.HTTPRequestMirrorFilter) {
	validateBackend(r, at+"/backendRef", gatewayv1.BackendRef{BackendObjectReference: f.BackendRef})
	switch {
	case f.Percent != nil && f.Fraction != nil:
		r.invalid(at, "gives percent or fraction, not both")
	case f.Percent != nil && (*f.Percent < 0 || *f.Percent > 100):
		r.add(FieldError{Pointer: at + "/percent", Code: CodeOutOfRange, Message: "must be from 0 to 100"})
	case f.Fraction != nil:
		of := int32(100)
		if f.Fraction.Denominator != nil {
			of = *f.Fraction.Denominator
		}
		if of < 1 || f.Fraction.Numerator < 0 || f.Fraction.Numerator > of {
			r.add(FieldError{Pointer: at + "/fraction", Code: CodeOutOfRange, Message: "must be a part of the whole"})
		}
	}
}

// MirrorShare is the share of the requests that a filter copies, in millionths.
func MirrorShare(f gatewayv1.HTTPRequestMirrorFilter) uint32 {
	switch {
	case f.Percent != nil:
		return uint32(*f.Percent) * 10_000 //nolint:gosec // validated
	case f.Fraction != nil:
		of := int64(100)
		if f.Fraction.Denominator != nil {
			of = int64(*f.Fraction.Denominator)
		}
		return uint32(int64(f.Fraction.Numerator) * 1_000_000 / of) //nolint:gosec // validated
	}
	return 1_000_000
}

func validateCORS(r *report, at string, f gatewayv1.HTTPCORSFilter) {
	r.atMost(at+"/allowOrigins", len(f.AllowOrigins), maxCORS)
	for i, o := range f.AllowOrigins {
		if _, err := OriginPattern(string(o)); err != nil {
			r.invalid(ptr(at+"/allowOrigins", i), "%s", err)
		}
	}
	r.atMost(at+"/allowMethods", len(f.AllowMethods), maxCORS)
	for i, m := range f.AllowMethods {
		if m != "*" && !methodToken.MatchString(string(m)) {
			r.invalid(ptr(at+"/allowMethods", i), "%q is no method", clip(string(m)))
		}
	}
	names := func(at string, headers []gatewayv1.HTTPHeaderName) {
		r.atMost(at, len(headers), maxCORS)
		for i, h := range headers {
			if h != "*" && !headerName.MatchString(string(h)) {
				r.invalid(ptr(at, i), "%q is no header name", clip(string(h)))
			}
		}
	}
	names(at+"/allowHeaders", f.AllowHeaders)
	names(at+"/exposeHeaders", f.ExposeHeaders)
	if f.MaxAge < 0 || f.MaxAge > 86_400 {
		r.add(FieldError{Pointer: at + "/maxAge", Code: CodeOutOfRange, Message: "must be from 0 to 86400 seconds"})
	}
}

var originParts = regexp.MustCompile(`^(https?)://(\*\.)?([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?$`)

// OriginPattern is a regular expression (RE2) of the origins that an allowed origin means: "*" is every one, "*." at the
// beginning of the host stands for one or more labels.
func OriginPattern(origin string) (string, error) {
	if origin == "*" {
		return ".*", nil
	}
	p := originParts.FindStringSubmatch(origin)
	if p == nil {
		return "", fmt.Errorf(`%q must be "*" or an origin as in https://shop.example or https://*.shop.example:8443`, clip(origin))
	}
	out := regexp.QuoteMeta(p[1] + "://")
	if p[2] != "" {
		out += `([A-Za-z0-9-]+\.)+`
	}
	return out + regexp.QuoteMeta(p[3]+p[4]), nil
}

func validateRuleTimes(r *report, at string, rule gatewayv1.HTTPRouteRule) {
	if t := rule.Timeouts; t != nil {
		whole, try := orZero(t.Request), orZero(t.BackendRequest)
		r.duration(at+"/timeouts/request", whole, 0, time.Hour)
		r.duration(at+"/timeouts/backendRequest", try, 0, time.Hour)
		if w := durationOr(whole, 0); w > 0 && durationOr(try, 0) > w {
			r.invalid(at+"/timeouts/backendRequest", "must not be longer than request")
		}
	}
	if t := rule.Retry; t != nil {
		r.atMost(at+"/retry/codes", len(t.Codes), 16)
		for i, c := range t.Codes {
			if c < 400 || c > 599 {
				r.add(FieldError{Pointer: ptr(at+"/retry/codes", i), Code: CodeOutOfRange, Message: "must be an HTTP status from 400 to 599"})
			}
		}
		if t.Attempts != nil && (*t.Attempts < 0 || *t.Attempts > 10) {
			r.add(FieldError{Pointer: at + "/retry/attempts", Code: CodeOutOfRange, Message: "must be from 0 to 10"})
		}
		r.duration(at+"/retry/backoff", orZero(t.Backoff), time.Millisecond, time.Minute)
	}
	if s := rule.SessionPersistence; s != nil {
		validateSessionPersistence(r, at+"/sessionPersistence", *s)
	}
}

func validateSessionPersistence(r *report, at string, s gatewayv1.SessionPersistence) {
	kind := gatewayv1.CookieBasedSessionPersistence
	if s.Type != nil {
		kind = *s.Type
		r.oneOf(at+"/type", string(kind), string(gatewayv1.CookieBasedSessionPersistence), string(gatewayv1.HeaderBasedSessionPersistence))
	}
	if s.SessionName != nil && !headerName.MatchString(*s.SessionName) {
		r.invalid(at+"/sessionName", "%q is no name of a cookie or header", clip(*s.SessionName))
	}
	r.duration(at+"/absoluteTimeout", orZero(s.AbsoluteTimeout), time.Second, 365*24*time.Hour)
	permanent := false
	if c := s.CookieConfig; c != nil && c.LifetimeType != nil {
		permanent = *c.LifetimeType == gatewayv1.PermanentCookieLifetimeType
		r.oneOf(at+"/cookieConfig/lifetimeType", string(*c.LifetimeType), string(gatewayv1.PermanentCookieLifetimeType), string(gatewayv1.SessionCookieLifetimeType))
	}
	switch {
	case s.CookieConfig != nil && kind != gatewayv1.CookieBasedSessionPersistence:
		r.invalid(at+"/cookieConfig", "is for type Cookie")
	case permanent && s.AbsoluteTimeout == nil:
		r.add(FieldError{Pointer: at + "/absoluteTimeout", Code: CodeRequired, Message: "a permanent cookie needs it"})
	case !permanent && s.AbsoluteTimeout != nil:
		r.unsupported(at+"/absoluteTimeout", "an end of sessions other than by a permanent cookie", "set cookieConfig.lifetimeType: Permanent, or leave it out")
	}
}

// checkRegex accepts a regular expression that Envoy can run (RE2).
func checkRegex(p string) error {
	if len(p) > maxPattern {
		return fmt.Errorf("has %d bytes; at most %d are allowed", len(p), maxPattern)
	}
	if _, err := regexp.Compile(p); err != nil {
		return fmt.Errorf("is no regular expression (RE2): %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return nil
}
