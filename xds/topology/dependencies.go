package topology

import (
	"cmp"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Dependencies are all services that a workload calls by their names.
type Dependencies struct {
	Services []ServiceName // that are here, sorted; not nil
	// By are the policies that say so, sorted.
	By []mesh.Key
}

// Dependencies are what TrafficPolicies say that a workload calls; false where none does, which means everything.
func (t *Topology) Dependencies(w *Workload) (Dependencies, bool) {
	d, ok := t.dependencies[w.ProxyID()]
	return d, ok
}

// attachDependencies finds of which workloads policies say what they call. Of a workload that several services select, it is
// what is said of any of them; of one that none does, what is said of its namespace.
func (b *builder) attachDependencies() {
	some := false
	for _, p := range attached[policy.TrafficPolicy](b, mesh.KindTrafficPolicy) {
		if p.Spec.Dependencies != nil {
			some = true
			b.checkDependencies(p.Resource.Key, p.Spec.Dependencies)
		}
	}
	if !some {
		return
	}
	b.t.dependencies = map[mesh.ProxyID]Dependencies{}
	for _, w := range b.t.Workloads {
		subjects := []policy.Subject{{Service: policy.ServiceRef{Namespace: w.Namespace}}}
		for i, s := range b.t.ServedBy(w) {
			subjects = append(subjects[:i], policy.Subject{Service: policy.ServiceRef{Namespace: s.Namespace, Name: s.Name}})
		}
		d := Dependencies{Services: []ServiceName{}}
		for _, of := range subjects {
			said := b.t.traffic.of(of)
			if said.Spec.Dependencies == nil {
				continue
			}
			by := said.By("Dependencies")
			d.By = append(d.By, by)
			for _, on := range said.Spec.Dependencies {
				d.Services = append(d.Services, b.servicesOf(by, on)...)
			}
		}
		if len(d.By) == 0 {
			continue
		}
		slices.SortFunc(d.Services, ServiceName.compare)
		slices.SortFunc(d.By, mesh.Key.Compare)
		d.Services, d.By = slices.Compact(d.Services), slices.Compact(d.By)
		b.t.dependencies[w.ProxyID()] = d
	}
}

// servicesOf are the services that a dependency of a policy names and that are here.
func (b *builder) servicesOf(by mesh.Key, d policy.Dependency) (out []ServiceName) {
	namespace := cmp.Or(d.Namespace, by.Namespace)
	if d.Service == "" {
		for _, s := range b.t.Services {
			if s.Namespace == namespace {
				out = append(out, s.ServiceName)
			}
		}
		return out
	}
	if n := (ServiceName{namespace, d.Service}); b.t.services[n] != nil {
		return []ServiceName{n}
	}
	return nil
}

func (b *builder) checkDependencies(k mesh.Key, list []policy.Dependency) {
	for _, d := range list {
		if d.Service != "" && len(b.servicesOf(k, d)) == 0 {
			b.issue(k, "dependencies: there is no service %s here", ServiceName{cmp.Or(d.Namespace, k.Namespace), d.Service})
		}
	}
}
