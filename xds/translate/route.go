package translate

import (
	"net/http"
	"slices"
	"strconv"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

const perMillion = 1_000_000

func anyPath() ir.Match { return ir.Match{Path: ir.PathMatch{Kind: ir.PathPrefix, Value: "/"}} }

// outboundRoutes has a virtual host for every service and every external one that the sidecars of a scope can ask by HTTP,
// and one that says that there is no such host.
func (tr *Translator) outboundRoutes(scope policy.Clients) ir.RouteTable {
	hosts, sources := tr.hosts()
	if tr.t.Consumes(scope) {
		hosts, sources = tr.meshHosts(scope, tr.t.Services)
	}
	return tr.outboundTable(scope, hosts, sources, ir.Reply{
		Status: http.StatusNotFound, Code: "NO-SUCH-SERVICE", Title: "No service has this host name",
		Detail: "The sidecar knows no HTTP service port for the host of the request.",
		Try:    "Use <service>.<namespace>.svc.clusterset.local or <service>.<namespace>.<zone>.mesh, with the port if it is not the first HTTP port of the service; from another zone the service must be exported.",
	})
}

// outboundTable adds what is outside to hosts of the mesh, and unknown, which answers for other names of the mesh.
func (tr *Translator) outboundTable(scope policy.Clients, hosts []ir.VirtualHost, sources ir.Sources, unknown ir.Reply) ir.RouteTable {
	external, externalSources := tr.externalHosts(scope.Namespace)
	return ir.RouteTable{
		Name:    OutboundRouteTable,
		Hosts:   append(join(hosts, external), tr.undeclaredHost(scope.Namespace, unknown)),
		Sources: unique(slices.Concat(sources, externalSources, tr.t.ConfigSources)),
	}
}

// meshHosts are those of services of the mesh, as clients know them.
func (tr *Translator) meshHosts(clients policy.Clients, services []*topology.Service) (hosts []ir.VirtualHost, sources ir.Sources) {
	for _, s := range services {
		byDefault := true
		for _, p := range s.Ports {
			if !p.Protocol.IsHTTP() {
				continue
			}
			hosts = append(hosts, tr.serviceHosts(clients, s, p, byDefault)...)
			hosts = append(hosts, tr.instanceHosts(s, p, byDefault)...)
			byDefault = false // the first HTTP port is the one meant without a port
			sources = append(sources, tr.hostSources(clients, s, p)...)
		}
	}
	return hosts, sources
}

func (tr *Translator) serviceHosts(clients policy.Clients, s *topology.Service, p topology.Port, byDefault bool) []ir.VirtualHost {
	n := s.ServiceName
	anywhere := reach{service: s, port: p}
	hosts := []ir.VirtualHost{{
		Name:    anywhere.name(),
		Domains: domains(p.Number, byDefault, n.String(), mesh.ClusterSetHost(n.Name, n.Namespace)),
		Routes:  tr.serviceRoutes(clients, s, p),
		Retry:   safeRetry(tr.settings.Retry),
	}}
	zones := tr.zonesOf(s, p)
	for _, z := range zones {
		// A host that is pinned to a zone means exactly that, so routes don't apply to it; policies for the service do.
		to := reach{service: s, port: p, zone: z}
		if len(zones) == 1 {
			to = anywhere
		}
		hosts = append(hosts, ir.VirtualHost{
			Name:    pinnedName(n, z, p.Number),
			Domains: domains(p.Number, byDefault, mesh.ZoneHost(n.Name, n.Namespace, z)),
			Routes:  tr.straight(s, p, to),
			Retry:   safeRetry(tr.settings.Retry),
		})
	}
	for i := range hosts {
		hosts[i] = tr.stayHere(hosts[i])
	}
	return hosts
}

func domains(port uint16, byDefault bool, hosts ...string) []string {
	var out []string
	for _, h := range hosts {
		if byDefault {
			out = append(out, h)
		}
		out = append(out, h+":"+strconv.Itoa(int(port)))
	}
	return out
}

// straight takes every request one way, as the policies for the service say.
func (tr *Translator) straight(s *topology.Service, p topology.Port, to reach) []ir.Route {
	whole := ir.Route{Match: anyPath(), Backends: []ir.Backend{{Cluster: to.name(), Weight: 1}}}
	routes := tr.treatOutbound(p, []ir.Route{whole}, tr.t.Traffic(s, p, mesh.Key{}, "").Spec)
	return extend(routes, tr.extensions(policy.SideClient, s, p, mesh.Key{}, ""))
}

// serviceRoutes are the routes of clients to a service port, in order; without any, all goes to the service.
// What routes exist for but do not match is not found (GEP-1294).
func (tr *Translator) serviceRoutes(clients policy.Clients, s *topology.Service, p topology.Port) []ir.Route {
	matches := tr.t.RoutesTo(clients, s, p)
	if len(matches) == 0 {
		return tr.straight(s, p, reach{service: s, port: p})
	}
	var out []ir.Route
	told := tr.t.ServerTelemetry(s, p).Spec.Metrics
	for _, m := range matches {
		routes := tr.ruleRoutes(p, m, tr.t.Traffic(s, p, m.Route, m.RuleName).Spec, told)
		out = append(out, extend(routes, tr.extensions(policy.SideClient, s, p, m.Route, m.RuleName))...)
	}
	kind := string(matches[0].Route.Kind) // all are of one
	return append(out, ir.Route{Match: anyPath(), Reply: &ir.Reply{
		Status: http.StatusNotFound, Code: "NO-ROUTE", Title: "No " + kind + " of the service matches",
		Detail: "The service has " + kind + "s, and none of their rules matches the request.",
		Try:    "Add a rule without matches to one of them, or ask for what they match.",
	}})
}

// backendName is the cluster of a backend. The way to the only zone that has a service is the way to the service.
func (tr *Translator) backendName(to topology.Backend) string {
	switch {
	case to.External:
		return externalName(to.ServiceName, to.Port)
	case to.Zone != "":
		s, _ := tr.t.Service(to.ServiceName)
		p, _ := s.Port(to.Port)
		if len(tr.zonesOf(s, p)) > 1 {
			return pinnedName(to.ServiceName, to.Zone, to.Port)
		}
	}
	return clusterName(to.ServiceName, to.Port)
}

func matchOf(m gatewayv1.HTTPRouteMatch) ir.Match {
	out := ir.Match{Path: ir.PathMatch{Kind: ir.PathElements, Value: *m.Path.Value}}
	switch {
	case *m.Path.Type == gatewayv1.PathMatchExact:
		out.Path.Kind = ir.PathExact
	case *m.Path.Type == gatewayv1.PathMatchRegularExpression:
		out.Path.Kind = ir.PathRegex
	case out.Path.Value == "/":
		out.Path.Kind = ir.PathPrefix
	}
	if m.Method != nil {
		out.Methods = []string{string(*m.Method)}
	}
	out.Headers, out.Query = matchHeaders(m.Headers), matchQuery(m.QueryParams)
	return out
}
