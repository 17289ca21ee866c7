package policy

import (
	"strings"

	"github.com/comity-mesh/comity/mesh"
)

// Page is where a field of a kind is documented: a path in the repository with the anchor of a heading (as GitHub makes them), for
// errors to point at. pointer is that of a FieldError; what is no field of the spec is documented by the page as a whole.
// A kind that nobody knows is documented by the list of kinds.
func Page(kind mesh.Kind, pointer string) string {
	info, ok := exactKind(kind)
	if !ok {
		return "docs/policies/README.md"
	}
	page := "docs/policies/" + info.Singular + ".md"
	field, inSpec := strings.CutPrefix(pointer, "/spec/")
	field, _, _ = strings.Cut(field, "/")
	switch kind {
	case mesh.KindWorkload:
		return "docs/joining.md"
	case mesh.KindServiceExport:
		return "docs/policies/service.md#serviceexport"
	case mesh.KindGatewayClass:
		return "docs/policies/gateway.md"
	}
	switch {
	case !inSpec:
		return page
	case kind == mesh.KindTrafficPolicy:
		return page + "#" + trafficSection(field)
	case kind == mesh.KindMeshConfig && field == "detection":
		return page + "#detection"
	}
	return page + "#fields"
}

// trafficSection is the heading under which docs/policies/trafficpolicy.md describes a block.
func trafficSection(field string) string {
	switch field {
	case "circuitBreaker", "connectionPool":
		return "circuitbreaker-and-connectionpool"
	case "timeouts", "retry", "outlier", "healthCheck", "loadBalancer", "session", "rateLimit", "fault", "loadShedding", "layer", "dependencies":
		return strings.ToLower(field)
	}
	return "what-it-is-for-and-which-one-counts"
}
