package translate

import (
	"slices"
	"strconv"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/failover"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// egressName is `egress/<service>.<namespace>:<port>/<source zone>`.
func egressName(n topology.ServiceName, port uint16, source string) string {
	return "egress/" + clusterName(n, port) + "/" + source
}

func (tr *Translator) egressSNI(n topology.ServiceName, port uint16) string {
	return servicePort(tr.t.Zone, n, port).EgressSNI(tr.t.Zone)
}

// gatewayCluster leads a sidecar to the zone's egress proxies, one of which must answer.
func (tr *Translator) gatewayCluster(e *topology.External, p topology.ExternalPort) ir.Cluster {
	c := ir.Cluster{
		Name: externalName(e.ServiceName, p.Port), Protocol: ir.Bytes, MTLS: true, Detection: tr.detection(),
		ConnectTimeout: millis(tr.settings.ConnectTimeout), Sources: tr.externalSources(e),
	}
	if p.Protocol.IsHTTP() {
		c.Protocol, c.IdleTimeout, c.MaxAge = ir.HTTP2, connectionIdle, connectionMaxAge
	}
	if z, ok := tr.t.ZoneNamed(tr.t.Zone); ok && len(tr.t.Egresses) > 0 {
		peer := ir.Peer{Zone: z.Name, SNI: tr.egressSNI(e.ServiceName, p.Port), Trust: trustName(z.TrustDomain)}
		for _, g := range tr.t.Egresses {
			peer.Identities = append(peer.Identities, z.TrustDomain.EgressID(g.Name))
		}
		slices.Sort(peer.Identities)
		c.Peers = []ir.Peer{peer}
	}
	return c
}

// gatewayEndpoints are the egress proxies that are ready, of all if none is, behind each port that is reached through them.
func (tr *Translator) gatewayEndpoints() []ir.Endpoints {
	g := ir.Group{Zone: tr.t.Zone, Weight: failover.Million}
	ready := slices.ContainsFunc(tr.t.Egresses, func(e topology.EgressProxy) bool { return e.Ready })
	taken := map[ir.HostPort]bool{}
	for _, e := range tr.t.Egresses {
		for _, port := range e.Ports {
			at := ir.HostPort{Address: e.Address, Port: port}
			if ready && !e.Ready || taken[at] {
				continue
			}
			taken[at] = true
			g.Endpoints = append(g.Endpoints, ir.Endpoint{Address: at.Address, Port: at.Port, Weight: 100})
		}
	}
	var out []ir.Endpoints
	for _, e := range tr.t.Externals {
		for _, p := range e.Ports {
			if !e.Gateway {
				continue
			}
			ends := ir.Endpoints{Cluster: externalName(e.ServiceName, p.Port), Sources: tr.externalSources(e)}
			if len(g.Endpoints) > 0 {
				ends.Groups = []ir.Group{g}
			}
			out = append(out, ends)
		}
	}
	return out
}

// sharedEgress is what every egress proxy of the zone has in common: for each port a way out, a table that says who may take
// it, and whom to believe.
func (tr *Translator) sharedEgress() *ir.Proxy {
	out := &ir.Proxy{Endpoints: tr.egressEnds().Endpoints}
	own, ok := tr.t.ZoneNamed(tr.t.Zone)
	if !ok {
		return out // nobody can prove to be of the zone
	}
	told := tr.toldReaches()
	for _, r := range told {
		out.Clusters = append(out.Clusters, tr.outboundCluster(r))
	}
	if len(told) > 0 {
		out.Secrets = tr.trustSecrets()
	}
	http := false
	for _, e := range tr.t.Externals {
		for _, p := range e.Ports {
			if !e.Gateway {
				continue
			}
			out.Clusters = append(out.Clusters, tr.outsideCluster(e, p))
			as, port := e.AsService(), p.AsPort()
			authorization := tr.authorization(as, port, own)
			sources := policySources(as, port, tr.t.ConfigSources)
			if !p.Protocol.IsHTTP() {
				accepted, _ := handshake(authorization.Callers)
				out.Secrets = append(out.Secrets, ir.Secret{
					Name: egressPeers(own.TrustDomain, e.ServiceName, p.Port), TrustDomain: string(own.TrustDomain), Roots: tr.t.Roots[own.TrustDomain],
					Restrict: true, Identities: accepted, Sources: sources,
				})
				continue
			}
			http = true
			name, traffic := egressName(e.ServiceName, p.Port, own.Name), tr.t.ExternalTraffic(e, p)
			sources = unique(append(sources, outsideSources(traffic)...))
			out.Routes = append(out.Routes, ir.RouteTable{Name: name, Sources: sources, Hosts: []ir.VirtualHost{{
				Name: name, Domains: []string{"*"}, Retry: safeRetry(tr.settings.Retry),
				Authorization: authorization, Filters: ir.Filters{Before: tr.audits(as, port, own)},
				Routes: tr.treatOutside(port, []ir.Route{{Match: anyPath(), Backends: []ir.Backend{{Cluster: externalName(e.ServiceName, p.Port), Weight: 1}}}}, traffic.Spec),
			}}})
		}
	}
	if http {
		out.Secrets = append(out.Secrets, tr.trustSecret(peersName(own.TrustDomain), own))
	}
	tr.patch(out)
	return out
}

// egressPeers is the secret of whom a port for bytes accepts.
func egressPeers(td mesh.TrustDomain, n topology.ServiceName, port uint16) string {
	return peersName(td) + "/egress/" + clusterName(n, port)
}

// exits are an egress proxy's listeners: a chain for each port of each ExternalService that is reached through it.
func (tr *Translator) exits(g topology.EgressProxy) []ir.Listener {
	own, ok := tr.t.ZoneNamed(tr.t.Zone)
	if !ok {
		return nil
	}
	var chains []ir.Chain
	sources := slices.Concat(tr.t.ConfigSources, tr.t.EdgeTelemetry().Sources)
	for _, e := range tr.t.Externals {
		for _, p := range e.Ports {
			if e.Gateway {
				chains = append(chains, tr.exitChain(e, p, own))
				sources = append(sources, e.Source.Key)
			}
		}
	}
	if len(chains) == 0 {
		return nil // Envoy refuses a listener without chains; nothing leaves here, so nothing listens
	}
	var out []ir.Listener
	for _, port := range g.BindPorts {
		out = append(out, ir.Listener{
			Name: "exit:" + strconv.Itoa(int(port)), Address: g.BindAddress, Port: port,
			Inspect: true, Chains: chains, Sources: unique(sources),
		})
	}
	return out
}

func (tr *Translator) exitChain(e *topology.External, p topology.ExternalPort, from topology.Zone) ir.Chain {
	name := egressName(e.ServiceName, p.Port, from.Name)
	c := ir.Chain{Name: name, ServerNames: []string{tr.egressSNI(e.ServiceName, p.Port)}}
	if p.Protocol.IsHTTP() {
		c.TLS = &ir.ServerTLS{Peers: peersName(from.TrustDomain), HTTP2: true}
		c.HTTP = &ir.HTTP{
			StatPrefix: name, Codec: ir.CodecHTTP2, RouteTable: name,
			Authorize: true, Explain: tr.t.Config.ExplainRefusals, Telemetry: tr.egressTelemetry(e),
		}
		return c
	}
	_, refused := handshake(tr.authorization(e.AsService(), p.AsPort(), from).Callers)
	c.TLS, c.RefusePeers = &ir.ServerTLS{Peers: egressPeers(from.TrustDomain, e.ServiceName, p.Port)}, refused
	c.TCP = &ir.TCP{
		StatPrefix: name, Serves: true, Cluster: externalName(e.ServiceName, p.Port), Attempts: tcpAttempts, MaxDuration: tcpMaxDuration, Telemetry: tr.egressTelemetry(e),
	}
	return c
}

// handshake says who is accepted by certificate, which is all that a TCP port can be decided by before
// it sends its first byte. A certificate validation can accept but not refuse, so what is denied within
// an accepted prefix is left to the first byte.
func handshake(callers []ir.Caller) (accepted []ir.Pattern, refused []ir.RefusedPeer) {
	for _, c := range callers {
		if c.Decisions[0].Allow {
			accepted = append(accepted, c.Identity)
		}
	}
	for _, c := range callers {
		d := c.Decisions[0]
		if !d.Allow && slices.ContainsFunc(accepted, func(a ir.Pattern) bool { return covers(a, c.Identity) }) {
			refused = append(refused, ir.RefusedPeer{Identity: c.Identity, Policy: d.Policy})
		}
	}
	return accepted, refused
}
