package policy

import (
	"fmt"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// AnnotationCallers of an HTTPRoute or GRPCRoute lists service accounts of its namespace, separated by commas: the route then is
// for the requests of workloads with one of them alone, be the Service of the same namespace or of another.
const AnnotationCallers = "mesh.comity.dev/callers"

// maxCallers bounds the views that one route makes: sidecars of each account need one of their own.
const maxCallers = 16

// Clients are those for whom a route to a Service holds: everybody (the zero value, a producer's route), the workloads of a
// namespace (a consumer's, GEP-1294), or of these the ones with a service account. Routes for narrower clients stand in place
// of all those for wider ones.
type Clients struct {
	Namespace string `json:",omitempty"`
	Account   string `json:",omitempty"`
}

// Wider are the clients of whom these are a part; everybody is nobody's.
func (c Clients) Wider() (Clients, bool) {
	switch {
	case c.Account != "":
		return Clients{Namespace: c.Namespace}, true
	case c.Namespace != "":
		return Clients{}, true
	}
	return Clients{}, false
}

// ClientsOf says for whom a route holds at one of its parents, which is a Service.
func ClientsOf(route mesh.Resource, parent gatewayv1.ParentReference) []Clients {
	if accounts := callersOf(route); len(accounts) > 0 {
		out := make([]Clients, len(accounts))
		for i, a := range accounts {
			out[i] = Clients{route.Namespace, a}
		}
		return out
	}
	if ParentNamespace(parent, route.Namespace) != route.Namespace {
		return []Clients{{Namespace: route.Namespace}}
	}
	return []Clients{{}}
}

// callersOf are the service accounts that a route names, sorted.
func callersOf(route mesh.Resource) []string {
	list, ok := route.Annotations[AnnotationCallers]
	if !ok {
		return nil
	}
	out := strings.Split(list, ",")
	for i, a := range out {
		out[i] = strings.TrimSpace(a)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func validateCallers(r *report, res mesh.Resource, parents []gatewayv1.ParentReference) {
	if _, ok := res.Annotations[AnnotationCallers]; !ok {
		return
	}
	at := ptr("/metadata/annotations", AnnotationCallers)
	accounts := callersOf(res)
	r.atMost(at, len(accounts), maxCallers)
	for _, a := range accounts {
		if err := mesh.CheckSubdomain(a); err != nil {
			r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: fmt.Sprintf("%q is no service account: %s", clip(a), err), Hint: "list service accounts of the route's namespace, separated by commas"})
		}
	}
	if slices.ContainsFunc(parents, isGateway) {
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "who comes by a Gateway has no service account", Hint: "make another route for the Gateway"})
	}
}
