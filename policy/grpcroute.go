package policy

import (
	"regexp"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// GRPCRoute is the Gateway API's: an HTTPRoute for gRPC, whose methods are paths (gRPC over HTTP/2, "Path").
type GRPCRoute = gatewayv1.GRPCRouteSpec

// ReferenceGrant is the Gateway API's: it lets routes of other namespaces name Services of its own, and their Gateways Secrets.
type ReferenceGrant = gatewayv1.ReferenceGrantSpec

// HTTPOf is the HTTPRoute that means the same as a GRPCRoute, rule by rule.
func HTTPOf(g *GRPCRoute) *HTTPRoute {
	out := &HTTPRoute{CommonRouteSpec: g.CommonRouteSpec, Hostnames: g.Hostnames}
	for _, rule := range g.Rules {
		h := gatewayv1.HTTPRouteRule{Name: rule.Name, Filters: httpFilters(rule.Filters), SessionPersistence: rule.SessionPersistence}
		for _, m := range rule.Matches {
			h.Matches = append(h.Matches, httpMatch(m))
		}
		for _, b := range rule.BackendRefs {
			h.BackendRefs = append(h.BackendRefs, gatewayv1.HTTPBackendRef{BackendRef: b.BackendRef, Filters: httpFilters(b.Filters)})
		}
		out.Rules = append(out.Rules, h)
	}
	return out
}

func httpMatch(m gatewayv1.GRPCRouteMatch) gatewayv1.HTTPRouteMatch {
	var out gatewayv1.HTTPRouteMatch
	if m.Method != nil {
		kind, path := methodPath(*m.Method)
		out.Path = &gatewayv1.HTTPPathMatch{Type: &kind, Value: &path}
	}
	for _, h := range m.Headers {
		one := gatewayv1.HTTPHeaderMatch{Name: gatewayv1.HTTPHeaderName(h.Name), Value: h.Value}
		if h.Type != nil {
			kind := gatewayv1.HeaderMatchType(*h.Type)
			one.Type = &kind
		}
		out.Headers = append(out.Headers, one)
	}
	return out
}

// methodPath is the path of a method: exact where all of it is said, all of a service, or a pattern.
func methodPath(m gatewayv1.GRPCMethodMatch) (gatewayv1.PathMatchType, string) {
	service, method := orZero(m.Service), orZero(m.Method)
	if m.Type != nil && *m.Type == gatewayv1.GRPCMethodMatchRegularExpression {
		part := func(p string) string {
			if p == "" {
				return "[^/]+"
			}
			return "(?:" + p + ")"
		}
		return gatewayv1.PathMatchRegularExpression, "/" + part(service) + "/" + part(method)
	}
	switch {
	case service == "" && method == "":
		return gatewayv1.PathMatchPathPrefix, "/"
	case method == "":
		return gatewayv1.PathMatchPathPrefix, "/" + service
	case service == "":
		return gatewayv1.PathMatchRegularExpression, "/[^/]+/" + regexp.QuoteMeta(method)
	}
	return gatewayv1.PathMatchExact, "/" + service + "/" + method
}

func httpFilters(list []gatewayv1.GRPCRouteFilter) []gatewayv1.HTTPRouteFilter {
	var out []gatewayv1.HTTPRouteFilter
	for _, f := range list {
		out = append(out, gatewayv1.HTTPRouteFilter{
			Type: gatewayv1.HTTPRouteFilterType(f.Type), RequestHeaderModifier: f.RequestHeaderModifier,
			ResponseHeaderModifier: f.ResponseHeaderModifier, RequestMirror: f.RequestMirror, ExtensionRef: f.ExtensionRef,
		})
	}
	return out
}

var grpcName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]{0,511}$`)

func validateGRPCRoute(r *report, res mesh.Resource, g *GRPCRoute) {
	for i, rule := range g.Rules {
		at := ptr("/spec/rules", i)
		for j, m := range rule.Matches {
			if m.Method != nil {
				validateMethod(r, ptr(at+"/matches", j)+"/method", *m.Method)
			}
		}
		validateGRPCFilters(r, at+"/filters", rule.Filters)
		for j, b := range rule.BackendRefs {
			validateGRPCFilters(r, ptr(at+"/backendRefs", j)+"/filters", b.Filters)
		}
	}
	if len(g.Rules) == 0 {
		r.add(FieldError{Pointer: "/spec/rules", Code: CodeRequired, Message: "is required", Hint: "a route needs a rule"})
		return
	}
	if len(r.fields) == 0 { // a method that is none would be told twice
		validateHTTPRoute(r, res, HTTPOf(g))
	}
}

// validateGRPCFilters refuses the filters that HTTPRoutes have besides.
func validateGRPCFilters(r *report, at string, filters []gatewayv1.GRPCRouteFilter) {
	for i, f := range filters {
		r.oneOf(ptr(at, i)+"/type", string(f.Type), string(gatewayv1.GRPCRouteFilterRequestHeaderModifier), string(gatewayv1.GRPCRouteFilterResponseHeaderModifier),
			string(gatewayv1.GRPCRouteFilterRequestMirror), string(gatewayv1.GRPCRouteFilterExtensionRef))
	}
}

func validateMethod(r *report, at string, m gatewayv1.GRPCMethodMatch) {
	regex := m.Type != nil && *m.Type == gatewayv1.GRPCMethodMatchRegularExpression
	if m.Type != nil {
		r.oneOf(at+"/type", string(*m.Type), string(gatewayv1.GRPCMethodMatchExact), string(gatewayv1.GRPCMethodMatchRegularExpression))
	}
	if orZero(m.Service) == "" && orZero(m.Method) == "" {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "names neither service nor method"})
	}
	for _, part := range []struct{ name, v string }{{"service", orZero(m.Service)}, {"method", orZero(m.Method)}} {
		switch {
		case part.v == "":
		case regex:
			r.checked(at+"/"+part.name, part.v, checkRegex)
		case !grpcName.MatchString(part.v) || part.name == "method" && strings.Contains(part.v, "."):
			r.invalid(at+"/"+part.name, "%q is no name of a gRPC %s", clip(part.v), part.name)
		}
	}
}

func validateReferenceGrant(r *report, _ mesh.Resource, g *ReferenceGrant) {
	if len(g.From) == 0 {
		r.required("/spec/from")
	}
	if len(g.To) == 0 {
		r.required("/spec/to")
	}
	r.atMost("/spec/from", len(g.From), 16)
	r.atMost("/spec/to", len(g.To), 16)
	for i, f := range g.From {
		at := ptr("/spec/from", i)
		if f.Group != gatewayv1.GroupName {
			r.unsupported(at+"/group", "a reference from group "+clip(string(f.Group)), "write "+gatewayv1.GroupName)
		}
		r.oneOf(at+"/kind", string(f.Kind), string(mesh.KindHTTPRoute), string(mesh.KindGRPCRoute), string(mesh.KindTCPRoute), string(mesh.KindTLSRoute), string(mesh.KindGateway))
		r.checked(at+"/namespace", string(f.Namespace), mesh.CheckLabel)
	}
	for i, t := range g.To {
		at := ptr("/spec/to", i)
		if t.Name != nil && *t.Name != "" {
			r.checked(at+"/name", string(*t.Name), mesh.CheckSubdomain)
		}
		if t.Kind == "" {
			r.required(at + "/kind")
		}
	}
}

// Grants reports whether a grant of the target's namespace lets a kind of a namespace name a target of a group, kind and name.
func Grants(g *ReferenceGrant, fromKind mesh.Kind, fromNamespace, group, kind, name string) bool {
	from, to := false, false
	for _, f := range g.From {
		from = from || f.Group == gatewayv1.GroupName && string(f.Kind) == string(fromKind) && string(f.Namespace) == fromNamespace
	}
	for _, t := range g.To {
		to = to || string(t.Group) == group && string(t.Kind) == kind && (t.Name == nil || *t.Name == "" || string(*t.Name) == name)
	}
	return from && to
}
