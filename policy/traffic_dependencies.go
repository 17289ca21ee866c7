package policy

import (
	"github.com/comity-mesh/comity/mesh"
)

// Dependency is what workloads call: a service, or all services of a namespace.
type Dependency struct {
	// Service by name; empty means all of Namespace.
	Service string `json:"service,omitempty"`
	// Namespace; default the policy's.
	Namespace string `json:"namespace,omitempty"`
}

const maxDependencies = 1000

func validateDependencies(r *report, p *TrafficPolicy) {
	const at = "/spec/dependencies"
	if t := p.TargetRef; t != nil && (t.Kind != "Service" || t.SectionName != "") {
		r.add(FieldError{
			Pointer: at, Code: CodeUnsupported, Message: "are of workloads, and neither of a route nor of one port",
			Hint: "target the Service that selects the workloads, or leave targetRef out for all of the namespace",
		})
	}
	r.atMost(at, len(p.Dependencies), maxDependencies)
	seen := map[Dependency]bool{}
	for i, d := range p.Dependencies {
		switch {
		case d == Dependency{}:
			r.add(FieldError{Pointer: ptr(at, i), Code: CodeRequired, Message: "names nothing", Hint: "name a service, a namespace for all of its services, or both"})
		case seen[d]:
			r.add(FieldError{Pointer: ptr(at, i), Code: CodeDuplicate, Message: "is there already"})
		}
		seen[d] = true
		if d.Service != "" {
			r.checked(ptr(at, i)+"/service", d.Service, mesh.CheckLabel)
		}
		if d.Namespace != "" {
			r.checked(ptr(at, i)+"/namespace", d.Namespace, mesh.CheckLabel)
		}
	}
}
