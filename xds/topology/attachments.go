package topology

import (
	"slices"
	"sync"

	"github.com/comity-mesh/comity/policy"
)

// attachments are the policies of a kind. What they say together of a subject is merged when somebody asks for the first time: the
// same is asked for each proxy. Nil are none. They are safe for concurrent use once all are added.
type attachments[T policy.Attachable] struct {
	near map[string][]policy.Attached[T] // by namespace

	mu     sync.Mutex
	merged map[policy.Subject]policy.Merged[T]
}

// attachmentsOf are policies, nil if there are none.
func attachmentsOf[T policy.Attachable](policies []policy.Attached[T]) *attachments[T] {
	if len(policies) == 0 {
		return nil
	}
	a := &attachments[T]{near: map[string][]policy.Attached[T]{}, merged: map[policy.Subject]policy.Merged[T]{}}
	for _, p := range policies {
		a.near[p.Resource.Namespace] = append(a.near[p.Resource.Namespace], p)
	}
	return a
}

// of is what the policies say of a subject. Only those of the namespaces from which it can be targeted are looked at. The result is
// shared: it is not changed.
func (a *attachments[T]) of(s policy.Subject) policy.Merged[T] {
	if a == nil {
		return policy.Merged[T]{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	m, known := a.merged[s]
	if !known {
		namespaces := []string{policy.SystemNamespace, s.Service.Namespace, s.Route.Namespace}
		slices.Sort(namespaces)
		var near []policy.Attached[T]
		for _, ns := range slices.Compact(namespaces) {
			near = append(near, a.near[ns]...)
		}
		m = policy.Merge(near, s)
		m.Sources = slices.Clip(m.Sources) // who appends gets a slice of his own
		a.merged[s] = m
	}
	return m
}
