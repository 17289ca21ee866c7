package publish

import (
	"cmp"
	"slices"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// revisionKey names a revision of an origin's store.
type revisionKey struct {
	origin   mesh.Origin
	revision mesh.Revision
}

// revisions follows every revision to the proxies whose configuration it changed: each once, however many
// resources of the revision concern it, and deletions too.
type revisions struct {
	zone    string
	slots   map[string]*wave // by mesh.RevisionSlot
	waiting map[mesh.ProxyID]map[*wave]struct{}
	updated map[*wave]struct{} // since the last take
}

// wave is one revision on its way.
type wave struct {
	status  mesh.RevisionStatus
	keys    map[mesh.Key]struct{}
	since   mesh.Revision // of the zone's store
	missing map[mesh.ProxyID]struct{}
	reached map[mesh.ProxyID]bool // the others; whether they have all of it
	hold    time.Time             // until when its progress is not worth telling; its end is
	// restored is of before a restart: the status is all there is.
	restored bool
}

func newRevisions(zone string) *revisions {
	return &revisions{zone: zone, slots: map[string]*wave{}, waiting: map[mesh.ProxyID]map[*wave]struct{}{}, updated: map[*wave]struct{}{}}
}

// wave finds or makes the record of a revision, which takes the place of a much older one.
func (r *revisions) wave(e revisionKey, now time.Time) *wave {
	slot := mesh.RevisionSlot(e.origin, e.revision)
	if w := r.slots[slot]; w != nil {
		if w.status.Revision == e.revision && !w.restored {
			return w
		}
		for p := range w.missing {
			r.release(p, w)
		}
		delete(r.updated, w)
	}
	w := &wave{
		status:  mesh.RevisionStatus{Zone: r.zone, Origin: e.origin, Revision: e.revision, State: mesh.StateApplied, ObservedAt: now},
		keys:    map[mesh.Key]struct{}{},
		missing: map[mesh.ProxyID]struct{}{}, reached: map[mesh.ProxyID]bool{}, hold: now.Add(patience),
	}
	r.slots[slot] = w
	return w
}

func (r *revisions) release(p mesh.ProxyID, w *wave) {
	if delete(r.waiting[p], w); len(r.waiting[p]) == 0 {
		delete(r.waiting, p)
	}
}

// follow begins, or goes on, with a revision: one of its resources is as it says since the store's revision
// since, and the proxies must acknowledge that.
func (r *revisions) follow(e revisionKey, k mesh.Key, since mesh.Revision, proxies []mesh.ProxyID, now time.Time) {
	w := r.wave(e, now)
	w.keys[k] = struct{}{}
	w.since = max(w.since, since)
	for _, p := range proxies {
		delete(w.reached, p)
		w.missing[p] = struct{}{}
		if r.waiting[p] == nil {
			r.waiting[p] = map[*wave]struct{}{}
		}
		r.waiting[p][w] = struct{}{}
	}
	r.updated[w] = struct{}{}
}

// refuse notes that the zone did not take a resource of a revision.
func (r *revisions) refuse(e revisionKey, k mesh.Key, message string, now time.Time) {
	w := r.wave(e, now)
	w.keys[k] = struct{}{}
	w.status.State, w.status.Message, w.status.ObservedAt = mesh.StateRejected, message, now
	r.updated[w] = struct{}{}
}

// reject notes that an Envoy refused what a resource of a revision shaped.
func (r *revisions) reject(e revisionKey, k mesh.Key, said mesh.Rejection, now time.Time) {
	w := r.slots[mesh.RevisionSlot(e.origin, e.revision)]
	if w == nil || w.status.Revision != e.revision {
		return
	}
	if _, ok := w.keys[k]; !ok {
		return
	}
	w.reject(said)
	w.status.ObservedAt = now
	r.updated[w] = struct{}{}
}

func (w *wave) reject(said mesh.Rejection) {
	s := &w.status
	s.State = mesh.StateRejected
	same := func(o mesh.Rejection) bool { return o.Resource == said.Resource && o.Proxy == said.Proxy }
	if len(s.Rejections) < maxRejections && !slices.ContainsFunc(s.Rejections, same) {
		s.Rejections = append(slices.Clip(s.Rejections), said)
	}
}

// verdict is what an acknowledgement of a view is worth to a resource.
type verdict int

const (
	inForce   verdict = iota // it is in force there
	onTrial                  // an Envoy refused something, and whose fault that is is being found
	isRefused                // it is refused there: what the proxy has is what it will have
)

// ack notes that the proxy has everything of its view up to the store's revision, but for what is withheld
// from the view: judge says that of a resource as of its origin's revision.
func (r *revisions) ack(p mesh.ProxyID, revision mesh.Revision, judge func(mesh.Key, mesh.Revision) (verdict, mesh.Rejection), now time.Time) {
	for w := range r.waiting[p] {
		if w.since > revision {
			continue
		}
		whole, pending := true, false
		for k := range w.keys {
			switch v, said := judge(k, w.status.Revision); v {
			case onTrial:
				pending = true
			case isRefused:
				whole = false
				w.reject(said)
			case inForce:
			}
		}
		if pending {
			continue
		}
		delete(w.missing, p)
		r.release(p, w)
		w.reached[p] = whole
		w.status.ObservedAt = now
		r.updated[w] = struct{}{}
	}
}

// leave notes that the proxy is gone: what has not reached it is not waited for any more.
func (r *revisions) leave(p mesh.ProxyID) {
	for w := range r.waiting[p] {
		delete(w.missing, p)
		r.updated[w] = struct{}{}
	}
	delete(r.waiting, p)
}

// take returns what is to be told now, oldest first, and when to look again.
func (r *revisions) take(now time.Time) (out []mesh.RevisionStatus, due time.Time) {
	for w := range r.updated {
		if len(w.missing) > 0 && now.Before(w.hold) {
			due = earliest(due, w.hold)
			continue
		}
		delete(r.updated, w)
		out = append(out, w.current())
	}
	slices.SortFunc(out, func(a, b mesh.RevisionStatus) int {
		return cmp.Or(cmp.Compare(a.Origin, b.Origin), cmp.Compare(a.Revision, b.Revision))
	})
	return out, due
}

func (w *wave) current() mesh.RevisionStatus {
	s := w.status
	if w.restored {
		return s
	}
	s.Changes, s.Total, s.Done = len(w.keys), len(w.reached)+len(w.missing), len(w.missing) == 0
	for _, whole := range w.reached {
		if whole {
			s.Acked++
		}
	}
	return s
}

// restore puts back what was known before a restart. It is told again, because global learns everything
// anew.
func (r *revisions) restore(s mesh.RevisionStatus) {
	w := r.wave(revisionKey{s.Origin, s.Revision}, s.ObservedAt)
	w.status, w.restored = s, true
	r.updated[w] = struct{}{}
}
