package envoy

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/xds/ir"
)

// TestRouteTree makes tables and requests at random: of the list that a request finds in the tree, the same route must count as of
// all routes one after the other.
func TestRouteTree(t *testing.T) {
	source := rand.New(rand.NewPCG(5, 8))
	trees := 0
	for range 3000 {
		routes := randomRoutes(source)
		tree := treeOf(routes)
		if tree == nil {
			continue
		}
		trees++
		all := make([]int, len(routes))
		for i := range all {
			all[i] = i
		}
		for range 40 {
			r := randomRequest(source, routes)
			if linear, found := firstMet(routes, all, r), firstMet(routes, tree.find(r.path), r); linear != found {
				t.Fatalf("%+v: route %d of all, %d of the tree\n%+v\n%+v", r, linear, found, routes, tree)
			}
		}
	}
	if trees < 1000 {
		t.Errorf("only %d trees", trees)
	}
}

func TestRouteTreeOnlyWhereWorthWhile(t *testing.T) {
	table := func(n int, kind ir.PathKind) []ir.Route {
		var out []ir.Route
		for i := range n {
			out = append(out, ir.Route{Match: ir.Match{Path: ir.PathMatch{Kind: kind, Value: fmt.Sprintf("/p%d", i)}}})
		}
		return out
	}
	if treeOf(table(fewRoutes, ir.PathElements)) != nil {
		t.Error("few routes are in a tree")
	}
	if treeOf(table(100, ir.PathRegex)) != nil {
		t.Error("expressions are in a tree")
	}
	// A hundred for all paths would be in the list of each of a hundred paths.
	if treeOf(append(table(100, ir.PathExact), slices.Repeat([]ir.Route{{Match: ir.Match{Path: ir.PathMatch{Kind: ir.PathRegex, Value: ".*"}}}}, 100)...)) != nil {
		t.Error("a tree is much larger than its list")
	}
	tree := treeOf(append(table(100, ir.PathElements), ir.Route{Match: ir.Match{Path: ir.PathMatch{Kind: ir.PathPrefix, Value: "/"}}}))
	if tree == nil || !slices.Equal(tree.byPath["/p7"], []int{7, 100}) || !slices.Equal(tree.otherwise, []int{100}) {
		t.Errorf("%+v", tree)
	}
}

// find is what Envoy does: the longest key that the path begins with.
func (t *routeTree) find(path string) []int {
	for end := len(path); end > 0; end-- {
		if list, ok := t.byPath[path[:end]]; ok {
			return list
		}
	}
	return t.otherwise
}

type request struct{ method, path string }

// firstMet is the first of the routes by number that takes the request, -1 for none.
func firstMet(routes []ir.Route, numbers []int, r request) int {
	path := r.path
	if end := strings.IndexAny(path, "?#"); end >= 0 {
		path = path[:end]
	}
	for _, i := range numbers {
		m := routes[i].Match
		if len(m.Methods) > 0 && !slices.Contains(m.Methods, r.method) {
			continue
		}
		met := false
		switch v := m.Path.Value; m.Path.Kind {
		case ir.PathExact:
			met = path == v
		case ir.PathElements:
			met = path == v || strings.HasPrefix(path, v+"/")
		case ir.PathPrefix:
			met = strings.HasPrefix(path, v)
		case ir.PathRegex:
			met = regexp.MustCompile("^(?:" + v + ")$").MatchString(path)
		}
		if met {
			return i
		}
	}
	return -1
}

func randomPath(source *rand.Rand) string {
	out := ""
	for range 1 + source.IntN(3) {
		out += "/" + []string{"a", "b", "aa", "ab", "a.b", "c"}[source.IntN(6)]
	}
	return out
}

func randomRoutes(source *rand.Rand) []ir.Route {
	routes := make([]ir.Route, fewRoutes+source.IntN(40))
	for i := range routes {
		m := &routes[i].Match
		m.Path = ir.PathMatch{Kind: []ir.PathKind{ir.PathExact, ir.PathElements, ir.PathPrefix}[source.IntN(3)], Value: randomPath(source)}
		switch source.IntN(40) {
		case 0:
			m.Path = ir.PathMatch{Kind: ir.PathPrefix, Value: "/"}
		case 1:
			m.Path = ir.PathMatch{Kind: ir.PathRegex, Value: "/a.*"}
		case 2:
			m.Path.Value += "?x"
		}
		if source.IntN(3) > 0 {
			m.Methods = []string{[]string{"GET", "PUT"}[source.IntN(2)]}
		}
	}
	return routes
}

// randomRequest is about a path of one of the routes, more often than not.
func randomRequest(source *rand.Rand, routes []ir.Route) request {
	r := request{[]string{"GET", "PUT", "POST"}[source.IntN(3)], randomPath(source)}
	if source.IntN(4) > 0 {
		r.path = routes[source.IntN(len(routes))].Match.Path.Value
	}
	r.path += []string{"", "", "/", "/d", "x", "?x=/a", "#a"}[source.IntN(7)]
	return r
}
