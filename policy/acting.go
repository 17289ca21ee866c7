package policy

import (
	"cmp"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// Act says that a resource acts on the requests to a Service, and how.
type Act struct {
	Key mesh.Key `json:"key"`
	As  ActAs    `json:"as"`
	// Of narrows it: the name of the port or route, "<route>, <rule>", or the namespace whose callers it is for.
	Of string `json:"of,omitempty"`
}

// ActAs is how a resource acts on the requests to a Service.
type ActAs string

// A route decides where the requests go, of all callers or of those in its own namespace, or leads requests to something else here.
// A policy is for what it targets.
const (
	ActRoutes    ActAs = "routes"
	ActConsumer  ActAs = "routes-callers"
	ActLeadsHere ActAs = "leads-here"
	ActRule      ActAs = "rule"
	ActRoute     ActAs = "route"
	ActPort      ActAs = "port"
	ActService   ActAs = "service"
	ActNamespace ActAs = "namespace"
	ActMesh      ActAs = "mesh"
)

func actOrder() []ActAs {
	return []ActAs{ActRoutes, ActConsumer, ActLeadsHere, ActRule, ActRoute, ActPort, ActService, ActNamespace, ActMesh}
}

// ActingKinds are those whose resources may act on the requests to a Service.
func ActingKinds() []mesh.Kind {
	return []mesh.Kind{
		mesh.KindHTTPRoute, mesh.KindGRPCRoute, mesh.KindTLSRoute, mesh.KindTCPRoute, mesh.KindTrafficPolicy, mesh.KindFailoverPolicy,
		mesh.KindAuthenticationPolicy, mesh.KindAuthorizationPolicy, mesh.KindTelemetryPolicy, mesh.KindExtension, mesh.KindMeshConfig,
	}
}

// Acting are those of the resources that act on the requests to a Service, the narrowest first, and among equals in the order in which they
// win (InOrder). It goes by what they say: whether that is in force is in their statuses. Whose spec can't be read is left out.
func Acting(resources []mesh.Resource, namespace, service string) []Act {
	acts := map[mesh.Key]Act{}
	routes := map[mesh.Key]bool{} // without their origins, which targets don't name
	specs := make([]any, len(resources))
	for i, r := range resources {
		spec, err := Decode(r.Kind, r.Spec)
		if err != nil {
			continue
		}
		specs[i] = spec
		if as, of, ok := routeActs(r, spec, namespace, service); ok {
			acts[r.Key] = Act{Key: r.Key, As: as, Of: of}
			routes[mesh.Key{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name}] = true
		}
	}
	for i, r := range resources {
		target, ok := targetOf(specs[i])
		if !ok {
			continue
		}
		a := Act{Key: r.Key}
		switch {
		case target == nil && (r.Namespace == SystemNamespace || r.Namespace == ""):
			a.As = ActMesh
		case target == nil && r.Namespace == namespace:
			a.As = ActNamespace
		case target == nil:
			continue
		case target.Kind == string(mesh.KindService) && r.Namespace == namespace && target.Name == service:
			a.As, a.Of = ActService, target.SectionName
			if a.Of != "" {
				a.As = ActPort
			}
		case routes[mesh.Key{Kind: mesh.Kind(target.Kind), Namespace: r.Namespace, Name: target.Name}]:
			a.As, a.Of = ActRoute, target.Name
			if target.SectionName != "" {
				a.As, a.Of = ActRule, target.Name+", "+target.SectionName
			}
		default:
			continue
		}
		acts[r.Key] = a
	}
	out := make([]Act, 0, len(acts))
	for _, a := range acts {
		out = append(out, a)
	}
	order, of := actOrder(), map[mesh.Key]int{}
	for i, r := range resources {
		of[r.Key] = i
	}
	enforced := func(a Act) bool {
		p, ok := specs[of[a.Key]].(Attachable)
		return ok && p.attachment().Enforced && a.Key.Origin == mesh.OriginGlobal
	}
	slices.SortFunc(out, func(a, b Act) int {
		return cmp.Or(
			cmp.Compare(slices.Index(order, a.As), slices.Index(order, b.As)),
			cmp.Compare(a.Key.Kind, b.Key.Kind),
			first(enforced(a), enforced(b)),
			first(a.Key.Origin != mesh.OriginGlobal, b.Key.Origin != mesh.OriginGlobal),
			cmp.Compare(resources[of[a.Key]].Created, resources[of[b.Key]].Created),
			a.Key.Compare(b.Key),
		)
	})
	return out
}

// targetOf is what a policy is for, nil for its namespace; ok is false for what is no policy.
func targetOf(spec any) (target *TargetRef, ok bool) {
	switch p := spec.(type) {
	case Attachable:
		return p.attachment().TargetRef, true
	case *AuthorizationPolicy:
		return p.TargetRef, true
	case *FailoverPolicy:
		return p.TargetRef, true
	case *MeshConfig:
		return nil, true
	}
	return nil, false
}

// routeActs says how a route acts on the requests to a Service; ok is false for a route that doesn't, and for what is none.
func routeActs(r mesh.Resource, spec any, namespace, service string) (as ActAs, of string, ok bool) {
	parents, backends := routeEnds(spec)
	isIt := func(name gatewayv1.ObjectName, in string) bool { return string(name) == service && in == namespace }
	for _, p := range parents {
		switch {
		case !IsService(p) || !isIt(p.Name, ParentNamespace(p, r.Namespace)):
		case r.Namespace != namespace:
			return ActConsumer, r.Namespace, true
		default:
			return ActRoutes, "", true
		}
	}
	for _, b := range backends {
		if (b.Kind == nil || *b.Kind == gatewayv1.Kind(mesh.KindService)) && isIt(b.Name, cmp.Or(string(orZero(b.Namespace)), r.Namespace)) {
			return ActLeadsHere, "", true
		}
	}
	return "", "", false
}

// routeEnds are the parents and backends of a route of any kind.
func routeEnds(spec any) (parents []gatewayv1.ParentReference, backends []gatewayv1.BackendObjectReference) {
	add := func(list ...gatewayv1.BackendRef) {
		for _, b := range list {
			backends = append(backends, b.BackendObjectReference)
		}
	}
	switch t := spec.(type) {
	case *HTTPRoute:
		parents = t.ParentRefs
		for _, rule := range t.Rules {
			for _, b := range rule.BackendRefs {
				add(b.BackendRef)
			}
		}
	case *GRPCRoute:
		return routeEnds(HTTPOf(t))
	case *TLSRoute:
		parents = t.ParentRefs
		for _, rule := range t.Rules {
			add(rule.BackendRefs...)
		}
	case *TCPRoute:
		parents = t.ParentRefs
		for _, rule := range t.Rules {
			add(rule.BackendRefs...)
		}
	}
	return parents, backends
}
