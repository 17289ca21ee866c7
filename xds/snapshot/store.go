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
	good      map[typeName]*Entry // what to fall back to where the newest is not yet proven
}

type typeName struct {
	typ  Type
	name string
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

// Publish replaces the whole content of a view and reports which quarantines that lifted. Content that
// is already there costs a comparison; the view's revision moves in any case. An error means that
// nothing was changed: an unknown type, an empty name or version, or a name given twice.
func (s *Store) Publish(key ViewKey, revision mesh.Revision, resources []envoy.Resource) ([]Lifted, error) {
	v := s.view(key)
	v.mu.Lock()
	defer v.mu.Unlock()
	var lists [typeCount][]*Entry
	for i := range lists {
		lists[i] = make([]*Entry, 0, len(v.published[i].entries))
	}
	for i := range resources {
		e, err := s.entry(v, &resources[i])
		if err != nil {
			return nil, fmt.Errorf("view %q: %w", key, err)
		}
		lists[e.Type] = append(lists[e.Type], e)
	}
	next := v.published
	num := s.num.Add(1)
	for t := range lists {
		slices.SortFunc(lists[t], func(a, b *Entry) int { return strings.Compare(a.Name, b.Name) })
		for i := 1; i < len(lists[t]); i++ {
			if lists[t][i].Name == lists[t][i-1].Name {
				return nil, fmt.Errorf("view %q: %s %q is given twice", key, Type(t), lists[t][i].Name)
			}
		}
		next[t] = stamped(v.published[t], lists[t], num)
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

// PublishEndpoints replaces the given assignments of a view and leaves everything else as it is.
func (s *Store) PublishEndpoints(key ViewKey, revision mesh.Revision, assignments []envoy.Resource) ([]Lifted, error) {
	v := s.view(key)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.current.Load() == nil {
		return nil, fmt.Errorf("view %q: endpoints before its first publication", key)
	}
	list := slices.Clone(v.published[Endpoint].entries)
	for i := range assignments {
		e, err := s.entry(v, &assignments[i])
		if err != nil {
			return nil, fmt.Errorf("view %q: %w", key, err)
		}
		if e.Type != Endpoint {
			return nil, fmt.Errorf("view %q: %s %q among endpoints", key, e.Type, e.Name)
		}
		at, found := slices.BinarySearchFunc(list, e.Name, byName)
		if found {
			list[at] = e
		} else {
			list = slices.Insert(list, at, e)
		}
	}
	num := s.num.Add(1)
	next := v.published
	next[Endpoint] = stamped(v.published[Endpoint], list, num)
	return s.commit(v, num, revision, next), nil
}

func (s *Store) entry(v *view, r *envoy.Resource) (*Entry, error) {
	t, ok := ParseType(r.Type)
	switch {
	case !ok:
		return nil, fmt.Errorf("resource %q has the type %q, which is not served", r.Name, r.Type)
	case r.Name == "" || r.Version == "":
		return nil, fmt.Errorf("%s %q has no name or no version", t, r.Name)
	}
	if e := v.published[t].find(r.Name); e != nil && e.Version == r.Version && !e.filler {
		return e, nil
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
			if good := v.good[typeName{e.Type, e.Name}]; good != nil {
				entries[at] = good
			} else {
				entries = slices.Delete(entries, at, at+1)
			}
		}
		g.sets[e.Type] = set{stamp: num, entries: entries}
	}
	g.sets[Endpoint] = s.filled(g, num)
	for t := range g.sets {
		// A stamp of its own, not that of what was published: the two may differ.
		g.sets[t] = stamped(before[t], g.sets[t].entries, num)
	}
	v.remember(before, g)
	v.current.Store(g)
}

// filled adds an assignment without endpoints for every cluster that lacks one, because a cluster that
// waits for its endpoints holds everything up.
func (s *Store) filled(g *Generation, num uint64) set {
	eds := g.sets[Endpoint]
	var missing []*Entry
	for _, c := range g.sets[Cluster].entries {
		if c.endpoints != "" && eds.find(c.endpoints) == nil {
			missing = append(missing, s.names.filler(c.endpoints))
		}
	}
	if missing == nil {
		return eds
	}
	entries := append(slices.Clone(eds.entries), missing...)
	slices.SortFunc(entries, func(a, b *Entry) int { return strings.Compare(a.Name, b.Name) })
	return set{stamp: num, entries: slices.Compact(entries)}
}

// remember keeps what was in force before the change, until its successor is proven.
func (v *view) remember(before [typeCount]set, g *Generation) {
	for key, good := range v.good {
		now := g.sets[key.typ].find(key.name)
		wanted := v.published[key.typ].find(key.name)
		if wanted == nil || (now != good && now != nil && now.proven.Load()) {
			delete(v.good, key)
		}
	}
	for t := range before {
		if before[t].stamp == g.sets[t].stamp {
			continue
		}
		for _, e := range before[t].entries {
			key := typeName{Type(t), e.Name}
			if e.filler || g.sets[t].has(e) || v.published[t].find(e.Name) == nil || g.quarantined(e) {
				continue
			}
			if e.proven.Load() || v.good[key] == nil {
				if v.good == nil {
					v.good = map[typeName]*Entry{}
				}
				v.good[key] = e
			}
		}
	}
	if len(v.good) == 0 {
		v.good = nil // a map keeps the room that it once needed
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
		fallback := typeName{e.Type, e.Name}
		wasGood := v.good[fallback] == e
		if wasGood {
			delete(v.good, fallback)
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
