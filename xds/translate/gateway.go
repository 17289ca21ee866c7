package translate

import (
	"net/http"
	"slices"
	"strconv"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// gatewayStats groups the counters of what Gateways take.
const gatewayStats = "gateway"

// gatewayListeners are those of the Gateways that an ingress serves, one per port, beside its lanes: adding a Gateway
// changes none of the others.
func (tr *Translator) gatewayListeners(g topology.IngressProxy) []ir.Listener {
	var out []ir.Listener
	for _, p := range tr.t.Edge(g.Name) {
		l := ir.Listener{
			Name: gatewayName(p.Number, ""), Address: g.BindAddress, Port: p.Number, Inspect: p.TLS(), Public: true,
			Sources: slices.Concat(p.Sources, tr.t.ConfigSources, tr.t.EdgeTelemetry().Sources),
		}
		switch {
		case l.Inspect:
			for _, e := range p.Listeners {
				l.Chains = append(l.Chains, tr.secureChains(p, e)...)
			}
		case p.Listeners[0].Protocol == gatewayv1.TCPProtocolType:
			l.Chains = tr.streamChains(p, p.Listeners[0])
		default:
			l.Chains = []ir.Chain{{Name: l.Name, HTTP: tr.edgeHTTP(l.Name, p.Listeners[0].TrustedHops)}}
		}
		for _, e := range p.Listeners {
			for _, s := range e.Streams {
				l.Sources = append(l.Sources, s.Route)
			}
		}
		l.Sources = unique(l.Sources)
		if len(l.Chains) == 0 {
			continue // Envoy refuses a listener without chains; no route leads anywhere, so nothing listens
		}
		out = append(out, l)
	}
	return out
}

// secureChains take the connections whose server name is a listener's.
func (tr *Translator) secureChains(p topology.EdgePort, e topology.EdgeListener) []ir.Chain {
	if e.Protocol == gatewayv1.TLSProtocolType {
		return tr.streamChains(p, e)
	}
	name := gatewayName(p.Number, e.Host)
	c := ir.Chain{Name: name, HTTP: tr.edgeHTTP(name, e.TrustedHops), PublicTLS: publicTLS(e)}
	c.PublicTLS.HTTP = true
	if e.Host != "" {
		c.ServerNames = []string{e.Host}
	}
	return []ir.Chain{c}
}

// streamChains pass on the bytes of connections, of TLS by their server name.
func (tr *Translator) streamChains(p topology.EdgePort, e topology.EdgeListener) []ir.Chain {
	var out []ir.Chain
	for _, s := range e.Streams {
		c := ir.Chain{Name: gatewayName(p.Number, s.Host), TCP: tr.streamTo(s)}
		if tr.relaysVisitors(e) {
			c.TCP = relaysTo(c.Name)
		}
		if s.Host != "" {
			c.ServerNames = []string{s.Host}
		}
		if len(e.Certificates) > 0 {
			c.PublicTLS = publicTLS(e)
		}
		out = append(out, c)
	}
	return out
}

// streamTo leads to the backends of a route.
func (tr *Translator) streamTo(s topology.EdgeStream) *ir.TCP {
	return &ir.TCP{
		StatPrefix: gatewayStats, Backends: tr.streamBackends(s), Attempts: tcpAttempts, MaxDuration: tcpMaxDuration, Telemetry: tr.gatewayTelemetry(),
	}
}

// relaysVisitors reports whether it is decided about the connections of a listener.
func (tr *Translator) relaysVisitors(e topology.EdgeListener) bool {
	return !e.HTTP() && len(tr.t.Visitors(e.Gateway, e.Name).All()) > 0
}

// gatewayRelays are what decides about them.
func (tr *Translator) gatewayRelays(g topology.IngressProxy, out *ir.Proxy) {
	for _, p := range tr.t.Edge(g.Name) {
		for _, e := range p.Listeners {
			if !tr.relaysVisitors(e) {
				continue
			}
			for _, s := range e.Streams {
				sources := unique(slices.Concat(p.Sources, ir.Sources{s.Route}, tr.t.ConfigSources, tr.t.EdgeTelemetry().Sources))
				newRelay(gatewayName(p.Number, s.Host), tr.admitVisitors(e), *tr.streamTo(s), sources).addTo(out)
			}
		}
	}
}

// streamBackends are the clusters of a route. The share of what is not there goes nowhere, and so does all of it where no backend
// has a weight.
func (tr *Translator) streamBackends(s topology.EdgeStream) []ir.Backend {
	var out []ir.Backend
	for _, ref := range s.Backends {
		weight := weightOf(ref)
		if weight == 0 {
			continue
		}
		cluster := NowhereCluster
		if to, err := tr.t.StreamBackend(s.Route, ref.BackendObjectReference); err == nil {
			cluster = tr.backendName(to)
		}
		out = mergeBackend(out, cluster, weight)
	}
	if len(out) == 0 {
		return backendOf(NowhereCluster)
	}
	return out
}

func publicTLS(e topology.EdgeListener) *ir.PublicTLS {
	t := &ir.PublicTLS{Minimum13: e.Minimum13}
	for _, n := range e.Certificates {
		t.Certificates = append(t.Certificates, certificateName(n))
	}
	if e.Clients != nil {
		t.Clients, t.Optional = authorityName(e.Clients.Authorities), e.Clients.Optional
	}
	return t
}

func (tr *Translator) edgeHTTP(table string, hops uint32) *ir.HTTP {
	return &ir.HTTP{
		StatPrefix: gatewayStats, Codec: ir.CodecAuto, RouteTable: table, Telemetry: tr.gatewayTelemetry(),
		Explain: tr.t.Config.ExplainRefusals, Edge: &ir.Edge{TrustedHops: hops},
	}
}

// gatewayRoutes are the route tables of the same: one for a port without TLS, one for each listener of a port with it, since
// a client there may ask for no other host than the one by whose name it came.
func (tr *Translator) gatewayRoutes(g topology.IngressProxy) []ir.RouteTable {
	var out []ir.RouteTable
	for _, p := range tr.t.Edge(g.Name) {
		if p.Listeners[0].Protocol == gatewayv1.HTTPProtocolType {
			out = append(out, tr.edgeTable(gatewayName(p.Number, ""), p, p.Listeners))
			continue
		}
		for _, e := range p.Listeners {
			if e.Protocol != gatewayv1.HTTPSProtocolType {
				continue
			}
			t := tr.edgeTable(gatewayName(p.Number, e.Host), p, []topology.EdgeListener{e})
			// Nobody proved anything to a listener that lets in everybody.
			t.Edge.TellClient = e.Clients != nil && !e.Clients.Optional
			out = append(out, t)
		}
	}
	return out
}

func (tr *Translator) edgeTable(name string, p topology.EdgePort, listeners []topology.EdgeListener) ir.RouteTable {
	t := ir.RouteTable{Name: name, Edge: &ir.EdgeRoutes{}, Sources: slices.Concat(p.Sources, tr.t.ConfigSources)}
	taken := map[string]bool{}
	for _, e := range listeners {
		for _, h := range e.Hosts {
			taken[h.Host] = true
			host, sources := tr.edgeHost(p, e, h)
			t.Hosts, t.Sources = append(t.Hosts, host), append(t.Sources, sources...)
		}
	}
	for _, e := range p.Listeners {
		mine := slices.ContainsFunc(listeners, func(l topology.EdgeListener) bool { return l.Host == e.Host })
		switch {
		case taken[e.Host]:
		case mine:
			t.Hosts = append(t.Hosts, replying(e.Host, noRoute()))
		default: // also of the listener for all other hosts
			t.Hosts = append(t.Hosts, replying(e.Host, misdirected()))
		}
		taken[e.Host] = true
	}
	if !slices.ContainsFunc(t.Hosts, func(h ir.VirtualHost) bool { return h.Domains[0] == "*" }) {
		t.Hosts = append(t.Hosts, replying("", noRoute()))
	}
	t.Sources = unique(t.Sources)
	return t
}

// replying is a host that answers every request itself.
func replying(host string, r ir.Reply) ir.VirtualHost {
	domain := host
	if domain == "" {
		domain = "*"
	}
	return ir.VirtualHost{Name: domain, Domains: []string{domain}, Routes: []ir.Route{{Match: anyPath(), Reply: &r}}}
}

func noRoute() ir.Reply {
	return ir.Reply{
		Status: http.StatusNotFound, Code: "NO-ROUTE", Title: "No route of the Gateway matches",
		Detail: "The Gateway has no route for the host, path, method and headers of the request.",
		Try:    "Ask for what it has routes for.",
	}
}

// misdirected is for a host that another listener has, reached over a connection that was made to this one (RFC 9110, 15.5.20):
// clients then make a connection of their own.
func misdirected() ir.Reply {
	return ir.Reply{
		Status: http.StatusMisdirectedRequest, Code: "MISDIRECTED", Title: "The host is served over other connections",
		Detail: "The connection was made with another server name than that of the host.",
		Try:    "Make a connection for the host.",
	}
}

// edgedReaches are the ways to the services to which Gateways lead, and that their ingresses tell.
func (tr *Translator) edgedReaches() []reach {
	return tr.reachesOf(tr.t.Edged())
}

func (tr *Translator) reachesOf(ports []topology.ServicePort) []reach {
	var out []reach
	for _, to := range ports {
		if s, ok := tr.t.Service(to.ServiceName); ok {
			if p, ok := s.Port(to.Port); ok {
				out = append(out, tr.reaches(s, p)...)
			}
		}
	}
	return out
}

// edgeClusters and edgeEndpoints are what ingresses need of the above: they call services as sidecars do, as who they are.
func (tr *Translator) edgeClusters() []ir.Cluster {
	var out []ir.Cluster
	for _, r := range tr.edgedReaches() {
		out = append(out, tr.outboundCluster(r))
	}
	return out
}

func (tr *Translator) edgeEndpoints() []ir.Endpoints { return tr.endpointsOfAll(tr.edgedReaches()) }

func (tr *Translator) endpointsOfAll(ways []reach) []ir.Endpoints {
	var out []ir.Endpoints
	for _, r := range ways {
		out = append(out, tr.endpointsOf(r))
	}
	return out
}

// edgeSecrets are those by which the services are recognised.
func (tr *Translator) edgeSecrets() []ir.Secret {
	if len(tr.t.Edged()) == 0 {
		return nil
	}
	return tr.trustSecrets()
}

// gatewayName is `gateway:<port>`, of what is with TLS `gateway:<port>/<host>` as well.
func gatewayName(port uint16, host string) string {
	name := "gateway:" + strconv.Itoa(int(port))
	if host != "" {
		name += "/" + host
	}
	return name
}
