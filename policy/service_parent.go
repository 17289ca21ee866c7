package policy

import (
	"cmp"
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// IsService reports whether a parent of a route is a Service, which it has to say: by default a parent is a Gateway.
func IsService(p gatewayv1.ParentReference) bool {
	return p.Kind != nil && *p.Kind == "Service" && p.Group != nil && *p.Group == ""
}

// ParentNamespace is that of a parent of a route in a namespace.
func ParentNamespace(p gatewayv1.ParentReference, route string) string {
	return cmp.Or(string(orZero(p.Namespace)), route)
}

// validateServiceParent takes a Service of any namespace: the route then holds for clients of its own alone (GEP-1294,
// consumer routes).
func validateServiceParent(r *report, at string, p gatewayv1.ParentReference) {
	kind, group := "Gateway", gatewayv1.GroupName // the Gateway API's defaults
	if p.Kind != nil {
		kind = string(*p.Kind)
	}
	if p.Group != nil {
		group = string(*p.Group)
	}
	if kind != "Service" || group != "" {
		r.unsupported(at+"/kind", fmt.Sprintf("a parent of group %q and kind %q", clip(group), clip(kind)), `write group: "" and kind: Service`)
	}
	r.checked(at+"/name", string(p.Name), mesh.CheckLabel)
	if p.Namespace != nil {
		r.checked(at+"/namespace", string(*p.Namespace), mesh.CheckLabel)
	}
	if p.SectionName != nil {
		r.unsupported(at+"/sectionName", "sectionName", "use port")
	}
	if p.Port != nil && (*p.Port < 1 || *p.Port > 65535) {
		r.add(FieldError{Pointer: at + "/port", Code: CodeOutOfRange, Message: "must be a port from 1 to 65535"})
	}
}
