package topology

import (
	"cmp"
	"slices"
	"sync"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// attachments are the policies of a kind. What they say together of a subject is merged when somebody asks for the first time: the
// same is asked for each proxy. Nil are none. They are safe for concurrent use once all are added.
type attachments[T policy.Attachable] struct {
	by map[target][]policy.Attached[T]

	mu     sync.Mutex
	merged map[policy.Subject]*policy.Merged[T]
}

// target is what a policy is for; without a name it is its namespace.
type target struct{ namespace, kind, name string }

// attachmentsOf are policies, nil if there are none.
func attachmentsOf[T policy.Attachable](policies []policy.Attached[T]) *attachments[T] {
	if len(policies) == 0 {
		return nil
	}
	a := &attachments[T]{by: map[target][]policy.Attached[T]{}, merged: map[policy.Subject]*policy.Merged[T]{}}
	for _, p := range policies {
		at := target{namespace: p.Resource.Namespace}
		if t := p.Target(); t != nil {
			at.kind, at.name = t.Kind, t.Name
		}
		a.by[at] = append(a.by[at], p)
	}
	return a
}

// of is what the policies say of a subject. Only those are looked at that can be for it. The result is shared: it is not changed.
func (a *attachments[T]) of(s policy.Subject) policy.Merged[T] {
	if a == nil {
		return policy.Merged[T]{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if m := a.merged[s]; m != nil {
		return *m
	}
	near := a.by[target{namespace: s.Service.Namespace}]
	if s.Service.Namespace != policy.SystemNamespace {
		near = slices.Concat(near, a.by[target{namespace: policy.SystemNamespace}])
	}
	near = slices.Concat(near,
		a.by[target{s.Service.Namespace, string(cmp.Or(s.Service.Kind, mesh.KindService)), s.Service.Name}],
		a.by[target{s.Route.Namespace, string(s.Route.Kind), s.Route.Name}])
	m := policy.Merge(near, s)
	m.Sources = slices.Clip(m.Sources) // who appends gets a slice of his own
	a.merged[s] = &m
	return m
}

// ofRoute is what policies for a route, or a rule of it, say and no wider one.
func (a *attachments[T]) ofRoute(route mesh.Key, rule string) policy.Merged[T] {
	if a == nil {
		return policy.Merged[T]{}
	}
	return policy.Merge(a.by[target{route.Namespace, string(route.Kind), route.Name}], policy.Subject{Route: route, Rule: rule})
}
