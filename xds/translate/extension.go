package translate

import (
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// extensions are the filters that people added to the requests of a port that matched a rule of a route, at one side.
func (tr *Translator) extensions(side policy.Side, s *topology.Service, p topology.Port, route mesh.Key, rule string) []ir.Filter {
	return tr.filtersOf(tr.t.Extensions(side, s, p, route, rule))
}

func (tr *Translator) filtersOf(list []policy.Attached[policy.Extension]) []ir.Filter {
	var out []ir.Filter
	for _, e := range list {
		switch {
		case e.Spec.Lua != nil:
			out = append(out, ir.Filter{Lua: &ir.Lua{Script: e.Spec.Lua.Inline}})
		case e.Spec.ExternalAuthorization != nil:
			out = append(out, ir.Filter{ExternalAuthorization: tr.externalAuthorization(e.Resource.Namespace, *e.Spec.ExternalAuthorization)})
		}
	}
	return out
}

// extend adds what people run, after what Comity does but for sessions.
func extend(routes []ir.Route, more []ir.Filter) []ir.Route {
	for i := range routes {
		after := routes[i].Filters.After
		routes[i].Filters.After = slices.Insert(slices.Clip(after), beforeSession(after), more...)
	}
	return routes
}

// extensionSources are the Extensions that made them.
func (tr *Translator) extensionSources(side policy.Side, s *topology.Service, p topology.Port, route mesh.Key, rule string) ir.Sources {
	var out ir.Sources
	for _, e := range tr.t.Extensions(side, s, p, route, rule) {
		out = append(out, e.Resource.Key)
	}
	return out
}

func (tr *Translator) externalAuthorization(namespace string, e policy.ExternalAuthorization) *ir.ExternalAuthorization {
	out := &ir.ExternalAuthorization{
		GRPC: e.Protocol != policy.AuthorizationHTTP, Timeout: millis(e.Wait()), FailOpen: e.FailOpen,
		BodyBytes: e.BodyBytes, PathPrefix: e.PathPrefix, RequestHeaders: e.RequestHeaders, UpstreamHeaders: e.UpstreamHeaders,
	}
	out.Cluster, out.Authority = tr.asked(namespace, e.Service)
	return out
}

// asked is whom proxies ask something for a resource of a namespace, and by which host name.
func (tr *Translator) asked(namespace string, a policy.ServiceAddress) (cluster, authority string) {
	to, there := tr.t.HTTPPort(namespace, a)
	cluster = clusterName(to.ServiceName, to.Port)
	if !there {
		cluster = NowhereCluster // a port of the number may be there that does not understand requests
	}
	return cluster, mesh.ClusterSetHost(to.Name, to.Namespace)
}

// patch notes on what is patched how.
func (tr *Translator) patch(p *ir.Proxy) {
	for _, e := range tr.t.Patches() {
		spec := *e.Spec.Patch
		note := func(name string, patches *ir.Patches, sources *ir.Sources) {
			if spec.Matches(name) {
				*patches = append(slices.Clip(*patches), spec.Merge)
				*sources = append(slices.Clip(*sources), e.Resource.Key)
			}
		}
		switch spec.Resource {
		case policy.PatchCluster:
			for i := range p.Clusters {
				note(p.Clusters[i].Name, &p.Clusters[i].Patches, &p.Clusters[i].Sources)
			}
		case policy.PatchListener:
			for i := range p.Listeners {
				note(p.Listeners[i].Name, &p.Listeners[i].Patches, &p.Listeners[i].Sources)
			}
		case policy.PatchRoutes:
			for i := range p.Routes {
				note(p.Routes[i].Name, &p.Routes[i].Patches, &p.Routes[i].Sources)
			}
		}
	}
}
