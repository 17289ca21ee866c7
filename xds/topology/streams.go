package topology

import (
	"cmp"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// streamRoute is a TLSRoute or TCPRoute.
type streamRoute struct {
	res      mesh.Resource
	parents  []gatewayv1.ParentReference
	hosts    []gatewayv1.Hostname // of a TLSRoute
	backends []gatewayv1.BackendRef
}

// allStreamRoutes are those that are here, those that win first: a zone's own, the older, namespace and name.
func (b *builder) allStreamRoutes() []streamRoute {
	var all []streamRoute
	for _, r := range b.byKind[mesh.KindTLSRoute] {
		if spec, ok := b.specs[r.Key].(*policy.TLSRoute); ok && len(spec.Rules) > 0 {
			all = append(all, streamRoute{r, spec.ParentRefs, spec.Hostnames, spec.Rules[0].BackendRefs})
		}
	}
	for _, r := range b.byKind[mesh.KindTCPRoute] {
		if spec, ok := b.specs[r.Key].(*policy.TCPRoute); ok && len(spec.Rules) > 0 {
			all = append(all, streamRoute{r, spec.ParentRefs, nil, spec.Rules[0].BackendRefs})
		}
	}
	slices.SortStableFunc(all, func(x, y streamRoute) int {
		return cmp.Or(
			compareBools(x.res.Origin == mesh.OriginGlobal, y.res.Origin == mesh.OriginGlobal),
			cmp.Compare(x.res.Created, y.res.Created), x.res.Compare(y.res.Key),
		)
	})
	return all
}

// streamRoutes are those that a listener takes, in the order of all. Of each route it says which backends are not there.
func (b *builder) streamRoutes(gateways []gateway, all []streamRoute) []streamRoute {
	var out []streamRoute
	for _, s := range all {
		for _, ref := range s.backends {
			if _, err := b.t.StreamBackend(s.res.Key, ref.BackendObjectReference); err != nil {
				b.unresolved(s.res.Key, err, "%v: its share of the connections is closed", err)
			}
		}
		if b.attaches(gateways, s.res, s.parents, s.hosts) {
			out = append(out, s)
		}
	}
	return out
}

// streamsOf are the hosts of a listener with the route that has each: one, because a connection has nothing by which to choose
// among several.
func (e *edge) streamsOf(x taken) []EdgeStream {
	own := policy.ListenerHost(x.l)
	var out []EdgeStream
	for _, s := range e.streams {
		if !x.takes(s.res, s.parents) {
			continue
		}
		for _, host := range policy.CommonHosts(own, s.hosts) {
			if e.isolated(x, host) {
				continue
			}
			if i := slices.IndexFunc(out, func(o EdgeStream) bool { return o.Host == host }); i >= 0 {
				e.b.overridden(s.res.Key, out[i].Route)
				continue
			}
			out = append(out, EdgeStream{host, s.res.Key, s.backends})
		}
	}
	slices.SortStableFunc(out, func(x, y EdgeStream) int { return policy.CompareHosts(x.Host, y.Host) })
	return out
}
