package topology

import (
	"fmt"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Backend is where a route leads: a port of a service, in one zone only if Zone is set, or of an ExternalService.
type Backend struct {
	ServicePort
	Zone     string
	External bool
}

// backendError is the error of a backend that is there, or could be, and that a route can't have, with the reason of the Gateway API's
// condition ResolvedRefs.
type backendError struct {
	reason gatewayv1.RouteConditionReason
	why    string
}

func (e *backendError) Error() string { return "backend" + e.why }

func notBackend(reason gatewayv1.RouteConditionReason, format string, a ...any) error {
	return &backendError{reason, fmt.Sprintf(format, a...)}
}

// Backend resolves a backend of an HTTPRoute or GRPCRoute.
func (t *Topology) Backend(route mesh.Key, ref gatewayv1.BackendObjectReference) (Backend, error) {
	return t.backend(route, ref, true)
}

// StreamBackend resolves a backend of a TLSRoute or TCPRoute.
func (t *Topology) StreamBackend(route mesh.Key, ref gatewayv1.BackendObjectReference) (Backend, error) {
	return t.backend(route, ref, false)
}

func (t *Topology) backend(route mesh.Key, ref gatewayv1.BackendObjectReference, http bool) (Backend, error) {
	group, kind, err := policy.BackendKind(ref)
	if err != nil {
		return Backend{}, notBackend(gatewayv1.RouteReasonInvalidKind, ": %v", err)
	}
	n := ServiceName{route.Namespace, string(ref.Name)}
	var zone string
	if kind == policy.BackendZone {
		if n.Name, zone, err = policy.SplitZone(n.Name); err != nil {
			return Backend{}, fmt.Errorf("backend: %w", err)
		}
	}
	if ref.Namespace != nil {
		n.Namespace = string(*ref.Namespace)
	}
	if n.Namespace != route.Namespace && !t.granted(route, n.Namespace, group, kind, string(ref.Name)) {
		return Backend{}, notBackend(gatewayv1.RouteReasonRefNotPermitted, " %s is in another namespace, of which no ReferenceGrant allows it", n)
	}
	if ref.Port == nil {
		return Backend{}, fmt.Errorf("backend %s has no port", n)
	}
	number := uint16(*ref.Port)
	if kind == policy.BackendExternal {
		return t.externalBackend(n, number, http)
	}
	s, ok := t.services[n]
	if !ok {
		return Backend{}, fmt.Errorf("backend: there is no service %s here", n)
	}
	switch p, ok := s.Port(number); {
	case !ok:
		return Backend{}, fmt.Errorf("backend: service %s has no port %d", n, number)
	case p.Protocol.IsHTTP() != http:
		return Backend{}, notBackend(gatewayv1.RouteReasonUnsupportedProtocol, ": port %d of service %s is no %s port", number, n, protocolWord(http))
	}
	if zone != "" && !s.inZone(t.Zone, zone, number) {
		return Backend{}, fmt.Errorf("backend: zone %s has no port %d of service %s, as far as this zone knows", zone, number, n)
	}
	return Backend{ServicePort: ServicePort{n, number}, Zone: zone}, nil
}

func (t *Topology) externalBackend(n ServiceName, number uint16, http bool) (Backend, error) {
	e, ok := t.External(n)
	if !ok {
		return Backend{}, fmt.Errorf("backend: there is no ExternalService %s here", n)
	}
	switch p, ok := e.Port(number); {
	case !ok:
		return Backend{}, fmt.Errorf("backend: ExternalService %s has no port %d", n, number)
	case p.Protocol.IsHTTP() != http:
		return Backend{}, notBackend(gatewayv1.RouteReasonUnsupportedProtocol, ": port %d of ExternalService %s is no %s port", number, n, protocolWord(http))
	}
	return Backend{ServicePort: ServicePort{n, number}, External: true}, nil
}

func protocolWord(http bool) string {
	if http {
		return "HTTP"
	}
	return "TCP"
}

// inZone reports whether a zone has the port.
func (s *Service) inZone(own, zone string, port uint16) bool {
	if zone == own {
		if s.Local == nil {
			return false
		}
		_, ok := s.Local.Targets[port]
		return ok
	}
	return slices.ContainsFunc(s.Remotes, func(r RemoteService) bool { return r.Zone == zone && slices.Contains(r.Ports, port) })
}

// granted reports whether a namespace lets a route or Gateway of another one name something of its own.
func (t *Topology) granted(from mesh.Key, namespace, group, kind, name string) bool {
	for _, g := range t.grants[namespace] {
		if policy.Grants(g, from.Kind, from.Namespace, group, kind, name) {
			return true
		}
	}
	return false
}

// findGrants collects the ReferenceGrants by namespace.
func (b *builder) findGrants() {
	for _, r := range b.byKind[mesh.KindReferenceGrant] {
		if spec, ok := b.specs[r.Key].(*policy.ReferenceGrant); ok {
			b.t.grants[r.Namespace] = append(b.t.grants[r.Namespace], spec)
		}
	}
}

// Staffed reports whether somebody who could answer for a backend is known, well or not.
func (t *Topology) Staffed(b Backend) bool {
	if b.External {
		return true
	}
	s, ok := t.services[b.ServiceName]
	if !ok {
		return false
	}
	in := func(zone string) bool { return b.Zone == "" || b.Zone == zone }
	return s.Local != nil && len(s.Local.Workloads) > 0 && in(t.Zone) ||
		slices.ContainsFunc(s.Remotes, func(r RemoteService) bool { return in(r.Zone) && slices.Contains(r.Ports, b.Port) })
}
