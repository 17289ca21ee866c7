package envoy

import (
	"slices"
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/comity-mesh/comity/xds/ir"
)

// fewRoutes with paths are tried one by one: some 0.07 us each, where to look one up costs as much as ten.
const fewRoutes = 16

// routeTree are the routes that may match a request, by the longest key that its path begins with, and those for paths that begin
// with no key. Each list is in the order of the routes, by number, so that of it the same route counts as of all.
type routeTree struct {
	byPath    map[string][]int
	otherwise []int
}

// treeOf is nil where a tree isn't worth while: routes are few, or say little of paths, so that they would be in many lists.
func treeOf(routes []ir.Route) *routeTree {
	t := &routeTree{byPath: map[string][]int{}}
	at := map[string][]int{}
	keyed := 0
	for i, r := range routes {
		if key := pathKey(r.Match); key != "" {
			at[key] = append(at[key], i)
			keyed++
		} else {
			t.otherwise = append(t.otherwise, i)
		}
	}
	if keyed <= fewRoutes {
		return nil
	}
	size := len(t.otherwise)
	for key := range at {
		here := slices.Clone(t.otherwise)
		for end := 1; end <= len(key); end++ {
			for _, i := range at[key[:end]] {
				if end == len(key) || routes[i].Match.Path.Kind != ir.PathExact {
					here = append(here, i)
				}
			}
		}
		slices.Sort(here)
		here = untilAll(routes, key, here)
		t.byPath[key] = here
		if size += len(here); size > maxSpread*len(routes) {
			return nil
		}
	}
	return t
}

// pathKey is what every path begins with that a route can match; "" is known of none. A path is compared without what follows "?"
// or "#", so a key has none of them.
func pathKey(m ir.Match) string {
	if m.Connect || m.Path.Kind == ir.PathRegex || m.Path.Value == "/" && m.Path.Kind != ir.PathExact || strings.ContainsAny(m.Path.Value, "?#") {
		return ""
	}
	return m.Path.Value
}

// untilAll ends a list after a route that takes every request whose path begins with the key.
func untilAll(routes []ir.Route, key string, list []int) []int {
	for n, i := range list {
		m := routes[i].Match
		plain := len(m.Methods) == 0 && len(m.Headers) == 0 && len(m.Query) == 0 && m.Host == "" && m.NotHost == "" && m.PerMillion == 0 && !m.Connect
		if !plain {
			continue
		}
		if p := m.Path; p.Kind == ir.PathPrefix && strings.HasPrefix(key, p.Value) || p.Kind == ir.PathElements && strings.HasPrefix(key, p.Value+"/") {
			return list[:n+1]
		}
	}
	return list
}

// byRoute is the tree as Envoy's matcher.
func (b *messages) byRoute(t *routeTree, routes []*routev3.Route) *xdsmatcherv3.Matcher {
	list := func(numbers []int) *xdsmatcherv3.Matcher_OnMatch {
		m := &routev3.RouteList{}
		for _, i := range numbers {
			m.Routes = append(m.Routes, routes[i])
		}
		return &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
			Action: &xdscorev3.TypedExtensionConfig{Name: "routes", TypedConfig: b.any(m)},
		}}
	}
	prefixes := make(map[string]*xdsmatcherv3.Matcher_OnMatch, len(t.byPath))
	for key, numbers := range t.byPath {
		prefixes[key] = list(numbers)
	}
	out := &xdsmatcherv3.Matcher{
		MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
			Input:    b.header(":path"),
			TreeType: &xdsmatcherv3.Matcher_MatcherTree_PrefixMatchMap{PrefixMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{Map: prefixes}},
		}},
	}
	if len(t.otherwise) > 0 {
		out.OnNoMatch = list(t.otherwise)
	}
	return out
}
