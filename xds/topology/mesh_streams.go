package topology

import (
	"maps"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// clients are those of a namespace who ask for a port of a service; of any namespace where it is empty.
type clients struct {
	namespace string
	to        ServicePort
}

// StreamsTo is where the connections of clients of a namespace to a TCP port of a service go; empty where no route says so.
// With server names in them, which come from TLSRoutes, connections without one of those go nowhere.
func (t *Topology) StreamsTo(namespace string, to ServicePort) []EdgeStream {
	if own, ok := t.streams[clients{namespace, to}]; ok {
		return own // those of consumers replace those of the producer
	}
	return t.streams[clients{"", to}]
}

// attachStreams gives the TCP ports of services their routes. One whose namespace is not the service's is for the clients of
// its own (GEP-1294). Of several routes for the same clients and server name, the first has it; any TLSRoute wins over TCPRoutes,
// as the more specific kind.
func (b *builder) attachStreams(all []streamRoute) {
	b.t.streams = map[clients][]EdgeStream{}
	lost := map[mesh.Key][]mesh.Key{}
	for _, s := range byParent(all) {
		for _, c := range b.streamClients(s) {
			b.attachStream(c, s, lost)
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(lost), mesh.Key.Compare) {
		slices.SortFunc(lost[k], mesh.Key.Compare)
		b.overridden(k, slices.Compact(lost[k])...)
	}
	for _, list := range b.t.streams {
		slices.SortStableFunc(list, func(x, y EdgeStream) int { return policy.CompareHosts(x.Host, y.Host) })
	}
}

// attachStream gives a route what is free yet of its clients' connections.
func (b *builder) attachStream(c clients, s streamRoute, lost map[mesh.Key][]mesh.Key) {
	for _, host := range policy.CommonHosts("", s.hosts) {
		have := b.t.streams[c]
		i := slices.IndexFunc(have, func(o EdgeStream) bool { return o.Host == host || host == "" })
		if i >= 0 {
			if by := have[i].Route; by != s.res.Key {
				lost[s.res.Key] = append(lost[s.res.Key], by)
			}
			continue
		}
		b.t.streams[c] = append(have, EdgeStream{host, s.res.Key, s.backends})
	}
}

// byParent is one route for each parent that is a Service, in the order in which they win: TLSRoutes, then those whose parent has a
// port, then as they come.
func byParent(all []streamRoute) []streamRoute {
	var out []streamRoute
	for _, s := range all {
		for _, p := range s.parents {
			if policy.IsService(p) {
				one := s
				one.parents = []gatewayv1.ParentReference{p}
				out = append(out, one)
			}
		}
	}
	slices.SortStableFunc(out, func(x, y streamRoute) int {
		if c := compareBools(x.res.Kind == mesh.KindTCPRoute, y.res.Kind == mesh.KindTCPRoute); c != 0 {
			return c
		}
		return compareBools(x.parents[0].Port == nil, y.parents[0].Port == nil)
	})
	return out
}

// streamClients are those for whom a route of one parent is, at each of its ports. It says why there are none.
func (b *builder) streamClients(s streamRoute) []clients {
	p := s.parents[0]
	n := ServiceName{policy.ParentNamespace(p, s.res.Namespace), string(p.Name)}
	namespace := ""
	if n.Namespace != s.res.Namespace {
		namespace = s.res.Namespace
	}
	service, ok := b.t.services[n]
	if !ok {
		b.unaccepted(s.res.Key, gatewayv1.RouteReasonNoMatchingParent, "parent: there is no service %s here", n)
		return nil
	}
	var out []clients
	for _, port := range service.Ports {
		if !port.Protocol.IsHTTP() && (p.Port == nil || uint16(*p.Port) == port.Number) {
			out = append(out, clients{namespace, ServicePort{n, port.Number}})
		}
	}
	switch {
	case len(out) > 0:
	case p.Port != nil:
		b.unaccepted(s.res.Key, gatewayv1.RouteReasonNoMatchingParent, "parent: service %s has no TCP port %d", n, *p.Port)
	default:
		b.unaccepted(s.res.Key, gatewayv1.RouteReasonNoMatchingParent, "parent: service %s has no TCP port (appProtocol tcp)", n)
	}
	return out
}
