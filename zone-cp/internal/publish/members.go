package publish

import (
	"iter"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/snapshot"
)

// members knows, view by view, which proxies are connected, what they have acknowledged, and which mesh
// resources shape what they run. An event costs what changes in the proxy's own view; what a resource's
// counts are is found when they are to be told.
type members struct {
	views   map[string]*membership
	shaped  map[mesh.Key]*shaped
	proxies map[mesh.ProxyID]*member
	// stale are views, and single resources, of which counts may have changed though no change of a resource
	// is under way; since is when the first of them did.
	stale     map[string]struct{}
	staleKeys map[mesh.Key]struct{}
	since     time.Time
}

// member is one proxy.
type member struct {
	view  string // empty while it is assigned to none
	up    bool
	fresh bool          // it has not acknowledged anything of its view in this connection
	acked mesh.Revision // of the zone's store
}

// shaped is a resource that shapes views. Every view knows it by this pointer: a zone has as many pairs of the two as
// there are services times proxies.
type shaped struct {
	key   mesh.Key
	views map[*membership]struct{}
}

// membership is one view.
type membership struct {
	name   string
	up     map[mesh.ProxyID]*member // those connected
	fresh  int                      // of them
	need   map[*shaped]need
	behind map[*shaped]int // of those neither fresh nor at what they need
	turn   uint32          // of shape
}

// need is since when a resource is as it is in a view, and the turn that said so last.
type need struct {
	since mesh.Revision
	turn  uint32
}

func newMembers() *members {
	return &members{
		views: map[string]*membership{}, shaped: map[mesh.Key]*shaped{}, proxies: map[mesh.ProxyID]*member{},
		stale: map[string]struct{}{}, staleKeys: map[mesh.Key]struct{}{},
	}
}

func (m *members) proxy(id mesh.ProxyID) *member {
	x := m.proxies[id]
	if x == nil {
		x = &member{}
		m.proxies[id] = x
	}
	return x
}

func (m *members) view(name string) *membership {
	v := m.views[name]
	if v == nil {
		v = &membership{name: name, up: map[mesh.ProxyID]*member{}, need: map[*shaped]need{}, behind: map[*shaped]int{}}
		m.views[name] = v
	}
	return v
}

// touch notes that counts of the view's resources may have changed.
func (m *members) touch(view string, now time.Time) {
	m.begin(now)
	m.stale[view] = struct{}{}
}

func (m *members) begin(now time.Time) {
	if len(m.stale) == 0 && len(m.staleKeys) == 0 {
		m.since = now
	}
}

// knows reports whether the view's content was told (shape).
func (m *members) knows(view string) bool { return m.views[view] != nil && len(m.views[view].need) > 0 }

// assign moves a proxy to a view, of which it has acknowledged nothing.
func (m *members) assign(id mesh.ProxyID, view string, now time.Time) {
	x := m.proxy(id)
	if x.view == view {
		return
	}
	m.out(id, x, now)
	x.view = view
	m.in(id, x, now)
}

// unassign forgets a proxy's view, and the proxy if it is not connected.
func (m *members) unassign(id mesh.ProxyID, now time.Time) {
	if x := m.proxies[id]; x != nil {
		m.out(id, x, now)
		if x.view = ""; !x.up {
			delete(m.proxies, id)
		}
	}
}

// connect begins a connection: until its first acknowledgement nothing is known of what the proxy runs.
func (m *members) connect(id mesh.ProxyID, now time.Time) {
	x := m.proxy(id)
	m.out(id, x, now)
	x.up = true
	m.in(id, x, now)
}

func (m *members) disconnect(id mesh.ProxyID, now time.Time) {
	x := m.proxies[id]
	if x == nil {
		return
	}
	m.out(id, x, now)
	if x.up = false; x.view == "" {
		delete(m.proxies, id)
	}
}

func (m *members) in(id mesh.ProxyID, x *member, now time.Time) {
	if x.up && x.view != "" {
		x.fresh, x.acked = true, 0
		v := m.view(x.view)
		v.up[id] = x
		v.fresh++
		m.touch(x.view, now)
	}
}

func (m *members) out(id mesh.ProxyID, x *member, now time.Time) {
	if !x.up || x.view == "" {
		return
	}
	v := m.view(x.view)
	delete(v.up, id)
	if x.fresh {
		v.fresh--
	} else {
		for k := range v.behind {
			if x.acked < v.need[k].since {
				v.less(k)
			}
		}
	}
	m.touch(x.view, now)
}

func (v *membership) less(k *shaped) {
	if v.behind[k]--; v.behind[k] <= 0 {
		delete(v.behind, k)
	}
}

// ack notes that a proxy has everything of a view up to the store's revision. It reports false for a view
// that is no longer the proxy's.
func (m *members) ack(id mesh.ProxyID, view string, revision mesh.Revision, now time.Time) bool {
	x := m.proxies[id]
	if x == nil || !x.up || x.view != view {
		return false
	}
	v := m.view(view)
	switch {
	case x.fresh:
		x.fresh, x.acked = false, revision
		v.fresh--
		for k, need := range v.need {
			if revision < need.since {
				v.behind[k]++
			}
		}
		m.touch(view, now)
	case revision > x.acked:
		for k := range v.behind {
			if since := v.need[k].since; x.acked < since && since <= revision {
				v.less(k)
				m.begin(now)
				m.staleKeys[k.key] = struct{}{}
			}
		}
		x.acked = revision
	}
	return true
}

// shape sets which resources shape a view; one may be named several times. Those that were edited are as they are since the
// revision; what is new in the view is since the one as of which that was published.
func (m *members) shape(view string, keys iter.Seq[mesh.Key], edited map[mesh.Key]struct{}, revision, published mesh.Revision, now time.Time) {
	v := m.view(view)
	v.turn++
	left := len(v.need)
	for key := range keys {
		k := m.shaped[key]
		if k == nil {
			k = &shaped{key, map[*membership]struct{}{}}
			m.shaped[key] = k
		}
		old, had := v.need[k]
		if had && old.turn == v.turn {
			continue // named before
		}
		if had {
			left--
		}
		_, changed := edited[key]
		if had && !changed {
			v.need[k] = need{old.since, v.turn}
			continue
		}
		since := revision
		if !changed {
			since = published
		}
		v.need[k] = need{since, v.turn}
		delete(v.behind, k)
		for _, x := range v.up {
			if !x.fresh && x.acked < since {
				v.behind[k]++
			}
		}
		k.views[v] = struct{}{}
		m.begin(now)
		m.staleKeys[key] = struct{}{}
	}
	if left == 0 {
		return
	}
	for k, n := range v.need {
		if n.turn != v.turn {
			delete(v.need, k)
			delete(v.behind, k)
			m.unshape(k, v, now)
		}
	}
}

func (m *members) unshape(k *shaped, v *membership, now time.Time) {
	if delete(k.views, v); len(k.views) == 0 {
		delete(m.shaped, k.key)
	}
	m.begin(now)
	m.staleKeys[k.key] = struct{}{}
}

// drop forgets a view to which nobody is assigned any more.
func (m *members) drop(view string, now time.Time) {
	if v := m.views[view]; v != nil {
		for k := range v.need {
			m.unshape(k, v, now)
		}
		delete(m.views, view)
		delete(m.stale, view)
	}
}

// takeStale names the resources whose counts may have changed, and forgets that.
func (m *members) takeStale() map[mesh.Key]struct{} {
	out := m.staleKeys
	for name := range m.stale {
		if v := m.views[name]; v != nil {
			for k := range v.need {
				out[k.key] = struct{}{}
			}
		}
	}
	m.staleKeys = map[mesh.Key]struct{}{}
	clear(m.stale)
	return out
}

// count counts the connected proxies that a resource shapes, and those of them that have acknowledged it
// as it is. What is withheld from a view (refused there, or not yet proven good) nobody in it has.
// missing are proxies that a change of the resource is on its way to: where it no longer shapes them,
// they count until they have let go.
func (m *members) count(k mesh.Key, missing map[mesh.ProxyID]struct{}, withheld func(view string) bool) (acked, total int) {
	by := m.shaped[k]
	if by != nil {
		for v := range by.views {
			total += len(v.up)
			if !withheld(v.name) {
				acked += len(v.up) - v.fresh - v.behind[by]
			}
		}
	}
	for id := range missing {
		x := m.proxies[id]
		if x == nil || !x.up || x.view == "" {
			continue
		}
		n, here := m.view(x.view).need[by]
		switch {
		case !here:
			total++
		case !x.fresh && x.acked >= n.since && !withheld(x.view):
			acked--
		}
	}
	return acked, total
}

// countMembers brings the tracker's members up to what was just published. It costs a look at every proxy
// and view; only views that changed are read.
func (p *Publisher) countMembers(changed map[mesh.Key]edit, blamed map[mesh.ProxyID]blame, now time.Time) {
	m := p.tracker.members
	for id, view := range p.assigned {
		m.assign(id, string(view), now)
	}
	for id, x := range m.proxies {
		if _, ok := p.assigned[id]; !ok && x.view != "" {
			m.unassign(id, now)
			p.tracker.forgo(id)
		}
	}
	edited := map[snapshot.ViewKey]map[mesh.Key]struct{}{}
	for id, b := range blamed {
		view := p.assigned[id]
		if edited[view] == nil {
			edited[view] = map[mesh.Key]struct{}{}
		}
		for k := range changed {
			if b.has(k) {
				edited[view][k] = struct{}{}
			}
		}
	}
	for key, v := range p.views {
		e, differs := edited[key]
		if !differs && m.knows(string(key)) {
			continue
		}
		m.shape(string(key), v.sources, e, p.cursor.Revision, v.revision, now)
	}
	for name := range m.views {
		if p.views[snapshot.ViewKey(name)] == nil {
			m.drop(name, now)
		}
	}
}
