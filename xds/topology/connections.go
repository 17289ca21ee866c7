package topology

import (
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Checkable reports whether the endpoints of a port understand a health check. Of TCP ports nothing can be asked, and HTTP/1.1
// has no gRPC.
func Checkable(p Port, h policy.EndpointCheck) bool {
	switch {
	case h.HTTP != nil:
		return p.Protocol.IsHTTP()
	case h.GRPC != nil:
		return p.Protocol == GRPC || p.Protocol == HTTP2
	}
	return true
}

// checkConnections says what a policy for a service or port says of connections that its ports can't do.
func (b *builder) checkConnections(r mesh.Resource, spec policy.TrafficPolicy) {
	t := spec.TargetRef
	if t == nil {
		return // meant for many services, of which some can
	}
	n, ports := ServiceName{r.Namespace, t.Name}, []Port(nil)
	switch mesh.Kind(t.Kind) {
	case mesh.KindService:
		if s := b.t.services[n]; s != nil {
			ports = s.Ports
		}
	case mesh.KindExternalService:
		if e, ok := b.t.External(n); ok {
			ports = e.AsService().Ports
		}
	}
	for _, p := range ports {
		if t.SectionName != "" && t.SectionName != p.Name {
			continue
		}
		if h := spec.HealthCheck; h != nil && !Checkable(p, *h) {
			b.issue(r.Key, "port %d of %s is %s, which can't answer the healthCheck: its endpoints are not checked", p.Number, n, p.Protocol)
		}
		if l := spec.LoadBalancer; l != nil && len(l.Hash) > 0 && !p.Protocol.IsHTTP() {
			b.issue(r.Key, "port %d of %s is TCP, where there is nothing to hash: connections go to any endpoint", p.Number, n)
		}
		if spec.ConnectionPool != nil && !p.Protocol.IsHTTP() && t.SectionName != "" {
			b.issue(r.Key, "port %d of %s is TCP, whose connections are as long as their callers': connectionPool does nothing", p.Number, n)
		}
	}
}
