package policy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// refusals are specs of a kind, as YAML, with what is wrong with each; nil for nothing.
type refusals map[string]struct {
	spec string
	want []string
}

func (list refusals) check(t *testing.T, kind mesh.Kind, namespace, name string) {
	for what, c := range list {
		t.Run(what, func(t *testing.T) {
			raw, err := yaml.YAMLToJSON([]byte(c.spec))
			if err != nil {
				t.Fatal(err)
			}
			got := policy.Validate(resource(t, kind, namespace, name, string(raw)))
			if diff := cmp.Diff(c.want, found(got)); diff != "" {
				t.Errorf("(-want +got):\n%s%+v", diff, got)
			}
			for _, f := range got {
				if f.Message == "" {
					t.Errorf("%s: says nothing", f.Pointer)
				}
			}
		})
	}
}

func TestValidateTelemetryPolicy(t *testing.T) {
	refusals{
		"whole": {`{targetRef: {kind: Service, name: web}, accessLogs: [{file: {path: /dev/stdout}, filter: {minStatus: 500, minDuration: 10ms, flags: [UF], pathPrefix: /api, samplePercent: 0.5}},
			{otlp: {address: "otel.example.com:4317", tls: {serverName: otel.example.com}}}], tracing: {otlp: {service: {name: otel, namespace: obs, port: 4317}}, protocol: HTTP, samplePercent: 10,
			tags: [{name: env, literal: prod}, {name: user, header: x-user, default: nobody}]}}`, nil},
		"zipkin":         {`{tracing: {zipkin: {address: "10.0.0.9:9411"}, w3c: true}}`, nil},
		"nothing":        {`{}`, []string{"/spec required"}},
		"a route":        {`{targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}, tracing: {zipkin: {address: "a:1"}}}`, []string{"/spec/targetRef/kind invalid"}},
		"nowhere":        {`{accessLogs: [{}, {file: {path: a/../b}, otlp: {address: "a:1"}}]}`, []string{"/spec/accessLogs/0 invalid", "/spec/accessLogs/1 invalid", "/spec/accessLogs/1/file/path invalid"}},
		"too many":       {`{accessLogs: [` + strings.Repeat(`{file: {path: /a}}, `, 4) + `{file: {path: /a}}]}`, []string{"/spec/accessLogs too_large"}},
		"filter":         {`{accessLogs: [{file: {path: /a}, filter: {minStatus: 99, minDuration: 2h, flags: [XX], pathPrefix: a, samplePercent: 0}}]}`, []string{"/spec/accessLogs/0/filter/minStatus out_of_range", "/spec/accessLogs/0/filter/minDuration out_of_range", "/spec/accessLogs/0/filter/flags/0 invalid", "/spec/accessLogs/0/filter/pathPrefix invalid", "/spec/accessLogs/0/filter/samplePercent out_of_range"}},
		"collectors":     {`{accessLogs: [{otlp: {}}, {otlp: {address: otel}}, {otlp: {address: "a:0", service: {name: a.b, namespace: A, port: 0}}}, {otlp: {service: {name: a, port: 1}, tls: {serverName: a_b, ca: x}}}]}`, []string{"/spec/accessLogs/0/otlp invalid", "/spec/accessLogs/1/otlp/address invalid", "/spec/accessLogs/2/otlp invalid", "/spec/accessLogs/2/otlp/address invalid", "/spec/accessLogs/2/otlp/service/name invalid", "/spec/accessLogs/2/otlp/service/namespace invalid", "/spec/accessLogs/2/otlp/service/port required", "/spec/accessLogs/3/otlp/tls invalid", "/spec/accessLogs/3/otlp/tls/serverName invalid", "/spec/accessLogs/3/otlp/tls/ca invalid"}},
		"no tracer":      {`{tracing: {w3c: true, samplePercent: 101}}`, []string{"/spec/tracing invalid", "/spec/tracing/w3c invalid", "/spec/tracing/samplePercent out_of_range"}},
		"two tracers":    {`{tracing: {otlp: {address: "a:1"}, zipkin: {address: "a:1"}, protocol: Carrier}}`, []string{"/spec/tracing invalid", "/spec/tracing/protocol invalid", "/spec/tracing/protocol invalid"}},
		"tags":           {`{tracing: {otlp: {address: "a:1"}, tags: [{literal: a}, {name: a}, {name: b, header: "x y"}, {name: c, literal: a, default: b}]}}`, []string{"/spec/tracing/tags/0/name required", "/spec/tracing/tags/1 invalid", "/spec/tracing/tags/2/header invalid", "/spec/tracing/tags/3/default invalid"}},
		"forced locally": {`{enforced: maybe, tracing: {otlp: {address: "a:1"}}}`, []string{"/spec/enforced wrong_type"}},
	}.check(t, mesh.KindTelemetryPolicy, "shop", "it")
}

func TestValidateExtension(t *testing.T) {
	const script = `lua: {inline: "function envoy_on_request(h) end"}`
	refusals{
		"script":              {`{targetRef: {kind: Service, name: web}, ` + script + `}`, nil},
		"of a route":          {`{targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}, side: Client, ` + script + `}`, nil},
		"authorization":       {`{externalAuthorization: {service: {name: guard, port: 80}, protocol: HTTP, timeout: 1s, failOpen: true, pathPrefix: /check, requestHeaders: [x-a], upstreamHeaders: [x-b]}}`, nil},
		"nothing":             {`{}`, []string{"/spec invalid"}},
		"two":                 {`{` + script + `, externalAuthorization: {service: {name: guard, port: 80}}}`, []string{"/spec invalid"}},
		"side":                {`{side: Both, ` + script + `}`, []string{"/spec/side invalid"}},
		"enforced":            {`{enforced: true, ` + script + `}`, []string{"/spec/enforced invalid"}},
		"a route's server":    {`{targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}, ` + script + `}`, []string{"/spec/side invalid"}},
		"no script":           {`{lua: {inline: " "}}`, []string{"/spec/lua/inline required"}},
		"no Lua":              {`{lua: {inline: "function ("}}`, []string{"/spec/lua/inline invalid"}},
		"a script of nothing": {`{lua: {inline: "local a = 1"}}`, []string{"/spec/lua/inline invalid"}},
		"a long script":       {`{lua: {inline: "` + strings.Repeat("x", 33<<10) + `"}}`, []string{"/spec/lua/inline too_large"}},
		"asked by gRPC":       {`{externalAuthorization: {service: {name: G, namespace: B, port: 0}, bodyBytes: 2000000, timeout: 2m, pathPrefix: a}}`, []string{"/spec/externalAuthorization/service/name invalid", "/spec/externalAuthorization/service/namespace invalid", "/spec/externalAuthorization/service/port required", "/spec/externalAuthorization/timeout out_of_range", "/spec/externalAuthorization/bodyBytes out_of_range", "/spec/externalAuthorization/pathPrefix invalid", "/spec/externalAuthorization/pathPrefix invalid"}},
		"asked by HTTP":       {`{externalAuthorization: {service: {name: g, port: 1}, protocol: HTTP, bodyBytes: 1, requestHeaders: ["a b"]}}`, []string{"/spec/externalAuthorization/bodyBytes invalid", "/spec/externalAuthorization/requestHeaders/0 invalid"}},
		"asked otherwise":     {`{externalAuthorization: {service: {name: g, port: 1}, protocol: UDP}}`, []string{"/spec/externalAuthorization/protocol invalid"}},
		"patch of one team":   {`{side: Server, patch: {resource: Secret, name: "a*b", merge: []}}`, []string{"/metadata/namespace invalid", "/spec/side invalid", "/spec/patch/resource invalid", "/spec/patch/name invalid", "/spec/patch/merge invalid"}},
	}.check(t, mesh.KindExtension, "shop", "it")
	refusals{
		"patch":     {`{patch: {resource: Cluster, name: "web.shop:*", merge: {respect_dns_ttl: true}}}`, nil},
		"no name":   {`{patch: {resource: Cluster, merge: {respect_dns_ttl: true}}}`, []string{"/spec/patch/name required"}},
		"no change": {`{patch: {resource: Cluster, name: a, merge: {}}}`, []string{"/spec/patch/merge invalid"}},
	}.check(t, mesh.KindExtension, policy.SystemNamespace, "it")
}

func TestValidateGRPCRoute(t *testing.T) {
	route := func(match string) string {
		return `{parentRefs: [{group: "", kind: Service, name: web}], rules: [{matches: [` + match + `], backendRefs: [{name: web, port: 80}]}]}`
	}
	const method = "/spec/rules/0/matches/0/method"
	refusals{
		"exact":            {route(`{method: {service: a.A, method: M}, headers: [{name: x, value: "1"}]}`), nil},
		"pattern":          {route(`{method: {type: RegularExpression, service: "a\\..*"}}`), nil},
		"of a Gateway":     {`{parentRefs: [{name: edge}], hostnames: [a.example], rules: [{backendRefs: [{name: web, port: 80}]}]}`, nil},
		"no rule":          {`{parentRefs: [{group: "", kind: Service, name: web}]}`, []string{"/spec/rules required"}},
		"no method":        {route(`{method: {}}`), []string{method + " required"}},
		"unknown type":     {route(`{method: {type: Prefix, service: a}}`), []string{method + "/type invalid"}},
		"no such name":     {route(`{method: {service: "a/b"}}`), []string{method + "/service invalid"}},
		"a method's dot":   {route(`{method: {method: a.B}}`), []string{method + "/method invalid"}},
		"no expression":    {route(`{method: {type: RegularExpression, method: "("}}`), []string{method + "/method invalid"}},
		"what HTTP has":    {`{parentRefs: [{group: "", kind: Service, name: web}], rules: [{backendRefs: [{name: web}]}]}`, []string{"/spec/rules/0/backendRefs/0/port required"}},
		"filters of HTTP":  {`{parentRefs: [{group: "", kind: Service, name: web}], rules: [{filters: [{type: URLRewrite}], backendRefs: [{name: web, port: 1}]}]}`, []string{"/spec/rules/0/filters/0/type invalid"}},
		"another resource": {`{parentRefs: [{group: "", kind: Pod, name: web}], rules: [{backendRefs: [{kind: Pod, name: web, port: 1}, {group: mesh.comity.dev, kind: ZoneService, name: web, port: 1}, {name: web, namespace: A, port: 70000}]}]}`, []string{"/spec/parentRefs/0/kind unsupported", "/spec/rules/0/backendRefs/0/kind unsupported", "/spec/rules/0/backendRefs/1/name invalid", "/spec/rules/0/backendRefs/2/namespace invalid", "/spec/rules/0/backendRefs/2/port out_of_range"}},
	}.check(t, mesh.KindGRPCRoute, "shop", "it")
}

func TestValidateGrantsAndClasses(t *testing.T) {
	refusals{
		"granted":       {`{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: "", kind: Service, name: web}, {group: mesh.comity.dev, kind: ExternalService}]}`, nil},
		"nothing":       {`{}`, []string{"/spec/from required", "/spec/to required"}},
		"others":        {`{from: [{group: apps, kind: Deployment, namespace: A}], to: [{group: "", kind: "", name: A_b}]}`, []string{"/spec/from/0/group unsupported", "/spec/from/0/kind invalid", "/spec/from/0/namespace invalid", "/spec/to/0/name invalid", "/spec/to/0/kind required"}},
		"too many":      {`{from: [` + strings.TrimSuffix(strings.Repeat(`{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}, `, 17), ", ") + `], to: [{group: "", kind: Service}]}`, []string{"/spec/from too_large"}},
		"a misspelling": {`{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], too: []}`, []string{"/spec/too unknown_field"}},
	}.check(t, mesh.KindReferenceGrant, "bank", "it")
	refusals{
		"ours":       {`{controllerName: mesh.comity.dev/gateway}`, nil},
		"another's":  {`{controllerName: example.com/gateway}`, []string{"/spec/controllerName invalid"}},
		"parameters": {`{controllerName: mesh.comity.dev/gateway, parametersRef: {group: a.example, kind: A, name: a}}`, []string{"/spec/parametersRef unsupported"}},
	}.check(t, mesh.KindGatewayClass, "", "it")
}

func TestValidateEgressAndWorkloads(t *testing.T) {
	refusals{
		"egress":     {`{egress: {undeclared: Allow, namespaces: {shop: Deny}, privateAddresses: Deny, gateway: true}}`, nil},
		"egress bad": {`{egress: {undeclared: Maybe, namespaces: {A: Deny, shop: Never}, privateAddresses: "Yes"}}`, []string{"/spec/egress/undeclared invalid", "/spec/egress/privateAddresses invalid", "/spec/egress/namespaces/A invalid", "/spec/egress/namespaces/shop invalid"}},
	}.check(t, mesh.KindMeshConfig, "", "default")
	refusals{
		"whole":     {`{serviceAccount: web, address: 10.0.0.1, inboundPort: 1, appAddress: 127.0.0.1, capacity: 2, locality: {cloud: aws, region: east}, healthCheck: {port: 80, path: /healthz, intervalMs: 1000, timeoutMs: 500}}`, nil},
		"upstreams": {`{serviceAccount: web, address: 10.0.0.1, inboundPort: 1, upstreams: [{kind: Pod, service: A, namespace: B, port: 0, localPort: 0}]}`, []string{"/spec/upstreams/0/kind invalid", "/spec/upstreams/0/service invalid", "/spec/upstreams/0/namespace invalid", "/spec/upstreams/0/port required", "/spec/upstreams/0/localPort required"}},
		"bounds":    {`{serviceAccount: W, address: 224.0.0.1, inboundPort: 1, appAddress: 0.0.0.0, capacity: -1, locality: {cloud: A}, healthCheck: {port: 0, path: a, intervalMs: 1, timeoutMs: 4000000}}`, []string{"/spec/serviceAccount invalid", "/spec/address invalid", "/spec/appAddress invalid", "/spec/capacity out_of_range", "/spec/locality/cloud invalid", "/spec/healthCheck/port required", "/spec/healthCheck/path invalid", "/spec/healthCheck/intervalMs out_of_range", "/spec/healthCheck/timeoutMs out_of_range"}},
	}.check(t, mesh.KindWorkload, "shop", "web-1")
}

func TestValidateHTTPRoute(t *testing.T) {
	rule := func(r string) string {
		return `{parentRefs: [{group: "", kind: Service, name: web}], rules: [{` + r + `backendRefs: [{name: web, port: 80}]}]}`
	}
	const at = "/spec/rules/0"
	refusals{
		"nothing":       {`{}`, []string{"/spec/parentRefs required", "/spec/rules required"}},
		"gateways":      {`{useDefaultGateways: All, parentRefs: [{group: "", kind: Service, name: A, namespace: B, port: 0, sectionName: x}], rules: [{backendRefs: [{name: web, port: 80}]}]}`, []string{"/spec/useDefaultGateways unsupported", "/spec/parentRefs/0/name invalid", "/spec/parentRefs/0/namespace invalid", "/spec/parentRefs/0/sectionName unsupported", "/spec/parentRefs/0/port out_of_range"}},
		"names":         {`{parentRefs: [{name: edge}], rules: [{name: a, backendRefs: [{name: web, port: 80}]}, {name: a, backendRefs: []}, {name: "A b", backendRefs: [{name: web, port: 0, weight: -1}]}]}`, []string{"/spec/rules/1/name duplicate", "/spec/rules/2/name invalid", "/spec/rules/2/backendRefs/0/port out_of_range", "/spec/rules/2/backendRefs/0/weight out_of_range"}},
		"matches":       {rule(`matches: [{path: {type: Glob, value: a}, method: FETCH, headers: [{type: Prefix, name: "a b", value: ""}, {name: x, value: "a\nb"}, {name: X, value: b}], queryParams: [{type: Prefix, name: "a=b", value: ""}, {type: RegularExpression, name: c, value: "("}, {name: "", value: a}]}], `), []string{at + "/matches/0/path/type invalid", at + "/matches/0/path/value invalid", at + "/matches/0/headers/0/type invalid", at + "/matches/0/headers/0/name invalid", at + "/matches/0/headers/0/value required", at + "/matches/0/headers/1/value invalid", at + "/matches/0/headers/2/name duplicate", at + "/matches/0/queryParams/0/name invalid", at + "/matches/0/queryParams/0/type invalid", at + "/matches/0/queryParams/0/value required", at + "/matches/0/queryParams/1/value invalid", at + "/matches/0/queryParams/2/name required", at + "/matches/0/method invalid"}},
		"paths":         {rule(`matches: [{path: {value: "/a//b"}}, {path: {value: "/a/.."}}, {path: {value: "/a b"}}, {path: {value: "/%2Fa"}}], `), []string{at + "/matches/0/path/value invalid", at + "/matches/1/path/value invalid", at + "/matches/2/path/value invalid", at + "/matches/3/path/value invalid"}},
		"mirror":        {rule(`filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 80}, fraction: {numerator: 1, denominator: 1000}}}], `), nil},
		"mirrors":       {rule(`filters: [{type: RequestMirror, requestMirror: {backendRef: {name: A}, percent: 101}}, {type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, percent: 1, fraction: {numerator: 1}}}, {type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}, fraction: {numerator: 2, denominator: 1}}}], `), []string{at + "/filters/0/requestMirror/backendRef/name invalid", at + "/filters/0/requestMirror/backendRef/port required", at + "/filters/0/requestMirror/percent out_of_range", at + "/filters/1/requestMirror invalid", at + "/filters/2/requestMirror/fraction out_of_range"}},
		"CORS":          {rule(`filters: [{type: CORS, cors: {allowOrigins: ["*", "https://*.a.example:8443"], allowMethods: ["*"], allowHeaders: ["*"], exposeHeaders: [x], maxAge: 5}}], `), nil},
		"CORS bad":      {rule(`filters: [{type: CORS, cors: {allowOrigins: ["a.example"], allowMethods: ["GET IT"], allowHeaders: ["a b"], exposeHeaders: ["a:"], maxAge: 90000}}], `), []string{at + "/filters/0/cors/allowOrigins/0 invalid", at + "/filters/0/cors/allowMethods/0 invalid", at + "/filters/0/cors/allowHeaders/0 invalid", at + "/filters/0/cors/exposeHeaders/0 invalid", at + "/filters/0/cors/maxAge out_of_range"}},
		"both":          {`{parentRefs: [{name: edge}], rules: [{filters: [{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {hostname: "a b"}}]}]}`, []string{at + "/filters/1/urlRewrite/hostname invalid", at + "/filters invalid"}},
		"twice":         {rule(`filters: [{type: URLRewrite, urlRewrite: {hostname: a.example}, cors: {}}, {type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: a, replacePrefixMatch: /}}}], `), []string{at + "/filters/0/cors invalid", at + "/filters/1/type duplicate", at + "/filters/1/urlRewrite/path/replaceFullPath invalid", at + "/filters/1/urlRewrite/path invalid"}},
		"edits":         {rule(`filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: "a b", value: "x\ny"}, {name: x-forwarded-client-cert, value: a}]}}], `), []string{at + "/filters/0/responseHeaderModifier/set/0/name invalid", at + "/filters/0/responseHeaderModifier/set/0/value invalid", at + "/filters/0/responseHeaderModifier/set/1/name unsupported"}},
		"times":         {rule(`timeouts: {request: 2h, backendRequest: x}, retry: {codes: [200], attempts: 11, backoff: 2m}, `), []string{at + "/timeouts/request out_of_range", at + "/timeouts/backendRequest invalid", at + "/retry/codes/0 out_of_range", at + "/retry/attempts out_of_range", at + "/retry/backoff out_of_range"}},
		"session":       {rule(`sessionPersistence: {type: Query, sessionName: "a b", absoluteTimeout: 1ms, cookieConfig: {lifetimeType: Long}}, `), []string{at + "/sessionPersistence/type invalid", at + "/sessionPersistence/sessionName invalid", at + "/sessionPersistence/absoluteTimeout out_of_range", at + "/sessionPersistence/cookieConfig/lifetimeType invalid", at + "/sessionPersistence/cookieConfig invalid"}},
		"session's end": {rule(`sessionPersistence: {absoluteTimeout: 1h}, `), []string{at + "/sessionPersistence/absoluteTimeout unsupported"}},
		"permanent":     {rule(`sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}, `), []string{at + "/sessionPersistence/absoluteTimeout required"}},
	}.check(t, mesh.KindHTTPRoute, "shop", "it")
}

// TestMethodThatWasMeant: a method in small letters is answered with the one to write.
func TestMethodThatWasMeant(t *testing.T) {
	for method, want := range map[string]string{"get": `"get" is no HTTP method; write GET`, "a b": `"a b" is no HTTP method; methods are upper case`} {
		wrong := policy.Validate(mesh.Resource{APIVersion: policy.APIVersion, Key: mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindAuthorizationPolicy, Namespace: "shop", Name: "p"},
			Spec: fmt.Appendf(nil, `{"action":"Allow","rules":[{"to":[{"methods":[%q]}]}]}`, method)})
		if len(wrong) != 1 || wrong[0].Message != want {
			t.Errorf("%v, want %s", wrong, want)
		}
	}
}
