package translate

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/comity-mesh/comity/xds/failover"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// egressName is `egress/<service>.<namespace>:<port>/<source zone>`.
func egressName(n topology.ServiceName, port uint16, source string) string {
	return "egress/" + clusterName(n, port) + "/" + source
}

// gatewayCluster leads a sidecar to the egress proxies of the zones by which the service leaves, one of which must answer.
func (tr *Translator) gatewayCluster(e *topology.External, p topology.ExternalPort) ir.Cluster {
	c := ir.Cluster{
		Name: externalName(e.ServiceName, p.Port), Protocol: ir.Bytes, MTLS: true, Detection: tr.detection(),
		ConnectTimeout: millis(tr.settings.ConnectTimeout), Sources: tr.externalSources(e),
	}
	if p.Protocol.IsHTTP() {
		c.Protocol, c.IdleTimeout, c.MaxAge = ir.HTTP2, connectionIdle, connectionMaxAge
	}
	for _, x := range e.Exits {
		z, _ := tr.t.ZoneNamed(x.Zone)
		ids := tr.t.EgressIdentities(z)
		if len(ids) == 0 {
			continue // nobody there could answer
		}
		if !z.Local {
			c.ConnectTimeout = millis(tr.settings.RemoteConnectTimeout)
			c.Sources = unique(append(c.Sources, z.Sources...))
		}
		to := servicePort(z.Name, e.ServiceName, p.Port)
		c.Peers = append(c.Peers, ir.Peer{Zone: z.Name, SNI: to.EgressSNI(tr.t.Zone), Trust: trustName(z.TrustDomain), Identities: ids})
	}
	return c
}

// gatewayEndpoints are behind each port that is reached through egress proxies: a priority for each zone, of which each is used
// when those before can't be. Those of other zones are reached through their ingresses.
func (tr *Translator) gatewayEndpoints() []ir.Endpoints {
	var out []ir.Endpoints
	for _, e := range tr.t.Externals {
		if !e.Gateway {
			continue
		}
		groups := tr.exitGroups(e)
		for _, p := range e.Ports {
			out = append(out, ir.Endpoints{Cluster: externalName(e.ServiceName, p.Port), Groups: groups, Sources: tr.externalSources(e)})
		}
	}
	return out
}

func (tr *Translator) exitGroups(e *topology.External) []ir.Group {
	var groups []ir.Group
	taken := map[ir.HostPort]bool{}
	for _, x := range e.Exits {
		var g ir.Group
		switch z, _ := tr.t.ZoneNamed(x.Zone); {
		case z.Local:
			g = ir.Group{Zone: z.Name, Weight: failover.Million, Endpoints: tr.ownEgresses(taken)}
		case len(z.Egresses) > 0:
			g = tr.remoteGroup(failover.Weight{Zone: z.Name, Weight: failover.Million}, taken)
		}
		if len(g.Endpoints) > 0 {
			g.Priority = uint32(len(groups)) //nolint:gosec // a handful
			groups = append(groups, g)
		}
	}
	return groups
}

// ownEgresses are the zone's egress proxies that are ready, all if none is.
func (tr *Translator) ownEgresses(taken map[ir.HostPort]bool) []ir.Endpoint {
	var out []ir.Endpoint
	ready := slices.ContainsFunc(tr.t.Egresses, func(e topology.EgressProxy) bool { return e.Ready })
	for _, e := range tr.t.Egresses {
		for _, port := range e.Ports {
			at := ir.HostPort{Address: e.Address, Port: port}
			if ready && !e.Ready || taken[at] {
				continue
			}
			taken[at] = true
			out = append(out, ir.Endpoint{Address: at.Address, Port: at.Port, Weight: 100})
		}
	}
	return out
}

// exitPort is a port of an ExternalService that leaves through this zone's egress proxies, for the callers of one zone.
type exitPort struct {
	*topology.External
	port topology.ExternalPort
	from topology.Zone
}

func (x exitPort) name() string { return egressName(x.ServiceName, x.port.Port, x.from.Name) }

// exitPorts are those of all zones whose callers can be authenticated, of services that they may leave by here.
func (tr *Translator) exitPorts() []exitPort {
	var out []exitPort
	for _, e := range tr.t.Externals {
		if !tr.t.LeavesHere(e) {
			continue
		}
		for _, p := range e.Ports {
			for _, z := range tr.t.Zones {
				if z.Local || tr.t.OpenToZones(e) {
					out = append(out, exitPort{e, p, z})
				}
			}
		}
	}
	return out
}

// sharedEgress is what every egress proxy of the zone has in common: for each port a way out, for each zone whose callers may take it a
// table or an admission that says who, and whom to believe.
func (tr *Translator) sharedEgress() *ir.Proxy {
	out := &ir.Proxy{Endpoints: tr.egressEnds().Endpoints}
	ports := tr.exitPorts()
	if len(ports) == 0 {
		return out
	}
	told := tr.toldReaches()
	for _, r := range told {
		out.Clusters = append(out.Clusters, tr.outboundCluster(r))
	}
	if len(told) > 0 {
		out.Secrets = tr.trustSecrets()
	}
	for i, x := range ports {
		if i == 0 || ports[i-1].External != x.External || ports[i-1].port.Port != x.port.Port {
			out.Clusters = append(out.Clusters, tr.outsideCluster(x.External, x.port))
		}
		if x.port.Protocol.IsHTTP() {
			out.Routes = append(out.Routes, tr.exitRoutes(x))
		} else {
			tr.exitRelay(x).addTo(out)
		}
		if peers := peersName(x.from.TrustDomain); !slices.ContainsFunc(out.Secrets, func(s ir.Secret) bool { return s.Name == peers }) {
			out.Secrets = append(out.Secrets, tr.trustSecret(peers, x.from))
		}
	}
	tr.patch(out)
	return out
}

// exitRoutes say which requests of a zone's callers leave by a port: those for the hosts that the ExternalService declares. Behind one
// address there may be others, which nobody has allowed.
func (tr *Translator) exitRoutes(x exitPort) ir.RouteTable {
	as, port := x.AsService(), x.port.AsPort()
	traffic := tr.t.ExternalTraffic(x.External, x.port)
	to := []ir.Backend{{Cluster: externalName(x.ServiceName, x.port.Port), Weight: 1}}
	declared := ir.VirtualHost{
		Name: x.name(), Domains: domains(x.port.Port, true, x.Spec.Hosts...), Retry: safeRetry(tr.settings.Retry),
		Authorization: tr.authorization(as, port, x.from), Filters: ir.Filters{Before: tr.audits(as, port, x.from)},
		Routes: tr.treatOutside(port, []ir.Route{{Match: anyPath(), Backends: to}}, traffic.Spec),
	}
	other := ir.VirtualHost{
		Name: "unknown", Domains: []string{"*"}, Authorization: declared.Authorization, Filters: declared.Filters,
		Routes: []ir.Route{{Match: anyPath(), Reply: undeclaredHere(x)}},
	}
	return ir.RouteTable{
		Name: x.name(), Sources: unique(append(policySources(as, port, tr.t.ConfigSources), outsideSources(traffic)...)),
		Hosts: []ir.VirtualHost{declared, other},
	}
}

// undeclaredHere answers who may leave by a port, but asks for a host that its ExternalService does not declare.
func undeclaredHere(x exitPort) *ir.Reply {
	return &ir.Reply{
		Status: http.StatusMisdirectedRequest, Code: "HOST-NOT-DECLARED", Title: "The ExternalService does not declare this host",
		Detail: "ExternalService " + x.ServiceName.String() + " is for " + strings.Join(x.Spec.Hosts, ", ") + "; the request names another host.",
		Try:    "Ask for a declared host, rewrite the host in the HTTPRoute that leads here, or declare it in spec.hosts.",
	}
}

// exitRelay lets the connections of a zone's callers leave by a port.
func (tr *Translator) exitRelay(x exitPort) relay {
	as, port := x.AsService(), x.port.AsPort()
	a := ir.Admission{Authorization: *tr.authorization(as, port, x.from), Sources: policySources(as, port, tr.t.ConfigSources)}
	for _, f := range tr.audits(as, port, x.from) {
		a.Audits = append(a.Audits, *f.Audit)
	}
	return newRelay(x.name(), a, ir.TCP{
		StatPrefix: x.name(), Serves: true, Cluster: externalName(x.ServiceName, x.port.Port), Attempts: tcpAttempts, MaxDuration: tcpMaxDuration,
		Telemetry: tr.egressTelemetry(x.External, x.from),
	}, unique(slices.Concat(ir.Sources{x.Source.Key}, tr.t.ConfigSources, tr.t.EdgeTelemetry().Sources)))
}

// exits are an egress proxy's listeners: a chain for each port of each ExternalService that is reached through it, and for each zone of
// callers, which it alone trusts.
func (tr *Translator) exits(g topology.EgressProxy) []ir.Listener {
	var chains []ir.Chain
	sources := slices.Concat(tr.t.ConfigSources, tr.t.EdgeTelemetry().Sources)
	for _, x := range tr.exitPorts() {
		chains = append(chains, tr.exitChain(x))
		sources = append(sources, x.Source.Key)
		if !x.from.Local {
			sources = append(sources, x.from.Sources...)
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

func (tr *Translator) exitChain(x exitPort) ir.Chain {
	c := ir.Chain{
		Name: x.name(), ServerNames: []string{servicePort(tr.t.Zone, x.ServiceName, x.port.Port).EgressSNI(x.from.Name)},
		TLS: &ir.ServerTLS{Peers: peersName(x.from.TrustDomain), HTTP2: x.port.Protocol.IsHTTP()},
	}
	if x.port.Protocol.IsHTTP() {
		c.HTTP = &ir.HTTP{
			StatPrefix: x.name(), Codec: ir.CodecHTTP2, RouteTable: x.name(),
			Authorize: true, Explain: tr.t.Config.ExplainRefusals, Telemetry: tr.egressTelemetry(x.External, x.from),
		}
		return c
	}
	c.TCP = relaysTo(x.name())
	return c
}

// exitLanes are the chains by which an ingress passes on other zones' callers to the zone's egress proxies, which end TLS and decide.
func (tr *Translator) exitLanes() (chains []ir.Chain, sources ir.Sources) {
	for _, e := range tr.t.Externals {
		if !tr.t.OpenToZones(e) || len(tr.t.Egresses) == 0 {
			continue
		}
		sources = append(sources, e.Source.Key)
		for _, p := range e.Ports {
			chains = append(chains, ir.Chain{
				Name:        "egress/" + clusterName(e.ServiceName, p.Port),
				ServerNames: []string{"*." + servicePort(tr.t.Zone, e.ServiceName, p.Port).EgressSNISuffix()},
				TCP:         &ir.TCP{StatPrefix: "ingress", Cluster: egressesCluster, Attempts: tcpAttempts, MaxDuration: tcpMaxDuration},
			})
		}
	}
	return chains, sources
}

// egressesCluster leads an ingress to the egress proxies of its zone.
const egressesCluster = "local/egresses"

// exitLaneCluster and exitLaneEndpoints are where those chains lead; nowhere where there are none.
func (tr *Translator) exitLaneCluster() []ir.Cluster {
	if chains, _ := tr.exitLanes(); len(chains) == 0 {
		return nil
	}
	return []ir.Cluster{{
		Name: egressesCluster, Protocol: ir.Bytes, Detection: tr.detection(),
		ConnectTimeout: millis(tr.settings.ConnectTimeout), Sources: tr.t.ConfigSources,
	}}
}

func (tr *Translator) exitLaneEndpoints() []ir.Endpoints {
	if chains, _ := tr.exitLanes(); len(chains) == 0 {
		return nil
	}
	return []ir.Endpoints{{Cluster: egressesCluster, Groups: []ir.Group{{
		Zone: tr.t.Zone, Weight: failover.Million, Endpoints: tr.ownEgresses(map[ir.HostPort]bool{}),
	}}}}
}
