package publish

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/snapshot"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/translate"
)

// rehearseLimit is how long who applies a patch waits for what Envoys say of it. What is not said by then is said in its status.
const rehearseLimit = 15 * time.Second

// rehearsal is what a patch that is not stored yet would make of what the proxies of one view run.
type rehearsal struct {
	list     []envoy.Resource
	clusters map[string]envoy.Resource
	who      []mesh.ProxyID
	invalid  []envoy.Invalid // what breaks the protocol's own rules, for which nobody need be asked
}

// Admit reports why an Envoy of the zone would refuse a patch that somebody is about to apply. That none can be asked is no reason against
// it: it is tried again before it goes out. ctx's end is the only error.
func (p *Publisher) Admit(ctx context.Context, w store.Write) ([]policy.FieldError, error) {
	if w.Resource.Kind != mesh.KindExtension || w.Delete || p.cfg.Try == nil {
		return nil, nil
	}
	if e, err := policy.DecodeAs[policy.Extension](w.Resource); err != nil || e.Patch == nil {
		return nil, nil // the first was said before
	}
	made := make(chan []rehearsal, 1)
	p.inbox.put(func() { made <- p.rehearse(w.Resource) })
	select {
	case list := <-made:
		return p.ask(ctx, list), ctx.Err()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ask asks about all views at a time, and takes the first refusal.
func (p *Publisher) ask(ctx context.Context, list []rehearsal) []policy.FieldError {
	ctx, cancel := context.WithTimeout(ctx, rehearseLimit)
	defer cancel()
	wrong := func(format string, args ...any) policy.FieldError {
		return policy.FieldError{
			Pointer: "/spec/patch/merge", Code: policy.CodeInvalid, Message: fmt.Sprintf(format, args...),
			Hint: "comity compile --validate shows what comes of it, and what an Envoy here says",
		}
	}
	for _, r := range list {
		if len(r.invalid) > 0 {
			return []policy.FieldError{wrong("every Envoy would refuse %s: %v", r.invalid[0].Resource, r.invalid[0].Err)}
		}
	}
	refused := make(chan policy.FieldError, len(list))
	var asking sync.WaitGroup
	for _, r := range list {
		asking.Go(func() {
			if x := p.judge(ctx, r.list, r.clusters, r.who); x.reason != "" {
				refused <- wrong("the Envoy of %s would refuse %s: %s", x.by, x.refused[0], x.reason)
				cancel()
			}
		})
	}
	asking.Wait()
	select {
	case first := <-refused:
		return []policy.FieldError{first}
	default:
		return nil
	}
}

// rehearse builds what a patch would change, once for each view.
func (p *Publisher) rehearse(r mesh.Resource) []rehearsal {
	if p.last == nil {
		return nil
	}
	in := *p.last
	r.Created = p.cursor.Revision + 1
	in.Resources = make([]mesh.Resource, 0, len(p.last.Resources)+1)
	for _, x := range p.last.Resources {
		if x.Key != r.Key {
			in.Resources = append(in.Resources, x)
		} else {
			r.Created = x.Created
		}
	}
	in.Resources = append(in.Resources, r)
	in.Decode = func(x mesh.Resource) (any, error) {
		if x.Key == r.Key { // of no revision yet, by which specs are remembered
			return policy.Decode(x.Kind, x.Spec)
		}
		return p.specs.decode(x)
	}
	t, _ := topology.Build(in) // what it notes is said when it is stored
	tr := translate.New(t, nil)
	var out []rehearsal
	asked := map[string]bool{}
	members := byView(t)
	for _, x := range t.Proxies() {
		proxies := members[snapshot.ViewKey(x.ViewKey)]
		if len(proxies) == 0 || proxies[0] != x.ID { // once for each view
			continue
		}
		list, err := patchedPart(tr, x, r.Key)
		if err != nil {
			continue // it is told when it is built to be published
		}
		list = slices.DeleteFunc(list, func(r envoy.Resource) bool { // those that views share are asked about once
			was := asked[r.Version]
			asked[r.Version] = true
			return was
		})
		who, _ := p.triers(proxies)
		invalid := envoy.Validate(list)
		if len(list) == 0 || len(who) == 0 && len(invalid) == 0 {
			continue
		}
		out = append(out, rehearsal{list: list, clusters: clustersOf(p.views[snapshot.ViewKey(x.ViewKey)]), who: who, invalid: invalid})
	}
	return out
}

// patchedPart is what a patch changes of a proxy, built.
func patchedPart(tr *translate.Translator, x topology.Proxy, patch mesh.Key) ([]envoy.Resource, error) {
	all := tr.Proxy(x)
	var part ir.Proxy
	for _, c := range all.Clusters {
		if slices.Contains(c.Sources, patch) {
			part.Clusters = append(part.Clusters, c)
		}
	}
	for _, l := range all.Listeners {
		if slices.Contains(l.Sources, patch) {
			part.Listeners = append(part.Listeners, l)
		}
	}
	for _, r := range all.Routes {
		if slices.Contains(r.Sources, patch) {
			part.Routes = append(part.Routes, r)
		}
	}
	return envoy.Build(part)
}
