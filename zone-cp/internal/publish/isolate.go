package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/snapshot"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/translate"
	"github.com/comity-mesh/comity/zone-cp/internal/ads"
)

// isolation keeps what an Envoy refuses apart from the rest of its view. One Envoy resource is often
// shaped by many mesh resources: all HTTPRoutes meet in one table, all policies of a service in another.
// The xDS server quarantines such a table whole; here those of its mesh resources that changed since they
// were last good are tried in halves, until the one at fault is found. That one is held at its last good
// version, in this view, and the others apply.
type isolation struct {
	held map[mesh.Key]struct{}
	// The search: groups that wait to be tried, and the one that is published and not yet answered.
	todo   [][]mesh.Key
	trying []mesh.Key
	of     resourceName // the Envoy resource that was refused
}

// prior is a mesh resource as it was when it was last good.
type prior struct {
	resource mesh.Resource
	there    bool
}

// bucketHeld is where what is held survives a restart; the key is view, space, mesh key.
const bucketHeld = "publish/held"

// heldRecord is the value: what is refused, by whom, and what is in force in its place.
type heldRecord struct {
	Refused   mesh.Revision  `json:"refused"` // the resource's at its origin
	Good      *mesh.Resource `json:"good,omitempty"`
	Rejection mesh.Rejection `json:"rejection"`
}

// heldIn names the refusals that are the isolation's, not the quarantine's: they end differently.
func heldIn(view snapshot.ViewKey) string { return string(view) + " held" }

// superseded is told before a resource changes: what was held of it is no longer wanted, and if it was
// good so far, that is remembered.
func (p *Publisher) superseded(k mesh.Key) {
	old, there := p.resources.get(k)
	if _, known := p.priors[k]; !known || p.tracker.settled(k) {
		p.priors[k] = prior{old, there}
	}
	for view, iso := range p.isolations {
		if _, held := iso.held[k]; held {
			delete(iso.held, k)
			p.forgetHeld(view, k)
		}
		other := func(x mesh.Key) bool { return x == k }
		iso.trying = slices.DeleteFunc(iso.trying, other)
		for i := range iso.todo {
			iso.todo[i] = slices.DeleteFunc(iso.todo[i], other)
		}
		p.block(view, iso)
		if len(iso.held) == 0 && iso.trying == nil {
			delete(p.isolations, view)
		}
	}
}

func (p *Publisher) forgetHeld(view snapshot.ViewKey, k mesh.Key) {
	p.tracker.liftOf(k, heldIn(view))
	p.heldWrites = append(p.heldWrites, store.RecordWrite{Key: string(view) + " " + k.String(), Delete: true})
}

// isolateRefused is isolate for what an Envoy refused.
func (p *Publisher) isolateRefused(r ads.Rejection, said mesh.Rejection) bool {
	name := resourceName{r.Type.URL(), r.Name}
	if v := p.views[r.View]; v.get(name).Version != r.Version {
		return false
	}
	return len(p.isolate(r.View, name, r.Sources, said, func(k mesh.Key) bool { return !p.tracker.settled(k) })) > 0
}

// leftOut is an Envoy resource for which all of its sources were blamed.
type leftOut struct {
	view string
	name string // short type and name
}

// blameInvalid says who is at fault in what this build left out, and takes back what was said of what is left out no more, which only a
// whole build knows.
func (p *Publisher) blameInvalid(changed map[mesh.Key]edit, patches keySet, whole bool, now time.Time) {
	suspected := map[string]map[mesh.Key]struct{}{}
	blamed := map[leftOut]struct{}{}
	for _, i := range p.invalid {
		// One fault may be in many resources. The view is built again without those that are suspected, which shows whether there is another.
		if slices.ContainsFunc(i.Resource.Sources, func(k mesh.Key) bool { _, ok := suspected[i.view][k]; return ok }) {
			continue
		}
		underWay := func(k mesh.Key) bool { _, now := changed[k]; return now }
		said, tried := p.trials.refused[i.Resource.Version]
		if tried {
			underWay = func(k mesh.Key) bool { return p.trials.underWay(k, p.tracker.settled) }
		} else {
			said = mesh.Rejection{Proxy: p.cfg.Zone, Resource: i.Resource.String(), Error: i.Err.Error()}
		}
		view := snapshot.ViewKey(i.view)
		suspects := p.isolate(view, nameOf(i.Resource), i.Resource.Sources, said, underWay)
		if len(suspects) == 0 && tried {
			suspects = p.blamePatches(view, patches, i.Resource, said)
		}
		if len(suspects) == 0 {
			p.tracker.reject(i.Resource.Sources, i.view, said, now)
			blamed[leftOut{i.view, said.Resource}] = struct{}{}
			continue
		}
		if suspected[i.view] == nil {
			suspected[i.view] = map[mesh.Key]struct{}{}
		}
		for _, k := range suspects {
			suspected[i.view][k] = struct{}{}
		}
	}
	if !whole {
		maps.Copy(p.blamed, blamed)
		return
	}
	for r := range p.blamed {
		if _, still := blamed[r]; !still {
			p.tracker.lift(r.view, r.name)
		}
	}
	p.blamed = blamed
}

// isolate begins or goes on with the search for what is at fault in a refused Envoy resource: one of its
// sources that are under way, or of those that are being tried. It returns these: none means that all the
// sources are to be blamed.
func (p *Publisher) isolate(view snapshot.ViewKey, name resourceName, sources []mesh.Key, said mesh.Rejection, underWay func(mesh.Key) bool) []mesh.Key {
	iso := p.isolations[view]
	if iso == nil {
		iso = &isolation{held: map[mesh.Key]struct{}{}}
	}
	var suspects []mesh.Key
	if slices.ContainsFunc(iso.trying, func(k mesh.Key) bool { return slices.Contains(sources, k) }) {
		suspects, iso.trying = iso.trying, nil
	} else {
		for _, k := range sources {
			_, held := iso.held[k]
			_, known := p.priors[k]
			if !held && known && underWay(k) && !slices.Contains(suspects, k) {
				suspects = append(suspects, k)
			}
		}
	}
	if len(suspects) == 0 {
		return nil
	}
	p.isolations[view], iso.of = iso, name
	for _, k := range suspects {
		iso.held[k] = struct{}{}
	}
	if len(suspects) == 1 {
		p.hold(view, suspects[0], said)
	} else {
		half := len(suspects) / 2
		iso.todo = append(iso.todo, slices.Clone(suspects[:half]), slices.Clone(suspects[half:]))
	}
	p.search(view, iso)
	return suspects
}

// hold says of a resource that it is at fault.
func (p *Publisher) hold(view snapshot.ViewKey, k mesh.Key, said mesh.Rejection) {
	p.cfg.Log.Warn("a resource is at fault; its last good version stays in force there", "resource", k.String(), "refused_by", said.Proxy, "error", said.Error)
	p.tracker.reject([]mesh.Key{k}, heldIn(view), said, time.Now())
	rec := heldRecord{Refused: p.resources[k.Kind][k].Changed, Rejection: said}
	if old := p.priors[k]; old.there {
		rec.Good = &old.resource
	}
	value, err := json.Marshal(rec)
	if err != nil {
		p.cfg.Log.Error("what is held can't be encoded", "resource", k.String(), "error", err)
		return
	}
	p.heldWrites = append(p.heldWrites, store.RecordWrite{Key: string(view) + " " + k.String(), Value: value})
}

// search tries the next group, and has the view built anew.
func (p *Publisher) search(view snapshot.ViewKey, iso *isolation) {
	for len(iso.trying) == 0 && len(iso.todo) > 0 {
		last := len(iso.todo) - 1
		iso.trying, iso.todo = iso.todo[last], iso.todo[:last]
		for _, k := range iso.trying {
			delete(iso.held, k)
		}
	}
	if len(iso.trying) == 0 {
		iso.trying = nil
	}
	p.block(view, iso)
	if len(iso.held) == 0 && iso.trying == nil {
		delete(p.isolations, view)
	}
	p.stale = true
}

// block keeps acknowledgements of the view from what is held there or on trial.
func (p *Publisher) block(view snapshot.ViewKey, iso *isolation) {
	blocked := maps.Clone(iso.held)
	for _, k := range iso.trying {
		blocked[k] = struct{}{}
	}
	p.tracker.block(string(view), blocked)
}

// searched goes on where what was tried has been acknowledged.
func (p *Publisher) searched(view snapshot.ViewKey) {
	iso := p.isolations[view]
	if iso == nil || iso.trying == nil || p.stale || p.trials.waiting[view] != nil {
		return
	}
	now := p.views[view].get(iso.of)
	if len(iso.trying) > 0 && now.Version != "" && !p.server.Proven(view, iso.of.typ, iso.of.name, now.Version) {
		return
	}
	iso.trying = nil
	p.search(view, iso)
}

// settleIsolations follows a build: views that are gone hold nothing, and a trial that changed nothing
// needs no answer.
func (p *Publisher) settleIsolations() {
	for view, iso := range p.isolations {
		if p.views[view] != nil {
			p.searched(view)
			continue
		}
		for k := range iso.held {
			p.forgetHeld(view, k)
		}
		p.tracker.block(string(view), nil)
		delete(p.isolations, view)
	}
}

// translators makes the translator of each view: of the topology as it is, or with what is held there at
// its last good version. Views that hold the same share one.
func (p *Publisher) translators(t *topology.Topology, in topology.Input, plans translate.Plans, now time.Time) func(snapshot.ViewKey) *translate.Translator {
	all := translate.New(t, plans)
	made := map[string]*translate.Translator{}
	return func(view snapshot.ViewKey) *translate.Translator {
		iso := p.isolations[view]
		if iso == nil || len(iso.held) == 0 {
			return all
		}
		keys := slices.SortedFunc(maps.Keys(iso.held), mesh.Key.Compare)
		var id strings.Builder
		for _, k := range keys {
			id.WriteString(k.String() + "\n")
		}
		if tr := made[id.String()]; tr != nil {
			return tr
		}
		good := in
		good.Resources = make([]mesh.Resource, 0, len(in.Resources))
		for _, r := range in.Resources {
			if _, held := iso.held[r.Key]; !held {
				good.Resources = append(good.Resources, r)
			} else if old := p.priors[r.Key]; old.there {
				good.Resources = append(good.Resources, old.resource)
			}
		}
		// What this topology finds amiss is told of the one with everything.
		held, _ := topology.Build(good)
		tr := translate.New(held, p.failover.Plans(held, now))
		made[id.String()] = tr
		return tr
	}
}

// restoreHeld reads what was held before a restart. What has changed since is tried anew.
func (p *Publisher) restoreHeld(ctx context.Context) error {
	list, _, err := p.cfg.Store.ListRecords(ctx, bucketHeld, "")
	if err != nil {
		return fmt.Errorf("read what is held: %w", err)
	}
	for _, rec := range list {
		name, key, _ := strings.Cut(rec.Key, " ")
		view := snapshot.ViewKey(name)
		k, err := mesh.ParseKey(key)
		var h heldRecord
		if err = errors.Join(err, json.Unmarshal(rec.Value, &h)); err != nil || p.resources[k.Kind][k].Changed != h.Refused {
			p.heldWrites = append(p.heldWrites, store.RecordWrite{Key: rec.Key, Delete: true})
			continue
		}
		if h.Good != nil {
			p.priors[k] = prior{*h.Good, true}
		} else {
			p.priors[k] = prior{}
		}
		if p.isolations[view] == nil {
			p.isolations[view] = &isolation{held: map[mesh.Key]struct{}{}}
		}
		p.isolations[view].held[k] = struct{}{}
		p.tracker.reject([]mesh.Key{k}, heldIn(view), h.Rejection, rec.UpdatedAt)
		p.tracker.block(name, p.isolations[view].held)
	}
	return nil
}

// saveHeld writes what is held, so that a restart does not try it anew.
func (p *Publisher) saveHeld(ctx context.Context) {
	if len(p.heldWrites) == 0 {
		return
	}
	// A key may be there twice; the newest counts.
	newest := map[string]store.RecordWrite{}
	for _, w := range p.heldWrites {
		newest[w.Key] = w
	}
	if _, err := p.cfg.Store.PutRecords(ctx, bucketHeld, slices.Collect(maps.Values(newest))...); err != nil {
		p.cfg.Log.ErrorContext(ctx, "what is held could not be written to the store", "error", err)
		return
	}
	p.heldWrites = nil
}
