package policy

import (
	"cmp"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// ListenerRef names a listener of a Gateway.
type ListenerRef struct {
	Namespace, Gateway, Listener string
	Port                         uint16
}

// Means reports whether a parent of a route in a namespace is the listener, or all of its Gateway.
func (l ListenerRef) Means(p gatewayv1.ParentReference, namespace string) bool {
	if !isGateway(p) {
		return false
	}
	if p.Namespace != nil {
		namespace = string(*p.Namespace)
	}
	return namespace == l.Namespace && string(p.Name) == l.Gateway &&
		(p.SectionName == nil || string(*p.SectionName) == l.Listener) && (p.Port == nil || uint16(*p.Port) == l.Port)
}

// isGateway reports whether a parent is a Gateway, which it is unless it says otherwise.
func isGateway(p gatewayv1.ParentReference) bool {
	return (p.Kind == nil || *p.Kind == "Gateway") && (p.Group == nil || *p.Group == gatewayv1.GroupName)
}

// CommonHosts are the host names for which a listener has the requests of a route (Gateway API, HTTPRouteSpec.Hostnames):
// "" means all. None: nothing of the route is for the listener.
func CommonHosts(listener string, route []gatewayv1.Hostname) []string {
	if len(route) == 0 {
		return []string{listener}
	}
	var out []string
	for _, h := range route {
		host := strings.ToLower(string(h))
		switch {
		case HostCovers(listener, host):
			out = append(out, host)
		case HostCovers(host, listener):
			out = append(out, listener)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// HostCovers reports whether every host of name is one of by's; "*.example.com" has those with any labels before it, and ""
// all.
func HostCovers(by, name string) bool {
	if by == "" || by == name {
		return true
	}
	suffix, wild := strings.CutPrefix(by, "*")
	return wild && name != "" && strings.HasSuffix(strings.TrimPrefix(name, "*"), suffix)
}

// CompareHosts orders host names from the most specific: names, then those with a longer suffix, all hosts last.
func CompareHosts(a, b string) int {
	return cmp.Or(first(!isWild(a), !isWild(b)), -cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

func isWild(h string) bool { return h == "" || strings.HasPrefix(h, "*.") }

// HostMatches are the matches of routes for the requests to one host, in the order in which to try them: those of a more
// specific host name of the route first (Gateway API, HTTPRouteRule.Matches), then as RoutesFor has them. All routes
// have the host.
func HostMatches(routes []Route, host string) (matches []RouteMatch, overridden map[mesh.Key][]mesh.Key) {
	for _, rt := range routes {
		for _, own := range CommonHosts(host, rt.Spec.Hostnames) {
			if own == host {
				matches = append(matches, matchesOf(rt, false)...)
			}
		}
	}
	slices.SortStableFunc(matches, func(a, b RouteMatch) int {
		return cmp.Or(CompareHosts(namedHost(routes, a, host), namedHost(routes, b, host)), compareMatches(a, b))
	})
	return dropUnreachable(matches)
}

// namedHost is the most specific of a route's own host names that has the host.
func namedHost(routes []Route, m RouteMatch, host string) string {
	i := slices.IndexFunc(routes, func(r Route) bool { return r.Resource.Key == m.Route })
	best := ""
	for _, h := range routes[i].Spec.Hostnames {
		if own := strings.ToLower(string(h)); HostCovers(own, host) && CompareHosts(own, best) < 0 {
			best = own
		}
	}
	return best
}
