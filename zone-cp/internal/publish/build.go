package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/snapshot"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/translate"
	"github.com/comity-mesh/comity/zone-cp/internal/exports"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
)

// build takes the batch in, makes everything anew, and publishes what differs.
func (p *Publisher) build(ctx context.Context, b batch) error {
	began := time.Now()
	changed := p.takeIn(b)
	for k := range changed {
		p.trials.changed[k] = struct{}{}
	}
	heeded := errors.Join(p.cfg.Book.Heed(ctx, p.zones()), p.cfg.Book.HeedLives(ctx, p.zoneUIDs()))
	in, zones, others := p.input(ctx, began)
	in.Decode = p.specs.decode
	in.Keys = p.cfg.Keys.Want(p.issuers())
	if p.cfg.Names != nil {
		in.Number = p.cfg.Names.Number
	}
	t, issues := topology.Build(in)
	if p.cfg.Names != nil {
		// Before anybody is told: an address that was said once stays.
		heeded = errors.Join(heeded, p.cfg.Names.Keep(ctx, began))
	}
	p.specs.turn()
	p.cfg.Peers.Know(t)
	failing := p.failover.Look(t, began)
	p.until = earliest(others.Until, failing.Next)

	var err error
	clear(p.sound)
	p.invalid = nil
	blamed := map[mesh.ProxyID]blame{}
	p.stale = false
	patches := patchesOf(t)
	whole := p.last == nil || len(changed) > 0 || len(p.isolations) > 0 || len(p.trials.waiting) > 0 || !sameShape(*p.last, in)
	if !whole {
		err = p.publishEndpoints(t, failing.Plans, blamed)
		p.metrics.builds.WithLabelValues("endpoints").Inc()
	} else {
		err = p.publishAll(ctx, t, patches, p.translators(t, in, failing.Plans, began), blamed)
		p.metrics.builds.WithLabelValues("all").Inc()
	}
	if p.cfg.Told != nil {
		p.cfg.Told.Know(t)
	}
	if p.last = &in; err != nil {
		p.last = nil // the next build must not take the short path
	} else {
		p.withdrawn.published(in.Workloads, time.Now())
	}
	p.metrics.duration.Observe(time.Since(began).Seconds())

	p.cfg.Log.DebugContext(ctx, "published", telemetry.KeyRevision, p.cursor.Revision, "changes", len(changed), "proxies", len(blamed), "took", time.Since(began))

	p.follow(changed, blamed, began)
	p.blameInvalid(changed, patches, whole, began)
	p.settleIsolations()
	p.settleTrials()
	p.noteIssues(issues, others)
	p.tracker.noteListeners(t.Listeners())
	p.tracker.notePlaintext(p.plaintextOf(t))
	p.tellFailover(failing)
	for id := range p.picture.Agents {
		p.touched[id] = struct{}{}
	}
	return errors.Join(err, heeded, p.state(ctx, t, zones))
}

// issuers are the keys that policies have fetched, by namespace.
func (p *Publisher) issuers() map[string][]policy.JWKS {
	out := map[string][]policy.JWKS{}
	for _, r := range p.resources[mesh.KindAuthenticationPolicy] {
		if spec, err := p.specs.decode(r); err == nil {
			if list := spec.(*policy.AuthenticationPolicy).Fetched(); len(list) > 0 {
				out[r.Namespace] = append(out[r.Namespace], list...)
			}
		}
	}
	return out
}

// takeIn applies commits to the resources, and returns the newest change of each.
func (p *Publisher) takeIn(b batch) map[mesh.Key]edit {
	out := make(map[mesh.Key]edit, len(b.changes))
	p.cursor = b.cursor
	for _, c := range b.changes {
		k := c.Resource.Key
		p.superseded(k)
		if c.Deleted {
			p.resources.remove(k)
			delete(p.priors, k)
		} else {
			p.resources.put(c.Resource)
		}
		e := edit{wanted: c.Resource.Changed, deleted: c.Deleted}
		if old, again := out[k]; again {
			e.earlier = append(old.earlier, old.wanted)
		}
		out[k] = e
	}
	return out
}

// edit is what became of one resource.
type edit struct {
	wanted  mesh.Revision
	deleted bool
	earlier []mesh.Revision // revisions that wanted overtook before anything was built
}

// publishAll translates and builds every view, and publishes those that differ.
func (p *Publisher) publishAll(ctx context.Context, t *topology.Topology, patches keySet, translator func(snapshot.ViewKey) *translate.Translator, blamed map[mesh.ProxyID]blame) error {
	proxies := t.Proxies()
	next := make(map[snapshot.ViewKey]*view, len(p.views))
	p.shelves, p.kept = map[*ir.Proxy]*shelf{}, nil
	var members map[snapshot.ViewKey][]mesh.ProxyID
	if len(patches) > 0 {
		members = byView(t)
	}
	wanted := map[snapshot.ViewKey]*view{} // where it is not what is published
	clear(p.trials.unseen)
	var failed error
	for _, x := range proxies {
		key := snapshot.ViewKey(x.ViewKey)
		if next[key] != nil {
			continue
		}
		v, err := p.compose(x, translator(key))
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("view %s of %s: %w", key, x.ID, err))
			if next[key] = p.views[key]; next[key] == nil {
				next[key] = newView(nil) // nothing is published: its proxies keep what they have
			}
			continue
		}
		if p.lacks(key, v) {
			wanted[key], next[key] = v, cmp.Or(p.views[key], newView(nil))
			continue
		}
		if !p.mayGoOut(ctx, key, v, patches, members[key]) {
			wanted[key] = v
			next[key], err = p.meanwhile(key, v, patches)
			failed = errors.Join(failed, err)
			continue
		}
		next[key] = v
		if old := p.views[key]; old != nil && !old.failed && v.same(old) {
			p.server.Advance(key, p.cursor.Revision)
			v.revision = p.cursor.Revision
			continue
		}
		failed = errors.Join(failed, p.publish(key, v, p.cursor.Revision))
	}
	p.cache.Turn()
	p.shelves, p.kept = nil, nil
	p.assign(proxies, next, wanted, blamed)
	return failed
}

// compose builds the view of a proxy.
func (p *Publisher) compose(x topology.Proxy, tr *translate.Translator) (*view, error) {
	key := snapshot.ViewKey(x.ViewKey)
	before := p.views[key]
	if before == nil {
		before = p.views[p.assigned[x.ID]]
	}
	private, shared := tr.Parts(x)
	own, err := p.cache.Build(private)
	if err != nil {
		return nil, err
	}
	var common []*shelf
	for _, part := range shared {
		s, err := p.shelf(part)
		if err != nil {
			return nil, err
		}
		if len(s.invalid) > 0 || p.refusedIn(s) { // what takes its place may be another in each view
			own, s = slices.Concat(own, s.list), newShelf(nil)
		}
		common = append(common, s)
	}
	own = p.withoutInvalid(key, own, before)
	if p.spoil != nil {
		own = p.spoil(own)
	}
	return newView(own, common...), nil
}

// withoutInvalid replaces what breaks the protocol's own rules, and would make an Envoy refuse all that
// comes with it, by what was there before; where there was nothing it is left out. The resources at
// fault are told.
func (p *Publisher) withoutInvalid(key snapshot.ViewKey, list []envoy.Resource, before *view) []envoy.Resource {
	var fresh []envoy.Resource
	for _, r := range list {
		if before.get(nameOf(r)).Version != r.Version && !p.sound[r.Version] {
			fresh = append(fresh, r)
		}
	}
	bad := map[resourceName]bool{}
	for _, i := range p.cache.Validate(fresh) {
		bad[nameOf(i.Resource)] = true
		p.cfg.Log.Error("a resource is not valid; the last good one stays", "view", string(key), "resource", i.Resource.String(), "error", i.Err)
		p.invalid = append(p.invalid, invalidResource{string(key), i})
	}
	for _, r := range fresh {
		if _, refused := p.trials.refused[r.Version]; refused && !bad[nameOf(r)] {
			bad[nameOf(r)] = true
			p.invalid = append(p.invalid, invalidResource{string(key), envoy.Invalid{Resource: r}})
		}
		if !bad[nameOf(r)] {
			p.sound[r.Version] = true
		}
	}
	if len(bad) == 0 {
		return list
	}
	out := list[:0:0]
	for _, r := range list {
		if !bad[nameOf(r)] {
			out = append(out, r)
		} else if old := before.get(nameOf(r)); old.Version != "" {
			out = append(out, old)
		}
	}
	return out
}

type invalidResource struct {
	view string
	envoy.Invalid
}

// assign gives proxies their views, notes who is to blame for what changed for each, and forgets
// what is no longer there. What changes for a proxy whose view waits is what is wanted of it.
func (p *Publisher) assign(proxies []topology.Proxy, next, wanted map[snapshot.ViewKey]*view, blamed map[mesh.ProxyID]blame) {
	type pair struct{ from, to snapshot.ViewKey }
	diffs, d := map[pair]blame{}, newDiffer()
	present := make(map[mesh.ProxyID]struct{}, len(proxies))
	for _, x := range proxies {
		to := snapshot.ViewKey(x.ViewKey)
		from, had := p.assigned[x.ID]
		present[x.ID] = struct{}{}
		if !had {
			from = ""
		}
		way := pair{from, to}
		b, known := diffs[way]
		if !known {
			b = d.views(p.views[from], cmp.Or(wanted[to], next[to]))
			diffs[way] = b
		}
		if len(b) > 0 {
			blamed[x.ID] = b
		}
		if from != to || !had {
			p.server.Assign(x.ID, to)
			p.assigned[x.ID] = to
		}
	}
	for id := range p.assigned {
		if _, ok := present[id]; !ok {
			p.server.Unassign(id)
			delete(p.assigned, id)
			p.touched[id] = struct{}{}
		}
	}
	for key := range p.views {
		if next[key] == nil {
			p.server.Drop(key)
		}
	}
	p.views = next
}

// publishEndpoints is the short path: nothing has changed but health, drain, capacity and reach of endpoints,
// so only assignments are made anew.
func (p *Publisher) publishEndpoints(t *topology.Topology, plans translate.Plans, blamed map[mesh.ProxyID]blame) error {
	tr := translate.New(t, plans)
	built := map[snapshot.ViewKey]blame{}
	moved := map[*shelf]*shelf{}
	made := map[*ir.Proxy][]envoy.Resource{}
	var failed error
	for _, x := range t.Proxies() {
		key := snapshot.ViewKey(x.ViewKey)
		b, done := built[key]
		if !done && x.Proxyless {
			var err error
			b, err = p.republish(x, tr)
			failed = errors.Join(failed, err)
			built[key], done = b, true
		}
		if v := p.views[key]; !done && v != nil { // one that has never been built the next change of shape builds
			shared := tr.SharedEndpoints(x)
			list, known := made[shared]
			if !known {
				var err error
				list, err = envoy.BuildEndpoints(shared.Endpoints) // past the cache, which only a whole build tidies
				failed = errors.Join(failed, err)
				made[shared] = list
			}
			list = slices.DeleteFunc(slices.Clone(list), func(r envoy.Resource) bool { return v.get(nameOf(r)).Version == r.Version })
			by := keySet{}
			for _, r := range list {
				by.add(r)
			}
			b = blame{}.with(by)
			if len(list) > 0 {
				v.replace(list, moved)
				failed = errors.Join(failed, p.publish(key, v, p.cursor.Revision))
			}
			built[key] = b
		}
		if len(b) > 0 {
			blamed[x.ID] = b
		}
	}
	return failed
}

// republish builds a view anew on the short path: that of clients whose routes say which zone gets how much, where an
// Envoy finds it in its endpoints.
func (p *Publisher) republish(x topology.Proxy, tr *translate.Translator) (blame, error) {
	key := snapshot.ViewKey(x.ViewKey)
	before := p.views[key]
	if before == nil {
		return nil, nil // one that has never been built the next change of shape builds
	}
	list, err := envoy.Build(tr.Proxy(x)) // past the cache, which only a whole build tidies
	if err != nil {
		return nil, fmt.Errorf("view %s of %s: %w", key, x.ID, err)
	}
	v := newView(nil, newShelf(p.withoutInvalid(key, list, before)))
	if err := p.publish(key, v, p.cursor.Revision); err != nil {
		return nil, err
	}
	p.views[key] = v
	return newDiffer().views(before, v), nil
}

// follow begins to track the changed resources to the proxies that they concern.
func (p *Publisher) follow(changed map[mesh.Key]edit, blamed map[mesh.ProxyID]blame, now time.Time) {
	concerned := map[mesh.Key][]mesh.ProxyID{}
	for id, d := range blamed {
		if _, up := p.connected[id]; !up {
			continue
		}
		for k := range changed {
			if d.has(k) {
				concerned[k] = append(concerned[k], id)
			}
		}
	}
	p.countMembers(changed, blamed, now)
	for k, c := range changed {
		for _, r := range c.earlier {
			p.tracker.revisions.follow(revisionKey{k.Origin, r}, k, p.cursor.Revision, concerned[k], now)
		}
		if c.deleted {
			p.tracker.remove(k, c.wanted, p.cursor.Revision, concerned[k], now)
			continue
		}
		state, message := stateOf(k)
		p.tracker.apply(k, c.wanted, p.cursor.Revision, concerned[k], state, message, now)
	}
}

// noteIssues puts the topology's issues, and what is not believed of other zones, into statuses.
func (p *Publisher) noteIssues(issues []topology.Issue, others imports.Picture) {
	notes := map[mesh.Key]topology.Issue{}
	add := func(i topology.Issue) {
		n, ok := notes[i.Key]
		if ok {
			i.Message = n.Message + "; " + i.Message
			i.OverriddenBy = append(n.OverriddenBy, i.OverriddenBy...)
		}
		notes[i.Key] = i
	}
	for _, i := range issues {
		add(i)
	}
	for k, why := range p.trials.unseen {
		add(topology.Issue{Key: k, Message: why})
	}
	for zone, list := range others.Notes {
		for _, n := range list {
			add(topology.Issue{Key: mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindZone, Name: zone}, Message: n})
		}
	}
	p.tracker.noteAll(notes)
	p.tracker.noteRoutes(issues)
}

// state says to the other zones what has changed about this one.
func (p *Publisher) state(ctx context.Context, t *topology.Topology, zones map[string]policy.Zone) error {
	in := exports.Input{Bundle: p.bundle, Exports: t.Exports(), Ingresses: p.picture.Ingresses, Egresses: p.picture.Egresses}
	if z, ok := zones[p.cfg.Zone]; ok {
		in.Zone = &z
	}
	claims, _, err := exports.Compute(in)
	if err != nil {
		return err
	}
	fresh, err := p.cfg.Ledger.Set(ctx, claims, time.Now())
	if len(fresh) > 0 {
		p.cfg.Offer(fresh)
	}
	return err
}

// sameShape reports whether two inputs of the same resources differ in nothing but what endpoints alone show: health, drain,
// capacity, and who can be reached.
func sameShape(a, b topology.Input) bool {
	return slices.EqualFunc(a.Workloads, b.Workloads, func(x, y topology.Workload) bool {
		x.Healthy, x.Draining, x.Spec.Capacity = y.Healthy, y.Draining, y.Spec.Capacity
		return reflect.DeepEqual(x, y)
	}) && slices.EqualFunc(a.Remotes, b.Remotes, func(x, y topology.Remote) bool {
		same := slices.EqualFunc(x.Exports, y.Exports, func(e, f mesh.Export) bool {
			e.Ready, e.Total, e.Capacity, e.ReadyCapacity = f.Ready, f.Total, f.Capacity, f.ReadyCapacity
			return reflect.DeepEqual(e, f)
		}) && slices.EqualFunc(x.Ingresses, y.Ingresses, func(i, j topology.RemoteIngress) bool {
			i.Unreachable = j.Unreachable
			return reflect.DeepEqual(i, j)
		})
		x.Exports, x.Ingresses = y.Exports, y.Ingresses
		return same && reflect.DeepEqual(x, y)
	}) && slices.EqualFunc(a.Egresses, b.Egresses, func(x, y topology.EgressProxy) bool {
		x.Ready = y.Ready
		return reflect.DeepEqual(x, y)
	}) && reflect.DeepEqual(a.Ingresses, b.Ingresses) && reflect.DeepEqual(a.Roots, b.Roots) && maps.Equal(a.Keys, b.Keys)
}
