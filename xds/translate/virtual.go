package translate

import (
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// virtualKey is all by which virtual listeners differ from workload to workload.
type virtualKey struct {
	namespace string
	names     string
	scope     policy.Clients
	addresses mesh.VirtualAddresses
	told      string // the workload, where something is told of its requests: that names it
}

// virtual is a listener for every port of every name, at the name's address, which sidecars with the same addresses share. There
// the address says who is meant, whatever host name a request has: of HTTP each listener has a route table of its own.
func (tr *Translator) virtual(w *topology.Workload) *ir.Proxy {
	v := &virtual{tr: tr, namespace: w.Namespace, scope: tr.t.Scope(w), addresses: *w.Spec.VirtualAddresses, telemetry: tr.clientTelemetry(w)}
	key := virtualKey{namespace: w.Namespace, names: tr.t.NamesKey(w), scope: v.scope, addresses: v.addresses}
	if v.telemetry != nil {
		key.told = w.Name
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.virtuals[key] == nil {
		v.sources = unique(slices.Concat(tr.t.ConfigSources, tr.t.ClientTelemetry(w.Namespace).Sources))
		v.hosts = map[string]ir.VirtualHost{}
		for _, h := range tr.outboundRoutes(key.scope).Hosts {
			v.hosts[h.Name] = h
		}
		for _, n := range tr.t.Names(w) {
			v.serve(n)
		}
		tr.patch(&v.out)
		tr.virtuals[key] = &v.out
	}
	return tr.virtuals[key]
}

// virtual collects the listeners of a virtualKey.
type virtual struct {
	tr        *Translator
	namespace string
	scope     policy.Clients
	addresses mesh.VirtualAddresses
	telemetry *ir.Telemetry
	sources   ir.Sources
	hosts     map[string]ir.VirtualHost // what sidecars of the scope do with requests by host name
	out       ir.Proxy
}

func (v *virtual) serve(n topology.Name) {
	for _, x := range n.External {
		cluster := externalName(x.ServiceName, x.Port.Port)
		v.listen(n, x.Port.Port, v.tr.externalSources(x.External), func() []ir.Chain {
			if x.Port.Protocol.IsHTTP() {
				return v.requests(n, x.Port.Port, cluster)
			}
			return []ir.Chain{v.tr.upstreamChain("", backendOf(cluster))}
		})
	}
	if n.Service == nil {
		return
	}
	for _, p := range n.Service.Ports {
		zones := v.tr.zonesOf(n.Service, p)
		if n.Zone != "" && !slices.Contains(zones, n.Zone) {
			continue
		}
		to := reach{service: n.Service, port: p, zone: n.Zone, instance: n.Instance}
		sources := v.tr.hostSources(v.scope, n.Service, p)
		streams, by := v.tr.meshStreams(v.namespace, topology.ServicePort{ServiceName: n.Service.ServiceName, Port: p.Number})
		v.listen(n, p.Number, append(sources, by...), func() []ir.Chain {
			switch {
			case p.Protocol.IsHTTP():
				return v.requests(n, p.Number, to.name())
			case n.Zone == "":
				return streams
			case n.Instance == "" && len(zones) == 1:
				to.zone = "" // the way to the only zone is the way to the service
			}
			return []ir.Chain{v.tr.upstreamChain("", backendOf(to.name()))}
		})
	}
}

func virtualName(n topology.Name, port uint16) string { return "virtual:" + portName(n.Host, port) }

// requests makes a route table of a virtual host, for whatever host name requests have.
func (v *virtual) requests(n topology.Name, port uint16, host string) []ir.Chain {
	h, ok := v.hosts[host]
	if !ok {
		return nil
	}
	h.Domains = []string{"*"}
	name := virtualName(n, port)
	v.out.Routes = append(v.out.Routes, ir.RouteTable{Name: name, Hosts: []ir.VirtualHost{h}})
	return []ir.Chain{{Name: "virtual", HTTP: &ir.HTTP{StatPrefix: "outbound", Codec: ir.CodecAuto, RouteTable: name}}}
}

// listen serves one port of a name.
func (v *virtual) listen(n topology.Name, port uint16, sources ir.Sources, chains func() []ir.Chain) {
	if port < v.addresses.LowestPort {
		return
	}
	l := ir.Listener{
		Name: virtualName(n, port), Address: mesh.VirtualAddress(v.addresses.Block, n.Number).String(), Port: port, Exclusive: true,
		Chains: chains(), Sources: unique(slices.Concat(sources, v.sources)),
	}
	if len(l.Chains) == 0 {
		return
	}
	for i := range l.Chains {
		c := &l.Chains[i]
		if c.HTTP != nil {
			c.HTTP.Telemetry = v.telemetry
			v.out.Routes[len(v.out.Routes)-1].Sources = l.Sources
		} else {
			c.TCP.Telemetry = v.telemetry
		}
		l.Inspect = l.Inspect || len(c.ServerNames) > 0
	}
	l.Application = l.Inspect
	v.out.Listeners = append(v.out.Listeners, l)
}
