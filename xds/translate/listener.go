package translate

import (
	"slices"
	"strconv"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

const (
	loopback = "127.0.0.1"
	// Bounds what no policy can end: a TCP connection that goes on under an authorization or a trust
	// that is gone.
	tcpMaxDuration ir.Millis = 3_600_000
	// Works only together with outlier detection (ir.Cluster.Failover): without it every attempt goes
	// to the same dead endpoint.
	tcpAttempts = 5
)

// outboundListener takes the application's HTTP, by host name.
func (tr *Translator) outboundListener(w *topology.Workload) ir.Listener {
	return ir.Listener{
		Name: "outbound", Address: loopback, Port: w.Spec.OutboundPort,
		Chains: []ir.Chain{{
			Name: "outbound",
			HTTP: &ir.HTTP{StatPrefix: "outbound", Codec: ir.CodecAuto, RouteTable: OutboundRouteTable, Telemetry: tr.clientTelemetry(w)},
		}},
		Sources: unique(slices.Concat(tr.t.ClientTelemetry(w.Namespace).Sources, tr.t.ConfigSources)),
	}
}

// upstreamListeners take the application's TCP, one local port per upstream.
func (tr *Translator) upstreamListeners(w *topology.Workload) []ir.Listener {
	var out []ir.Listener
	taken := map[uint16]bool{w.Spec.OutboundPort: true}
	for _, u := range w.Spec.Upstreams {
		l, ok := tr.upstreamOf(w, u)
		if !ok || taken[u.LocalPort] {
			continue
		}
		taken[u.LocalPort] = true
		l.Name, l.Address, l.Port = "upstream:"+strconv.Itoa(int(u.LocalPort)), loopback, u.LocalPort
		for i := range l.Chains {
			l.Chains[i].TCP.Telemetry = tr.clientTelemetry(w)
		}
		l.Sources = unique(slices.Concat(l.Sources, tr.t.ClientTelemetry(w.Namespace).Sources))
		out = append(out, l)
	}
	return out
}

// upstreamOf is where a local port of a workload leads.
func (tr *Translator) upstreamOf(w *topology.Workload, u policy.Upstream) (l ir.Listener, ok bool) {
	if e, p, ok := tr.t.ExternalUpstream(w, u); ok {
		return ir.Listener{Chains: []ir.Chain{tr.upstreamChain("", backendOf(externalName(e.ServiceName, p.Port)))}, Sources: tr.externalSources(e)}, true
	}
	to, ok := tr.t.Upstream(w, u)
	if !ok {
		return ir.Listener{}, false
	}
	s, _ := tr.t.Service(to.ServiceName)
	chains, routes := tr.meshStreams(w.Namespace, to)
	l.Chains, l.Sources = chains, unique(slices.Concat(s.Sources, routes))
	l.Inspect = slices.ContainsFunc(chains, func(c ir.Chain) bool { return len(c.ServerNames) > 0 })
	l.Application = l.Inspect
	return l, true
}

// meshStreams are where the connections of a namespace to a service port go, and the routes that say so.
func (tr *Translator) meshStreams(namespace string, to topology.ServicePort) (chains []ir.Chain, routes ir.Sources) {
	for _, s := range tr.t.StreamsTo(namespace, to) {
		routes = append(routes, s.Route)
		chains = append(chains, tr.upstreamChain(s.Host, tr.streamBackends(s)))
	}
	if len(chains) == 0 {
		chains = []ir.Chain{tr.upstreamChain("", backendOf(clusterName(to.ServiceName, to.Port)))}
	}
	return chains, routes
}

// upstreamChain passes on the application's connections, of TLS those for a server name.
func (tr *Translator) upstreamChain(host string, to []ir.Backend) ir.Chain {
	c := ir.Chain{Name: "upstream", TCP: &ir.TCP{StatPrefix: "outbound", Attempts: tcpAttempts}}
	if host != "" {
		c.Name, c.ServerNames = c.Name+"/"+host, []string{host}
	}
	if len(to) == 1 {
		c.TCP.Cluster = to[0].Cluster
	} else {
		c.TCP.Backends = to
	}
	return c
}

func backendOf(cluster string) []ir.Backend { return []ir.Backend{{Cluster: cluster, Weight: 1}} }

// lanes are the ingress's listeners: a chain per exported port, chosen by what server names end with, and
// one per zone whose ingresses may speak to the agent.
func (tr *Translator) lanes(g topology.IngressProxy) []ir.Listener {
	var chains []ir.Chain
	var sources ir.Sources
	for _, e := range tr.exported() {
		sources = append(sources, e.service.Sources...)
		chains = append(chains, ir.Chain{
			Name:        e.zoneless(),
			ServerNames: []string{"*." + e.at(tr.t.Zone).SNISuffix()},
			TCP: &ir.TCP{
				StatPrefix: "ingress", Cluster: localName(e),
				Attempts: tcpAttempts, MaxDuration: tcpMaxDuration,
			},
		})
		if tr.t.Layer(e.service, e.port.Number, tr.t.Zone) != "" {
			chains = append(chains, tr.l4Lane(chains[len(chains)-1], e))
		}
	}
	for _, more := range []func() ([]ir.Chain, ir.Sources){tr.exitLanes, tr.peerChains} {
		also, by := more()
		chains, sources = append(chains, also...), append(sources, by...)
	}
	if len(chains) == 0 {
		return nil // Envoy refuses a listener without chains; nothing is exported and nobody is known, so nothing listens
	}
	var out []ir.Listener
	for _, port := range g.BindPorts {
		out = append(out, ir.Listener{
			Name: "lane:" + strconv.Itoa(int(port)), Address: g.BindAddress, Port: port,
			Inspect: true, Chains: chains, Sources: unique(sources),
		})
	}
	return out
}
