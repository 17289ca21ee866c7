package topology_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/topology"
)

func TestRouteConditions(t *testing.T) {
	resource := func(kind mesh.Kind, name, spec string) mesh.Resource {
		return mesh.Resource{Key: mesh.Key{Origin: mesh.OriginGlobal, Kind: kind, Namespace: "shop", Name: name}, Spec: json.RawMessage(spec)}
	}
	in := topology.Input{Zone: "one", TrustDomain: "one.example", Resources: []mesh.Resource{
		resource(mesh.KindService, "web", `{"selector":{"app":"web"},"ports":[{"port":80,"appProtocol":"http"},{"port":70}]}`),
		resource(mesh.KindHTTPRoute, "good", `{"parentRefs":[{"group":"","kind":"Service","name":"web"}],"rules":[{"backendRefs":[{"name":"web","port":80}]}]}`),
		resource(mesh.KindHTTPRoute, "gone", `{"parentRefs":[{"group":"","kind":"Service","name":"web"},{"name":"edge"}],"rules":[{"backendRefs":[{"name":"gone","port":80}]}]}`),
		resource(mesh.KindGRPCRoute, "denied", `{"parentRefs":[{"group":"","kind":"Service","name":"web"}],"rules":[{"backendRefs":[{"name":"web","namespace":"bank","port":80}]}]}`),
		resource(mesh.KindTCPRoute, "lost", `{"parentRefs":[{"group":"","kind":"Service","name":"web","port":80}],"rules":[{"backendRefs":[{"name":"web","port":70}]}]}`),
	}}
	_, issues := topology.Build(in)
	for name, want := range map[string][2]string{
		"good":   {"Accepted", "ResolvedRefs"},
		"gone":   {"NoMatchingParent", "BackendNotFound"},
		"denied": {"Accepted", "RefNotPermitted"},
		"lost":   {"NoMatchingParent", "ResolvedRefs"},
	} {
		var own []topology.Issue
		for _, i := range issues {
			if i.Key.Name == name && topology.IsRoute(i.Key.Kind) {
				own = append(own, i)
			}
		}
		got := topology.RouteConditions(own)
		reasons := []string{got[0].Reason, got[1].Reason}
		if !slices.Equal(reasons, want[:]) || got[0].Type != "Accepted" || got[1].Type != "ResolvedRefs" {
			t.Errorf("%s: %+v, want %v", name, got, want)
		}
		for _, c := range got {
			if (c.Status == "False") != (c.Reason != c.Type) || (c.Status == "False") != (c.Message != "") {
				t.Errorf("%s: %+v", name, c)
			}
		}
	}
}
