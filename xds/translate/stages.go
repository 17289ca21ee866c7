// Package translate turns a topology into the IR of one proxy. It is pure: no context, clock,
// environment or logger, and the same topology gives the same IR. The stages are in this file, in the
// order in which they run; what each does is in the file of its noun.
package translate

import (
	"slices"
	"sync"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/failover"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// Translator translates one topology for many proxies, and works out once what they share. It is safe
// for concurrent use.
type Translator struct {
	t        *topology.Topology
	settings policy.DetectionSettings
	// Of services: what was handed in, and what was decided by it.
	plans     Plans
	deciding  sync.Mutex
	decisions map[topology.ServiceName]failover.Decision

	bare    func() *ir.Proxy // of a sidecar that does not take the application's HTTP
	ingress func() *ir.Proxy
	egress  func() *ir.Proxy
	// Of sidecars that do, by scope of what they know.
	mu       sync.Mutex
	outbound map[policy.Clients]*ir.Proxy
	bounded  map[string]*ir.Proxy // of those whose dependencies are known
	// Of those that serve the same.
	serving  map[serves]*inbound
	virtuals map[virtualKey]*ir.Proxy
	hosts    func() ([]ir.VirtualHost, ir.Sources) // of the mesh, for every scope without routes of its own
	// Of gRPC clients without a proxy: endpoints too, because zones share requests by routes there.
	proxyless map[policy.Clients]*ir.Proxy
	// The endpoints of the above.
	outboundEnds, ingressEnds, egressEnds func() *ir.Proxy
	// By which routes requests come to a port.
	routedTo func() map[topology.ServicePort][]routed
	// Clusters in which a retry can go to another zone.
	elsewhere func() map[string]bool
}

// Plans say what zones can carry of services now, where somebody knows it better than the topology, which has no
// memory. A service that is not there follows the topology's own.
type Plans map[topology.ServiceName]failover.Plan

// New makes a translator of a topology; plans may be nil.
func New(t *topology.Topology, plans Plans) *Translator {
	tr := &Translator{
		t: t, settings: t.Config.DetectionSettings(), plans: plans, decisions: map[topology.ServiceName]failover.Decision{},
		outbound: map[policy.Clients]*ir.Proxy{}, proxyless: map[policy.Clients]*ir.Proxy{}, bounded: map[string]*ir.Proxy{}, serving: map[serves]*inbound{}, virtuals: map[virtualKey]*ir.Proxy{},
	}
	tr.routedTo = sync.OnceValue(tr.findRouted)
	tr.elsewhere = sync.OnceValue(tr.findElsewhere)
	tr.outboundEnds = sync.OnceValue(func() *ir.Proxy { return &ir.Proxy{Endpoints: tr.outboundEndpoints()} })
	tr.ingressEnds = sync.OnceValue(func() *ir.Proxy {
		return &ir.Proxy{Endpoints: slices.Concat(tr.ingressEndpoints(), tr.edgeEndpoints(), tr.exitLaneEndpoints())}
	})
	tr.egressEnds = sync.OnceValue(func() *ir.Proxy { return &ir.Proxy{Endpoints: tr.endpointsOfAll(tr.toldReaches())} })
	tr.bare = sync.OnceValue(tr.sharedOutbound)
	tr.hosts = sync.OnceValues(func() ([]ir.VirtualHost, ir.Sources) { return tr.meshHosts(policy.Clients{}, t.Services) })
	tr.ingress = sync.OnceValue(tr.sharedIngress)
	tr.egress = sync.OnceValue(tr.sharedEgress)
	return tr
}

// Proxy is New(t, nil).Proxy(p), for a single proxy.
func Proxy(t *topology.Topology, p topology.Proxy) ir.Proxy { return New(t, nil).Proxy(p) }

// Endpoints is New(t, nil).Endpoints(p), for a single proxy.
func Endpoints(t *topology.Topology, p topology.Proxy) []ir.Endpoints {
	return New(t, nil).Endpoints(p)
}

// Proxy is what one proxy needs; empty for a proxy that the topology does not know. The result shares
// memory with other results: don't change it.
func (tr *Translator) Proxy(p topology.Proxy) ir.Proxy {
	own, shared := tr.Parts(p)
	out := ir.Proxy{Clusters: own.Clusters, Listeners: own.Listeners}
	for _, part := range slices.Backward(shared) {
		out.Clusters = join(out.Clusters, part.Clusters)
	}
	for _, part := range shared {
		out.Endpoints = join(out.Endpoints, part.Endpoints)
		out.Secrets = join(out.Secrets, part.Secrets)
		out.Admissions = join(out.Admissions, part.Admissions)
		out.Routes = join(out.Routes, part.Routes)
		out.Targets = join(out.Targets, part.Targets)
		out.Listeners = join(out.Listeners, part.Listeners)
	}
	out.Secrets, out.Admissions, out.Routes = join(out.Secrets, own.Secrets), join(out.Admissions, own.Admissions), join(out.Routes, own.Routes)
	return out
}

// Parts is Proxy in pieces: what the proxy has for itself, and what it shares with those who call the same, and with those
// who serve the same. A piece is the same pointer for all who share it, so that it need be built only once.
func (tr *Translator) Parts(p topology.Proxy) (own ir.Proxy, shared []*ir.Proxy) {
	switch p.ID.Role {
	case mesh.RoleSidecar:
		if p.Proxyless {
			return ir.Proxy{}, []*ir.Proxy{tr.proxylessOf(p.ID)}
		}
		if w, ok := tr.t.Workload(p.ID); ok {
			return tr.sidecar(w)
		}
	case mesh.RoleIngress:
		if g, ok := tr.t.Ingress(p.ID); ok {
			own := ir.Proxy{Listeners: tr.lanes(g)} // one listener per lane, all with the same chains
			own.Listeners = append(own.Listeners, tr.gatewayListeners(g)...)
			own.Routes = tr.gatewayRoutes(g)
			tr.gatewayRelays(g, &own)
			if len(tr.t.Edge(g.Name)) > 0 {
				own.Clusters = slices.Concat(own.Clusters, collectorClusters(tr.t.EdgeTelemetry()), tr.edgeKeyClusters(g))
			}
			tr.patch(&own)
			return own, []*ir.Proxy{tr.ingress()}
		}
	case mesh.RoleEgress:
		if g, ok := tr.t.Egress(p.ID); ok {
			own := ir.Proxy{Clusters: collectorClusters(tr.t.EdgeTelemetry()), Listeners: tr.exits(g)}
			tr.patch(&own)
			return own, []*ir.Proxy{tr.egress()}
		}
	}
	return ir.Proxy{}, nil
}

// Endpoints is the short path for when nothing changed but the health, the number or the capacity of
// endpoints: the Endpoints of Proxy, without the rest.
func (tr *Translator) Endpoints(p topology.Proxy) []ir.Endpoints {
	return tr.SharedEndpoints(p).Endpoints
}

// SharedEndpoints is Endpoints as a part of Parts: all that proxies have of them is shared.
func (tr *Translator) SharedEndpoints(p topology.Proxy) *ir.Proxy {
	switch p.ID.Role {
	case mesh.RoleSidecar:
		if p.Proxyless {
			return tr.proxylessOf(p.ID)
		}
		if w, ok := tr.t.Workload(p.ID); ok {
			if _, bounded := tr.t.Dependencies(w); bounded {
				_, shared := tr.Parts(p)
				return shared[0]
			}
		}
		return tr.outboundEnds()
	case mesh.RoleIngress:
		return tr.ingressEnds()
	case mesh.RoleEgress:
		return tr.egressEnds()
	}
	return &ir.Proxy{}
}

// sharedOutbound is what every sidecar of the zone has in common.
func (tr *Translator) sharedOutbound() *ir.Proxy {
	p := &ir.Proxy{
		Clusters:  tr.outboundClusters(),
		Endpoints: tr.outboundEnds().Endpoints,
		Secrets:   tr.trustSecrets(),
	}
	tr.patch(p)
	return p
}

// outboundOf is that with the hosts that the sidecars of a scope know.
func (tr *Translator) outboundOf(scope policy.Clients) *ir.Proxy {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.outbound[scope] == nil {
		known := ir.Proxy{Routes: []ir.RouteTable{tr.outboundRoutes(scope)}}
		tr.patch(&known)
		p := *tr.bare()
		p.Routes = known.Routes
		tr.outbound[scope] = &p
	}
	return tr.outbound[scope]
}

// sidecar: from other services, then to them, then the application.
func (tr *Translator) sidecar(w *topology.Workload) (own ir.Proxy, shared []*ir.Proxy) {
	in := tr.servedBy(w)
	plain, routes := tr.plaintext(w)
	own = ir.Proxy{Routes: routes, Listeners: append(in.listeners(w), plain...)}
	if w.Spec.OutboundPort != 0 {
		own.Listeners = append(own.Listeners, tr.outboundListener(w))
	}
	own.Listeners = append(own.Listeners, tr.upstreamListeners(w)...)
	tr.patch(&own)
	if w.Spec.VirtualAddresses == nil {
		return own, []*ir.Proxy{tr.outboundFor(w, &own, in.shared), in.shared}
	}
	addressed := tr.virtual(w)
	return own, []*ir.Proxy{tr.outboundFor(w, &own, in.shared, addressed), in.shared, addressed}
}

// sharedIngress is what every ingress of the zone has in common.
func (tr *Translator) sharedIngress() *ir.Proxy {
	p := &ir.Proxy{
		Clusters: slices.Concat(tr.ingressClusters(), tr.edgeClusters(), tr.exitLaneCluster()), Endpoints: tr.ingressEnds().Endpoints, Secrets: tr.edgeSecrets(),
	}
	tr.patch(p)
	return p
}

// join makes a new slice, so that shared ones are never appended to.
func join[T any](a, b []T) []T {
	return append(append(make([]T, 0, len(a)+len(b)), a...), b...)
}
