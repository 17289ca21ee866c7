package policy

import (
	"fmt"
	"regexp"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}$")

// Bounds of an HTTPRoute, those of the Gateway API.
const (
	maxParents     = 32
	maxRouteRules  = 16
	maxMatches     = 64
	maxHeaders     = 16
	maxBackends    = 16
	maxRouteWeight = 1_000_000
)

func validateHTTPRoute(r *report, res mesh.Resource, h *HTTPRoute) {
	if h.UseDefaultGateways != "" && h.UseDefaultGateways != gatewayv1.GatewayDefaultScopeNone {
		r.unsupported("/spec/useDefaultGateways", "attaching to default gateways", "name Services in parentRefs")
	}
	validateHostnames(r, h.Hostnames, h.ParentRefs)
	if len(h.ParentRefs) == 0 {
		r.required("/spec/parentRefs")
	}
	r.atMost("/spec/parentRefs", len(h.ParentRefs), maxParents)
	for i, p := range h.ParentRefs {
		validateParent(r, ptr("/spec/parentRefs", i), p)
	}
	validateCallers(r, res, h.ParentRefs)
	if len(h.Rules) == 0 {
		r.add(FieldError{Pointer: "/spec/rules", Code: CodeRequired, Message: "is required", Hint: "a route needs a rule"})
	}
	r.atMost("/spec/rules", len(h.Rules), maxRouteRules)
	names := map[gatewayv1.SectionName]bool{}
	for i, rule := range h.Rules {
		at := ptr("/spec/rules", i)
		if rule.Name != nil {
			if names[*rule.Name] {
				r.add(FieldError{Pointer: at + "/name", Code: CodeDuplicate, Message: fmt.Sprintf("%q is used twice", clip(string(*rule.Name)))})
			}
			names[*rule.Name] = true
			r.checked(at+"/name", string(*rule.Name), mesh.CheckSubdomain)
		}
		validateRule(r, at, rule)
		if r.full() {
			return
		}
	}
}

func validateParent(r *report, at string, p gatewayv1.ParentReference) {
	if isGateway(p) {
		validateGatewayParent(r, at, p)
	} else {
		validateServiceParent(r, at, p)
	}
}

func validateRule(r *report, at string, rule gatewayv1.HTTPRouteRule) {
	answers := validateFilters(r, at+"/filters", rule, rule.Filters, false)
	validateRuleTimes(r, at, rule)
	r.atMost(at+"/matches", len(rule.Matches), maxMatches)
	for i, m := range rule.Matches {
		validateMatch(r, ptr(at+"/matches", i), m)
	}
	if answers {
		return
	}
	// Without backends, or with all weights 0, the rule answers 500 itself (Gateway API, HTTPRouteRule.BackendRefs).
	r.atMost(at+"/backendRefs", len(rule.BackendRefs), maxBackends)
	for i, b := range rule.BackendRefs {
		validateBackend(r, ptr(at+"/backendRefs", i), b.BackendRef)
		validateFilters(r, ptr(at+"/backendRefs", i)+"/filters", rule, b.Filters, true)
	}
}

func validateBackend(r *report, at string, b gatewayv1.BackendRef) {
	validateBackendRef(r, at, b.BackendObjectReference)
	switch {
	case b.Port == nil:
		r.required(at + "/port")
	case *b.Port < 1 || *b.Port > 65535:
		r.add(FieldError{Pointer: at + "/port", Code: CodeOutOfRange, Message: "must be a port from 1 to 65535"})
	}
	if b.Weight != nil && (*b.Weight < 0 || *b.Weight > maxRouteWeight) {
		r.add(FieldError{Pointer: at + "/weight", Code: CodeOutOfRange, Message: fmt.Sprintf("must be from 0 to %d", maxRouteWeight)})
	}
}

func validateMatch(r *report, at string, m gatewayv1.HTTPRouteMatch) {
	if p := m.Path; p != nil {
		kind := gatewayv1.PathMatchPathPrefix
		if p.Type != nil {
			kind = *p.Type
		}
		switch kind {
		case gatewayv1.PathMatchExact, gatewayv1.PathMatchPathPrefix:
		case gatewayv1.PathMatchRegularExpression:
			r.checked(at+"/path/value", orZero(p.Value), checkRegex)
		default:
			r.oneOf(at+"/path/type", string(kind), "Exact", "PathPrefix", "RegularExpression")
		}
		if p.Value != nil && kind != gatewayv1.PathMatchRegularExpression {
			validatePathValue(r, at+"/path/value", *p.Value)
		}
	}
	r.atMost(at+"/headers", len(m.Headers), maxHeaders)
	seen := map[string]bool{}
	for i, h := range m.Headers {
		hat := ptr(at+"/headers", i)
		if h.Type != nil {
			r.oneOf(hat+"/type", string(*h.Type), "Exact", "RegularExpression")
		}
		if h.Type != nil && *h.Type == gatewayv1.HeaderMatchRegularExpression && h.Value != "" {
			r.checked(hat+"/value", h.Value, checkRegex)
		}
		name := strings.ToLower(string(h.Name))
		switch {
		case name == "":
			r.required(hat + "/name")
		case !headerName.MatchString(name):
			r.invalid(hat+"/name", "%q is no header name", clip(name))
		case name == "host" || strings.HasPrefix(name, ":"):
			r.unsupported(hat+"/name", "matching "+clip(name), "use the parent Service, path or method")
		case seen[name]:
			r.add(FieldError{Pointer: hat + "/name", Code: CodeDuplicate, Message: fmt.Sprintf("header %q is matched twice", clip(name))})
		}
		seen[name] = true
		if h.Value == "" {
			r.required(hat + "/value")
		}
		if len(h.Value) > 4096 || strings.ContainsAny(h.Value, "\r\n\x00") {
			r.invalid(hat+"/value", "must be at most 4096 bytes without line breaks")
		}
	}
	validateQuery(r, at+"/queryParams", m.QueryParams)
	if m.Method != nil {
		r.oneOf(at+"/method", string(*m.Method), "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
	}
}

func validateQuery(r *report, at string, list []gatewayv1.HTTPQueryParamMatch) {
	r.atMost(at, len(list), maxHeaders)
	seen := map[gatewayv1.HTTPHeaderName]bool{}
	for i, q := range list {
		qat := ptr(at, i)
		switch {
		case q.Name == "":
			r.required(qat + "/name")
		case len(q.Name) > 256 || strings.ContainsAny(string(q.Name), "&=#\r\n\x00"):
			r.invalid(qat+"/name", "%q is no name of a query parameter", clip(string(q.Name)))
		case seen[q.Name]:
			r.add(FieldError{Pointer: qat + "/name", Code: CodeDuplicate, Message: fmt.Sprintf("parameter %q is matched twice", clip(string(q.Name)))})
		}
		seen[q.Name] = true
		if q.Type != nil {
			r.oneOf(qat+"/type", string(*q.Type), "Exact", "RegularExpression")
		}
		switch {
		case q.Value == "":
			r.required(qat + "/value")
		case q.Type != nil && *q.Type == gatewayv1.QueryParamMatchRegularExpression:
			r.checked(qat+"/value", q.Value, checkRegex)
		case len(q.Value) > 1024:
			r.invalid(qat+"/value", "must be at most 1024 bytes")
		}
	}
}

func validatePathValue(r *report, at, v string) {
	if !cleanPath(v) {
		r.invalid(at, "%q must begin with / and be plain ASCII without spaces, ? and #", clip(v))
		return
	}
	// Proxies normalise what they receive, so such a value could never match.
	for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if strings.Contains(v, bad) {
			r.invalid(at, "must not contain %q", bad)
			return
		}
	}
	if strings.HasSuffix(v, "/.") || strings.HasSuffix(v, "/..") {
		r.invalid(at, "must not end with %q", v[strings.LastIndexByte(v, '/'):])
	}
}
