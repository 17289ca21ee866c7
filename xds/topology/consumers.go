package topology

import (
	"slices"
	"strings"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// consumer is some clients who ask for a port of a service by routes of their own.
type consumer struct {
	by policy.Clients
	of ServicePort
}

// Scope groups the workloads whose sidecars know the same hosts and follow the same routes. The zero value is all those of which
// nothing says otherwise.
func (t *Topology) Scope(w *Workload) policy.Clients {
	return narrowest(w, func(c policy.Clients) bool { return t.scopes[c] })
}

// ConsumersOf is Scope by routes alone.
func (t *Topology) ConsumersOf(w *Workload) policy.Clients {
	return narrowest(w, func(c policy.Clients) bool { return t.consumes[c] })
}

// narrowest are the narrowest clients with a workload among them for whom something is there.
func narrowest(w *Workload, there func(policy.Clients) bool) policy.Clients {
	c := policy.Clients{Namespace: w.Namespace, Account: w.Spec.ServiceAccount}
	for more := true; more && !there(c); {
		c, more = c.Wider()
	}
	return c
}

// Consumes reports whether clients follow any routes that not everybody follows.
func (t *Topology) Consumes(clients policy.Clients) bool {
	for more := true; more; clients, more = clients.Wider() {
		if t.consumes[clients] {
			return true
		}
	}
	return false
}

// RoutesTo are the routes of requests of clients to a port of a service, in the order in which to try them: those of the
// narrowest clients that have any; none for the plain service.
func (t *Topology) RoutesTo(clients policy.Clients, s *Service, p Port) []policy.RouteMatch {
	for more := true; more; clients, more = clients.Wider() {
		if routes, ok := t.consumed[consumer{clients, ServicePort{s.ServiceName, p.Number}}]; ok {
			return routes
		}
	}
	return p.Routes
}

// consumers are the clients who have routes of their own for each service.
func (b *builder) consumers() map[ServiceName][]policy.Clients {
	out := map[ServiceName][]policy.Clients{}
	for _, routes := range b.routes {
		for _, rt := range routes {
			for _, p := range rt.Spec.ParentRefs {
				if !policy.IsService(p) {
					continue
				}
				n := ServiceName{policy.ParentNamespace(p, rt.Resource.Namespace), string(p.Name)}
				for _, c := range policy.ClientsOf(rt.Resource, p) {
					if c != (policy.Clients{}) && !slices.Contains(out[n], c) {
						out[n] = append(out[n], c)
					}
				}
			}
		}
	}
	return out
}

// consume gives some clients their routes to a port, and returns which of these are overridden.
func (b *builder) consume(clients policy.Clients, of policy.ServiceRef) (overridden map[mesh.Key][]mesh.Key) {
	matches, overridden := policy.RoutesFor(b.routes[clients.Namespace], of, clients)
	if len(matches) > 0 {
		b.t.consumed[consumer{clients, ServicePort{ServiceName{of.Namespace, of.Name}, of.Port}}] = matches
		b.t.scopes[clients], b.t.consumes[clients] = true, true
	}
	return overridden
}

// checkServerSide says of a policy that targets a consumer's route what of it has no effect: servers are told what to do with
// requests by who is of their namespace, and find out by whose route a request came as little as they may trust it.
func (b *builder) checkServerSide(r mesh.Resource, t *policy.TargetRef, fields ...string) {
	if t == nil || len(fields) == 0 {
		return
	}
	for _, rt := range b.routes[r.Namespace] {
		if rt.Resource.Kind != mesh.Kind(t.Kind) || rt.Resource.Name != t.Name {
			continue
		}
		for _, p := range rt.Spec.ParentRefs {
			if policy.IsService(p) && !slices.Contains(policy.ClientsOf(rt.Resource, p), policy.Clients{}) {
				b.issue(r.Key, "it targets %s %s, which holds for some clients alone, and servers follow the routes of their own namespace for everybody: %s has no effect", t.Kind, t.Name, strings.Join(fields, " and "))
				return
			}
		}
	}
}
