package publish

import (
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/snapshot"
	"github.com/comity-mesh/comity/xds/topology"
)

// maxRejections is how many refusals a status names (mesh.ResourceStatus).
const maxRejections = 8

// tracker follows every change of a resource to the proxies whose configuration it changed, and every
// revision, and counts who runs what. It is owned by the publisher's goroutine and knows no clock but what
// it is told.
type tracker struct {
	zone      string
	members   *members
	revisions *revisions
	changes   map[mesh.Key]*change
	// waiting indexes changes by the proxies that have not acknowledged them yet, so that an ACK
	// costs what it settles and not what there is.
	waiting map[mesh.ProxyID]map[mesh.Key]struct{}
	updated map[mesh.Key]struct{} // since the last take
	// due is when something is to be told though nothing more happens, zero for never.
	due time.Time
	// blocked are, by view, the resources whose newest version is not in force there, or only on trial:
	// no acknowledgement is theirs.
	blocked map[string]map[mesh.Key]struct{}
}

type change struct {
	status   mesh.ResourceStatus
	revision mesh.Revision // of the zone's store
	missing  map[mesh.ProxyID]struct{}
	acked    map[mesh.ProxyID]struct{}
	refused  []refusal
	gone     bool
	hold     time.Time // until when its progress is not worth telling; its end and a refusal are
}

// refusal is one Envoy resource that a proxy refused.
type refusal struct {
	view string
	name string // short type and name
	mesh.Rejection
}

func newTracker(zone string) *tracker {
	return &tracker{
		zone: zone, members: newMembers(), revisions: newRevisions(zone), changes: map[mesh.Key]*change{},
		waiting: map[mesh.ProxyID]map[mesh.Key]struct{}{}, updated: map[mesh.Key]struct{}{}, blocked: map[string]map[mesh.Key]struct{}{},
	}
}

// restore puts a status back that was observed before a restart; nobody waits for it.
func (t *tracker) restore(k mesh.Key, s mesh.ResourceStatus) {
	if len(s.Rejections) > 0 {
		// It is refused again, or it is no longer wrong.
		s.Rejections, s.State = nil, mesh.StateApplied
	}
	t.changes[k] = &change{status: s}
}

// known reports whether the resource's state at its origin revision is tracked already.
func (t *tracker) known(k mesh.Key, wanted mesh.Revision) bool {
	c := t.changes[k]
	return c != nil && !c.gone && c.status.Applied == wanted
}

// begin puts a resource in that was in force before anybody looked.
func (t *tracker) begin(k mesh.Key, wanted, revision mesh.Revision, now time.Time) {
	state, message := stateOf(k)
	t.apply(k, wanted, revision, nil, state, message, now)
}

// stateOf is Applied for a kind that this build knows.
func stateOf(k mesh.Key) (mesh.ResourceState, string) {
	if info, ok := policy.Lookup(string(k.Kind)); !ok || info.Kind != k.Kind {
		return mesh.StateUnknown, "this zone does not know the kind " + string(k.Kind)
	}
	return mesh.StateApplied, ""
}

// forget drops what was tracked before a restart and is no longer there.
func (t *tracker) forget(present func(mesh.Key) bool) {
	for k, c := range t.changes {
		if !c.gone && c.status.Applied != 0 && !present(k) {
			t.remove(k, 0, 0, nil, time.Time{})
		}
	}
	// Global learns all of it anew: it may have been away as long.
	for k := range t.changes {
		t.updated[k] = struct{}{}
	}
}

// apply begins a change: the resource as of its origin's revision `wanted` is in force here since
// the store's revision, and the proxies must acknowledge it.
func (t *tracker) apply(k mesh.Key, wanted, revision mesh.Revision, proxies []mesh.ProxyID, state mesh.ResourceState, message string, now time.Time) {
	old := t.changes[k]
	if old != nil {
		t.settle(k, old)
	}
	c := &change{
		revision: revision,
		status:   mesh.ResourceStatus{Zone: t.zone, Wanted: wanted, Applied: wanted, State: state, Message: message, ObservedAt: now},
		acked:    map[mesh.ProxyID]struct{}{},
	}
	if old != nil {
		// What an Envoy refused of it stays told until the quarantine is lifted.
		c.refused = old.refused
	}
	t.await(k, c, proxies, now)
	t.revisions.follow(revisionKey{k.Origin, wanted}, k, revision, proxies, now)
}

// remove follows a deletion. The status stays until the proxies that it concerns have let go of the
// resource: what is still somewhere is not gone. wanted is the origin's revision that deleted it, 0 where
// nobody knows.
func (t *tracker) remove(k mesh.Key, wanted, revision mesh.Revision, proxies []mesh.ProxyID, now time.Time) {
	if wanted != 0 {
		t.revisions.follow(revisionKey{k.Origin, wanted}, k, revision, proxies, now)
	}
	old := t.changes[k]
	if old == nil {
		return
	}
	t.settle(k, old)
	c := &change{gone: true, revision: revision, status: old.status, acked: map[mesh.ProxyID]struct{}{}}
	c.status.Message = "deleted; its proxies are catching up"
	t.await(k, c, proxies, now)
}

// await makes a change the newest of its key, and has it wait for the proxies. One that replaces what was
// held back is told no later than that.
func (t *tracker) await(k mesh.Key, c *change, proxies []mesh.ProxyID, now time.Time) {
	c.hold = now.Add(patience)
	if _, untold := t.updated[k]; untold && t.changes[k] != nil {
		c.hold = earliest(c.hold, t.changes[k].hold)
	}
	c.missing = make(map[mesh.ProxyID]struct{}, len(proxies))
	for _, p := range proxies {
		c.missing[p] = struct{}{}
		if t.waiting[p] == nil {
			t.waiting[p] = map[mesh.Key]struct{}{}
		}
		t.waiting[p][k] = struct{}{}
	}
	t.changes[k] = c
	t.updated[k] = struct{}{}
}

func (t *tracker) settle(k mesh.Key, c *change) {
	for p := range c.missing {
		delete(t.waiting[p], k)
		if len(t.waiting[p]) == 0 {
			delete(t.waiting, p)
		}
	}
	clear(c.missing)
}

// ack notes that the proxy has everything of its view up to the store's revision. What the view has in
// quarantine it has not: a resource that shaped it stays unacknowledged there.
func (t *tracker) ack(p mesh.ProxyID, view string, revision mesh.Revision, now time.Time) {
	if !t.members.ack(p, view, revision, now) {
		return // of a view that is no longer the proxy's
	}
	for k := range t.waiting[p] {
		c := t.changes[k]
		if _, blocked := t.blocked[view][k]; blocked || c.revision > revision || slices.ContainsFunc(c.refused, func(r refusal) bool { return r.view == view }) {
			continue
		}
		delete(c.missing, p)
		c.acked[p] = struct{}{}
		c.status.ObservedAt = now
		delete(t.waiting[p], k)
		t.updated[k] = struct{}{}
	}
	if len(t.waiting[p]) == 0 {
		delete(t.waiting, p)
	}
	t.revisions.ack(p, revision, func(k mesh.Key, wanted mesh.Revision) (verdict, mesh.Rejection) { return t.judge(k, wanted, view) }, now)
}

// judge says what an acknowledgement of a view is worth to a resource as of its origin's revision. Of one
// that was overtaken by a newer revision nothing is withheld any more.
func (t *tracker) judge(k mesh.Key, wanted mesh.Revision, view string) (verdict, mesh.Rejection) {
	if c := t.changes[k]; c != nil && c.status.Wanted == wanted {
		for _, r := range c.refused {
			if r.view == view || r.view == heldIn(snapshot.ViewKey(view)) {
				return isRefused, r.Rejection
			}
		}
	}
	if _, blocked := t.blocked[view][k]; blocked {
		return onTrial, mesh.Rejection{}
	}
	return inForce, mesh.Rejection{}
}

// refuse notes that the zone did not take a resource (or passes it over, where the state is Unknown):
// the last good one, if there is one, stays in force.
func (t *tracker) refuse(k mesh.Key, wanted mesh.Revision, state mesh.ResourceState, message string, now time.Time) {
	c := t.changes[k]
	if c == nil || c.gone {
		c = &change{status: mesh.ResourceStatus{Zone: t.zone}}
		t.changes[k] = c
	}
	if state == mesh.StateUnknown {
		c.status.Applied = wanted
	}
	c.status.Wanted, c.status.State, c.status.Message, c.status.ObservedAt = wanted, state, message, now
	if state == mesh.StateRejected {
		t.revisions.refuse(revisionKey{k.Origin, wanted}, k, message, now)
	}
	t.updated[k] = struct{}{}
}

// connect notes that a proxy has a new connection.
func (t *tracker) connect(p mesh.ProxyID, now time.Time) { t.members.connect(p, now) }

// leave notes that the proxy is not connected any more: it counts neither as missing nor in the total.
func (t *tracker) leave(p mesh.ProxyID, now time.Time) {
	t.members.disconnect(p, now)
	t.forgo(p)
}

// forgo ends the waiting for a proxy.
func (t *tracker) forgo(p mesh.ProxyID) {
	for k := range t.waiting[p] {
		delete(t.changes[k].missing, p)
		t.updated[k] = struct{}{}
	}
	delete(t.waiting, p)
	t.revisions.leave(p)
}

// reject notes that a proxy refused an Envoy resource that the keys shaped.
func (t *tracker) reject(keys []mesh.Key, view string, r mesh.Rejection, now time.Time) {
	for _, k := range keys {
		c := t.changes[k]
		if c == nil || c.gone {
			continue
		}
		same := func(o refusal) bool { return o.view == view && o.name == r.Resource && o.Proxy == r.Proxy }
		if i := slices.IndexFunc(c.refused, same); i >= 0 {
			c.refused[i].Rejection = r
		} else {
			c.refused = append(c.refused, refusal{view: view, name: r.Resource, Rejection: r})
		}
		c.status.ObservedAt = now
		t.updated[k] = struct{}{}
		t.revisions.reject(revisionKey{k.Origin, c.status.Wanted}, k, r, now)
	}
}

// lift forgets what was refused of an Envoy resource of a view: it is no longer wanted there.
func (t *tracker) lift(view, name string) {
	for k, c := range t.changes {
		n := len(c.refused)
		c.refused = slices.DeleteFunc(c.refused, func(o refusal) bool { return o.view == view && o.name == name })
		if len(c.refused) != n {
			t.updated[k] = struct{}{}
		}
	}
}

// liftOf forgets what was refused of one resource in a view.
func (t *tracker) liftOf(k mesh.Key, view string) {
	if c := t.changes[k]; c != nil {
		c.refused = slices.DeleteFunc(c.refused, func(o refusal) bool { return o.view == view })
		t.updated[k] = struct{}{}
	}
}

// block says which resources acknowledgements of a view are not for.
func (t *tracker) block(view string, keys map[mesh.Key]struct{}) {
	if delete(t.blocked, view); len(keys) > 0 {
		t.blocked[view] = maps.Clone(keys)
	}
}

// settled reports whether all proxies that a resource concerned have acknowledged it as it is now.
func (t *tracker) settled(k mesh.Key) bool {
	c := t.changes[k]
	return c != nil && len(c.missing) == 0 && len(c.refused) == 0
}

// noteAll sets what the zone itself has to say about resources that are in force, and takes back what
// it said of the others.
func (t *tracker) noteAll(notes map[mesh.Key]topology.Issue) {
	for k, c := range t.changes {
		n := notes[k]
		if c.gone || c.status.State != mesh.StateApplied || c.status.Message == n.Message && slices.Equal(c.status.OverriddenBy, n.OverriddenBy) {
			continue
		}
		c.status.Message, c.status.OverriddenBy = n.Message, n.OverriddenBy
		t.updated[k] = struct{}{}
	}
}

// noteRoutes sets the conditions of routes.
func (t *tracker) noteRoutes(issues []topology.Issue) {
	of := map[mesh.Key][]topology.Issue{}
	for _, i := range issues {
		if topology.IsRoute(i.Key.Kind) {
			of[i.Key] = append(of[i.Key], i)
		}
	}
	for k, c := range t.changes {
		if !topology.IsRoute(k.Kind) || c.gone || c.status.State != mesh.StateApplied {
			continue
		}
		if now := topology.RouteConditions(of[k]); !slices.Equal(c.status.Conditions, now) {
			c.status.Conditions = now
			t.updated[k] = struct{}{}
		}
	}
}

// noteListeners sets how the listeners of Gateways do.
func (t *tracker) noteListeners(listeners map[mesh.Key][]mesh.ListenerStatus) {
	for k, c := range t.changes {
		if k.Kind != mesh.KindGateway || c.gone || reflect.DeepEqual(c.status.Listeners, listeners[k]) {
			continue
		}
		c.status.Listeners = listeners[k]
		t.updated[k] = struct{}{}
	}
}

// patience is how long a change may be on its way to the proxies before that is told. Most arrive sooner:
// one report says all of it, where each acknowledgement would be one for everybody up to global to store.
const patience = 100 * time.Millisecond

// take returns the statuses to be told now, nil for a resource that is gone, and notes in due when to look
// again.
func (t *tracker) take(now time.Time) map[mesh.Key]*mesh.ResourceStatus {
	t.due = time.Time{}
	out := map[mesh.Key]*mesh.ResourceStatus{}
	for k := range t.updated {
		c := t.changes[k]
		switch {
		case c == nil || c.gone && len(c.missing) == 0:
			delete(t.changes, k)
			out[k] = nil
		case len(c.missing) > 0 && len(c.refused) == 0 && c.status.State == mesh.StateApplied && now.Before(c.hold):
			t.due = earliest(t.due, c.hold)
			continue
		default:
			t.count(k, c)
			s := c.current()
			out[k] = &s
		}
		delete(t.updated, k)
		delete(t.members.staleKeys, k)
	}
	t.takeStale(out, now)
	return out
}

// takeStale adds the resources of which nothing but the counts has changed, some time after they did: that
// proxies come and go nobody waits for, and it concerns every resource that shapes them.
func (t *tracker) takeStale(out map[mesh.Key]*mesh.ResourceStatus, now time.Time) {
	m := t.members
	if len(m.stale) == 0 && len(m.staleKeys) == 0 {
		return
	}
	if at := m.since.Add(lagLimit); now.Before(at) {
		t.due = earliest(t.due, at)
		return
	}
	for k := range m.takeStale() {
		c := t.changes[k]
		if _, told := out[k]; told || c == nil || c.gone {
			continue
		}
		if _, later := t.updated[k]; !later && t.count(k, c) {
			c.status.ObservedAt = now
			s := c.current()
			out[k] = &s
		}
	}
}

// takeRevisions returns the revisions to be told now; after take.
func (t *tracker) takeRevisions(now time.Time) []mesh.RevisionStatus {
	out, due := t.revisions.take(now)
	t.due = earliest(t.due, due)
	return out
}

// count brings the counts of a status up to date, and reports whether they have changed.
func (t *tracker) count(k mesh.Key, c *change) bool {
	acked, total := len(c.acked), len(c.acked)+len(c.missing)
	switch {
	case c.gone:
	case len(t.members.views) == 0:
		return false // nothing was built yet: what was known before a restart stays
	default:
		acked, total = t.members.count(k, c.missing, func(view string) bool {
			v, _ := t.judge(k, c.status.Wanted, view)
			return v != inForce
		})
	}
	changed := acked != c.status.Acked || total != c.status.Total
	c.status.Acked, c.status.Total = acked, total
	return changed
}

// current is the status as it is told.
func (c *change) current() mesh.ResourceStatus {
	s := c.status
	s.Rejections = nil
	for _, r := range c.refused {
		if len(s.Rejections) == maxRejections {
			break
		}
		s.Rejections = append(s.Rejections, r.Rejection)
	}
	if len(s.Rejections) > 0 {
		s.State = mesh.StateRejected
	}
	return s
}
