package snapshot

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
)

// Store holds the views of a zone. It is safe for concurrent use; views don't wait for each other.
type Store struct {
	now   func() time.Time
	names interner
	num   atomic.Uint64

	mu    sync.RWMutex
	views map[ViewKey]*view
}

// NewStore makes an empty store; now stamps generations.
func NewStore(now func() time.Time) *Store {
	return &Store{now: now, views: make(map[ViewKey]*view)}
}

// view is one view: what was published, less what is in quarantine.
type view struct {
	key     ViewKey
	current atomic.Pointer[Generation]

	mu        sync.Mutex
	published [typeCount]set
	bad       map[*Entry]struct{} // never changed in place: generations share it
	fill      fill
	good      fallbacks // what to fall back to where the newest is not yet proven
}

// Lifted names a quarantine that ended because what was refused is no longer wanted.
type Lifted struct {
	View    ViewKey
	Type    Type
	Name    string
	Version string
}

// Current returns the newest generation of a view, nil before its first Publish.
func (s *Store) Current(key ViewKey) *Generation {
	s.mu.RLock()
	v := s.views[key]
	s.mu.RUnlock()
	if v == nil {
		return nil
	}
	return v.current.Load()
}

func (s *Store) view(key ViewKey) *view {
	s.mu.RLock()
	v := s.views[key]
	s.mu.RUnlock()
	if v != nil {
		return v
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v = s.views[key]; v == nil {
		v = &view{key: key}
		s.views[key] = v
	}
	return v
}

// Drop forgets a view. Streams keep what they have of it.
func (s *Store) Drop(key ViewKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.views, key)
}

// Publish replaces the whole content of a view, which is what it has for itself and the parts that others have too, and
// reports which quarantines that lifted. Content that is already there costs a comparison; the view's revision moves in any case.
// An error means that nothing was changed: an unknown type, an empty name or version, or a name given twice.
func (s *Store) Publish(key ViewKey, revision mesh.Revision, own []envoy.Resource, parts ...*Part) ([]Lifted, error) {
	v := s.view(key)
	v.mu.Lock()
	defer v.mu.Unlock()
	mine := new(Part)
	for i := range own {
		e, err := s.entry(v, &own[i])
		if err != nil {
			return nil, fmt.Errorf("view %q: %w", key, err)
		}
		mine.entries[e.Type] = append(mine.entries[e.Type], e)
	}
	if err := mine.sort(); err != nil {
		return nil, fmt.Errorf("view %q: %w", key, err)
	}
	parts = append(parts, mine)
	next := v.published
	num := s.num.Add(1)
	for t := range next {
		entries, err := together(Type(t), parts)
		if err != nil {
			return nil, fmt.Errorf("view %q: %w", key, err)
		}
		next[t] = stamped(v.published[t], entries, num)
	}
	return s.commit(v, num, revision, next), nil
}

// Advance says that a view is at a revision with the content that it has: Publish, for who knows that nothing differs. It
// does nothing for a view that was never published.
func (s *Store) Advance(key ViewKey, revision mesh.Revision) {
	v := s.view(key)
	v.mu.Lock()
	defer v.mu.Unlock()
	if old := v.current.Load(); old != nil {
		v.current.Store(&Generation{View: key, Revision: revision, Made: s.now(), num: s.num.Add(1), sets: old.sets, bad: old.bad})
	}
}

// entry is what a resource is in the store; v, which may be nil, is where it may be found.
func (s *Store) entry(v *view, r *envoy.Resource) (*Entry, error) {
	t, ok := ParseType(r.Type)
	switch {
	case !ok:
		return nil, fmt.Errorf("resource %q has the type %q, which is not served", r.Name, r.Type)
	case r.Name == "" || r.Version == "":
		return nil, fmt.Errorf("%s %q has no name or no version", t, r.Name)
	}
	if v != nil {
		if e := v.published[t].find(r.Name); e != nil && e.Version == r.Version && !e.filler {
			return e, nil
		}
	}
	return s.names.resource(t, *r)
}

// stamped returns old where it has the same entries, so that equal sets keep their stamp.
func stamped(old set, entries []*Entry, num uint64) set {
	switch {
	case slices.Equal(old.entries, entries):
		return old
	case len(entries) == 0:
		return set{}
	}
	return set{stamp: num, entries: entries}
}

// commit makes the next generation of a view out of what is published. The caller holds v.mu.
func (s *Store) commit(v *view, num uint64, revision mesh.Revision, next [typeCount]set) []Lifted {
	var lifted []Lifted
	for e := range v.bad {
		if !next[e.Type].has(e) {
			lifted = append(lifted, Lifted{View: v.key, Type: e.Type, Name: e.Name, Version: e.Version})
		}
	}
	if len(lifted) > 0 {
		bad := make(map[*Entry]struct{}, len(v.bad))
		for e := range v.bad {
			if next[e.Type].has(e) {
				bad[e] = struct{}{}
			}
		}
		v.bad = bad
	}
	v.published = next
	s.generate(v, num, revision)
	return lifted
}

// generate publishes what is wanted less what is bad. The caller holds v.mu.
func (s *Store) generate(v *view, num uint64, revision mesh.Revision) {
	old := v.current.Load()
	g := &Generation{View: v.key, Revision: revision, Made: s.now(), num: num, sets: v.published, bad: v.bad}
	var before [typeCount]set
	if old != nil {
		before = old.sets
	}
	for e := range v.bad {
		entries := slices.Clone(g.sets[e.Type].entries)
		if at, ok := slices.BinarySearchFunc(entries, e.Name, byName); ok && entries[at] == e {
			if good := v.good.get(e.Type, e.Name); good != nil {
				entries[at] = good
			} else {
				entries = slices.Delete(entries, at, at+1)
			}
		}
		g.sets[e.Type] = set{stamp: num, entries: entries}
	}
	for t := range g.sets {
		if Type(t) == Endpoint {
			g.sets[t] = s.filled(v, g, num) // after its clusters
		}
		// A stamp of its own, not that of what was published: the two may differ.
		g.sets[t] = stamped(before[t], g.sets[t].entries, num)
	}
	v.remember(before, g)
	v.current.Store(g)
}

// fill is what was filled in for clusters and endpoints, both by stamp.
type fill struct {
	clusters, endpoints uint64
	with                []*Entry
}

// filled adds an assignment without endpoints for every cluster that lacks one, because a cluster that
// waits for its endpoints holds everything up. The caller holds v.mu.
func (s *Store) filled(v *view, g *Generation, num uint64) set {
	eds := g.sets[Endpoint]
	if v.fill.clusters != g.sets[Cluster].stamp || v.fill.endpoints != eds.stamp {
		v.fill = fill{clusters: g.sets[Cluster].stamp, endpoints: eds.stamp}
		for _, c := range g.sets[Cluster].entries {
			if c.endpoints != "" && eds.find(c.endpoints) == nil {
				v.fill.with = append(v.fill.with, s.names.filler(c.endpoints))
			}
		}
		slices.SortFunc(v.fill.with, func(a, b *Entry) int { return strings.Compare(a.Name, b.Name) })
		v.fill.with = slices.Compact(v.fill.with)
	}
	if v.fill.with == nil {
		return eds
	}
	entries := append(slices.Clone(eds.entries), v.fill.with...)
	slices.SortFunc(entries, func(a, b *Entry) int { return strings.Compare(a.Name, b.Name) })
	return set{stamp: num, entries: entries}
}

// remember keeps what was in force before the change, until its successor is proven.
func (v *view) remember(before [typeCount]set, g *Generation) {
	v.good = slices.DeleteFunc(v.good, func(good *Entry) bool {
		now := g.sets[good.Type].find(good.Name)
		wanted := v.published[good.Type].find(good.Name)
		return wanted == nil || (now != good && now != nil && now.proven.Load())
	})
	for t := range before {
		now := g.sets[t]
		if before[t].stamp == now.stamp {
			continue
		}
		for i, e := range before[t].entries {
			if i < len(now.entries) && now.entries[i] == e { // most are where they were
				continue
			}
			if e.filler || now.has(e) || v.published[t].find(e.Name) == nil || g.quarantined(e) {
				continue
			}
			if e.proven.Load() || v.good.get(e.Type, e.Name) == nil {
				v.good.put(e)
			}
		}
	}
	if len(v.good) == 0 {
		v.good = nil // it keeps the room that it once needed
	}
}

// Quarantine takes refused entries out of a view: the last good one of each name stays in force. It
// returns those that were taken out now; what is already out or no longer wanted is passed over.
func (s *Store) Quarantine(key ViewKey, entries []*Entry) []*Entry {
	s.mu.RLock()
	v := s.views[key]
	s.mu.RUnlock()
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	current := v.current.Load()
	if current == nil {
		return nil
	}
	bad := make(map[*Entry]struct{}, len(v.bad)+len(entries))
	for e := range v.bad {
		bad[e] = struct{}{}
	}
	var taken []*Entry
	for _, e := range entries {
		// The entry in force may be the last good one of a name whose newest is already in quarantine;
		// it was not so good then, and is dropped.
		at, wasGood := v.good.find(e.Type, e.Name)
		if wasGood = wasGood && v.good[at] == e; wasGood {
			v.good = slices.Delete(v.good, at, at+1)
		}
		_, known := bad[e]
		wanted := !known && v.published[e.Type].has(e)
		if wanted || wasGood {
			bad[e] = struct{}{}
			taken = append(taken, e)
		}
	}
	if len(taken) == 0 {
		return nil
	}
	v.bad = bad
	s.generate(v, s.num.Add(1), current.Revision)
	return taken
}

// Renew gives a view a new generation with the same content. A stream that changes its view needs one
// that is newer than what it has had.
func (s *Store) Renew(key ViewKey) *Generation {
	v := s.view(key)
	v.mu.Lock()
	defer v.mu.Unlock()
	current := v.current.Load()
	if current == nil {
		return nil
	}
	s.generate(v, s.num.Add(1), current.Revision)
	return v.current.Load()
}

// Before reports whether g is older than other, of whatever view.
func (g *Generation) Before(other *Generation) bool { return g.num < other.num }
