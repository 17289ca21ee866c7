package translate

import (
	"reflect"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// hosts are what a server does with the requests to a port of a service, however they come: one host for all of them, and
// those by whose routes requests come here of which policies ask something else.
func (in *inbound) hosts(s *topology.Service, p topology.Port, like ir.VirtualHost) ([]ir.VirtualHost, ir.Sources) {
	whole := like
	whole.Domains = []string{"*"}
	whole.Filters.After = in.tr.serverFilters(s, p, mesh.Key{}, "")
	shed := in.tr.t.Traffic(s, p, mesh.Key{}, "").Spec.LoadShedding
	whole.Routes = shedLoad(in.toApp(s, p), shed)
	sources := in.tr.serverSources(s, p, mesh.Key{}, "")
	out := []ir.VirtualHost{whole}
	for _, from := range in.tr.routedTo()[topology.ServicePort{ServiceName: s.ServiceName, Port: p.Number}] {
		host, differs, more := whole, false, ir.Sources{}
		host.Routes = nil
		host.Name += "/of/" + clusterName(from.service.ServiceName, from.port.Number)
		host.Domains = domains(from.port.Number, from.byDefault, from.service.String(), mesh.ClusterSetHost(from.service.Name, from.service.Namespace))
		for _, m := range from.matches {
			r := in.toApp(s, p)
			r.Match = matchOf(m.Match)
			if f := in.tr.serverFilters(s, p, m.Route, m.RuleName); !reflect.DeepEqual(f, whole.Filters.After) {
				r.Filters.After, differs = f, true
			}
			own := in.tr.t.Traffic(s, p, m.Route, m.RuleName).Spec.LoadShedding
			differs = differs || !reflect.DeepEqual(own, shed)
			more = append(append(more, m.Route), in.tr.serverSources(s, p, m.Route, m.RuleName)...)
			host.Routes = append(host.Routes, shedLoad(r, own)...)
		}
		if differs {
			host.Routes = append(host.Routes, whole.Routes...) // what came another way
			out, sources = append(out, host), append(sources, more...)
		}
	}
	return out, sources
}

func (in *inbound) toApp(s *topology.Service, p topology.Port) ir.Route {
	return ir.Route{Match: anyPath(), Backends: []ir.Backend{{Cluster: appName(s.Local.Targets[p.Number]), Weight: 1}}}
}

// serverFilters are what requests that matched a rule meet at the server after they were allowed.
func (tr *Translator) serverFilters(s *topology.Service, p topology.Port, route mesh.Key, rule string) []ir.Filter {
	return append(tr.treatInbound(tr.t.Traffic(s, p, route, rule)), tr.extensions(policy.SideServer, s, p, route, rule)...)
}

func (tr *Translator) serverSources(s *topology.Service, p topology.Port, route mesh.Key, rule string) ir.Sources {
	return slices.Concat(inboundSources(tr.t.Traffic(s, p, route, rule)), tr.extensionSources(policy.SideServer, s, p, route, rule))
}

// routed are the matches of a service port's routes that lead to some other port, or to the same.
type routed struct {
	service   *topology.Service
	port      topology.Port
	byDefault bool // the port is meant where none is said
	matches   []policy.RouteMatch
}

// findRouted lists by which routes requests come to each port. Where two of the matches take a request, the first does at the
// client, and so it does here.
func (tr *Translator) findRouted() map[topology.ServicePort][]routed {
	out := map[topology.ServicePort][]routed{}
	for _, s := range tr.t.Services {
		byDefault := true
		for _, p := range s.Ports {
			if !p.Protocol.IsHTTP() {
				continue
			}
			for _, m := range p.Routes {
				for _, to := range tr.leadsTo(m) {
					if to.Namespace != m.Route.Namespace {
						continue // a grant lets a route lead here, and says nothing of what servers demand
					}
					list := out[to]
					if n := len(list); n == 0 || list[n-1].service != s || list[n-1].port.Number != p.Number {
						list = append(list, routed{service: s, port: p, byDefault: byDefault})
					}
					last := &list[len(list)-1]
					last.matches = append(last.matches, m)
					out[to] = list
				}
			}
			byDefault = false
		}
	}
	return out
}

// leadsTo lists the backends of a match, each once.
func (tr *Translator) leadsTo(m policy.RouteMatch) []topology.ServicePort {
	var out []topology.ServicePort
	for _, ref := range m.Does.BackendRefs {
		if to, err := tr.t.Backend(m.Route, ref.BackendObjectReference); err == nil && !to.External && !slices.Contains(out, to.ServicePort) {
			out = append(out, to.ServicePort)
		}
	}
	return out
}
