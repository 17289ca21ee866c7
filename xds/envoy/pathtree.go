package envoy

import (
	"slices"

	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"

	"github.com/comity-mesh/comity/xds/ir"
)

const (
	// fewPaths are compared one by one: some 0.2 us each.
	fewPaths = 8
	// maxSpread bounds by how much a tree may be larger than the list: where paths lie within each other, what is said of the
	// shorter is repeated for the longer.
	maxSpread = 4
)

// pathDecisions are decisions by the beginnings of paths for which they can be.
type pathDecisions map[string][]ir.Decision

// pathsFirst finds how many of the first decisions can be looked up by path: they decide alike, so that their order plays no part,
// and all look at paths. It says 0 where that is not worth while.
func pathsFirst(decisions []ir.Decision) (tree pathDecisions, n int) {
	type one struct {
		path     ir.PathMatch
		decision ir.Decision
	}
	var all []one
	for _, d := range decisions {
		if d.Allow != decisions[0].Allow || len(d.Requests) == 0 || !lookAtPaths(d.Requests) {
			break
		}
		n++
		for _, r := range d.Requests {
			for _, p := range r.Paths {
				only := r
				only.Paths = []ir.PathMatch{p}
				all = append(all, one{p, ir.Decision{Policy: d.Policy, Allow: d.Allow, Requests: []ir.RequestMatch{only}}})
			}
		}
	}
	if len(all) <= fewPaths {
		return nil, 0
	}
	at := map[string][]int{}
	for i, o := range all {
		at[o.path.Value] = append(at[o.path.Value], i)
	}
	tree, size := pathDecisions{}, 0
	for key := range at {
		var here []int
		for end := 1; end <= len(key); end++ {
			for _, i := range at[key[:end]] {
				if end == len(key) || all[i].path.Kind == ir.PathPrefix {
					here = append(here, i)
				}
			}
		}
		slices.Sort(here)
		for _, i := range here {
			tree[key] = append(tree[key], all[i].decision)
		}
		if size += len(here); size > maxSpread*len(all) {
			return nil, 0
		}
	}
	return tree, n
}

func lookAtPaths(requests []ir.RequestMatch) bool {
	for _, r := range requests {
		if len(r.Paths) == 0 || r.AmbiguousPath {
			return false
		}
	}
	return true
}

// byPath takes the longest beginning of the path that is in the tree, and otherwise what comes next.
func (b *messages) byPath(tree pathDecisions, otherwise *xdsmatcherv3.Matcher_OnMatch) *xdsmatcherv3.Matcher {
	prefixes := map[string]*xdsmatcherv3.Matcher_OnMatch{}
	for path, decisions := range tree {
		var fields []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher
		for _, d := range decisions {
			fields = append(fields, field(b.request(d.Requests[0]), b.act(d.Policy, d.Allow)))
		}
		prefixes[path] = onMatcher(&xdsmatcherv3.Matcher{MatcherType: list(fields...)})
	}
	return &xdsmatcherv3.Matcher{
		MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
			Input:    b.header(":path"),
			TreeType: &xdsmatcherv3.Matcher_MatcherTree_PrefixMatchMap{PrefixMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{Map: prefixes}},
		}},
		OnNoMatch: otherwise,
	}
}
