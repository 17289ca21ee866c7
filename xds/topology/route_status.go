package topology

import (
	"errors"
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// IsRoute reports whether resources of a kind are routes, which have conditions.
func IsRoute(k mesh.Kind) bool {
	switch k {
	case mesh.KindHTTPRoute, mesh.KindGRPCRoute, mesh.KindTLSRoute, mesh.KindTCPRoute:
		return true
	}
	return false
}

// RouteConditions are the conditions of a route with the issues, in this zone. The Gateway API has them for each parent; here one
// parent that does not take the route makes Accepted False, and the message names it.
func RouteConditions(issues []Issue) []mesh.Condition {
	out := []mesh.Condition{
		condition(gatewayv1.RouteConditionAccepted, gatewayv1.RouteReasonAccepted),
		condition(gatewayv1.RouteConditionResolvedRefs, gatewayv1.RouteReasonResolvedRefs),
	}
	for _, i := range issues {
		for c := range out {
			if i.Condition != "" && out[c].Type == string(i.Condition) {
				out[c] = joined(out[c], mesh.Condition{Type: out[c].Type, Status: "False", Reason: string(i.Reason), Message: i.Message})
			}
		}
	}
	return out
}

// unaccepted is the issue of a route that a parent does not take.
func (b *builder) unaccepted(k mesh.Key, reason gatewayv1.RouteConditionReason, format string, a ...any) {
	b.issues = append(b.issues, Issue{Key: k, Message: fmt.Sprintf(format, a...), Condition: gatewayv1.RouteConditionAccepted, Reason: reason})
}

// unresolved is the issue of a route with a backend that can't be had; err says why.
func (b *builder) unresolved(k mesh.Key, err error, format string, a ...any) {
	reason := gatewayv1.RouteReasonBackendNotFound
	if other, ok := errors.AsType[*backendError](err); ok {
		reason = other.reason
	}
	b.issues = append(b.issues, Issue{Key: k, Message: fmt.Sprintf(format, a...), Condition: gatewayv1.RouteConditionResolvedRefs, Reason: reason})
}
