package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
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
		find = z.everybody
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

// follow answers questions of global whose answers go on.
func (z *zone) follow(ctx context.Context, what, subject string, emit func(any) error) error {
	switch what {
	case "tap":
		var t mesh.Tap
		if err := json.Unmarshal([]byte(subject), &t); err != nil {
			return err
		}
		return z.tap(ctx, t, func(e mesh.TapEvent) error { return emit(e) })
	case "top":
		var t mesh.Top
		if err := json.Unmarshal([]byte(subject), &t); err != nil {
			return err
		}
		return z.top(ctx, t, func(f mesh.Flows) error { return emit(f) })
	}
	return fmt.Errorf("zone %s does not know what %q is", z.Zone, what)
}

// top tells what passes between pairs in the zone.
func (z *zone) top(ctx context.Context, t mesh.Top, emit func(mesh.Flows) error) error {
	if err := t.Check(); err != nil {
		return err
	}
	return z.desk.Top(ctx, z.Zone, t, z.everybody, emit)
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

// everybody are all proxies, who are those that may call.
func (z *zone) everybody(context.Context) ([]mesh.ProxyID, error) {
	out := z.attending(func(topology.Workload) bool { return true })
	var gateways []mesh.ProxyID
	for id, a := range z.table.Picture().Agents {
		if id.Role != mesh.RoleSidecar && a.Attending {
			gateways = append(gateways, id)
		}
	}
	slices.SortFunc(gateways, func(a, b mesh.ProxyID) int { return cmp.Compare(a.String(), b.String()) })
	return append(gateways, out...), nil
}

func (z *zone) attending(which func(topology.Workload) bool) (out []mesh.ProxyID) {
	picture := z.table.Picture()
	for _, w := range picture.Workloads {
		if picture.Agents[w.ProxyID()].Attending && !w.Spec.Proxyless && which(w) {
			out = append(out, w.ProxyID())
		}
	}
	slices.SortFunc(out, func(a, b mesh.ProxyID) int {
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
	return out
}
