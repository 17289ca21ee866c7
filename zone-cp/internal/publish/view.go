package publish

import (
	"maps"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/snapshot"
)

// view is what was last published to the proxies of one view: what it has for itself, and what it has in common with
// others. No name is in two of them.
type view struct {
	own    map[resourceName]envoy.Resource
	common []*shelf // of the same things in the same places, in all views of a role
	failed bool     // the xDS server did not take it
	// revision of the zone's store as of which it was published; zero if it never was.
	revision mesh.Revision
}

type resourceName struct{ typ, name string }

func nameOf(r envoy.Resource) resourceName { return resourceName{r.Type, r.Name} }

// shelf is what many views have in common. It is compared and checked once for all of them, and is the same one for as
// long as nothing in it changes: a zone has as many views as it has kinds of workloads, each with all services.
type shelf struct {
	list []envoy.Resource
	at   map[resourceName]int
	// invalid are those that break the protocol's own rules.
	invalid []envoy.Invalid
	// sources are those of all of them, each once, and part is what they are to the xDS server; both are made when somebody
	// asks.
	sources []mesh.Key
	part    *snapshot.Part
}

func newView(own []envoy.Resource, common ...*shelf) *view {
	v := &view{own: make(map[resourceName]envoy.Resource, len(own)), common: common}
	for _, r := range own {
		v.own[nameOf(r)] = r
	}
	return v
}

func newShelf(list []envoy.Resource) *shelf {
	s := &shelf{list: list, at: make(map[resourceName]int, len(list))}
	for i, r := range list {
		s.at[nameOf(r)] = i
	}
	return s
}

// get finds a resource; one without version is not there. v may be nil.
func (v *view) get(name resourceName) envoy.Resource {
	if v == nil {
		return envoy.Resource{}
	}
	if r, ok := v.own[name]; ok {
		return r
	}
	for _, s := range v.common {
		if i, ok := s.at[name]; ok {
			return s.list[i]
		}
	}
	return envoy.Resource{}
}

// each calls f with everything in the view.
func (v *view) each(f func(envoy.Resource)) {
	for _, r := range v.own {
		f(r)
	}
	for _, s := range v.common {
		for _, r := range s.list {
			f(r)
		}
	}
}

// sources hands over the mesh resources that shape the view, some several times.
func (v *view) sources(yield func(mesh.Key) bool) {
	for _, r := range v.own {
		for _, k := range r.Sources {
			if !yield(k) {
				return
			}
		}
	}
	for _, s := range v.common {
		for _, k := range s.keys() {
			if !yield(k) {
				return
			}
		}
	}
}

func (s *shelf) keys() []mesh.Key {
	if s.sources == nil && len(s.list) > 0 {
		seen := map[mesh.Key]struct{}{}
		for _, r := range s.list {
			for _, k := range r.Sources {
				seen[k] = struct{}{}
			}
		}
		s.sources = slices.Collect(maps.Keys(seen))
	}
	return s.sources
}

// same reports whether two views need not be told apart.
func (v *view) same(o *view) bool {
	return slices.Equal(v.common, o.common) && maps.EqualFunc(v.own, o.own, sameVersion)
}

func sameVersion(x, y envoy.Resource) bool { return x.Version == y.Version }

// replace puts other versions in the place of resources that are there. Views of one shelf move to one other, which moved
// remembers: the replacements of a shelf are the same for all of them.
func (v *view) replace(list []envoy.Resource, moved map[*shelf]*shelf) {
	common := slices.Clone(v.common)
	for _, r := range list {
		i := slices.IndexFunc(v.common, func(s *shelf) bool { _, ok := s.at[nameOf(r)]; return ok })
		if i < 0 {
			v.own[nameOf(r)] = r
			continue
		}
		from := v.common[i]
		if moved[from] == nil {
			moved[from] = newShelf(slices.Clone(from.list))
		}
		common[i] = moved[from]
		common[i].list[common[i].at[nameOf(r)]], common[i].sources, common[i].part = r, nil, nil
	}
	v.common = common
}

// publish hands a view to the xDS server, as it is at a revision of the zone's store.
func (p *Publisher) publish(key snapshot.ViewKey, v *view, revision mesh.Revision) error {
	parts := make([]*snapshot.Part, 0, len(v.common)+1)
	for _, s := range v.common {
		if s.part == nil {
			var err error
			if s.part, err = p.server.Part(s.list); err != nil {
				v.failed = true
				return err
			}
		}
		parts = append(parts, s.part)
	}
	err := p.server.Publish(key, revision, slices.Collect(maps.Values(v.own)), parts...)
	if v.failed = err != nil; !v.failed {
		v.revision = revision
	}
	return err
}

// shelf is the shelf of what proxies share: one of the last build, if nothing in it has changed.
func (p *Publisher) shelf(shared *ir.Proxy) (*shelf, error) {
	if s := p.shelves[shared]; s != nil {
		return s, nil
	}
	list, err := p.cache.BuildShared(shared)
	if err != nil {
		return nil, err
	}
	built := list
	if p.spoil != nil {
		list = p.spoil(list)
	}
	s := p.shelved(list)
	if s == nil {
		s = newShelf(list)
		s.invalid = p.cache.Validate(built)
	}
	p.shelves[shared] = s
	return s, nil
}

// shelved finds a shelf of the last build with the same content.
func (p *Publisher) shelved(list []envoy.Resource) *shelf {
	if p.kept == nil {
		p.kept = map[string][]*shelf{}
		for _, v := range p.views {
			for _, s := range v.common {
				at := lastOf(s.list)
				if !slices.Contains(p.kept[at], s) {
					p.kept[at] = append(p.kept[at], s)
				}
			}
		}
	}
	for _, s := range p.kept[lastOf(list)] {
		if slices.EqualFunc(s.list, list, func(x, y envoy.Resource) bool {
			return x.Version == y.Version && x.Name == y.Name && x.Type == y.Type
		}) {
			s.list, s.sources = list, nil // the sources may be others
			return s
		}
	}
	return nil
}

// lastOf is the version of the last resource, by which most lists differ that do at all: a route table.
func lastOf(list []envoy.Resource) string {
	if len(list) == 0 {
		return ""
	}
	return list[len(list)-1].Version
}

// blame says which mesh resources shaped the Envoy resources that changed for a proxy, in sets that other proxies have too.
type blame []keySet

func (b blame) has(k mesh.Key) bool {
	return slices.ContainsFunc(b, func(s keySet) bool { _, ok := s[k]; return ok })
}

// with is the blame and one more set.
func (b blame) with(s keySet) blame {
	if len(s) == 0 {
		return b
	}
	return append(b, s)
}

type keySet map[mesh.Key]struct{}

func (b keySet) add(r envoy.Resource) {
	for _, k := range r.Sources {
		b[k] = struct{}{}
	}
}

// differ compares what is published before and after a build, and shelves once each.
type differ struct {
	shelves map[[2]*shelf]keySet
	nothing *view
	empty   *shelf
}

func newDiffer() differ { return differ{map[[2]*shelf]keySet{}, newView(nil), newShelf(nil)} }

// views collects the sources of every Envoy resource in which two views differ. before may be nil.
func (d differ) views(before, after *view) blame {
	if before == nil {
		before = d.nothing
	}
	own := keySet{}
	for name, r := range after.own {
		if old := before.get(name); old.Version != r.Version {
			own.add(r)
			own.add(old)
		}
	}
	for name, old := range before.own {
		if after.get(name).Version == "" {
			own.add(old)
		}
	}
	out := blame{}.with(own)
	for i := range max(len(before.common), len(after.common)) {
		out = out.with(d.common(d.place(before, i), d.place(after, i)))
	}
	return out
}

// place is the shelf at a place of a view, an empty one if there is none.
func (d differ) place(v *view, i int) *shelf {
	if i < len(v.common) {
		return v.common[i]
	}
	return d.empty
}

func (d differ) common(before, after *shelf) keySet {
	if before == after {
		return nil
	}
	way := [2]*shelf{before, after}
	if b, ok := d.shelves[way]; ok {
		return b
	}
	out := keySet{}
	for _, r := range after.list {
		i, ok := before.at[nameOf(r)]
		if ok && before.list[i].Version == r.Version {
			continue
		}
		out.add(r)
		if ok {
			out.add(before.list[i])
		}
	}
	for _, old := range before.list {
		if _, ok := after.at[nameOf(old)]; !ok {
			out.add(old)
		}
	}
	d.shelves[way] = out
	return out
}
