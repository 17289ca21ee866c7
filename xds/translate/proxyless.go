package translate

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/failover"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// wayName is `<service>.<namespace>:<port>/<zone>`: the service, in that zone as long as it can be reached there.
func wayName(n topology.ServiceName, port uint16, zone string) string {
	return clusterName(n, port) + "/" + zone
}

// proxylessOf is what a gRPC client without a proxy shares with those that follow the same routes.
func (tr *Translator) proxylessOf(id mesh.ProxyID) *ir.Proxy {
	var by policy.Clients
	if w, ok := tr.t.Workload(id); ok {
		by = tr.t.ConsumersOf(w)
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.proxyless[by] == nil {
		tr.proxyless[by] = tr.sharedProxyless(by)
	}
	return tr.proxyless[by]
}

// sharedProxyless is what every such client is told: the hosts of a sidecar, each as a
// target of its own, because such a client asks for nothing but what it dials.
//
// A sidecar's cluster holds the endpoints of all zones and finds server name, roots and identities by the endpoint.
// gRPC knows one of each per cluster. So here a cluster is a service in one zone; the zones share the requests by
// weights of the routes, and stand in for each other by clusters that list clusters.
func (tr *Translator) sharedProxyless(by policy.Clients) *ir.Proxy {
	tr.outboundEnds() // works out the decisions of all services, which are only read from then on
	p := &proxyless{tr: tr, by: by, reaches: map[string]reach{}, slots: placeTrust(tr.t.Zones), out: &ir.Proxy{}}
	for _, z := range tr.t.Zones {
		if slot, ok := p.slots[z.Name]; ok {
			p.out.Secrets = append(p.out.Secrets, tr.trustSecret(slot, z))
		}
	}
	for _, s := range tr.t.Services {
		for _, port := range s.Ports {
			if !port.Protocol.IsHTTP() {
				continue
			}
			for _, r := range tr.reaches(s, port) {
				p.reaches[r.name()] = r
			}
			p.clusters(s, port)
		}
	}
	for _, s := range tr.t.Services {
		byDefault := true
		for _, port := range s.Ports {
			if !port.Protocol.IsHTTP() {
				continue
			}
			if port.Protocol != topology.HTTP { // gRPC is HTTP/2 to the end
				p.targets(s, port, byDefault)
			}
			byDefault = false
		}
	}
	return p.out
}

// proxyless collects what such a client needs.
type proxyless struct {
	tr      *Translator
	by      policy.Clients
	reaches map[string]reach // what the clusters of a sidecar lead to, by name
	slots   map[string]string
	out     *ir.Proxy
}

// clusters are the ways to a service port: into each zone, and where there are several into one after the other.
func (p *proxyless) clusters(s *topology.Service, port topology.Port) {
	for _, zone := range p.tr.zonesOf(s, port) {
		to := reach{service: s, port: port, zone: zone}
		c := p.tr.outboundCluster(to)
		if !p.answers(s, zone) {
			continue
		}
		c.Proxyless, c.Peers[0].Trust = true, p.slots[zone]
		p.out.Clusters = append(p.out.Clusters, c)
		p.out.Endpoints = append(p.out.Endpoints, p.tr.endpointsOf(to))
	}
	priorities := p.priorities(reach{service: s, port: port})
	if len(priorities) == 0 || len(slices.Concat(priorities...)) < 2 {
		return
	}
	for i, first := range priorities[0] {
		order := slices.Concat(priorities[0][i:i+1], priorities[0][:i], priorities[0][i+1:], slices.Concat(priorities[1:]...))
		c := ir.Cluster{Name: wayName(s.ServiceName, port.Number, first.Zone), Protocol: ir.HTTP2, Proxyless: true, Sources: p.tr.endpointSources(reach{service: s, port: port})}
		for _, w := range order {
			c.Fallback = append(c.Fallback, pinnedName(s.ServiceName, w.Zone, port.Number))
		}
		p.out.Clusters = append(p.out.Clusters, c)
	}
}

// answers reports whether somebody in a zone could answer for a service, and be recognised.
func (p *proxyless) answers(s *topology.Service, zone string) bool {
	z, ok := p.tr.t.ZoneNamed(zone)
	_, known := p.slots[zone]
	return ok && known && len(identitiesIn(s, z)) > 0
}

// priorities divides the requests for a service port among the zones in which somebody could answer.
func (p *proxyless) priorities(r reach) [][]failover.Weight {
	all := [][]failover.Weight{{{Zone: r.zone, Weight: failover.Million}}}
	if r.zone == "" {
		all = p.tr.prioritiesOf(r.service, r.port)
	}
	var out [][]failover.Weight
	for _, zones := range all {
		var some []failover.Weight
		for _, w := range zones {
			if p.answers(r.service, w.Zone) {
				some = append(some, w)
			}
		}
		if len(some) > 0 {
			out = append(out, some)
		}
	}
	return out
}

// targets are the hosts of a service port, with all that policies say of them.
func (p *proxyless) targets(s *topology.Service, port topology.Port, byDefault bool) {
	sources := slices.Concat(p.tr.hostSources(p.by, s, port), p.tr.t.ConfigSources)
	for _, host := range p.tr.serviceHosts(p.by, s, port, byDefault) {
		table := ir.RouteTable{Name: host.Name, Proxyless: true, Sources: sources}
		for _, name := range host.Domains {
			p.out.Targets = append(p.out.Targets, ir.Target{Name: name, RouteTable: table.Name, Sources: s.Sources})
		}
		host.Routes = slices.Clone(host.Routes)
		for i := range host.Routes {
			table.Sources = append(table.Sources, p.spread(&host.Routes[i])...)
		}
		host.Domains = []string{"*"} // the client has chosen already
		table.Hosts, table.Sources = []ir.VirtualHost{host}, unique(table.Sources)
		p.out.Routes = append(p.out.Routes, table)
	}
}

// spread replaces the backends of a route by those of the zones that serve them now, and says who decides that.
func (p *proxyless) spread(r *ir.Route) ir.Sources {
	if len(r.Backends) == 0 {
		return nil
	}
	var sources ir.Sources
	var out []ir.Backend
	var total uint64
	for _, b := range r.Backends {
		total += uint64(b.Weight)
	}
	for _, b := range r.Backends {
		to, known := p.reaches[b.Cluster]
		if !known || total == 0 {
			continue // outside of the mesh, where a client without a proxy can't go
		}
		sources = append(sources, p.tr.endpointSources(to)...)
		priorities := p.priorities(to)
		if len(priorities) == 0 {
			continue
		}
		share := uint64(b.Weight) * failover.Million / total // of all requests, in millionths
		out = append(out, p.zones(to, priorities, share)...)
	}
	if r.Backends = out; len(out) == 0 {
		r.Retry = nil
		r.Reply = &ir.Reply{
			Status: http.StatusServiceUnavailable, Code: "NO-ENDPOINT", Title: "Nobody serves this",
			Detail: "No zone has an endpoint that this client could reach.",
			Try:    "See who serves the service: comity why.",
		}
	}
	return sources
}

// zones divides the share of a backend among the zones of the first priority.
func (p *proxyless) zones(to reach, priorities [][]failover.Weight, share uint64) []ir.Backend {
	n, port := to.service.ServiceName, to.port.Number
	if len(slices.Concat(priorities...)) == 1 {
		return []ir.Backend{{Cluster: pinnedName(n, priorities[0][0].Zone, port), Weight: uint32(max(share, 1))}} //nolint:gosec // at most a million
	}
	var sum uint64
	for _, w := range priorities[0] {
		sum += uint64(w.Weight)
	}
	var out []ir.Backend
	for _, w := range priorities[0] {
		out = append(out, ir.Backend{Cluster: wayName(n, port, w.Zone), Weight: uint32(max(share*uint64(w.Weight)/max(sum, 1), 1))}) //nolint:gosec // at most a million
	}
	return out
}

// trustSlots is how many trust domains a proxyless client can tell apart.
const trustSlots = 256

// trustSlot is the name of a place for the roots of one trust domain: a certificate provider of the client's bootstrap.
func trustSlot(n int) string { return fmt.Sprintf("trust-%03d", n) }

// placeTrust gives each zone the place of its trust domain. A client reads the names of its providers once, when it
// starts, and is to trust zones that join later; so the names are there from the beginning, and say nothing of whose
// roots will be in them. The place follows from the trust domain alone, but where two have the same: then the second by
// zone takes the next.
func placeTrust(zones []topology.Zone) map[string]string {
	out, taken := map[string]string{}, map[int]bool{}
	for _, z := range zones {
		if len(taken) == trustSlots {
			break
		}
		h := fnv.New32a()
		_, _ = h.Write([]byte(z.TrustDomain)) // never fails
		n := int(h.Sum32() % trustSlots)
		for taken[n] {
			n = (n + 1) % trustSlots
		}
		taken[n], out[z.Name] = true, trustSlot(n)
	}
	return out
}

// hostSources says who shapes the hosts of a service port for some clients.
func (tr *Translator) hostSources(clients policy.Clients, s *topology.Service, p topology.Port) ir.Sources {
	out := slices.Concat(s.Sources, tr.t.Traffic(s, p, mesh.Key{}, "").Sources, tr.extensionSources(policy.SideClient, s, p, mesh.Key{}, ""))
	for _, m := range tr.t.RoutesTo(clients, s, p) {
		if m.RuleName != "" {
			out = append(out, ruleMetricsSources(tr.t.ServerTelemetry(s, p))...)
		}
		out = slices.Concat(out, ir.Sources{m.Route}, tr.t.Traffic(s, p, m.Route, m.RuleName).Sources, tr.extensionSources(policy.SideClient, s, p, m.Route, m.RuleName))
	}
	return out
}
