package topology

import (
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// attachTelemetry collects the TelemetryPolicies, and says of each what it names that is not here, and by whom it is
// overridden.
func (b *builder) attachTelemetry() {
	policies := attached[policy.TelemetryPolicy](b, mesh.KindTelemetryPolicy)
	b.t.telemetry = attachmentsOf(policies)
	for _, p := range policies {
		b.checkTarget(p.Resource, p.Spec.TargetRef)
		for _, c := range p.Spec.Collectors() {
			if c.Service == nil {
				continue
			}
			if _, ok := b.t.HTTPPort(p.Resource.Namespace, *c.Service); !ok {
				b.issue(p.Resource.Key, "it tells service %s, which has no HTTP port %d here: what is for it is told nobody", c.Service.Name, c.Service.Port)
			}
		}
	}
	lost := map[mesh.Key][]mesh.Key{}
	for _, s := range b.t.Services {
		for _, p := range s.Ports {
			noteLost(lost, b.t.ServerTelemetry(s, p).Overridden)
		}
		noteLost(lost, b.t.ClientTelemetry(s.Namespace).Overridden)
	}
	b.sayOverridden(lost)
}

// ServerTelemetry is what those who serve a port tell of its requests.
func (t *Topology) ServerTelemetry(s *Service, p Port) policy.Merged[policy.TelemetryPolicy] {
	return t.telemetry.of(subject(s, p, mesh.Key{}, ""))
}

// ClientTelemetry is what the proxies of a namespace tell of the requests that begin there.
func (t *Topology) ClientTelemetry(namespace string) policy.Merged[policy.TelemetryPolicy] {
	return t.telemetry.of(policy.Subject{Service: policy.ServiceRef{Namespace: namespace}})
}

// EdgeTelemetry is what ingresses tell of requests from outside, and egresses of those that leave. They are of no namespace, so it
// is for the mesh to say.
func (t *Topology) EdgeTelemetry() policy.Merged[policy.TelemetryPolicy] {
	return t.ClientTelemetry(policy.SystemNamespace)
}

// EdgeCollectors are the services of the mesh that they tell, in the order in which policies name them.
func (t *Topology) EdgeCollectors() []ServicePort {
	var out []ServicePort
	m := t.EdgeTelemetry()
	add := func(c policy.Collector, by mesh.Key) {
		if c.Service == nil {
			return
		}
		if to, ok := t.HTTPPort(by.Namespace, *c.Service); ok && !slices.Contains(out, to) {
			out = append(out, to)
		}
	}
	for _, l := range m.Spec.AccessLogs {
		if l.OTLP != nil {
			add(*l.OTLP, m.By("AccessLogs"))
		}
	}
	if m.Spec.Tracing != nil {
		add(m.Spec.Tracing.Collector(), m.By("Tracing"))
	}
	return out
}
