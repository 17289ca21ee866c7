package translate_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/topology/topologytest"
	"github.com/comity-mesh/comity/xds/translate"
)

// TestNoFieldIsIgnored: every field that the Gateway API's types have, found by reflection, either changes what proxies are told when it
// has another value, or is refused when it is applied, with its pointer and a hint. What a field does is shown by the tests with
// real Envoys; this one finds what a release of the Gateway API adds.
func TestNoFieldIsIgnored(t *testing.T) {
	for kind, spec := range map[mesh.Kind]any{
		mesh.KindHTTPRoute: gatewayv1.HTTPRouteSpec{}, mesh.KindGRPCRoute: gatewayv1.GRPCRouteSpec{},
		mesh.KindTLSRoute: gatewayv1.TLSRouteSpec{}, mesh.KindTCPRoute: gatewayv1.TCPRouteSpec{},
	} {
		t.Run(string(kind), func(t *testing.T) {
			seen := map[string]bool{}
			for _, doc := range fieldsThatAct()[kind] {
				res := routeOf(t, kind, doc)
				if wrong := policy.Validate(res); wrong != nil {
					t.Fatalf("%s\n%+v", doc, wrong)
				}
				before := told(t, res)
				eachLeaf(t, res.Spec, func(path, pointer string, changed func(any) json.RawMessage, value any) {
					seen[path] = true
					v, choice := otherValue(path, value)
					other := res
					other.Spec = changed(v)
					switch wrong := policy.Validate(other); {
					case !choice && wrong == nil:
						t.Errorf("%s can be anything", pointer)
					case !choice:
					case wrong != nil:
						t.Errorf("%s = %v: %+v", pointer, v, wrong)
					case told(t, other) == before && !inert(kind, path, doc):
						t.Errorf("%s: %v does as %v does", pointer, v, value)
					}
				})
			}
			for _, refused := range fieldsThatAreRefused()[kind] {
				res := routeOf(t, kind, refused.spec)
				wrong := policy.Validate(res)
				if !slices.ContainsFunc(wrong, func(f policy.FieldError) bool { return f.Pointer == refused.pointer && f.Hint != "" }) {
					t.Errorf("%s: %+v", refused.pointer, wrong)
				}
				within := strings.TrimSuffix(refused.pointer, "/type")
				eachLeaf(t, res.Spec, func(path, pointer string, _ func(any) json.RawMessage, _ any) {
					seen[path] = seen[path] || strings.HasPrefix("/spec"+pointer, within)
				})
			}
			for _, path := range leaves(reflect.TypeOf(spec), "") {
				if !seen[path] {
					t.Errorf("%s: nothing says what becomes of it", path)
				}
			}
		})
	}
}

// inert are fields that do nothing by their nature: no policy targets a rule of a stream route, and who redirects is not asked.
func inert(kind mesh.Kind, path, spec string) bool {
	redirects := strings.Contains(spec, "requestRedirect") && (path == "/rules/backendRefs/name" || path == "/rules/backendRefs/port")
	return redirects || path == "/rules/name" && (kind == mesh.KindTLSRoute || kind == mesh.KindTCPRoute)
}

const (
	edits   = `{set: [{name: x-a, value: "1"}], add: [{name: x-b, value: "2"}], remove: [x-c]}`
	modify  = `{type: RequestHeaderModifier, requestHeaderModifier: ` + edits + `}, {type: ResponseHeaderModifier, responseHeaderModifier: ` + edits + `}`
	shadow  = `backendRef: {group: "", kind: Service, name: pay, namespace: shop, port: 80}`
	toBoth  = `backendRefs: [{group: "", kind: Service, name: web, namespace: shop, port: 80, weight: 3, filters: [` + modify + `]}, {name: pay, port: 80, weight: 1}]`
	toWeb   = `backendRefs: [{name: web, port: 80}]`
	service = `parentRefs: [{group: "", kind: Service, namespace: shop, name: web, port: 80}]`
	raw     = `parentRefs: [{group: "", kind: Service, namespace: shop, name: web, port: 7070}]`
	gateway = `parentRefs: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop, name: edge, sectionName: %s, port: %d}]`
	toRaw   = `rules: [{name: first, backendRefs: [{group: "", kind: Service, name: web, namespace: shop, port: 7070, weight: 3}, {name: pay, port: 7070, weight: 1}]}]`
)

// fieldsThatAct are specs in which each field that acts appears with a value that is not its default.
func fieldsThatAct() map[mesh.Kind][]string {
	one := func(rule string) string { return service + "\nrules: [{" + rule + "}]" }
	ofBackend := func(filter string) string {
		return one(`backendRefs: [{name: web, port: 80, filters: [` + filter + `]}]`)
	}
	mirror := `{type: RequestMirror, requestMirror: {` + shadow
	session := func(s string) string {
		return one(`sessionPersistence: {` + s + `}, backendRefs: [{name: web, port: 80}]`)
	}
	return map[mesh.Kind][]string{
		mesh.KindHTTPRoute: {
			one(`name: first, matches: [{path: {type: Exact, value: /a}, headers: [{type: Exact, name: x, value: "1"}], queryParams: [{type: Exact, name: q, value: "1"}], method: GET}], ` +
				`filters: [` + modify + `, {type: RequestMirror, requestMirror: {` + shadow + `, percent: 5}}], ` +
				`timeouts: {request: 5s, backendRequest: 1s}, retry: {codes: [503], attempts: 2, backoff: 30ms}, ` + toBoth),
			one(`filters: [{type: RequestMirror, requestMirror: {` + shadow + `, fraction: {numerator: 1, denominator: 8}}}], ` + toWeb),
			one(`filters: [{type: URLRewrite, urlRewrite: {hostname: a.example, path: {type: ReplaceFullPath, replaceFullPath: /full}}}], ` + toWeb),
			one(`filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /part}}}], ` + toWeb),
			one(`filters: [{type: CORS, cors: {allowOrigins: ["https://a.example"], allowCredentials: true, allowMethods: [GET], allowHeaders: [x-a], exposeHeaders: [x-b], maxAge: 9}}], ` + toWeb),
			session(`sessionName: sid, type: Cookie`), session(`absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}`),
			fmt.Sprintf(gateway, "web", 8000) + `
hostnames: [a.example.com]
rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: b.example, port: 99, statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /full}}}]}]`,
			one(`filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /part}}}]`),
			ofBackend(mirror + `, percent: 5}}`), ofBackend(mirror + `, fraction: {numerator: 1, denominator: 8}}}`),
			ofBackend(`{type: URLRewrite, urlRewrite: {hostname: a.example, path: {type: ReplaceFullPath, replaceFullPath: /full}}}`),
			ofBackend(`{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /part}}}`),
			ofBackend(`{type: RequestRedirect, requestRedirect: {scheme: https, hostname: b.example, port: 99, statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /full}}}`),
			ofBackend(`{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /part}}}`),
		},
		mesh.KindGRPCRoute: {
			one(`name: first, matches: [{method: {type: Exact, service: a.A, method: M}, headers: [{type: Exact, name: x, value: "1"}]}], ` +
				`filters: [` + modify + `, {type: RequestMirror, requestMirror: {` + shadow + `, percent: 5}}], ` + toBoth),
			one(`filters: [{type: RequestMirror, requestMirror: {` + shadow + `, fraction: {numerator: 1, denominator: 8}}}], ` + toWeb),
			session(`sessionName: sid, type: Cookie`), session(`absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}`),
			ofBackend(mirror + `, percent: 5}}`), ofBackend(mirror + `, fraction: {numerator: 1, denominator: 8}}}`),
			fmt.Sprintf(gateway, "web", 8000) + "\nhostnames: [a.example.com]\nrules: [{" + toWeb + "}]",
		},
		mesh.KindTLSRoute: {
			raw + "\nhostnames: [a.example.com]\n" + toRaw,
			fmt.Sprintf(gateway, "tls", 8002) + "\nhostnames: [a.example.com]\n" + toRaw,
		},
		mesh.KindTCPRoute: {raw + "\n" + toRaw, fmt.Sprintf(gateway, "tcp", 8003) + "\n" + toRaw},
	}
}

// refusedField is a spec with the pointer at which it is refused, with all that is below it or, of a discriminator, beside it.
type refusedField struct{ pointer, spec string }

func fieldsThatAreRefused() map[mesh.Kind][]refusedField {
	const (
		extension = `{type: ExtensionRef, extensionRef: {group: a.example, kind: A, name: a}}`
		auth      = `{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {group: "", kind: Service, namespace: shop, name: a, port: 1}, grpc: {allowedHeaders: [a]}, http: {path: /a, allowedHeaders: [a], allowedResponseHeaders: [a]}, forwardBody: {maxSize: 1}}}`
		all       = "useDefaultGateways: All\n"
	)
	rest := "\nrules: [{" + toWeb + "}]"
	section := strings.Replace(service, "port: 80", "sectionName: http", 1)
	shared := []refusedField{
		{"/spec/useDefaultGateways", all + service + rest},
		{"/spec/parentRefs/0/sectionName", section + rest},
		{"/spec/rules/0/filters/0/type", service + "\nrules: [{filters: [" + extension + "], " + toWeb + "}]"},
	}
	ofBackend := func(filters ...string) (out []refusedField) {
		for _, f := range filters {
			out = append(out, refusedField{"/spec/rules/0/backendRefs/0/filters/0/type", service + "\nrules: [{backendRefs: [{name: web, port: 80, filters: [" + f + "]}]}]"})
		}
		return out
	}
	return map[mesh.Kind][]refusedField{
		mesh.KindHTTPRoute: slices.Concat(shared,
			[]refusedField{{"/spec/rules/0/filters/0/type", service + "\nrules: [{filters: [" + auth + "], " + toWeb + "}]"}},
			ofBackend(extension, auth, `{type: CORS, cors: {allowOrigins: ["*"], allowCredentials: true, allowMethods: [GET], allowHeaders: [a], exposeHeaders: [a], maxAge: 1}}`)),
		mesh.KindGRPCRoute: slices.Concat(shared, ofBackend(extension)),
		mesh.KindTLSRoute:  {{"/spec/useDefaultGateways", all + raw + "\nhostnames: [a.example.com]\n" + toRaw}},
		mesh.KindTCPRoute:  {{"/spec/useDefaultGateways", all + raw + "\n" + toRaw}},
	}
}

// otherValue is another value that a field may have. Where the rest of its route leaves it no choice, it is a wrong one.
func otherValue(path string, value any) (other any, choice bool) {
	for _, end := range []string{"/group", "/kind", "/filters/type", "/lifetimeType", "/urlRewrite/path/type", "/requestRedirect/path/type"} {
		if strings.HasSuffix(path, end) {
			return "Other", false
		}
	}
	switch v := value.(type) {
	case bool:
		return !v, true
	case float64:
		switch {
		case strings.HasSuffix(path, "ackendRef/port"), strings.HasSuffix(path, "backendRefs/port"):
			if v == 7070 {
				return 7071.0, true
			}
			return 9090.0, true
		case strings.HasSuffix(path, "parentRefs/port"):
			return map[float64]float64{80: 9090, 7070: 7071, 8000: 8001, 8002: 8012, 8003: 8013}[v], true
		case strings.HasSuffix(path, "statusCode"):
			return 302.0, true
		}
		return v + 1, true
	case string:
		for end, of := range map[string][]string{
			"method": {"GET", "POST", "M", "N"}, "path/value": {"/a", "/b"}, "replaceFullPath": {"/full", "/other"}, "replacePrefixMatch": {"/part", "/other"},
			"matches/path/type": {"Exact", "PathPrefix"}, "headers/type": {"Exact", "RegularExpression"}, "queryParams/type": {"Exact", "RegularExpression"}, "method/type": {"Exact", "RegularExpression"},
			"service": {"a.A", "b.B"}, "hostname": {"a.example", "c.example", "b.example", "c.example"}, "hostnames": {"a.example.com", "b.example.com"}, "allowOrigins": {"https://a.example", "https://b.example"},
			"allowMethods": {"GET", "PUT"}, "scheme": {"https", "http"}, "request": {"5s", "6s"}, "backendRequest": {"1s", "2s"}, "backoff": {"30ms", "40ms"}, "absoluteTimeout": {"1h", "2h"},
			"sessionPersistence/type": {"Cookie", "Header"}, "namespace": {"shop", "bank"}, "sectionName": {"web", "web2", "tls", "tls2", "tcp", "tcp2"},
			"ef/name": {"pay", "web"}, "efs/name": {"web", "pay", "pay", "web", "edge", "edge2"}, "rules/name": {"first", "second"}, "/name": {"x-a", "x-z", "x-b", "x-z", "x", "y", "q", "r"},
			"/value": {"1", "3", "2", "4"}, "remove": {"x-c", "x-z"}, "allowHeaders": {"x-a", "x-z"}, "exposeHeaders": {"x-b", "x-z"}, "sessionName": {"sid", "tid"},
		} {
			if !strings.HasSuffix(path, end) {
				continue
			}
			for i := 0; i+1 < len(of); i += 2 {
				if of[i] == v {
					return of[i+1], true
				}
			}
		}
	}
	return value, true
}

func routeOf(t *testing.T, kind mesh.Kind, spec string) mesh.Resource {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(spec))
	if err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	info, _ := policy.Lookup(string(kind))
	return mesh.Resource{Key: mesh.Key{Origin: mesh.OriginGlobal, Kind: kind, Namespace: "shop", Name: "it"}, APIVersion: info.APIVersion, Spec: raw}
}

// told is a digest of all that the proxies of a zone with the route are told.
func told(t *testing.T, route mesh.Resource) [sha256.Size]byte {
	t.Helper()
	in := topologytest.Load(t, "testdata/fields.yaml")
	in.Resources = append(in.Resources, route)
	topo, _ := topology.Build(in)
	tr, sum := translate.New(topo, nil), sha256.New()
	for _, p := range topo.Proxies() {
		resources, err := envoy.Build(tr.Proxy(p))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range resources {
			fmt.Fprintln(sum, p.ID, r)
			sum.Write(r.Body)
		}
	}
	return [sha256.Size]byte(sum.Sum(nil))
}

// eachLeaf calls f for every value in a spec: with its path, in which indices are left out, its pointer, and what makes the spec with another
// value in its place.
func eachLeaf(t *testing.T, spec json.RawMessage, f func(path, pointer string, changed func(any) json.RawMessage, value any)) {
	t.Helper()
	var doc any
	if err := json.Unmarshal(spec, &doc); err != nil {
		t.Fatal(err)
	}
	var walk func(v any, path, pointer string, set func(any))
	walk = func(v any, path, pointer string, set func(any)) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				walk(x, path+"/"+k, pointer+"/"+k, func(y any) { v[k] = y })
			}
		case []any:
			for i, x := range v {
				walk(x, path, pointer+"/"+strconv.Itoa(i), func(y any) { v[i] = y })
			}
		default:
			f(path, pointer, func(y any) json.RawMessage {
				set(y)
				raw, err := json.Marshal(doc)
				set(v)
				if err != nil {
					t.Fatal(err)
				}
				return raw
			}, v)
		}
	}
	walk(doc, "", "", nil)
}

// leaves are the paths of all values that a type can hold, without indices.
func leaves(of reflect.Type, at string) []string {
	switch of.Kind() {
	case reflect.Pointer, reflect.Slice:
		return leaves(of.Elem(), at)
	case reflect.Struct:
	default:
		return []string{at}
	}
	var out []string
	for f := range of.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.Anonymous || name != "" {
			name = "/" + name
		}
		out = append(out, leaves(f.Type, at+name)...)
	}
	return out
}
