package topology_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/topology/topologytest"
)

func base(t *testing.T) topology.Input {
	t.Helper()
	return topologytest.Load(t, "../translate/testdata/cross-zone/input.yaml")
}

func said(issues []topology.Issue, key, part string) bool {
	return slices.ContainsFunc(issues, func(i topology.Issue) bool { return i.Key.String() == key && strings.Contains(i.Message, part) })
}

// TestOneBadThingBreaksNothing breaks the input in many ways; what is left must be as before, and an
// issue must name what is wrong.
func TestOneBadThingBreaksNothing(t *testing.T) {
	global := func(kind mesh.Kind, namespace, name, spec string) mesh.Resource {
		return mesh.Resource{Key: mesh.Key{Origin: mesh.OriginGlobal, Kind: kind, Namespace: namespace, Name: name}, Spec: json.RawMessage(spec)}
	}
	workload := topology.Workload{
		Namespace: "shop", Name: "bad", Labels: map[string]string{"app": "pay"}, Healthy: true, Identity: "spiffe://one.example/ns/shop/sa/pay",
		Spec: policy.Workload{ServiceAccount: "pay", Address: "10.0.0.9", InboundPort: 15006},
	}
	with := func(f func(*topology.Workload)) func(*topology.Input) {
		return func(in *topology.Input) {
			w := workload
			f(&w)
			in.Workloads = append(in.Workloads, w)
		}
	}
	add := func(r mesh.Resource) func(*topology.Input) {
		return func(in *topology.Input) { in.Resources = append(in.Resources, r) }
	}
	const badWorkload = "one/Workload/shop/bad"
	for name, c := range map[string]struct {
		change    func(*topology.Input)
		key, says string
	}{
		"not JSON":             {add(global(mesh.KindService, "shop", "x", `{`)), "global/Service/shop/x", "not understood"},
		"a field nobody knows": {add(global(mesh.KindAuthorizationPolicy, "shop", "x", `{"action":"Deny","when":"later"}`)), "global/AuthorizationPolicy/shop/x", "when"},
		"a name with a dot":    {add(global(mesh.KindService, "shop", "a.b", `{"selector":{"a":"b"},"ports":[{"port":1}]}`)), "global/Service/shop/a.b", "unusable name"},
		"nothing selected":     {add(global(mesh.KindService, "shop", "x", `{"ports":[{"port":1}]}`)), "global/Service/shop/x", "selects nothing"},
		"nothing to export":    {add(global(mesh.KindServiceExport, "shop", "x", `{}`)), "global/ServiceExport/shop/x", "no Service"},
		"a namespace not its own": {func(in *topology.Input) {
			add(global(mesh.KindService, "bank", "x", `{"selector":{"a":"b"},"ports":[{"port":1}]}`))(in)
			add(global(mesh.KindServiceExport, "bank", "x", `{}`))(in)
		}, "global/ServiceExport/bank/x", "may not speak"},
		"a target that is absent": {add(global(mesh.KindAuthorizationPolicy, "shop", "x", `{"targetRef":{"kind":"Service","name":"y"},"action":"Deny"}`)), "global/AuthorizationPolicy/shop/x", "not here"},
		"no address":              {with(func(w *topology.Workload) { w.Spec.Address = "host.example" }), badWorkload, "address"},
		"no inbound port":         {with(func(w *topology.Workload) { w.Spec.InboundPort = 0 }), badWorkload, "inboundPort"},
		"another zone's identity": {with(func(w *topology.Workload) { w.Identity = "spiffe://two.example/ns/shop/sa/pay" }), badWorkload, "not of trust domain"},
		"an address taken":        {with(func(w *topology.Workload) { w.Spec.Address = "10.0.0.2"; w.Name = "zz" }), "one/Workload/shop/zz", "is the address of"},
		"a zone global never saw": {func(in *topology.Input) {
			in.Remotes = append(in.Remotes, topology.Remote{Zone: "four", TrustDomain: "four.example"})
		}, "global/Zone//four", "not believed"},
		"a zone with our name": {func(in *topology.Input) {
			in.Remotes = append(in.Remotes, topology.Remote{Zone: "one", TrustDomain: "four.example"})
		}, "global/Zone//one", "calls itself"},
		"a stolen trust domain": {func(in *topology.Input) {
			add(global(mesh.KindZone, "", "a-thief", `{"namespaces":["*"]}`))(in)
			in.Remotes = append(in.Remotes, topology.Remote{Zone: "a-thief", TrustDomain: "two.example"})
		}, "global/Zone//a-thief", "belongs to zone"},
		"roots that are none": {func(in *topology.Input) {
			add(global(mesh.KindZone, "", "four", `{"namespaces":["*"]}`))(in)
			in.Roots["four.example"] = []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
			in.Remotes = append(in.Remotes, topology.Remote{Zone: "four", TrustDomain: "four.example"})
		}, "global/Zone//four", "no readable roots"},
	} {
		t.Run(name, func(t *testing.T) {
			in := base(t)
			c.change(&in)
			topo, issues := topology.Build(in)
			if !said(issues, c.key, c.says) {
				t.Errorf("no issue of %s says %q: %v", c.key, c.says, issues)
			}
			pay, ok := topo.Service(topology.ServiceName{Namespace: "shop", Name: "pay"})
			if !ok || len(pay.Local.Workloads) != 1 || len(pay.Remotes) != 1 || pay.Remotes[0].Zone != "two" {
				t.Errorf("pay is not what it was: %+v", pay)
			}
			if len(topo.Zones) != 3 {
				t.Errorf("zones: %+v", topo.Zones)
			}
		})
	}
}

func TestZoneWinsOverGlobal(t *testing.T) {
	in := base(t)
	own := mesh.Resource{Key: mesh.Key{Origin: "one", Kind: mesh.KindService, Namespace: "shop", Name: "pay"}, Spec: json.RawMessage(`{"selector":{"app":"pay"},"ports":[{"port":1234,"appProtocol":"http"}]}`)}
	in.Resources = append(in.Resources, own)
	topo, issues := topology.Build(in)
	pay, _ := topo.Service(topology.ServiceName{Namespace: "shop", Name: "pay"})
	if _, ok := pay.Local.Targets[1234]; !ok {
		t.Errorf("ports: %+v", pay.Ports)
	}
	if !slices.ContainsFunc(issues, func(i topology.Issue) bool {
		return i.Key.Origin == mesh.OriginGlobal && i.Key.Name == "pay" && slices.Contains(i.OverriddenBy, own.Key)
	}) {
		t.Errorf("the loser is not told: %v", issues)
	}
}

func TestScope(t *testing.T) {
	in := base(t)
	for i := range in.Resources {
		if in.Resources[i].Kind == mesh.KindService {
			in.Resources[i].Annotations = map[string]string{mesh.AnnotationZones: "two, three"}
		}
	}
	topo, _ := topology.Build(in)
	if s, ok := topo.Service(topology.ServiceName{Namespace: "shop", Name: "pay"}); !ok || s.Local != nil {
		t.Errorf("a service of other zones is served here: %+v", s)
	}
}

func TestExports(t *testing.T) {
	topo, _ := topology.Build(base(t))
	exports := topo.Exports()
	if len(exports) != 1 {
		t.Fatalf("%+v", exports)
	}
	e := exports[0]
	if e.Service != "pay" || len(e.Ports) != 3 || e.Ready != 1 || e.Total != 1 || e.Capacity != 1 || e.ReadyCapacity != 1 ||
		!slices.Equal(e.Identities, []string{"spiffe://one.example/ns/shop/sa/pay"}) {
		t.Errorf("%+v", e)
	}
}

// TestViews: what is the same shares a view, what differs does not.
func TestViews(t *testing.T) {
	in := base(t)
	in.Ingresses = []topology.IngressProxy{{Name: "a", BindAddress: "0.0.0.0", BindPorts: []uint16{1, 2}}, {Name: "b", BindAddress: "0.0.0.0", BindPorts: []uint16{2, 1}}, {Name: "c", BindAddress: "0.0.0.0", BindPorts: []uint16{1}}}
	topo, _ := topology.Build(in)
	keys := map[string]string{}
	for _, p := range topo.Proxies() {
		keys[p.ID.Name] = p.ViewKey
	}
	if keys["a"] != keys["b"] || keys["a"] == keys["c"] || keys["a"] == keys["pay-1"] {
		t.Errorf("%v", keys)
	}
}
