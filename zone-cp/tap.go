package main

import (
	"context"
	"slices"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/topology"
)

// tap shows live requests to a person at the zone or at global. Who looked at what is in the log.
func (z *zone) tap(ctx context.Context, t mesh.Tap, emit func(mesh.TapEvent) error) error {
	if err := t.Check(); err != nil {
		return err
	}
	find := z.servers(t)
	if t.Side == mesh.TapClient {
		find = z.clients
	}
	if t.Proxy != "" {
		id, err := mesh.ParseProxyID(t.Proxy)
		if err != nil {
			return err
		}
		if _, known := z.table.Picture().Agents[id]; !known {
			return unknownProxy(id)
		}
		find = func(context.Context) ([]mesh.ProxyID, error) { return []mesh.ProxyID{id}, nil }
	}
	log, begin, shown := z.part("tap").With("by", t.By, "namespace", t.Namespace, "service", t.Service, "side", t.Side, "proxy", t.Proxy, "filter", t.Filter), time.Now(), 0
	log.InfoContext(ctx, "requests are shown to somebody")
	err := z.desk.Tap(ctx, z.Zone, t, find, func(e mesh.TapEvent) error {
		if e.Request != nil {
			shown++
		}
		return emit(e)
	})
	log.InfoContext(ctx, "requests are not shown any more", "requests", shown, "lasted", time.Since(begin).Round(time.Millisecond), "reason", err)
	return err
}

// servers finds the proxies that serve a service and attend.
func (z *zone) servers(t mesh.Tap) func(context.Context) ([]mesh.ProxyID, error) {
	return func(ctx context.Context) ([]mesh.ProxyID, error) {
		var selector map[string]string
		own := false
		err := z.each(ctx, store.Query{Kind: mesh.KindService, Namespace: t.Namespace}, func(r mesh.Resource) {
			spec, err := policy.DecodeAs[policy.Service](r)
			if r.Name == t.Service && err == nil && !own {
				selector, own = spec.Selector, r.Origin != mesh.OriginGlobal
			}
		})
		return z.attending(func(w topology.Workload) bool { return w.Namespace == t.Namespace && selects(selector, w.Labels) }), err
	}
}

// clients are all proxies that may call.
func (z *zone) clients(context.Context) ([]mesh.ProxyID, error) {
	out := z.attending(func(topology.Workload) bool { return true })
	for id, a := range z.table.Picture().Agents {
		if id.Role == mesh.RoleIngress && a.Attending {
			out = append(out, id)
		}
	}
	return out, nil
}

func (z *zone) attending(which func(topology.Workload) bool) (out []mesh.ProxyID) {
	picture := z.table.Picture()
	for _, w := range picture.Workloads {
		if picture.Agents[w.ProxyID()].Attending && which(w) {
			out = append(out, w.ProxyID())
		}
	}
	slices.SortFunc(out, func(a, b mesh.ProxyID) int {
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
	return out
}
