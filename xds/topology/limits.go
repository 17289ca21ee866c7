package topology

import (
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// checkLimits says which limits can never hold, because the service speaks something else.
func (b *builder) checkLimits(k mesh.Key, p policy.TrafficPolicy) {
	t, l := p.TargetRef, p.RateLimit
	if l != nil && l.Shared != nil {
		a := l.Shared.Service
		if _, ok := b.t.HTTPPort(k.Namespace, a); !ok {
			b.issue(k, "rateLimit.shared: it asks service %s, which has no HTTP port %d here: nothing is limited, and with failClosed everything refused", a.Name, a.Port)
		}
	}
	if t == nil || t.Kind != "Service" || l == nil {
		return
	}
	s, ok := b.t.services[ServiceName{k.Namespace, t.Name}]
	if !ok {
		return
	}
	has := func(http bool) bool {
		return slices.ContainsFunc(s.Ports, func(p Port) bool {
			return (p.Protocol.IsHTTP() && b.t.Layer(s, p.Number, b.in.Zone) != mesh.LayerL4) == http && (t.SectionName == "" || t.SectionName == p.Name)
		})
	}
	if (len(l.Requests) > 0 || l.Shared != nil) && !has(true) {
		b.issue(k, "rateLimit: service %s has no port there whose requests are understood (appProtocol http, http2 or grpc, and not layer l4)", s.ServiceName)
	}
	if l.Connections != nil && !has(false) {
		b.issue(k, "rateLimit.connections: service %s has no port there that is passed on as bytes (TCP, or layer l4)", s.ServiceName)
	}
}
