package policy_test

import (
	"encoding/json"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

func gateway(t *testing.T, spec string) mesh.Resource {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(spec))
	if err != nil {
		t.Fatal(err)
	}
	return mesh.Resource{
		Key:        mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindGateway, Namespace: "shop", Name: "edge"},
		APIVersion: policy.APIVersionGatewayAPI, Spec: json.RawMessage(raw),
	}
}

const wholeGateway = `
gatewayClassName: comity
addresses: [{value: 192.0.2.1}, {type: Hostname, value: edge.example.com}]
tls:
  frontend:
    default: {}
    perPort: [{port: 443, tls: {validation: {mode: AllowInsecureFallback, caCertificateRefs: [{group: "", kind: Secret, name: clients}]}}}]
listeners:
- {name: http, port: 80, protocol: HTTP, hostname: "*.example.com"}
- {name: https, port: 443, protocol: HTTPS, tls: {options: {mesh.comity.dev/tls-minimum: "1.3"}, certificateRefs: [{name: example}]}}
- {name: pass, port: 443, protocol: TLS, hostname: db.example.com, tls: {mode: Passthrough}}
- {name: tcp, port: 5432, protocol: TCP, allowedRoutes: {namespaces: {from: All}, kinds: [{kind: TCPRoute}]}}
`

func TestGatewayIsTaken(t *testing.T) {
	res := gateway(t, wholeGateway)
	res.Annotations = map[string]string{policy.AnnotationTrustedHops: "2", mesh.AnnotationZones: "one"}
	if wrong := policy.Validate(res); wrong != nil {
		t.Errorf("%+v", wrong)
	}
	class := mesh.Resource{
		Key:        mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindGatewayClass, Name: "edge"},
		APIVersion: policy.APIVersionGatewayAPI, Spec: json.RawMessage(`{"controllerName":"mesh.comity.dev/gateway"}`),
	}
	if wrong := policy.Validate(class); wrong != nil {
		t.Errorf("%+v", wrong)
	}
}

// TestGatewayIsRefused: what could not be served as it is written is refused where it is written.
func TestGatewayIsRefused(t *testing.T) {
	for what, x := range map[string]struct{ spec, at string }{
		"no listener":              {`{gatewayClassName: comity}`, "/spec/listeners"},
		"a name twice":             {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}]}`, "/spec/listeners/1/name"},
		"a host twice":             {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP, hostname: x.example}, {name: b, port: 80, protocol: HTTP, hostname: x.example}]}`, "/spec/listeners/1"},
		"TLS and none":             {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: TLS, tls: {mode: Passthrough}}]}`, "/spec/listeners/1"},
		"TCP beside":               {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: TCP}]}`, "/spec/listeners/1"},
		"UDP":                      {`{gatewayClassName: comity, listeners: [{name: a, port: 53, protocol: UDP}]}`, "/spec/listeners/0/protocol"},
		"a star inside":            {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP, hostname: "a.*.example"}]}`, "/spec/listeners/0/hostname"},
		"an address":               {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP, hostname: 192.0.2.1}]}`, "/spec/listeners/0/hostname"},
		"HTTP with TLS":            {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP, tls: {mode: Passthrough}}]}`, "/spec/listeners/0/tls"},
		"HTTPS without":            {`{gatewayClassName: comity, listeners: [{name: a, port: 443, protocol: HTTPS}]}`, "/spec/listeners/0/tls"},
		"no certificate":           {`{gatewayClassName: comity, listeners: [{name: a, port: 443, protocol: HTTPS, tls: {}}]}`, "/spec/listeners/0/tls/certificateRefs"},
		"HTTPS passed through":     {`{gatewayClassName: comity, listeners: [{name: a, port: 443, protocol: HTTPS, tls: {mode: Passthrough}}]}`, "/spec/listeners/0/tls/mode"},
		"a namespace that is none": {`{gatewayClassName: comity, listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: x, namespace: ../bank}]}}]}`, "/spec/listeners/0/tls/certificateRefs/0/namespace"},
		"somebody else's clients":  {`{gatewayClassName: comity, listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: x}]}}], tls: {frontend: {default: {validation: {caCertificateRefs: [{group: "", kind: Secret, name: x, namespace: bank}]}}}}}`, "/spec/tls/frontend/default/validation/caCertificateRefs/0/namespace"},
		"an old TLS":               {`{gatewayClassName: comity, listeners: [{name: a, port: 443, protocol: HTTPS, tls: {options: {mesh.comity.dev/tls-minimum: "1.0"}, certificateRefs: [{name: x}]}}]}`, "/spec/listeners/0/tls/options/mesh.comity.dev~1tls-minimum"},
		"labels of namespaces":     {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}}]}`, "/spec/listeners/0/allowedRoutes/namespaces/selector/matchLabels/team"},
		"expressions about them":   {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: team, operator: Exists}]}}}}]}`, "/spec/listeners/0/allowedRoutes/namespaces/selector/matchExpressions/0/key"},
		"no such operator":         {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: Like}]}}}}]}`, "/spec/listeners/0/allowedRoutes/namespaces/selector/matchExpressions/0/operator"},
		"no values":                {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In}]}}}}]}`, "/spec/listeners/0/allowedRoutes/namespaces/selector/matchExpressions/0/values"},
		"nothing is selected by":   {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}]}`, "/spec/listeners/0/allowedRoutes/namespaces/selector"},
		"a selector for all":       {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All, selector: {matchLabels: {kubernetes.io/metadata.name: bank}}}}}]}`, "/spec/listeners/0/allowedRoutes/namespaces/selector"},
		"another kind of route":    {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: TCPRoute}]}}]}`, "/spec/listeners/0/allowedRoutes/kinds/0/kind"},
		"infrastructure":           {`{gatewayClassName: comity, infrastructure: {labels: {a: b}}, listeners: [{name: a, port: 80, protocol: HTTP}]}`, "/spec/infrastructure"},
		"a port without TLS":       {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP}], tls: {frontend: {default: {}, perPort: [{port: 80, tls: {}}]}}}`, "/spec/tls/frontend/perPort/0/port"},
		"two authorities":          {`{gatewayClassName: comity, listeners: [{name: a, port: 80, protocol: HTTP}], tls: {frontend: {default: {validation: {caCertificateRefs: []}}}}}`, "/spec/tls/frontend/default/validation/caCertificateRefs"},
	} {
		wrong := policy.Validate(gateway(t, x.spec))
		if !slices.ContainsFunc(wrong, func(f policy.FieldError) bool { return f.Pointer == x.at }) {
			t.Errorf("%s: %+v, want %s", what, wrong, x.at)
		}
	}
	res := gateway(t, wholeGateway)
	res.Annotations = map[string]string{policy.AnnotationTrustedHops: "many"}
	if wrong := policy.Validate(res); len(wrong) != 1 || wrong[0].Pointer != "/metadata/annotations/mesh.comity.dev~1trusted-hops" {
		t.Errorf("%+v", wrong)
	}
}

func TestStreamRoutes(t *testing.T) {
	route := func(kind mesh.Kind, spec string) mesh.Resource {
		res := gateway(t, spec)
		res.Kind = kind
		return res
	}
	for _, res := range []mesh.Resource{
		route(mesh.KindTLSRoute, `{parentRefs: [{name: edge}], hostnames: ["*.example.com"], rules: [{backendRefs: [{name: pay, port: 7070}]}]}`),
		route(mesh.KindTCPRoute, `{parentRefs: [{name: edge, sectionName: tcp}], rules: [{backendRefs: [{name: pay, port: 7070, weight: 3}, {name: echo, port: 7070}]}]}`),
		route(mesh.KindTCPRoute, `{parentRefs: [{group: "", kind: Service, name: pay, namespace: bank, port: 7070}], rules: [{backendRefs: [{name: pay, port: 7070}]}]}`),
		route(mesh.KindTLSRoute, `{parentRefs: [{group: "", kind: Service, name: pay}], hostnames: [a.example.com], rules: [{backendRefs: [{name: pay, port: 7070, weight: 0}]}]}`),
	} {
		if wrong := policy.Validate(res); wrong != nil {
			t.Errorf("%s: %+v", res.Kind, wrong)
		}
	}
	for at, res := range map[string]mesh.Resource{
		"/spec/hostnames":                  route(mesh.KindTLSRoute, `{parentRefs: [{name: edge}], rules: [{backendRefs: [{name: pay, port: 7070}]}]}`),
		"/spec/rules":                      route(mesh.KindTCPRoute, `{parentRefs: [{name: edge}], rules: [{backendRefs: [{name: pay, port: 1}]}, {backendRefs: [{name: pay, port: 2}]}]}`),
		"/spec/parentRefs/0/kind":          route(mesh.KindTCPRoute, `{parentRefs: [{group: "", kind: Pod, name: pay}], rules: [{backendRefs: [{name: pay, port: 1}]}]}`),
		"/spec/rules/0/backendRefs":        route(mesh.KindTCPRoute, `{parentRefs: [{name: edge}], rules: [{backendRefs: []}]}`),
		"/spec/rules/0/backendRefs/0/port": route(mesh.KindTCPRoute, `{parentRefs: [{name: edge}], rules: [{backendRefs: [{name: pay}]}]}`),
	} {
		if wrong := policy.Validate(res); !slices.ContainsFunc(wrong, func(f policy.FieldError) bool { return f.Pointer == at }) {
			t.Errorf("%+v, want %s", wrong, at)
		}
	}
}
