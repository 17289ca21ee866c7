package api

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// notes says of resources which names in them are of nothing that is known here, by key. also are resources that are as good as there: those of
// the same request. Nothing is refused for it: what is named may come later.
func (s *server) notes(ctx context.Context, resources, also []mesh.Resource) (map[mesh.Key][]string, error) {
	asked := map[policy.Referent]bool{}
	references := make([][]policy.Reference, len(resources))
	for i, r := range resources {
		references[i] = policy.References(r)
		for _, ref := range references[i] {
			asked[ref.To] = true
		}
	}
	if len(asked) == 0 {
		return nil, nil
	}
	known, err := s.known(ctx, asked, also)
	if err != nil {
		return nil, err
	}
	out := map[mesh.Key][]string{}
	for i, r := range resources {
		if missing := known.Missing(references[i]); missing != nil {
			out[r.Key] = missing
		}
	}
	return out, nil
}

// known looks for what there is of what is asked for. A zone knows of the others only what they offer to it: who calls from there it can't say.
func (s *server) known(ctx context.Context, asked map[policy.Referent]bool, also []mesh.Resource) (policy.Known, error) {
	k := policy.Known{Where: "any zone", Names: map[policy.Referent][]string{}, Ports: map[string][]policy.ServicePort{}}
	if s.cfg.Mode == ModeZone {
		k.Where = "this zone"
	}
	for to := range asked {
		if info, ok := policy.Lookup(string(to)); ok && string(info.Kind) == string(to) {
			if err := s.knownResources(ctx, info.Kind, also, &k); err != nil {
				return k, err
			}
		}
	}
	if asked[policy.ToZone] || asked[policy.ToCloud] || asked[policy.ToRegion] || asked[policy.ToTrustDomain] {
		if err := s.knownZones(ctx, also, &k); err != nil {
			return k, err
		}
	}
	if s.cfg.Mode == ModeGlobal && (asked[policy.ToNamespace] || asked[policy.ToAccount]) {
		return k, s.knownCallers(ctx, &k)
	}
	return k, nil
}

// knownResources are those of a kind, and of services also what other zones offer.
func (s *server) knownResources(ctx context.Context, kind mesh.Kind, also []mesh.Resource, k *policy.Known) error {
	to, names := policy.Referent(kind), []string{}
	add := func(r mesh.Resource) {
		name := r.Namespace + "/" + r.Name
		names = append(names, name)
		if svc, err := policy.DecodeAs[policy.Service](r); err == nil {
			k.Ports[name] = append(k.Ports[name], svc.Ports...)
		}
	}
	if err := s.each(ctx, kind, add); err != nil {
		return err
	}
	for _, r := range also {
		if r.Kind == kind {
			add(r)
		}
	}
	if kind == mesh.KindService {
		told, err := zonesWords(ctx, s, "failover", "", "", func(st *mesh.FailoverStatus, z heardZone) { st.Zone = z.name })
		if err != nil {
			return err
		}
		for _, f := range told {
			names = append(names, f.Namespace+"/"+f.Service)
		}
	}
	slices.Sort(names)
	k.Names[to] = slices.Compact(names)
	return nil
}

func (s *server) knownZones(ctx context.Context, also []mesh.Resource, k *policy.Known) error {
	zones, err := s.overviewZones(ctx, &facts{})
	if err != nil {
		return err
	}
	add := func(name string, spec policy.Zone, joined mesh.TrustDomain) {
		k.Names[policy.ToZone] = append(k.Names[policy.ToZone], name)
		for to, value := range map[policy.Referent]string{
			policy.ToCloud: spec.Cloud, policy.ToRegion: spec.Region, policy.ToTrustDomain: string(cmp.Or(spec.TrustDomain, joined)),
		} {
			if value != "" && (to != policy.ToTrustDomain || s.cfg.Mode == ModeGlobal) {
				k.Names[to] = append(k.Names[to], value)
			}
		}
	}
	for _, z := range zones {
		add(z.Name, z.Spec, z.Status.TrustDomain)
	}
	for _, r := range also {
		if spec, err := policy.DecodeAs[policy.Zone](r); err == nil && r.Kind == mesh.KindZone {
			add(r.Name, *spec, "")
		}
	}
	return nil
}

// knownCallers are the accounts of workloads, and the namespaces of what there is. Where there are no workloads nothing is known of callers.
func (s *server) knownCallers(ctx context.Context, k *policy.Known) error {
	err := s.each(ctx, mesh.KindWorkload, func(r mesh.Resource) {
		var spec mesh.Workload
		if json.Unmarshal(r.Spec, &spec) == nil {
			k.Names[policy.ToAccount] = append(k.Names[policy.ToAccount], r.Namespace+"/"+spec.ServiceAccount)
		}
		k.Names[policy.ToNamespace] = append(k.Names[policy.ToNamespace], r.Namespace)
	})
	if err != nil || len(k.Names[policy.ToNamespace]) == 0 {
		return err
	}
	return s.each(ctx, mesh.KindService, func(r mesh.Resource) { k.Names[policy.ToNamespace] = append(k.Names[policy.ToNamespace], r.Namespace) })
}

// each calls f with the resources of a kind, whoever made them.
func (s *server) each(ctx context.Context, kind mesh.Kind, f func(mesh.Resource)) error {
	q := store.Query{Kind: kind, Limit: 1000}
	for {
		page, err := s.cfg.Store.List(ctx, q)
		if err != nil {
			return err
		}
		for _, r := range page.Items {
			f(r)
		}
		if q.Continue = page.Continue; q.Continue == "" {
			return nil
		}
	}
}
