package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/snapshot"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/inspect"
)

// trials keep what people patched from every Envoy until one has read it and would take it. That is asked of the agent of a
// proxy that is to run it: the zone's own machine runs none of what is in a configuration, such as scripts. While it is asked, a view
// stays as it is, but for endpoints; what is refused is held as what a running Envoy refuses is (isolation).
type trials struct {
	// tried are the versions of patched Envoy resources that may go out: taken by an Envoy, or with the reason why none could say.
	tried map[string]string
	// refused are those that may not, with who says why.
	refused map[string]mesh.Rejection
	asked   map[string]struct{} // those that are being asked about
	silence map[string]int      // how often a question about them was not answered
	waiting map[snapshot.ViewKey]*candidate
	// changed are the mesh resources that changed since nothing waits.
	changed keySet
	// unseen says of patches why they are in force somewhere though no Envoy read them beforehand.
	unseen map[mesh.Key]string
}

// candidate is a view that waits for a verdict.
type candidate struct {
	view     *view
	revision mesh.Revision // of the zone's store
}

// bucketTried is where it survives a restart what was taken; the key is the version of an Envoy resource.
const bucketTried = "publish/tried"

const (
	// trialLimit is how long all the questions of one trial may take, whoever is asked.
	trialLimit = time.Minute
	// mostTrials are under way at one time; the others wait.
	mostTrials = 16
	// mostSilence is how often an agent that does not answer is asked again: one that was killed over the question comes back.
	mostSilence = 3
	// mostTried bounds what is remembered of versions that are in force no more.
	mostTried = 4096
)

func newTrials() trials {
	return trials{
		tried: map[string]string{}, refused: map[string]mesh.Rejection{}, asked: map[string]struct{}{}, silence: map[string]int{},
		waiting: map[snapshot.ViewKey]*candidate{}, changed: keySet{}, unseen: map[mesh.Key]string{},
	}
}

// patchesOf are the Extensions that patch, nil for none.
func patchesOf(t *topology.Topology) keySet {
	var out keySet
	for _, e := range t.Patches() {
		if out == nil {
			out = keySet{}
		}
		out[e.Resource.Key] = struct{}{}
	}
	return out
}

// patches are those of the patches that shaped a resource.
func (b keySet) patches(r envoy.Resource) []mesh.Key {
	if len(b) == 0 || r.Type != envoy.TypeCluster && r.Type != envoy.TypeListener && r.Type != envoy.TypeRoute {
		return nil
	}
	var out []mesh.Key
	for _, k := range r.Sources {
		if _, ok := b[k]; ok {
			out = append(out, k)
		}
	}
	return out
}

// mayGoOut reports whether a view has nothing patched in it that is still to be tried, and begins to have it tried.
func (p *Publisher) mayGoOut(ctx context.Context, key snapshot.ViewKey, v *view, patches keySet, proxies []mesh.ProxyID) bool {
	var open, fresh []envoy.Resource
	if len(patches) > 0 && p.cfg.Try != nil {
		v.each(func(r envoy.Resource) {
			by := patches.patches(r)
			if len(by) == 0 {
				return
			}
			why, tried := p.trials.tried[r.Version]
			for _, k := range by {
				if why != "" {
					p.trials.unseen[k] = why
				}
			}
			if tried {
				return
			}
			open = append(open, r)
			if _, asked := p.trials.asked[r.Version]; !asked {
				fresh = append(fresh, r)
			}
		})
	}
	if len(open) == 0 {
		delete(p.trials.waiting, key)
		return true
	}
	who, soon := p.triers(proxies)
	switch {
	case len(who) > 0:
		if len(fresh) > 0 {
			p.try(ctx, fresh, v, who)
		}
	case soon:
	default:
		for _, r := range open {
			for _, k := range patches.patches(r) {
				p.trials.unseen[k] = "none of the proxies that take it could be asked beforehand: the first that comes says whether its Envoy does"
			}
		}
		delete(p.trials.waiting, key)
		return true
	}
	return false
}

// triers are the proxies that can be asked; soon says that one may come back before its lease runs out.
func (p *Publisher) triers(proxies []mesh.ProxyID) (who []mesh.ProxyID, soon bool) {
	for _, id := range proxies {
		switch a := p.picture.Agents[id]; {
		case a.Tries:
			who = append(who, id)
		case !a.Attending && a.Healthy:
			soon = true
		}
	}
	return who, soon
}

// meanwhile is what is in force of a view while what is wanted of it waits: what was before, with the endpoints of now. What waited
// first goes out when it may, though something else is wanted by now: else changes that come faster than verdicts would keep the view for ever.
func (p *Publisher) meanwhile(key snapshot.ViewKey, wanted *view, patches keySet) (*view, error) {
	now := p.views[key]
	var failed error
	if c := p.trials.waiting[key]; c != nil && p.allTried(c.view, patches) {
		now = c.view
		failed = p.publish(key, now, c.revision)
		delete(p.trials.waiting, key)
	}
	if p.trials.waiting[key] == nil {
		p.trials.waiting[key] = &candidate{wanted, p.cursor.Revision}
	}
	if now == nil || now.revision == 0 {
		return newView(nil), failed // nothing is published: its proxies keep what they have
	}
	var ends []envoy.Resource
	wanted.each(func(r envoy.Resource) {
		if old := now.get(nameOf(r)); r.Type == envoy.TypeEndpoint && old.Version != "" && old.Version != r.Version {
			ends = append(ends, r)
		}
	})
	if len(ends) > 0 {
		now.replace(ends, map[*shelf]*shelf{})
		failed = errors.Join(failed, p.publish(key, now, now.revision))
	}
	return now, failed
}

func (p *Publisher) allTried(v *view, patches keySet) bool {
	all := true
	v.each(func(r envoy.Resource) {
		if _, tried := p.trials.tried[r.Version]; !tried && len(patches.patches(r)) > 0 {
			all = false
		}
	})
	return all
}

// judgement is what came of a trial.
type judgement struct {
	of      []envoy.Resource
	refused []envoy.Resource // at fault; one, unless they are only together
	reason  string           // Envoy's
	by      mesh.ProxyID
	err     error // nobody could say
}

// underWay reports whether a mesh resource may be what a trial refused: it changed since, or not all who run it have said that they do.
func (t *trials) underWay(k mesh.Key, settled func(mesh.Key) bool) bool {
	_, now := t.changed[k]
	return now || !settled(k)
}

// lacks reports whether something was refused for which a view has nothing from before. It is not published so: the build that follows has
// what is at fault held, and has all there is.
func (p *Publisher) lacks(key snapshot.ViewKey, v *view) bool {
	return slices.ContainsFunc(p.invalid, func(i invalidResource) bool {
		_, refused := p.trials.refused[i.Resource.Version]
		return refused && i.view == string(key) && v.get(nameOf(i.Resource)).Version == ""
	})
}

// blamePatches holds the patches of a resource that was refused though nothing of it is under way: after a restart in the middle of a trial nobody
// knows what was there before. It then is what it is without them.
func (p *Publisher) blamePatches(view snapshot.ViewKey, patches keySet, r envoy.Resource, said mesh.Rejection) []mesh.Key {
	at := patches.patches(r)
	for _, k := range at {
		if _, known := p.priors[k]; !known {
			p.priors[k] = prior{}
		}
	}
	return p.isolate(view, nameOf(r), at, said, func(mesh.Key) bool { return true })
}

// try has resources of a view tried, and comes back with the verdict.
func (p *Publisher) try(ctx context.Context, list []envoy.Resource, v *view, who []mesh.ProxyID) {
	for _, r := range list {
		p.trials.asked[r.Version] = struct{}{}
	}
	clusters := clustersOf(v)
	p.trying.Go(func() {
		x := p.judge(ctx, list, clusters, who)
		if x.err == nil && x.reason == "" {
			p.keepTried(ctx, list)
		}
		p.inbox.put(func() { p.judged(x) })
	})
}

func clustersOf(v *view) map[string]envoy.Resource {
	out := map[string]envoy.Resource{}
	if v != nil {
		v.each(func(r envoy.Resource) {
			if r.Type == envoy.TypeCluster {
				out[r.Name] = r
			}
		})
	}
	return out
}

// judge asks about resources, and of those that are refused finds the one at fault.
func (p *Publisher) judge(ctx context.Context, list []envoy.Resource, clusters map[string]envoy.Resource, who []mesh.ProxyID) judgement {
	x := judgement{of: list}
	select {
	case p.judging <- struct{}{}:
		defer func() { <-p.judging }()
	case <-ctx.Done():
		x.err = ctx.Err()
		return x
	}
	ctx, cancel := context.WithTimeout(ctx, trialLimit)
	defer cancel()
	ask := func(some []envoy.Resource) string {
		bootstrap, err := envoy.Trial(some, clusters)
		if err != nil {
			x.err = err
			return ""
		}
		for _, x.by = range who {
			var reason string
			if reason, x.err = p.cfg.Try(ctx, x.by, bootstrap); x.err == nil || ctx.Err() != nil {
				return reason
			}
		}
		return ""
	}
	if x.reason = ask(list); x.reason == "" {
		return x
	}
	x.refused = list
	for len(x.refused) > 1 {
		half := len(x.refused) / 2
		some := x.refused[:half]
		reason := ask(some)
		if reason == "" && x.err == nil {
			some = x.refused[half:]
			reason = ask(some)
		}
		if reason == "" { // only together, or nobody says any more
			x.err = nil
			break
		}
		x.refused, x.reason = some, reason
	}
	return x
}

// judged takes a verdict. Whose fault a refusal is the next build finds, in every view that has the resource.
func (p *Publisher) judged(x judgement) {
	p.stale = true
	for _, r := range x.of {
		delete(p.trials.asked, r.Version)
	}
	switch {
	case errors.Is(x.err, inspect.ErrSilent) && p.silent(x.of) < mostSilence: // the next build asks who is there then
		return
	case x.err != nil:
		p.cfg.Log.Warn("a patch goes out without having been tried", "proxy", x.by.String(), "resource", x.of[0].String(), "error", x.err)
		for _, r := range x.of {
			p.trials.tried[r.Version] = fmt.Sprintf("it was not tried beforehand, because %s could not say (%.200s): the first Envoy that gets it does", x.by, x.err)
		}
		return
	case x.reason == "":
		for _, r := range x.of {
			p.trials.tried[r.Version] = ""
		}
		return
	}
	for _, r := range x.refused {
		p.trials.refused[r.Version] = mesh.Rejection{Proxy: x.by.String(), Resource: r.String(), Error: "not sent: " + x.reason}
	}
	p.cfg.Log.Warn("an Envoy would refuse what is patched; it is not sent, and the last good one stays", "proxy", x.by.String(), "resource", x.refused[0].String(), "error", x.reason)
}

// silent counts a question that was not answered.
func (p *Publisher) silent(list []envoy.Resource) int {
	most := 0
	for _, r := range list {
		p.trials.silence[r.Version]++
		most = max(most, p.trials.silence[r.Version])
	}
	return most
}

// refusedIn reports whether something in a shelf was tried and refused.
func (p *Publisher) refusedIn(s *shelf) bool {
	return len(p.trials.refused) > 0 && slices.ContainsFunc(s.list, func(r envoy.Resource) bool { _, refused := p.trials.refused[r.Version]; return refused })
}

// settleTrials follows a build.
func (p *Publisher) settleTrials() {
	for key := range p.trials.waiting {
		if p.views[key] == nil {
			delete(p.trials.waiting, key)
		}
	}
	if len(p.trials.waiting) == 0 {
		clear(p.trials.changed)
		clear(p.trials.silence)
	}
	if len(p.trials.tried)+len(p.trials.refused) <= mostTried {
		return
	}
	live := map[string]struct{}{}
	for _, v := range p.views {
		v.each(func(r envoy.Resource) { live[r.Version] = struct{}{} })
	}
	for _, c := range p.trials.waiting {
		c.view.each(func(r envoy.Resource) { live[r.Version] = struct{}{} })
	}
	maps.DeleteFunc(p.trials.tried, func(version, _ string) bool { _, ok := live[version]; return !ok })
	clear(p.trials.refused) // what is held is not built, and what is still wanted is asked about again
}

// keepTried remembers over a restart what was taken: it is in force then, and must not wait for an agent to come back.
func (p *Publisher) keepTried(ctx context.Context, list []envoy.Resource) {
	writes := make([]store.RecordWrite, len(list))
	for i, r := range list {
		writes[i] = store.RecordWrite{Key: r.Version, Value: []byte(`{}`)}
	}
	if _, err := p.cfg.Store.PutRecords(ctx, bucketTried, writes...); err != nil {
		p.cfg.Log.ErrorContext(ctx, "after a restart a patch will be tried again: the store does not take the verdict", "error", err)
	}
}

// restoreTried reads what was taken before a restart, the newest of it, and forgets the rest.
func (p *Publisher) restoreTried(ctx context.Context) error {
	list, _, err := p.cfg.Store.ListRecords(ctx, bucketTried, "")
	if err != nil {
		return fmt.Errorf("read what was tried: %w", err)
	}
	slices.SortFunc(list, func(a, b store.Record) int { return b.UpdatedAt.Compare(a.UpdatedAt) })
	var old []store.RecordWrite
	for i, r := range list {
		if i < mostTried/2 {
			p.trials.tried[r.Key] = ""
		} else {
			old = append(old, store.RecordWrite{Key: r.Key, Delete: true})
		}
	}
	if len(old) > 0 {
		_, err = p.cfg.Store.PutRecords(ctx, bucketTried, old...)
	}
	return err
}

// byView are the proxies of each view that have an Envoy.
func byView(t *topology.Topology) map[snapshot.ViewKey][]mesh.ProxyID {
	out := map[snapshot.ViewKey][]mesh.ProxyID{}
	for _, x := range t.Proxies() {
		if !x.Proxyless {
			out[snapshot.ViewKey(x.ViewKey)] = append(out[snapshot.ViewKey(x.ViewKey)], x.ID)
		}
	}
	return out
}
