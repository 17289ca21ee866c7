package policy

import (
	"fmt"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// TLSRoute is the Gateway API's: where the connections to a Gateway or a Service go by their server name.
type TLSRoute = gatewayv1.TLSRouteSpec

// TCPRoute is the Gateway API's: where the connections to a Gateway or a Service go.
type TCPRoute = gatewayv1.TCPRouteSpec

func validateTLSRoute(r *report, res mesh.Resource, t *TLSRoute) {
	validateStreamParents(r, t.CommonRouteSpec)
	if len(t.Hostnames) == 0 {
		r.add(FieldError{Pointer: "/spec/hostnames", Code: CodeRequired, Message: "is required", Hint: "name the server names that clients ask for"})
	}
	validateServerNames(r, t.Hostnames)
	rules := make([][]gatewayv1.BackendRef, len(t.Rules))
	for i, rule := range t.Rules {
		rules[i] = rule.BackendRefs
	}
	validateStreamRules(r, rules)
}

func validateTCPRoute(r *report, res mesh.Resource, t *TCPRoute) {
	validateStreamParents(r, t.CommonRouteSpec)
	rules := make([][]gatewayv1.BackendRef, len(t.Rules))
	for i, rule := range t.Rules {
		rules[i] = rule.BackendRefs
	}
	validateStreamRules(r, rules)
}

func validateStreamParents(r *report, c gatewayv1.CommonRouteSpec) {
	if c.UseDefaultGateways != "" && c.UseDefaultGateways != gatewayv1.GatewayDefaultScopeNone {
		r.unsupported("/spec/useDefaultGateways", "attaching to default gateways", "name Gateways in parentRefs")
	}
	if len(c.ParentRefs) == 0 {
		r.required("/spec/parentRefs")
	}
	r.atMost("/spec/parentRefs", len(c.ParentRefs), maxParents)
	for i, p := range c.ParentRefs {
		validateParent(r, ptr("/spec/parentRefs", i), p)
	}
}

// validateStreamRules takes one rule, as the Gateway API has it: a connection has nothing by which to choose among several.
func validateStreamRules(r *report, rules [][]gatewayv1.BackendRef) {
	if len(rules) != 1 {
		r.add(FieldError{Pointer: "/spec/rules", Code: CodeInvalid, Message: fmt.Sprintf("%d rules; exactly one is possible", len(rules))})
	}
	for i, refs := range rules {
		at := ptr("/spec/rules", i) + "/backendRefs"
		if len(refs) == 0 {
			r.required(at)
		}
		r.atMost(at, len(refs), maxBackends)
		for j, ref := range refs {
			validateBackend(r, ptr(at, j), ref)
		}
	}
}
