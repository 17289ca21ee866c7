package envoy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
)

// visit is a request from outside with what must come of it.
type visit struct {
	host, path string
	header     []string
	status     int    // default 200
	app        string // who answers, if it matters; a prefix
	sees       string // path that the app gets
}

func (v visitor) table(t *testing.T, visits []visit) {
	t.Helper()
	for _, x := range visits {
		if x.status == 0 {
			x.status = http.StatusOK
		}
		r := v.must(t, x.host, x.path, x.header...)
		if r.status != x.status || !strings.HasPrefix(r.app, x.app) || x.sees != "" && r.echoed.Path != x.sees {
			t.Errorf("%s%s %v: %d by %q who sees %q, not %d by %q: %s", x.host, x.path, x.header, r.status, r.app, r.echoed.Path, x.status, x.app, r.body)
		}
	}
}

// TestGatewayRules: what the Gateway API says of hosts, listeners and matches, scenario by scenario of its conformance profile for
// HTTP at Gateways.
func TestGatewayRules(t *testing.T) {
	w, at := edgeWorld(t)
	port, second := w.port(), w.port()
	v := visitor{at: at, port: port}
	gateway := func(listeners string) string {
		return "kind: Gateway\nmetadata: {name: edge}\nspec: {gatewayClassName: comity, listeners: [" + listeners + "]}\n---\n"
	}
	plain := gateway(fmt.Sprintf("{name: http, port: %d, protocol: HTTP}", port))
	route := func(name, more, rules string) string {
		return "---\nkind: HTTPRoute\nmetadata: {name: " + name + "}\nspec: {parentRefs: [{name: edge}]" + more + ", rules: [" + rules + "]}\n"
	}
	const v1, v2 = "backendRefs: [{name: echo-v1, port: 80}]", "backendRefs: [{name: echo-v2, port: 80}]"

	t.Run("listener isolation", func(t *testing.T) {
		var listeners, routes []string
		hosts := []string{"", "*.example.com", "*.foo.example.com", "abc.foo.example.com"}
		for i, h := range hosts {
			host := ""
			if h != "" {
				host = fmt.Sprintf(", hostname: %q", h)
			}
			listeners = append(listeners, fmt.Sprintf("{name: l%d, port: %d, protocol: HTTP%s}", i, port, host))
			routes = append(routes, fmt.Sprintf("---\nkind: HTTPRoute\nmetadata: {name: r%[1]d}\nspec: {parentRefs: [{name: edge, sectionName: l%[1]d}], rules: [{matches: [{path: {value: /l%[1]d}}], %[2]s}]}\n", i, v1))
		}
		w.apply(t, gateway(strings.Join(listeners, ", "))+strings.Join(routes, ""))
		for i, host := range []string{"bar.com", "bar.example.com", "bar.foo.example.com", "abc.foo.example.com"} {
			for j := range hosts {
				want := http.StatusNotFound
				if i == j {
					want = http.StatusOK
				}
				v.table(t, []visit{{host: host, path: fmt.Sprintf("/l%d", j), status: want}})
			}
		}
	})
	t.Run("hostnames that listener and route have in common", func(t *testing.T) {
		w.apply(t, gateway(fmt.Sprintf(`{name: one, port: %[1]d, protocol: HTTP, hostname: very.specific.com}, {name: two, port: %[1]d, protocol: HTTP, hostname: "*.wildcard.io"}`, port))+
			route("specific", `, hostnames: [non.matching.com, "*.nonmatchingwildcard.io", very.specific.com]`, "{matches: [{path: {value: /s1}}], "+v1+"}")+
			route("wild", `, hostnames: ["*.specific.com"]`, "{matches: [{path: {value: /s2}}], "+v2+"}")+
			route("under", `, hostnames: [foo.wildcard.io, "*.wildcard.io", foo.wildcard.org]`, "{matches: [{path: {value: /s3}}], "+v1+"}"))
		v.table(t, []visit{
			{host: "very.specific.com", path: "/s1", app: "echo-1"}, {host: "very.specific.com", path: "/s2", app: "echo-2"},
			{host: "very.specific.com", path: "/non", status: 404}, {host: "non.matching.com", path: "/s1", status: 404}, {host: "foo.specific.com", path: "/s2", status: 404},
			{host: "foo.wildcard.io", path: "/s3", app: "echo-1"}, {host: "bar.foo.wildcard.io", path: "/s3", app: "echo-1"},
			{host: "foo.wildcard.org", path: "/s3", status: 404}, {host: "wildcard.io", path: "/s3", status: 404},
		})
	})
	t.Run("matches", func(t *testing.T) {
		w.apply(t, plain+route("matches", "", "{matches: [{path: {value: /}}, {headers: [{name: version, value: one}]}], "+v1+"}, {matches: [{path: {value: /v2}}, {headers: [{name: version, value: two}]}], "+v2+"}")+
			route("exact", "", "{matches: [{path: {type: Exact, value: /v2/exact}}], "+v1+"}, {matches: [{path: {value: /q}, queryParams: [{name: a, value: b}]}], "+v2+"}, {matches: [{path: {value: /q}, method: GET, headers: [{name: x, value: '1'}]}], "+v1+"}"))
		v.table(t, []visit{
			{host: "x.test", path: "/", app: "echo-1"}, {host: "x.test", path: "/example", app: "echo-1"}, {host: "x.test", path: "/", header: []string{"Version", "one"}, app: "echo-1"},
			{host: "x.test", path: "/v2", app: "echo-2"}, {host: "x.test", path: "/v2/", app: "echo-2"}, {host: "x.test", path: "/v2example", app: "echo-1"},
			{host: "x.test", path: "/foo/v2/example", app: "echo-1"}, {host: "x.test", path: "/", header: []string{"Version", "two"}, app: "echo-2"},
			{host: "x.test", path: "/v2/exact", app: "echo-1"}, {host: "x.test", path: "/v2/exact/", app: "echo-2"},
			{host: "x.test", path: "/q?a=b", app: "echo-2"}, {host: "x.test", path: "/q?a=b", header: []string{"X", "1"}, app: "echo-1"},
		})
	})
	t.Run("backends that are none", func(t *testing.T) {
		w.apply(t, plain+route("gone", "", "{matches: [{path: {value: /gone}}], backendRefs: [{name: nobody, port: 80}]}, {matches: [{path: {value: /half}}], backendRefs: [{name: echo-v1, port: 80}, {name: nobody, port: 80}]}"))
		v.table(t, []visit{{host: "x.test", path: "/gone", status: 500}})
		seen := map[int]int{}
		for range 40 {
			seen[v.must(t, "x.test", "/half").status]++
		}
		if len(seen) != 2 || seen[200] == 0 || seen[500] == 0 {
			t.Errorf("of two backends one is not there: %v", seen)
		}
	})
	t.Run("rewrites and headers", func(t *testing.T) {
		w.apply(t, plain+route("edits", "", `
  {matches: [{path: {value: /prefix/one}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}}}], `+v1+`},
  {matches: [{path: {value: /strip}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], `+v1+`},
  {matches: [{path: {value: /full/one}}], filters: [{type: URLRewrite, urlRewrite: {hostname: test.example.org, path: {type: ReplaceFullPath, replaceFullPath: /one}}}], `+v1+`},
  {matches: [{path: {value: /set}}], filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: new}], add: [{name: X-Add, value: more}], remove: [X-Remove]}}, {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Back, value: sure}]}}], `+v1+`}`))
		v.table(t, []visit{
			{host: "x.test", path: "/prefix/one/two", sees: "/one/two"}, {host: "x.test", path: "/strip", sees: "/"}, {host: "x.test", path: "/strip/a?b=c", sees: "/a?b=c"},
			{host: "x.test", path: "/full/one/two?x=y", sees: "/one?x=y"},
		})
		if r := v.must(t, "x.test", "/full/one"); r.echoed.Host != "test.example.org" {
			t.Errorf("asked for %q", r.echoed.Host)
		}
		r := v.must(t, "x.test", "/set", "X-Set", "old", "X-Add", "some", "X-Remove", "me")
		h := r.echoed.Header
		if h.Get("X-Set") != "new" || strings.Join(h.Values("X-Add"), ",") != "some,more" || h.Get("X-Remove") != "" || r.header.Get("X-Back") != "sure" {
			t.Errorf("%v %v", h, r.header)
		}
	})
	t.Run("parents by port and from another namespace", func(t *testing.T) {
		w.apply(t, gateway(fmt.Sprintf("{name: one, port: %d, protocol: HTTP}, {name: two, port: %d, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}", port, second))+fmt.Sprintf(`
kind: HTTPRoute
metadata: {name: by-port}
spec: {parentRefs: [{name: edge, port: %d}], rules: [{matches: [{path: {value: /own}}], %s}]}
---
kind: HTTPRoute
metadata: {name: foreign, namespace: other}
spec: {parentRefs: [{name: edge, namespace: shop}], rules: [{matches: [{path: {value: /foreign}}], backendRefs: [{name: echo-v1, namespace: shop, port: 80}]}, {matches: [{path: {value: /secret}}], backendRefs: [{name: echo-v2, namespace: shop, port: 80}]}]}
---
kind: ReferenceGrant
metadata: {name: v1}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: other}], to: [{group: "", kind: Service, name: echo-v1}]}
`, second, v2))
		v.table(t, []visit{{host: "x.test", path: "/own", status: 404}, {host: "x.test", path: "/foreign", status: 404}})
		visitor{at: at, port: second}.table(t, []visit{
			{host: "x.test", path: "/own", app: "echo-2"}, {host: "x.test", path: "/foreign", app: "echo-1"}, {host: "x.test", path: "/secret", status: 500},
		})
	})
	t.Run("parents from selected namespaces, at whatever address", func(t *testing.T) {
		foreign := func(namespace string) string {
			return fmt.Sprintf(`
---
kind: HTTPRoute
metadata: {name: site, namespace: %[1]s}
spec: {parentRefs: [{name: edge, namespace: shop}], rules: [{matches: [{path: {value: /%[1]s}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: %[1]s.example}}]}]}`, namespace)
		}
		w.apply(t, fmt.Sprintf(`
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: comity
  addresses: [{type: IPAddress}]
  listeners:
  - {name: http, port: %d, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: bank}}}}}
  - {name: two, port: %d, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [bank]}]}}}}`, port, second)+
			foreign("bank")+foreign("other")+foreign("shop"))
		v.table(t, []visit{{host: "x.test", path: "/bank", status: 302}, {host: "x.test", path: "/other", status: 404}, {host: "x.test", path: "/shop", status: 404}})
		visitor{at: at, port: second}.table(t, []visit{{host: "x.test", path: "/bank", status: 404}, {host: "x.test", path: "/other", status: 302}, {host: "x.test", path: "/shop", status: 302}})
		topos, _ := w.topologies()
		for k, listeners := range topos[0].Listeners() {
			if len(listeners) != 2 || listeners[0].AttachedRoutes != 1 || listeners[1].AttachedRoutes != 2 || fmt.Sprint(listeners[0].SupportedKinds) != "[HTTPRoute GRPCRoute]" {
				t.Errorf("%s: %+v", k, listeners)
			}
		}
	})
	t.Run("GRPCRoute", func(t *testing.T) {
		w.apply(t, plain+`
kind: GRPCRoute
metadata: {name: calls}
spec:
  parentRefs: [{name: edge}]
  hostnames: [grpc.test]
  rules:
  - matches: [{method: {service: shop.Cart, method: Add}}]
    backendRefs: [{name: echo-v1, port: 9090}]
  - matches: [{method: {service: shop.Cart}, headers: [{name: version, value: two}]}]
    backendRefs: [{name: echo-v2, port: 9090}]
`)
		conn, err := grpc.NewClient("passthrough:///"+net.JoinHostPort(at, strconv.Itoa(int(port))), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("grpc.test"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for _, c := range []struct {
			method, version, app string
			code                 codes.Code
		}{
			{"/shop.Cart/Add", "", "echo-1", codes.OK}, {"/shop.Cart/Add", "two", "echo-1", codes.OK}, {"/shop.Cart/List", "two", "echo-2", codes.OK},
			{"/shop.Cart/List", "", "", codes.Unimplemented}, {"/shop.Other/Add", "two", "", codes.Unimplemented},
		} {
			ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(t.Context(), metadata.Pairs("version", c.version)), 20*time.Second)
			var got metadata.MD
			err := conn.Invoke(ctx, c.method, new(emptypb.Empty), new(emptypb.Empty), grpc.Header(&got))
			cancel()
			if app := strings.Join(got.Get("x-app"), ","); status.Code(err) != c.code || app != c.app {
				t.Errorf("%s of version %q: %q, %v", c.method, c.version, app, err)
			}
		}
	})
}

// TestGatewayRedirects: the port of a redirect is the one that is said, else the scheme's, else the listener's; and one that follows from
// the scheme is not written.
func TestGatewayRedirects(t *testing.T) {
	w, at := edgeWorld(t)
	ca := newPublicCA(t)
	w.putSecret(t, "www", ca.issue(t, "www.example.com"), nil)
	plain, secure := w.port(), w.port()
	rules := map[string]string{
		"scheme": "scheme: https", "back": "scheme: http", "port": "port: 8081", "both": "scheme: https, port: 443", "other": "scheme: https, port: 8443",
		"plain": "scheme: http, port: 80", "host": "hostname: example.org", "host-scheme": "hostname: example.org, scheme: https", "host-port": "hostname: example.org, port: 8081",
		"path": "path: {type: ReplaceFullPath, replaceFullPath: /there}",
	}
	var text strings.Builder
	for path, redirect := range rules {
		fmt.Fprintf(&text, "  - {matches: [{path: {type: Exact, value: /%s}}], filters: [{type: RequestRedirect, requestRedirect: {%s}}]}\n", path, redirect)
	}
	w.apply(t, fmt.Sprintf(`
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: comity
  listeners: [{name: http, port: %d, protocol: HTTP}, {name: https, port: %d, protocol: HTTPS, tls: {certificateRefs: [{name: www}]}}]
---
kind: HTTPRoute
metadata: {name: all}
spec:
  parentRefs: [{name: edge}]
  hostnames: [www.example.com]
  rules:
`, plain, secure)+text.String())
	own, ownTLS := strconv.Itoa(int(plain)), strconv.Itoa(int(secure))
	for _, x := range []struct {
		v    visitor
		want map[string]string
	}{
		{visitor{at: at, port: plain}, map[string]string{
			"scheme": "https://www.example.com/scheme", "back": "http://www.example.com/back", "port": "http://www.example.com:8081/port", "both": "https://www.example.com/both",
			"other": "https://www.example.com:8443/other", "plain": "http://www.example.com/plain", "host": "http://example.org:" + own + "/host",
			"host-scheme": "https://example.org/host-scheme", "host-port": "http://example.org:8081/host-port", "path": "http://www.example.com:" + own + "/there",
		}},
		{visitor{at: at, port: secure, tls: &tls.Config{RootCAs: ca.pool()}}, map[string]string{
			"scheme": "https://www.example.com/scheme", "back": "http://www.example.com/back", "port": "https://www.example.com:8081/port", "both": "https://www.example.com/both",
			"plain": "http://www.example.com/plain", "host": "https://example.org:" + ownTLS + "/host", "path": "https://www.example.com:" + ownTLS + "/there",
		}},
	} {
		for path, want := range x.want {
			if r := x.v.must(t, "www.example.com", "/"+path+"?a=b"); r.status != http.StatusFound || r.header.Get("Location") != want+"?a=b" {
				t.Errorf("port %d, %s: %d %q, not %q", x.v.port, rules[path], r.status, r.header.Get("Location"), want+"?a=b")
			}
		}
	}
}

// TestGatewayPolicies: what policies for a route say of visitors is done at the Gateway; a certificate of another namespace is shown where
// that one grants it.
func TestGatewayPolicies(t *testing.T) {
	w, at := edgeWorld(t)
	w.workload(0, "guard", nil)
	w.service("guard", `{"app":"guard"}`, "one")
	w.apps["guard"].decide = func(r *authv3.CheckRequest) *authv3.CheckResponse {
		if r.GetAttributes().GetRequest().GetHttp().GetHeaders()["open"] == "sesame" {
			return &authv3.CheckResponse{Status: &rpcstatus.Status{}}
		}
		return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)}}
	}
	port := w.port()
	world := fmt.Sprintf(`
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: comity, listeners: [{name: http, port: %d, protocol: HTTP}]}
---
kind: HTTPRoute
metadata: {name: site}
spec:
  parentRefs: [{name: edge}]
  rules:
  - {name: one, matches: [{path: {value: /one}}], backendRefs: [{name: pay, port: 80}]}
  - {backendRefs: [{name: echo, port: 80}]}
---
`, port)
	v := visitor{at: at, port: port}
	const site = "targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: site"
	t.Run("rate limit", func(t *testing.T) {
		w.apply(t, world+"kind: TrafficPolicy\nmetadata: {name: site}\nspec: {"+site+", sectionName: one}, rateLimit: {requests: [{limit: {count: 2, per: 1h}}]}}\n")
		asked := len(w.apps["pay-1"].requests())
		v.table(t, []visit{{host: "x.test", path: "/one"}, {host: "x.test", path: "/one"}, {host: "x.test", path: "/"}})
		r := v.must(t, "x.test", "/one")
		if r.status != http.StatusTooManyRequests || !strings.Contains(r.body, "RATE-LIMITED") {
			t.Errorf("%d %s", r.status, r.body)
		}
		if n := len(w.apps["pay-1"].requests()) - asked; n != 2 {
			t.Errorf("%d requests arrived", n)
		}
	})
	t.Run("tokens", func(t *testing.T) {
		users, mallory := newIssuer(t, "https://users.example", "u1"), newIssuer(t, "https://users.example", "u1")
		w.apply(t, world+fmt.Sprintf(`
kind: AuthenticationPolicy
metadata: {name: site}
spec:
  %s, sectionName: one}
  jwt: {providers: [{name: users, issuer: %s, audiences: [shop], jwks: {inline: '%s'}, claimsToHeaders: [{claim: sub, header: x-user}]}]}
`, site, users.name, users.jwks(t)))
		asked := len(w.apps["pay-1"].requests())
		for _, token := range []string{"", "Bearer " + mallory.token(t, "ES256", nil), "Bearer " + users.token(t, "ES256", object{"aud": "elsewhere"})} {
			if r := v.must(t, "x.test", "/one", "Authorization", token); r.status != http.StatusUnauthorized || !strings.Contains(r.body, "NOT-AUTHENTICATED") {
				t.Errorf("%d %s", r.status, r.body)
			}
		}
		if n := len(w.apps["pay-1"].requests()) - asked; n != 0 {
			t.Errorf("%d requests arrived", n)
		}
		if r := v.must(t, "x.test", "/one", "Authorization", "Bearer "+users.token(t, "ES256", nil), "X-User", "root"); r.app != "pay-1" || r.echoed.Header.Get("X-User") != "ann" {
			t.Errorf("%d %v", r.status, r.echoed.Header)
		}
		v.table(t, []visit{{host: "x.test", path: "/", app: "echo-"}})
	})
	t.Run("extensions", func(t *testing.T) {
		w.apply(t, world+`
kind: Extension
metadata: {name: mark}
spec:
  `+site+`}
  side: Client
  lua: {inline: "function envoy_on_response(handle) handle:headers():add('x-marked', 'yes') end"}
---
kind: Extension
metadata: {name: ask}
spec:
  `+site+`, sectionName: one}
  side: Client
  externalAuthorization: {service: {name: guard, port: 9090}, timeout: 5s}
`)
		if r := v.must(t, "x.test", "/"); r.status != http.StatusOK || r.header.Get("X-Marked") != "yes" {
			t.Errorf("%d %v", r.status, r.header)
		}
		asked := len(w.apps["pay-1"].requests())
		v.table(t, []visit{{host: "x.test", path: "/one", status: 403}, {host: "x.test", path: "/one", header: []string{"Open", "sesame"}, app: "pay-1"}})
		if n := len(w.apps["pay-1"].requests()) - asked; n != 1 {
			t.Errorf("%d requests arrived", n)
		}
	})
	t.Run("visitors by address and claims", func(t *testing.T) {
		users := newIssuer(t, "https://users.example", "u1")
		behind := strings.Replace(world, "metadata: {name: edge}", `metadata: {name: edge, annotations: {mesh.comity.dev/trusted-hops: "1"}}`, 1)
		w.apply(t, behind+fmt.Sprintf(`
kind: MeshConfig
metadata: {name: default}
spec: {explainRefusals: true}
---
kind: AuthorizationPolicy
metadata: {name: office}
spec:
  %[4]s}
  action: Allow
  rules: [{from: [{addresses: [192.0.2.0/24, "2001:db8::/32"]}, {addresses: [198.51.100.7]}]}]
---
kind: AuthorizationPolicy
metadata: {name: not-from-there}
spec:
  %[4]s, sectionName: http}
  action: Deny
  rules: [{from: [{addresses: [192.0.2.66]}], to: [{paths: [/one]}]}]
---
kind: AuthorizationPolicy
metadata: {name: staff}
spec:
  %[4]s}
  action: Allow
  rules: [{to: [{methods: [GET]}], when: {claims: [{name: org, values: [staff]}]}}]
---
kind: AuthenticationPolicy
metadata: {name: site}
spec:
  %[1]s, sectionName: one}
  jwt: {mode: Optional, providers: [{name: users, issuer: %[2]s, audiences: [shop], jwks: {inline: '%[3]s'}}]}
`, site, users.name, users.jwks(t), "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: edge"))
		asked := len(w.apps["pay-1"].requests())
		const forwarded = "X-Forwarded-For"
		v.table(t, []visit{
			{host: "x.test", path: "/", header: []string{forwarded, "192.0.2.9"}, app: "echo-"}, {host: "x.test", path: "/", header: []string{forwarded, "203.0.113.9, 198.51.100.7"}, app: "echo-"},
			{host: "x.test", path: "/", header: []string{forwarded, "2001:db8::1"}, app: "echo-"}, {host: "x.test", path: "/", header: []string{forwarded, "198.51.100.8"}, status: 403},
			{host: "x.test", path: "/", header: []string{forwarded, "192.0.2.9, 203.0.113.9"}, status: 403}, // what the client says itself is not believed
			{host: "x.test", path: "/", status: 403},
			{host: "x.test", path: "/one", header: []string{forwarded, "192.0.2.66"}, status: 403}, {host: "x.test", path: "/one", header: []string{forwarded, "203.0.113.9"}, status: 403},
			{host: "x.test", path: "/one", header: []string{forwarded, "203.0.113.9", "Authorization", "Bearer " + users.token(t, "ES256", object{"org": "guests"})}, status: 403},
			{host: "x.test", path: "/one", header: []string{forwarded, "192.0.2.66", "Authorization", "Bearer " + users.token(t, "ES256", object{"org": "staff"})}, status: 403},
		})
		if n := len(w.apps["pay-1"].requests()) - asked; n != 0 {
			t.Errorf("%d requests arrived", n)
		}
		v.table(t, []visit{{host: "x.test", path: "/one", header: []string{forwarded, "203.0.113.9", "Authorization", "Bearer " + users.token(t, "ES256", object{"org": "staff"})}, app: "pay-1"}})
		if r := v.must(t, "x.test", "/one", forwarded, "192.0.2.66"); !strings.Contains(r.body, "NOT-ALLOWED") || !strings.Contains(r.body, "global/shop/not-from-there") {
			t.Error(r.body)
		}
	})
	t.Run("a certificate of another namespace", func(t *testing.T) {
		ca := newPublicCA(t)
		w.putSecret(t, "www", ca.issue(t, "www.example.com"), nil)
		if err := os.Rename(filepath.Join(w.secrets, "shop"), filepath.Join(w.secrets, "infra")); err != nil {
			t.Fatal(err)
		}
		secure := w.port()
		listeners := fmt.Sprintf(`
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: comity, listeners: [{name: https, port: %d, protocol: HTTPS, tls: {certificateRefs: [{name: www, namespace: infra}]}}]}
---
`, secure) + fmt.Sprintf(edgeRoute, "site", "", "www.example.com", "echo")
		v := visitor{at: at, port: secure, tls: &tls.Config{RootCAs: ca.pool()}}
		w.apply(t, listeners)
		if r, err := v.get(t, "www.example.com", "/"); err == nil {
			t.Errorf("without a grant: %d", r.status)
		}
		w.apply(t, listeners+`---
kind: ReferenceGrant
metadata: {name: edge, namespace: infra}
spec: {from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: shop}], to: [{group: "", kind: Secret, name: www}]}
`)
		v.table(t, []visit{{host: "www.example.com", path: "/", app: "echo-"}})
		w.apply(t, listeners)
		if r, err := v.get(t, "www.example.com", "/"); err == nil {
			t.Errorf("after the grant was taken back: %d", r.status)
		}
	})
}
