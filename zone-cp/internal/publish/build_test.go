package publish

import (
	"maps"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// What changes when a zone dies, drains or comes back changes no shape; what else there is does.
func TestSameShape(t *testing.T) {
	input := func() topology.Input {
		return topology.Input{
			Workloads: []topology.Workload{{Namespace: "shop", Name: "pay-1", Healthy: true, Spec: policy.Workload{Address: "10.0.0.1"}}},
			Remotes: []topology.Remote{{
				Zone: "west", Exports: []mesh.Export{{Namespace: "shop", Service: "pay", Ready: 2, Total: 2, Capacity: 2, ReadyCapacity: 2}},
				Ingresses: []topology.RemoteIngress{{Addresses: []string{"10.1.0.1"}}},
			}},
			Egresses: []topology.EgressProxy{{Name: "out", Ready: true}},
		}
	}
	for name, c := range map[string]struct {
		change func(*topology.Input)
		same   bool
	}{
		"nothing":  {func(*topology.Input) {}, true},
		"health":   {func(in *topology.Input) { in.Workloads[0].Healthy = false }, true},
		"draining": {func(in *topology.Input) { in.Workloads[0].Draining = true }, true},
		"capacity": {func(in *topology.Input) { in.Workloads[0].Spec.Capacity = 3 }, true},
		"readiness": {func(in *topology.Input) {
			in.Remotes[0].Exports[0].Ready, in.Remotes[0].Exports[0].ReadyCapacity = 0, 0
		}, true},
		"reach":        {func(in *topology.Input) { in.Remotes[0].Ingresses[0].Unreachable = true }, true},
		"an egress":    {func(in *topology.Input) { in.Egresses[0].Ready = false }, true},
		"an egress's":  {func(in *topology.Input) { in.Egresses[0].Address = "10.0.0.9" }, false},
		"address":      {func(in *topology.Input) { in.Workloads[0].Spec.Address = "10.0.0.2" }, false},
		"an ingress":   {func(in *topology.Input) { in.Remotes[0].Ingresses[0].Addresses = []string{"10.1.0.2"} }, false},
		"identities":   {func(in *topology.Input) { in.Remotes[0].Exports[0].Identities = []string{"x"} }, false},
		"a zone":       {func(in *topology.Input) { in.Remotes = nil }, false},
		"own ingress":  {func(in *topology.Input) { in.Ingresses = []topology.IngressProxy{{Name: "gate"}} }, false},
		"trust":        {func(in *topology.Input) { in.Roots = map[mesh.TrustDomain][]byte{"a": nil} }, false},
		"one more":     {func(in *topology.Input) { in.Workloads = append(in.Workloads, topology.Workload{Name: "x"}) }, false},
		"gone for now": {func(in *topology.Input) { in.Workloads[0].Lost = true }, false},
	} {
		before, after := input(), input()
		c.change(&after)
		if got := sameShape(before, after); got != c.same {
			t.Errorf("%s: same shape %v, want %v", name, got, c.same)
		}
	}
}

// Health costs endpoints alone; a policy of one service changes the views that serve it, and the others keep what they share.
func TestWhatAChangeCosts(t *testing.T) {
	p := small(t, 6)
	shelves := func(place int) map[*shelf]bool {
		out := map[*shelf]bool{}
		for _, v := range p.views {
			out[v.common[place]] = true
		}
		return out
	}
	before := maps.Clone(p.views)
	called, served := shelves(0), shelves(1)
	if len(p.views) != 12 || len(called) != 1 || len(served) != 6 {
		t.Fatalf("%d views with %d shelves of what they call, %d of what they serve", len(p.views), len(called), len(served))
	}
	if err := p.build(t.Context(), batch{cursor: mesh.Cursor{Revision: 2}, changes: []store.Change{authorization(t, "s1", 2)}}); err != nil {
		t.Fatal(err)
	}
	changed := 0
	for key, v := range p.views {
		if !called[v.common[0]] {
			t.Error("what is shared was taken for another")
		}
		if !v.same(before[key]) {
			changed++
		}
	}
	if changed != 2 {
		t.Errorf("%d of %d views changed, want those of two workloads", changed, len(p.views))
	}
	again := 0
	for s := range shelves(1) {
		if served[s] {
			again++
		}
	}
	if again != 5 {
		t.Errorf("%d of 6 shelves of what is served are as they were, want all but one", again)
	}

	picture := p.cfg.Source.Picture()
	picture.Workloads = slices.Clone(picture.Workloads)
	picture.Workloads[0].Healthy = false
	p.cfg.Source = still{picture}
	for key, v := range p.views {
		before[key] = &view{own: v.own, common: v.common} // the short path changes views in place
	}
	if err := p.build(t.Context(), batch{cursor: mesh.Cursor{Revision: 2}}); err != nil {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(p.metrics.builds.WithLabelValues("endpoints")); n != 1 {
		t.Errorf("%v builds took the short path, want 1", n)
	}
	for key, v := range p.views {
		v.each(func(r envoy.Resource) {
			old := before[key].get(nameOf(r))
			if changed := old.Version != r.Version; changed != (r.Type == envoy.TypeEndpoint && r.Name == "s0.shop:80") {
				t.Errorf("view %s: %s changed: %v", key, r, changed)
			}
		})
	}
	if n := len(shelves(0)); n != 1 {
		t.Errorf("%d shelves of what they call", n)
	}
	if st := p.reports.pending["failover/east"]["shop/s0"]; st == nil {
		t.Error("nothing was told of the service")
	}
}

// What breaks the protocol's rules in what views share is left out of each of them, and the rest is published.
func TestInvalidInCommon(t *testing.T) {
	p := small(t, 2)
	common := &ir.Proxy{Clusters: []ir.Cluster{{Name: "good", Protocol: ir.Bytes, ConnectTimeout: 1, Fixed: &ir.HostPort{Address: "127.0.0.1", Port: 1}}, {Name: "", Protocol: ir.Bytes, ConnectTimeout: 1}}}
	p.shelves = map[*ir.Proxy]*shelf{}
	s, err := p.shelf(common)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.invalid) != 1 || len(s.list) != 2 {
		t.Fatalf("%d of %d are invalid: %v", len(s.invalid), len(s.list), s.invalid)
	}
	left := p.withoutInvalid("a", s.list, nil)
	if len(left) != 1 || left[0].Name != "good" || len(p.invalid) == 0 {
		t.Errorf("left: %v; told: %v", left, p.invalid)
	}
	old := newView([]envoy.Resource{{Type: envoy.TypeCluster, Name: "", Version: "good", Body: nil}}, newShelf(nil))
	if left = p.withoutInvalid("b", s.list, old); len(left) != 2 || left[1].Version != "good" {
		t.Errorf("the last good one does not stay: %v", left)
	}
}
