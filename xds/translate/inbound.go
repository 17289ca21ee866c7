package translate

import (
	"slices"
	"strings"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// inbound collects what sidecars need to serve the same services.
type inbound struct {
	tr         *Translator
	app        string // address of the application
	instance   string // the workload, where it has a name of its own
	clusters   []ir.Cluster
	chains     []ir.Chain
	routes     []ir.RouteTable
	admissions []ir.Admission
	peers      []topology.Zone
	sources    ir.Sources
	shared     *ir.Proxy // all of it but the chains, which are in listeners at addresses of their own
}

// serves is what decides what a workload needs to serve.
type serves struct{ namespace, services, app, instance string }

// servedBy is what a workload shares with all who serve the same: chains, route tables with authorization, secrets of peers,
// the application's clusters.
func (tr *Translator) servedBy(w *topology.Workload) *inbound {
	services := tr.t.ServedBy(w)
	what := serves{namespace: w.Namespace, app: w.Spec.AppAddress}
	for _, s := range services {
		what.services += s.String() + " "
		if s.Local.Headless {
			what.instance = w.Name
		}
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if in := tr.serving[what]; in != nil {
		return in
	}
	in := &inbound{tr: tr, app: w.Spec.AppAddress, instance: what.instance}
	for _, s := range services {
		in.serve(s)
	}
	in.shared = &ir.Proxy{Clusters: append(in.clusters, collectorClusters(tr.telemetryOf(w)...)...), Secrets: in.peerSecrets(), Admissions: in.admissions, Routes: in.routes}
	tr.patch(in.shared)
	tr.serving[what] = in
	return in
}

// serve adds a service: per port and zone of origin one chain, which trusts that zone alone, so that
// ending the trust in a zone ends its connections and nobody else's.
func (in *inbound) serve(s *topology.Service) {
	for _, p := range s.Ports {
		if _, ok := s.Local.Targets[p.Number]; !ok {
			continue
		}
		in.cluster(appCluster(in.app, s, p))
		for _, z := range in.tr.t.Zones {
			if z.Local || s.Local.Exported {
				in.chain(s, p, z)
			}
		}
	}
	for _, p := range s.Ports {
		in.sources = append(in.sources, in.tr.t.ServerTelemetry(s, p).Sources...)
	}
	in.sources = append(in.sources, s.Sources...)
}

// cluster adds a cluster, once.
func (in *inbound) cluster(c ir.Cluster) {
	if !slices.ContainsFunc(in.clusters, func(o ir.Cluster) bool { return o.Name == c.Name }) {
		in.clusters = append(in.clusters, c)
	}
}

func (in *inbound) chain(s *topology.Service, p topology.Port, from topology.Zone) {
	name := inboundName(s.ServiceName, p.Number, from.Name)
	c := ir.Chain{
		Name:        name,
		ServerNames: in.serverNames(servicePort(in.tr.t.Zone, s.ServiceName, p.Number), s, from),
	}
	if !p.Protocol.IsHTTP() {
		in.pass(c, s, p, from, *in.tr.authorization(s, p, from))
		return
	}
	c.TLS = &ir.ServerTLS{Peers: peersName(from.TrustDomain), HTTP2: true}
	c.HTTP = &ir.HTTP{
		StatPrefix: name, Codec: ir.CodecHTTP2, RouteTable: name,
		Authorize: true, Explain: in.tr.t.Config.ExplainRefusals, ForwardIdentity: true, Telemetry: in.serverTelemetry(s, p, from),
	}
	in.tr.tellApart(c.HTTP, s, p)
	hosts, more := in.hosts(s, p, ir.VirtualHost{
		Name: name, Authorization: in.tr.authorization(s, p, from), Filters: ir.Filters{Before: slices.Concat(in.tr.tokens(s, p), in.tr.audits(s, p, from))},
	})
	in.routes = append(in.routes, ir.RouteTable{
		Name: name, Hosts: hosts, Sources: unique(slices.Concat(policySources(s, p, in.tr.t.ConfigSources), more, in.tr.authenticationSources(s, p))),
	})
	in.peers = append(in.peers, from)
	for _, k := range in.tr.keyClusters(s, p) {
		in.cluster(k)
	}
	in.chains = append(in.chains, c)
	if in.tr.t.Layer(s, p.Number, in.tr.t.Zone) != "" {
		in.passRequests(s, p, from, hosts)
	}
}

// pass makes a chain whose bytes are passed on, for callers whom its admission lets in.
func (in *inbound) pass(c ir.Chain, s *topology.Service, p topology.Port, from topology.Zone, authorization ir.Authorization) {
	admission := in.tr.admission(in.app, s, p, from, authorization)
	admission.Name = admissionName(c.Name)
	in.admissions = append(in.admissions, admission)
	in.cluster(admittedCluster(*admission.To, s))
	c.TLS = &ir.ServerTLS{Peers: peersName(from.TrustDomain), HTTP2: c.TLS != nil && c.TLS.HTTP2}
	in.peers = append(in.peers, from)
	c.Connections = in.connectionLimit(s, p)
	c.TCP = &ir.TCP{
		StatPrefix: c.Name, Serves: true, Cluster: admittedName(admission.To.Port), Admission: admission.Name, MaxDuration: tcpMaxDuration,
		Telemetry: in.serverTelemetry(s, p, from),
	}
	in.chains = append(in.chains, c)
}

// listeners take what comes from other sidecars, at the workload's address.
func (in *inbound) listeners(w *topology.Workload) []ir.Listener {
	if len(in.chains) == 0 {
		return nil // it serves nothing; Envoy refuses a listener without chains
	}
	return []ir.Listener{{
		Name: "inbound", Address: w.Spec.Address, Port: w.Spec.InboundPort,
		Inspect: true, Chains: toldBy(w, in.chains), Sources: unique(slices.Concat(in.sources, in.tr.t.ConfigSources)),
	}}
}

// peerSecrets are the secrets that the chains name.
func (in *inbound) peerSecrets() []ir.Secret {
	var out []ir.Secret
	for _, z := range in.peers {
		name := peersName(z.TrustDomain)
		if !slices.ContainsFunc(out, func(s ir.Secret) bool { return s.Name == name }) {
			out = append(out, in.tr.trustSecret(name, z))
		}
	}
	return out
}

// trustSecrets are the secrets by which the servers of each zone are recognised.
func (tr *Translator) trustSecrets() []ir.Secret {
	var out []ir.Secret
	for _, z := range tr.t.Zones {
		out = append(out, tr.trustSecret(trustName(z.TrustDomain), z))
	}
	return out
}

func (tr *Translator) trustSecret(name string, z topology.Zone) ir.Secret {
	return ir.Secret{Name: name, TrustDomain: string(z.TrustDomain), Roots: tr.t.Roots[z.TrustDomain], Sources: z.Sources}
}

func policySources(s *topology.Service, p topology.Port, config []mesh.Key) ir.Sources {
	var out ir.Sources
	for _, a := range s.Policies.OfPort(p.Name).All() {
		out = append(out, a.Resource.Key)
	}
	return unique(append(append(out, s.Sources...), config...))
}

// unique sorts keys and keeps each once, in a slice of its own.
func unique(keys ir.Sources) ir.Sources {
	out := slices.Clone(keys)
	slices.SortFunc(out, mesh.Key.Compare)
	return slices.Compact(out)
}

// covers reports whether everybody of pattern p is of pattern by.
func covers(by, p ir.Pattern) bool {
	return by == p || by.Prefix() && strings.HasPrefix(string(p), string(by))
}
