package translate_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/topology/topologytest"
)

// TestArrivalPlaysNoPart: whatever resources of every kind people make, the order in which they come, and all that was made, changed
// and deleted before, leave no trace: configuration and statuses are those of the resources that are there.
func TestArrivalPlaysNoPart(t *testing.T) {
	base := topologytest.Load(t, "testdata/arrival.yaml")
	rapid.Check(t, func(rt *rapid.T) {
		before, after := drawDeck(rt, "before"), drawDeck(rt, "after")
		in := base
		in.Resources = over(base.Resources, after)
		want := fingerprint(rt, in)

		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "order"), 1))
		if got := fingerprint(rt, shuffled(r, in)); got != want {
			rt.Fatalf("the order of the input shows:\n%s\n%s", firstDifference(got, want), said(after))
		}
		cache := envoy.NewCache()
		for _, there := range history(r, before, after) {
			in.Resources = shuffle(r, over(base.Resources, there))
			got := fingerprintOf(rt, in, cache)
			cache.Turn()
			if len(there) == len(after) && sameDeck(there, after) && got != want {
				rt.Fatalf("what was before shows:\n%s\n%s", firstDifference(got, want), said(after))
			}
		}
	})
}

// over is a set of resources with some of them replaced, and more.
func over(base, by []mesh.Resource) []mesh.Resource {
	there := func(b mesh.Resource) bool {
		return slices.ContainsFunc(by, func(r mesh.Resource) bool { return r.Key == b.Key })
	}
	return append(slices.DeleteFunc(slices.Clone(base), there), by...)
}

// history is how one set of resources becomes another: changes one by one, in any order.
func history(r *rand.Rand, from, to []mesh.Resource) [][]mesh.Resource {
	there := map[mesh.Key]mesh.Resource{}
	keys := map[mesh.Key]bool{}
	for _, res := range from {
		there[res.Key], keys[res.Key] = res, true
	}
	wanted := map[mesh.Key]mesh.Resource{}
	for _, res := range to {
		wanted[res.Key], keys[res.Key] = res, true
	}
	var order []mesh.Key
	for k := range keys {
		order = append(order, k)
	}
	slices.SortFunc(order, mesh.Key.Compare)
	out := [][]mesh.Resource{slices.Clone(from)}
	for _, k := range shuffle(r, order) {
		delete(there, k)
		if res, ok := wanted[k]; ok {
			there[k] = res
		}
		var now []mesh.Resource
		for _, k := range order {
			if res, ok := there[k]; ok {
				now = append(now, res)
			}
		}
		out = append(out, now)
	}
	return out
}

func sameDeck(a, b []mesh.Resource) bool {
	key := func(x, y mesh.Resource) int { return x.Compare(y.Key) }
	a, b = slices.SortedFunc(slices.Values(a), key), slices.SortedFunc(slices.Values(b), key)
	return slices.EqualFunc(a, b, func(x, y mesh.Resource) bool { return x.Key == y.Key && string(x.Spec) == string(y.Spec) })
}

func said(deck []mesh.Resource) string {
	var b strings.Builder
	for _, r := range deck {
		fmt.Fprintf(&b, "%s (%d) %v %s\n", r.Key, r.Created, r.Annotations, r.Spec)
	}
	return b.String()
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			from, to := max(i-2, 0), i+4
			return strings.Join(g[from:min(to, len(g))], "\n") + "\ninstead of\n" + strings.Join(w[from:min(to, len(w))], "\n")
		}
	}
	return fmt.Sprintf("%d lines and %d", len(g), len(w))
}

// drawDeck makes up to twelve resources that people may make, all of them valid and each key once.
func drawDeck(rt *rapid.T, label string) []mesh.Resource {
	kinds := dealt()
	var out []mesh.Resource
	for range rapid.IntRange(0, 12).Draw(rt, label) {
		d := &dealer{Resource: mesh.Resource{Created: mesh.Revision(rapid.IntRange(1, 3).Draw(rt, "created"))}, rt: rt}
		d.Key = mesh.Key{Origin: mesh.Origin(d.one("global", "one")), Kind: rapid.SampledFrom(slices.Sorted(maps.Keys(kinds))).Draw(rt, "kind"), Name: d.one("a", "b", "web")}
		info, _ := policy.Lookup(string(d.Kind))
		d.APIVersion = info.APIVersion
		switch {
		case info.MadeAt == policy.MadeGlobal:
			d.Origin, d.Name = mesh.OriginGlobal, "default"
		case info.Namespaced:
			d.Namespace = d.one("shop", "bank")
		}
		d.Spec = json.RawMessage(kinds[d.Kind](d))
		if wrong := policy.Validate(d.Resource); wrong != nil {
			rt.Fatalf("%s %s: %+v", d.Key, d.Spec, wrong)
		}
		if !slices.ContainsFunc(out, func(o mesh.Resource) bool { return o.Key == d.Key }) {
			out = append(out, d.Resource)
		}
	}
	return out
}

// dealt are the specs of each kind, as JSON.
func dealt() map[mesh.Kind]func(*dealer) string {
	return map[mesh.Kind]func(*dealer) string{
		mesh.KindMeshConfig: func(d *dealer) string {
			return `{"egress":{"undeclared":"` + d.one("Allow", "Deny") + `","gateway":` + d.one("true", "false") + `}}`
		},
		mesh.KindService: func(d *dealer) string {
			return `{"selector":{"app":"` + d.one("web", "pay", "teller") + `"},"ports":[{"name":"http","port":80,"appProtocol":"` + d.one("http", "http2", "grpc", "tcp") + `"}]}`
		},
		mesh.KindServiceExport: func(*dealer) string { return `{}` },
		mesh.KindHTTPRoute: func(d *dealer) string {
			return `{` + d.parents("80", "9090", "7070") + `"rules":` + d.rules(d.httpMatch, "80", "9090") + `}`
		},
		mesh.KindGRPCRoute: func(d *dealer) string {
			return `{` + d.parents("80", "9090") + `"rules":` + d.rules(d.grpcMatch, "80", "9090") + `}`
		},
		mesh.KindTLSRoute: func(d *dealer) string {
			return `{` + d.parents("7070", "80") + `"hostnames":["` + d.one("a", "b") + `.example.com"],"rules":[{"backendRefs":` + d.list(func() string { return d.backend("7070", "80") }) + `}]}`
		},
		mesh.KindTCPRoute: func(d *dealer) string {
			return `{` + d.parents("7070", "80") + `"rules":[{"backendRefs":` + d.list(func() string { return d.backend("7070", "80") }) + `}]}`
		},
		mesh.KindReferenceGrant: func(d *dealer) string {
			return `{"from":[{"group":"gateway.networking.k8s.io","kind":"` + d.one("HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute") + `","namespace":"` + d.one("shop", "bank") +
				`"}],"to":[{"group":"","kind":"Service"` + d.one("", `,"name":"web"`) + `}]}`
		},
		mesh.KindGateway: func(d *dealer) string {
			return `{"gatewayClassName":"comity","listeners":[{"name":"web","port":` + d.one("8000", "8001") + `,"protocol":"HTTP"` + d.one("", `,"hostname":"*.example.com"`) + d.one("", `,"allowedRoutes":{"namespaces":{"from":"All"}}`) +
				`},{"name":"raw","port":` + d.one("8002", "8003") + `,"protocol":"` + d.one("TCP", "HTTP") + `"}]}`
		},
		mesh.KindGatewayClass: func(*dealer) string { return `{"controllerName":"mesh.comity.dev/gateway"}` },
		mesh.KindExternalService: func(d *dealer) string {
			return `{"hosts":["` + d.one("a", "b") + `.example.net"],"exportTo":"` + d.one("Mesh", "Namespace") + `","ports":[{"port":80,"protocol":"` + d.one("http", "tcp") + `"}],"exit":{"gateway":` + d.one("true", "false") + `}}`
		},
		mesh.KindAuthorizationPolicy: func(d *dealer) string {
			return `{` + d.target("Service") + `"action":"` + d.one("Allow", "Deny") + `","mode":"` + d.one("Enforce", "Shadow") + `","rules":[{"from":[{"namespaces":["` + d.one("shop", "bank") + `"]}]` +
				d.one("", `,"to":[{"paths":["/a/*"]}]`) + `}]}`
		},
		mesh.KindAuthenticationPolicy: func(d *dealer) string {
			if rapid.Bool().Draw(d.rt, "mtls") {
				return `{` + d.enforced() + d.target("Service") + `"mtls":{"mode":"` + d.one("Strict", "Permissive") + `"}}`
			}
			return `{` + d.enforced() + d.target("Service", "HTTPRoute", "GRPCRoute") + `"jwt":{"mode":"` + d.one("Required", "Optional") + `","providers":[{"name":"p","issuer":"` + d.one("x", "y") + `","jwks":{"url":"https://keys.example/"}}]}}`
		},
		mesh.KindFailoverPolicy: func(d *dealer) string {
			return `{` + d.target("") + `"threshold":` + d.one("50", "80") + `}`
		},
		mesh.KindTrafficPolicy: func(d *dealer) string {
			spec := d.maybe(`"timeouts":{"request":"`+d.one("1s", "2s")+`"}`) + d.maybe(`"retry":{"attempts":`+d.one("0", "2")+`}`) + d.maybe(`"session":{"header":"x-s"}`) +
				d.maybe(`"fault":{"abort":{"percent":1,"status":503}}`) + d.maybe(`"loadShedding":{"latency":"50ms"}`) + d.maybe(`"rateLimit":{"requests":[{"limit":{"count":`+d.one("1", "9")+`}}]`+d.one("", `,"shared":{"service":{"name":"web","port":9090},"requests":[{"name":"all"}]}`)+`}`)
			target := d.target("Service", "HTTPRoute", "GRPCRoute")
			if strings.Contains(target, `"Service"`) || target == "" {
				if !strings.Contains(target, "sectionName") {
					spec += d.maybe(`"dependencies":[{"service":"` + d.one("web", "pay", "gone") + `"},{"namespace":"` + d.one("shop", "bank") + `"}]`)
				}
				spec += d.maybe(`"layer":"`+d.one("l4", "l7")+`"`) + d.maybe(`"outlier":{"answers":"ServerErrors"}`) + d.maybe(`"healthCheck":{"tcp":{}}`) +
					d.maybe(`"loadBalancer":{"algorithm":"`+d.one("LeastRequest", "Random")+`"}`) + d.maybe(`"connectionPool":{"idle":"9s"}`) + d.maybe(`"circuitBreaker":{"maxRequests":9}`)
			}
			return strings.TrimSuffix(`{`+d.enforced()+target+spec, ",") + `}`
		},
		mesh.KindTelemetryPolicy: func(d *dealer) string {
			return `{` + d.enforced() + d.target("Service") + d.maybe(`"accessLogs":[{"file":{"path":"/dev/`+d.one("stdout", "stderr")+`"}}]`) +
				`"tracing":{"otlp":{"service":{"name":"` + d.one("web", "gone") + `","port":9090}},"samplePercent":` + d.one("1", "2") + `}}`
		},
		mesh.KindExtension: func(d *dealer) string {
			if rapid.Bool().Draw(d.rt, "client") {
				return `{` + d.target("Service", "HTTPRoute", "GRPCRoute") + `"side":"Client","lua":{"inline":"function envoy_on_request(h) end"}}`
			}
			return `{` + d.target("Service") + d.one(`"lua":{"inline":"function envoy_on_response(h) end"}`, `"externalAuthorization":{"service":{"name":"web","port":9090}}`) + `}`
		},
	}
}

// dealer draws parts of the spec of a resource, as JSON; with a comma after them if they are fields.
type dealer struct {
	mesh.Resource
	rt *rapid.T
}

func (d *dealer) one(of ...string) string { return rapid.SampledFrom(of).Draw(d.rt, "one") }

// list is one to three of what f draws.
func (d *dealer) list(f func() string) string {
	var out []string
	for range rapid.IntRange(1, 3).Draw(d.rt, "n") {
		out = append(out, f())
	}
	return "[" + strings.Join(out, ",") + "]"
}

// maybe is a field or nothing.
func (d *dealer) maybe(field string) string { return d.one(field+",", "") }

func (d *dealer) enforced() string {
	if d.Origin != mesh.OriginGlobal {
		return ""
	}
	return d.maybe(`"enforced":true`)
}

// parents are Services of this or another namespace, and Gateways. Those of requests may be for some callers alone.
func (d *dealer) parents(ports ...string) string {
	service := func() string {
		return `{"group":"","kind":"Service",` + d.maybe(`"namespace":"`+d.one("shop", "bank")+`"`) + d.maybe(`"port":`+d.one(ports...)) + `"name":"` + d.one("web", "pay", "gone") + `"}`
	}
	gateway := func() string { return `{` + d.maybe(`"namespace":"shop"`) + `"name":"` + d.one("a", "b") + `"}` }
	if requests := d.Kind == mesh.KindHTTPRoute || d.Kind == mesh.KindGRPCRoute; requests && d.one("some", "all", "all") == "some" {
		d.Annotations = map[string]string{policy.AnnotationCallers: d.one("web", "teller, web", "teller")}
		return `"parentRefs":` + d.list(service) + `,`
	}
	return `"parentRefs":` + d.list(func() string {
		if d.one("gateway", "service", "service") == "gateway" {
			return gateway()
		}
		return service()
	}) + `,`
}

func (d *dealer) backend(ports ...string) string {
	more := d.maybe(`"namespace":"`+d.one("shop", "bank")+`"`) + d.maybe(`"weight":`+d.one("1", "3")) + `"port":` + d.one(ports...) + `}`
	switch d.one("service", "service", "zone", "external") {
	case "zone":
		return `{"group":"mesh.comity.dev","kind":"ZoneService","name":"pay.` + d.one("one", "two") + `",` + more
	case "external":
		return `{"group":"mesh.comity.dev","kind":"ExternalService","name":"` + d.one("a", "b") + `",` + more
	}
	return `{"name":"` + d.one("web", "pay", "gone") + `",` + more
}

// rules are those of a route of requests; the first is named.
func (d *dealer) rules(match func() string, ports ...string) string {
	name := `"name":"first",`
	return d.list(func() string {
		rule := `{` + name + d.maybe(`"matches":`+d.list(match)) +
			d.maybe(`"filters":[{"type":"RequestMirror","requestMirror":{"backendRef":{"name":"`+d.one("web", "pay")+`","port":80}}}]`) +
			`"backendRefs":` + d.list(func() string { return d.backend(ports...) }) + `}`
		name = ""
		return rule
	})
}

func (d *dealer) httpMatch() string {
	return `{` + d.maybe(`"method":"POST"`) + d.maybe(`"headers":[{"name":"x","value":"`+d.one("1", "2")+`"}]`) +
		`"path":{"type":"` + d.one("Exact", "PathPrefix") + `","value":"/` + d.one("", "a", "b") + `"}}`
}

func (d *dealer) grpcMatch() string {
	return `{"method":{"service":"` + d.one("a.A", "b.B") + `"` + d.one("", `,"method":"M"`) + `}}`
}

// target is for what a policy is: a Service or its port, a route or its rule, or the namespace.
func (d *dealer) target(kinds ...string) string {
	switch kind := d.one(append(kinds, "")...); kind {
	case "":
		return ""
	case "Service":
		return `"targetRef":{"kind":"Service","name":"` + d.one("web", "pay", "gone") + `"` + d.one("", `,"sectionName":"http"`, `,"sectionName":"raw"`) + `},`
	default:
		return `"targetRef":{"group":"gateway.networking.k8s.io","kind":"` + kind + `","name":"` + d.one("a", "b", "web") + `"` + d.one("", `,"sectionName":"first"`) + `},`
	}
}
