// Package translate turns a topology into the IR of one proxy. It is pure: no context, clock,
// environment or logger, and the same topology gives the same IR. The stages are in this file, in the
// order in which they run; what each does is in the file of its noun.
package translate

import (
	"sync"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// Translator translates one topology for many proxies, and works out once what they share. It is safe
// for concurrent use.
type Translator struct {
	t        *topology.Topology
	outbound func() ir.Proxy
	ingress  func() ir.Proxy
}

// New makes a translator of a topology.
func New(t *topology.Topology) *Translator {
	tr := &Translator{t: t}
	tr.outbound = sync.OnceValue(tr.sharedOutbound)
	tr.ingress = sync.OnceValue(tr.sharedIngress)
	return tr
}

// Proxy is New(t).Proxy(p), for a single proxy.
func Proxy(t *topology.Topology, p topology.Proxy) ir.Proxy { return New(t).Proxy(p) }

// Endpoints is New(t).Endpoints(p), for a single proxy.
func Endpoints(t *topology.Topology, p topology.Proxy) []ir.Endpoints { return New(t).Endpoints(p) }

// Proxy is what one proxy needs; empty for a proxy that the topology does not know. The result shares
// memory with other results: don't change it.
func (tr *Translator) Proxy(p topology.Proxy) ir.Proxy {
	switch p.ID.Role {
	case mesh.RoleSidecar:
		if w, ok := tr.t.Workload(p.ID); ok {
			return tr.sidecar(w)
		}
	case mesh.RoleIngress:
		if g, ok := tr.t.Ingress(p.ID); ok {
			return tr.zoneIngress(g)
		}
	}
	return ir.Proxy{}
}

// Endpoints is the short path for when nothing changed but the health, the number or the capacity of
// endpoints: the Endpoints of Proxy, without the rest.
func (tr *Translator) Endpoints(p topology.Proxy) []ir.Endpoints {
	switch p.ID.Role {
	case mesh.RoleSidecar:
		return tr.outboundEndpoints()
	case mesh.RoleIngress:
		return tr.ingressEndpoints()
	}
	return nil
}

// sharedOutbound is what every sidecar of the zone has in common.
func (tr *Translator) sharedOutbound() ir.Proxy {
	return ir.Proxy{
		Clusters:  tr.outboundClusters(),
		Endpoints: tr.outboundEndpoints(),
		Routes:    []ir.RouteTable{tr.outboundRoutes()},
		Secrets:   tr.trustSecrets(),
	}
}

// sidecar: to other services, then from other services, then the application.
func (tr *Translator) sidecar(w *topology.Workload) ir.Proxy {
	shared := tr.outbound()
	in := &inbound{tr: tr, w: w}
	for _, s := range tr.t.ServedBy(w) {
		in.serve(s) // chains, route tables with authorization, secrets of peers, the application's clusters
	}
	p := ir.Proxy{
		Clusters:  join(in.clusters, shared.Clusters),
		Endpoints: shared.Endpoints,
		Secrets:   join(shared.Secrets, in.peerSecrets()),
		Routes:    in.routes,
		Listeners: in.listeners(),
	}
	if w.Spec.OutboundPort != 0 {
		p.Listeners = append(p.Listeners, tr.outboundListener(w))
		p.Routes = join(shared.Routes, p.Routes)
	}
	p.Listeners = append(p.Listeners, tr.upstreamListeners(w)...)
	return p
}

// sharedIngress is what every ingress of the zone has in common.
func (tr *Translator) sharedIngress() ir.Proxy {
	return ir.Proxy{Clusters: tr.ingressClusters(), Endpoints: tr.ingressEndpoints()}
}

// zoneIngress: one listener per lane, all with the same chains.
func (tr *Translator) zoneIngress(g topology.IngressProxy) ir.Proxy {
	p := tr.ingress()
	p.Listeners = tr.lanes(g)
	return p
}

// join makes a new slice, so that shared ones are never appended to.
func join[T any](a, b []T) []T {
	return append(append(make([]T, 0, len(a)+len(b)), a...), b...)
}
