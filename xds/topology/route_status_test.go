package topology_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

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

// TestRoutesThatListenersDoNotTake: the reasons of the Gateway API's conformance suite for routes with wrong parents and backends, and what their
// listeners count.
func TestRoutesThatListenersDoNotTake(t *testing.T) {
	resource := func(kind mesh.Kind, namespace, name, spec string) mesh.Resource {
		raw, err := yaml.YAMLToJSON([]byte(spec))
		if err != nil {
			t.Fatal(err)
		}
		return mesh.Resource{Key: mesh.Key{Origin: mesh.OriginGlobal, Kind: kind, Namespace: namespace, Name: name}, Spec: raw}
	}
	const to = `, rules: [{backendRefs: [{name: web, port: 80}]}]}`
	in := topology.Input{Zone: "one", TrustDomain: "one.example", Ingresses: []topology.IngressProxy{{Name: "gate", BindAddress: "192.0.2.1", BindPorts: []uint16{15443}}}, Resources: []mesh.Resource{
		resource(mesh.KindService, "shop", "web", `{selector: {app: web}, ports: [{port: 80, appProtocol: http}, {port: 70}]}`),
		resource(mesh.KindService, "bank", "vault", `{selector: {app: vault}, ports: [{port: 80, appProtocol: http}, {port: 70}]}`),
		resource(mesh.KindReferenceGrant, "bank", "other", `{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: "", kind: Service, name: other}]}`),
		resource(mesh.KindGateway, "shop", "edge", `{gatewayClassName: comity, listeners: [
			{name: http, port: 80, protocol: HTTP, hostname: "*.example.com"}, {name: grpc, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}},
			{name: tls, port: 443, protocol: TLS, hostname: abc.example.com, tls: {mode: Passthrough}}, {name: tcp, port: 70, protocol: TCP}, {name: tcp2, port: 71, protocol: TCP}]}`),
		resource(mesh.KindHTTPRoute, "shop", "HTTPRouteInvalidParentRefNotMatchingListenerPort", `{parentRefs: [{name: edge, port: 8080}]`+to),
		resource(mesh.KindHTTPRoute, "shop", "HTTPRouteInvalidParentRefNotMatchingSectionName", `{parentRefs: [{name: edge, sectionName: gone}]`+to),
		resource(mesh.KindHTTPRoute, "shop", "HTTPRouteInvalidParentRefSectionNameNotMatchingPort", `{parentRefs: [{name: edge, sectionName: http, port: 81}]`+to),
		resource(mesh.KindHTTPRoute, "bank", "HTTPRouteInvalidCrossNamespaceParentRef", `{parentRefs: [{name: edge, namespace: shop}], rules: [{backendRefs: [{name: vault, port: 80}]}]}`),
		resource(mesh.KindHTTPRoute, "shop", "HTTPRouteDisallowedKind", `{parentRefs: [{name: edge, sectionName: grpc}]`+to),
		resource(mesh.KindHTTPRoute, "shop", "HTTPRouteInvalidHostname", `{parentRefs: [{name: edge, sectionName: http}], hostnames: [not-accepted.test.com]`+to),
		resource(mesh.KindHTTPRoute, "shop", "HTTPRouteInvalidCrossNamespaceBackendRef", `{parentRefs: [{name: edge, sectionName: http}], rules: [{backendRefs: [{name: vault, namespace: bank, port: 80}]}]}`),
		resource(mesh.KindHTTPRoute, "shop", "HTTPRouteInvalidNonExistentBackendRef", `{parentRefs: [{name: edge, sectionName: http}], rules: [{backendRefs: [{name: gone, port: 80}]}]}`),
		resource(mesh.KindHTTPRoute, "shop", "HTTPRouteNoBackendRefs", `{parentRefs: [{name: edge, sectionName: http}], rules: [{}, {backendRefs: []}]}`),
		resource(mesh.KindHTTPRoute, "shop", "a port for connections", `{parentRefs: [{name: edge, sectionName: http}], rules: [{backendRefs: [{name: web, port: 70}]}]}`),
		resource(mesh.KindTCPRoute, "shop", "TCPRouteInvalidNonTCPListener", `{parentRefs: [{name: edge, sectionName: http}], rules: [{backendRefs: [{name: web, port: 70}]}]}`),
		resource(mesh.KindTCPRoute, "shop", "TCPRouteInvalidBackendRefNonexistent", `{parentRefs: [{name: edge}], rules: [{backendRefs: [{name: gone, port: 70}]}]}`),
		resource(mesh.KindTCPRoute, "shop", "TCPRouteInvalidCrossNamespaceBackendRef", `{parentRefs: [{name: edge, sectionName: tcp}], rules: [{backendRefs: [{name: vault, namespace: bank, port: 70}]}]}`),
		resource(mesh.KindTLSRoute, "shop", "TLSRouteInvalidNoMatchingListenerHostname", `{parentRefs: [{name: edge, sectionName: tls}], hostnames: [other.example.com], rules: [{backendRefs: [{name: web, port: 70}]}]}`),
		resource(mesh.KindTLSRoute, "shop", "TLSRouteInvalidNoMatchingListener", `{parentRefs: [{name: edge, sectionName: http}], hostnames: [abc.example.com], rules: [{backendRefs: [{name: web, port: 70}]}]}`),
		resource(mesh.KindTLSRoute, "shop", "TLSRouteInvalidBackendRefNonexistent", `{parentRefs: [{name: edge, sectionName: tls}], hostnames: ["*.example.com"], rules: [{backendRefs: [{name: gone, port: 70}]}]}`),
	}}
	topo, issues := topology.Build(in)
	for name, want := range map[string][2]string{
		"HTTPRouteInvalidParentRefNotMatchingListenerPort": {"NoMatchingParent", "ResolvedRefs"}, "HTTPRouteInvalidParentRefNotMatchingSectionName": {"NoMatchingParent", "ResolvedRefs"},
		"HTTPRouteInvalidParentRefSectionNameNotMatchingPort": {"NoMatchingParent", "ResolvedRefs"}, "HTTPRouteInvalidCrossNamespaceParentRef": {"NotAllowedByListeners", "ResolvedRefs"},
		"HTTPRouteDisallowedKind": {"NotAllowedByListeners", "ResolvedRefs"}, "HTTPRouteInvalidHostname": {"NoMatchingListenerHostname", "ResolvedRefs"},
		"HTTPRouteInvalidCrossNamespaceBackendRef": {"Accepted", "RefNotPermitted"}, "HTTPRouteInvalidNonExistentBackendRef": {"Accepted", "BackendNotFound"}, "HTTPRouteNoBackendRefs": {"Accepted", "ResolvedRefs"},
		"a port for connections": {"Accepted", "UnsupportedProtocol"}, "TCPRouteInvalidNonTCPListener": {"NotAllowedByListeners", "ResolvedRefs"}, "TCPRouteInvalidBackendRefNonexistent": {"Accepted", "BackendNotFound"},
		"TCPRouteInvalidCrossNamespaceBackendRef": {"Accepted", "RefNotPermitted"}, "TLSRouteInvalidNoMatchingListenerHostname": {"NoMatchingListenerHostname", "ResolvedRefs"},
		"TLSRouteInvalidNoMatchingListener": {"NotAllowedByListeners", "ResolvedRefs"}, "TLSRouteInvalidBackendRefNonexistent": {"Accepted", "BackendNotFound"},
	} {
		var own []topology.Issue
		for _, i := range issues {
			if i.Key.Name == name {
				own = append(own, i)
			}
		}
		if got := topology.RouteConditions(own); got[0].Reason != want[0] || got[1].Reason != want[1] {
			t.Errorf("%s: %+v, want %v", name, got, want)
		}
	}
	attached := map[string]int{}
	for _, l := range topo.Listeners()[mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindGateway, Namespace: "shop", Name: "edge"}] {
		attached[l.Name] = l.AttachedRoutes
	}
	// TCPRouteMultipleRoutesAttachment: all that a listener takes count, also those that have no effect there; those with backends that
	// are not there, too.
	if want := map[string]int{"http": 4, "grpc": 0, "tls": 1, "tcp": 2, "tcp2": 1}; !maps.Equal(attached, want) {
		t.Errorf("%v, want %v", attached, want)
	}
}
