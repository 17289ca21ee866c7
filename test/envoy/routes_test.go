package envoy

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// route is an HTTPRoute of echo with rules.
func route(rules string) string {
	return `
kind: HTTPRoute
metadata: {name: echo}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
  rules: ` + rules
}

const (
	toV1 = `backendRefs: [{name: echo-v1, port: 80}]`
	toV2 = `backendRefs: [{name: echo-v2, port: 80}]`
)

// byBaggage is a route of a service: requests that a developer marked go to one service, all others to another.
func byBaggage(service, dev, other string) string {
	return fmt.Sprintf(`
kind: HTTPRoute
metadata: {name: %[1]s}
spec:
  parentRefs: [{group: "", kind: Service, name: %[1]s, port: 80}]
  rules:
    - {matches: [{headers: [{type: RegularExpression, name: baggage, value: "(.*,)?dev=ann(,.*)?"}]}], backendRefs: [{name: %[2]s, port: 80}]}
    - {backendRefs: [{name: %[3]s, port: 80}]}
`, service, dev, other)
}

func with(name, value string) map[string]string { return map[string]string{name: value} }

// TestRouteMatches: what a request is like decides where it goes, in the precedence of the Gateway API and whatever the order of
// the rules.
func TestRouteMatches(t *testing.T) {
	w := newWorld(t)
	w.table(t, []feature{{
		name: "paths",
		yaml: route(`
    - {` + toV1 + `}
    - {matches: [{path: {type: PathPrefix, value: /a}}], ` + toV2 + `}
    - {matches: [{path: {type: PathPrefix, value: /a/b/}}], ` + toV1 + `}
    - {matches: [{path: {type: Exact, value: /a/b/c}}], ` + toV2 + `}
    - {matches: [{path: {type: RegularExpression, value: "/a/[0-9]+"}}], ` + toV1 + `}`),
		expect: []expectation{
			{call{path: "/"}, want{app: "echo-1"}},
			{call{path: "/a?x=1"}, want{app: "echo-2"}},
			{call{path: "/ab"}, want{app: "echo-1"}},
			{call{path: "/a/b"}, want{app: "echo-1"}},
			{call{path: "/a/b/c"}, want{app: "echo-2"}},
			{call{path: "/a/b/c/d"}, want{app: "echo-1"}},
			{call{path: "/a/12?x=1"}, want{app: "echo-1"}},
			{call{path: "/a/12x"}, want{app: "echo-2"}},
		},
	}, {
		name: "methods, headers and query parameters",
		yaml: route(`
    - {` + toV1 + `}
    - {matches: [{queryParams: [{name: q, value: x}]}], ` + toV2 + `}
    - {matches: [{queryParams: [{name: q, value: x}, {type: RegularExpression, name: r, value: "[0-9]+"}]}], ` + toV1 + `}
    - {matches: [{headers: [{name: X-Who, value: me}]}, {headers: [{type: RegularExpression, name: X-Who, value: "y.u"}]}], ` + toV2 + `}
    - {matches: [{method: DELETE}], ` + toV2 + `}
    - {matches: [{method: DELETE, headers: [{name: X-Who, value: me}]}], ` + toV1 + `}`),
		expect: []expectation{
			{call{path: "/?q=y"}, want{app: "echo-1"}},
			{call{path: "/?q=x"}, want{app: "echo-2"}},
			{call{path: "/?q=x&r=12"}, want{app: "echo-1"}},
			{call{path: "/?q=x&r=1a"}, want{app: "echo-2"}},
			{call{header: with("X-Who", "me")}, want{app: "echo-2"}},
			{call{header: with("X-Who", "you")}, want{app: "echo-2"}},
			{call{header: with("X-Who", "yours")}, want{app: "echo-1"}},
			{call{method: http.MethodDelete}, want{app: "echo-2"}},
			{call{method: http.MethodDelete, header: with("X-Who", "me")}, want{app: "echo-1"}},
		},
	}, {
		// Applications pass baggage on (W3C), so that what one request asks for holds for all of its calls.
		name: "one request's calls, by its baggage",
		yaml: byBaggage("echo", "echo-v2", "echo-v1") + "---" + byBaggage("pay", "echo-v2", "pay"),
		expect: []expectation{
			{call{header: with("Baggage", "user=ann,dev=ann")}, want{app: "echo-2"}},
			{call{from: "echo-2", to: payHost, header: with("Baggage", "user=ann,dev=ann")}, want{app: "echo-2"}},
			{call{header: with("Baggage", "user=ann,dev=anna")}, want{app: "echo-1"}},
			{call{from: "echo-1", to: payHost, header: with("Baggage", "user=ann")}, want{app: "pay-1"}},
			{call{to: payHost}, want{app: "pay-1"}},
		},
	}, {
		name:   "what no rule matches",
		yaml:   route(`[{matches: [{path: {value: /there}}], ` + toV1 + `}]`),
		expect: []expectation{{want: want{status: 404, body: []string{"NO-ROUTE"}}}},
	}})
}

// TestManyRoutes: of so many that they are looked up by path the same rule counts as of few, with all that it says.
func TestManyRoutes(t *testing.T) {
	w := newWorld(t)
	var rules strings.Builder
	for i := range 12 {
		fmt.Fprintf(&rules, "\n    - {matches: [{path: {value: /p%d}}], %s}", i, []string{toV1, toV2}[i%2])
	}
	rules.WriteString(`
    - {matches: [{path: {value: /p2/in}, method: POST}, {path: {type: Exact, value: /p2/exact}}], ` + toV2 + `}
    - {matches: [{path: {value: /p3/a}, headers: [{name: X-Who, value: me}]}], ` + toV1 + `}
    - {matches: [{path: {value: /p1}, headers: [{name: X-Who, value: fault}]}], ` + toV1 + `,
       filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-By, value: p1}]}}]}
    - {matches: [{path: {type: RegularExpression, value: "/p5/[0-9]+"}}, {path: {value: /there}}], ` + toV1 + `}`)
	expect := []expectation{
		{call{path: "/p10"}, want{app: "echo-1"}},
		{call{path: "/p11/x?a=/p10"}, want{app: "echo-2"}},
		{call{path: "/p1#p2"}, want{app: "echo-2"}},
		{call{path: "/p%31"}, want{app: "echo-2"}},
		{call{path: "/p1/../p2"}, want{app: "echo-1"}},
		{call{path: "/p2/in"}, want{app: "echo-1"}},
		{call{path: "/p2/in", method: http.MethodPost}, want{app: "echo-2"}},
		{call{path: "/p2/exact?x"}, want{app: "echo-2"}},
		{call{path: "/p2/exact/x"}, want{app: "echo-1"}},
		{call{path: "/p3/a"}, want{app: "echo-2"}},
		{call{path: "/p3/a", header: with("X-Who", "me")}, want{app: "echo-1"}},
		{call{path: "/p1", header: with("X-Who", "fault")}, want{app: "echo-1", header: with("X-By", "p1")}},
		{call{path: "/p5/12"}, want{app: "echo-1"}},
		{call{path: "/p5/12x"}, want{app: "echo-2"}},
		{call{path: "/there/12"}, want{app: "echo-1"}},
	}
	w.table(t, []feature{{
		name: "what no rule matches", yaml: route(rules.String()),
		expect: append(expect, expectation{call{path: "/p12"}, want{status: 404, body: []string{"NO-ROUTE"}}}, expectation{call{path: "/"}, want{status: 404, body: []string{"NO-ROUTE"}}}),
	}, {
		name: "a rule for the rest", yaml: route(rules.String()) + `
---
kind: HTTPRoute
metadata: {name: echo-rest}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
  rules: [{` + toV2 + `}]`,
		expect: append(expect, expectation{call{path: "/p12"}, want{app: "echo-2"}}, expectation{call{path: "/"}, want{app: "echo-2"}}),
	}})
}

// TestRouteWeights: of 20,000 requests at 90 to 10 each gets its share within 1 % of all, and shares change under load without a failed
// request.
func TestRouteWeights(t *testing.T) {
	w := newWorld(t)
	weights := func(a, b int) string {
		return route(fmt.Sprintf(`[{backendRefs: [{name: echo-v1, port: 80, weight: %d}, {name: echo-v2, port: 80, weight: %d}]}]`, a, b))
	}
	w.apply(t, weights(90, 10))
	const n = 20_000
	got := byApp(w.burst(t, n, 16, same(call{}))) // 1 % are 4.7 sigma
	if got["echo-1"]+got["echo-2"] != n || got["echo-2"] < n*9/100 || got["echo-2"] > n*11/100 {
		t.Errorf("%v of 90 to 10", got)
	}
	load := w.load(t, echoHost)
	for _, c := range []struct {
		a, b int
		only string // who then answers
	}{{0, 100, "echo-2"}, {100, 0, "echo-1"}, {50, 50, ""}, {0, 1, "echo-2"}} {
		w.apply(t, weights(c.a, c.b))
		if got := w.tally(t, 50, call{}); c.only != "" && got[c.only] != 50 {
			t.Errorf("%v of %d to %d", got, c.a, c.b)
		}
		load.more(t, 50)
	}
	load.unharmed(t)
}

// TestRouteFilters: redirects, rewrites, headers, CORS.
func TestRouteFilters(t *testing.T) {
	w := newWorld(t)
	w.table(t, []feature{{
		name: "redirects",
		yaml: route(`
    - {matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: new.example, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]}
    - {matches: [{path: {value: /base}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: new.example, port: 8443, statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]}
    - {matches: [{path: {value: /one}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /two}}}, {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Moved, value: "yes"}]}}]}`),
		expect: []expectation{
			{call{path: "/old/x?y=z"}, want{status: 301, header: with("Location", "https://new.example/new/x?y=z")}},
			{call{path: "/old"}, want{status: 301, header: with("Location", "https://new.example/new")}},
			{call{path: "/base/x"}, want{status: 308, header: with("Location", "http://new.example:8443/x")}},
			{call{path: "/base"}, want{status: 308, header: with("Location", "http://new.example:8443/")}},
			{call{path: "/one/x?y=z"}, want{status: 302, header: map[string]string{"Location": "http://" + echoHost + "/two?y=z", "X-Moved": "yes"}}},
		},
	}, {
		name: "rewrites",
		yaml: route(`
    - {matches: [{path: {value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b/}}}], ` + toV1 + `}
    - {matches: [{path: {value: /gone}}], filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], ` + toV1 + `}
    - {matches: [{path: {value: /full}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}], ` + toV1 + `}
    - {filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /all}}}], ` + toV1 + `}`),
		expect: []expectation{
			{call{path: "/a/x?y=z"}, want{path: "/b/x?y=z"}},
			{call{path: "/a"}, want{path: "/b"}},
			{call{path: "/gone/x"}, want{path: "/x"}},
			{call{path: "/gone"}, want{path: "/"}},
			{call{path: "/full/x?y=z"}, want{path: "/one?y=z"}},
			{call{path: "/z?q=1"}, want{path: "/all/z?q=1"}},
		},
	}, {
		name: "headers, of the rule and of one backend",
		yaml: route(`
    - filters:
        - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: "100%"}], add: [{name: X-Add, value: more}], remove: [X-Gone]}}
        - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-App, value: hidden}, {name: X-Percent, value: "%REQ(:PATH)%"}]}}
      backendRefs: [{name: echo-v2, port: 80, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Backend, value: two}]}}]}]`),
		expect: []expectation{{
			call{header: map[string]string{"X-Set": "mine", "X-Add": "mine", "X-Gone": "mine"}},
			want{header: map[string]string{"X-App": "hidden", "X-Percent": "%REQ(:PATH)%"}, body: []string{`"X-Set":["100%"]`, `"X-Add":["mine","more"]`, `"X-Backend":["two"]`}},
		}},
	}, {
		name: "CORS",
		yaml: route(`[{filters: [{type: CORS, cors: {allowOrigins: ["https://*.shop.example"], allowMethods: [GET, PUT], allowHeaders: [x-token], exposeHeaders: [x-total], allowCredentials: true, maxAge: 600}}], ` + toV1 + `}]`),
		expect: []expectation{
			{call{method: http.MethodOptions, header: map[string]string{"Origin": "https://www.shop.example", "Access-Control-Request-Method": "PUT"}}, want{header: map[string]string{
				"Access-Control-Allow-Origin": "https://www.shop.example", "Access-Control-Allow-Methods": "GET, PUT", "Access-Control-Max-Age": "600",
				"Access-Control-Allow-Credentials": "true", "X-App": "",
			}}},
			{call{header: with("Origin", "https://www.shop.example")}, want{app: "echo-1", header: map[string]string{"Access-Control-Allow-Origin": "https://www.shop.example", "Access-Control-Expose-Headers": "x-total"}}},
			{call{header: with("Origin", "https://shop.example.evil.example")}, want{app: "echo-1", header: with("Access-Control-Allow-Origin", "")}},
		},
	}})
}

// TestRouteMirror: the shadow gets its share of copies, and the caller does not notice it, be it frozen or dead.
func TestRouteMirror(t *testing.T) {
	w := newWorld(t)
	mirror := func(share string) string {
		return route(`[{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 80}, ` + share + `}}], ` + toV1 + `}]`)
	}
	const n = 1000
	for _, c := range []struct {
		share       string
		least, most int // 5 sigma
	}{{"percent: 10", 52, 148}, {"fraction: {numerator: 1, denominator: 2}", 421, 579}, {"percent: 100", n, n}} {
		w.apply(t, mirror(c.share))
		w.forget()
		if got := byApp(w.burst(t, n, 10, same(call{path: "/copy"}))); got["echo-1"] != n {
			t.Errorf("%s: %v", c.share, got)
		}
		eventually(t, "the shadow gets its share, "+c.share, func() error {
			if got := len(w.apps["echo-2"].requests()); got < c.least || got > c.most {
				return fmt.Errorf("%d of %d", got, n)
			}
			return nil
		})
	}
	shadow := w.sidecar(t, "echo-2")
	for _, c := range []struct {
		name string
		ill  syscall.Signal
	}{{"frozen", syscall.SIGSTOP}, {"dead", syscall.SIGKILL}} {
		if err := shadow.cmd.Process.Signal(c.ill); err != nil {
			t.Fatal(err)
		}
		var took []time.Duration
		for range 50 {
			r := w.call(t, call{})
			if r.app != "echo-1" {
				t.Fatalf("with a shadow that is %s: %d", c.name, r.status)
			}
			took = append(took, r.took)
		}
		if m := median(took); m > 200*time.Millisecond { // less than a connection may take, 250 ms
			t.Errorf("with a shadow that is %s requests take %s", c.name, m)
		}
	}
}

// TestRouteTimes: a rule's own limits and retries.
func TestRouteTimes(t *testing.T) {
	w := newWorld(t)
	w.table(t, []feature{{
		name: "request timeout",
		yaml: route(`[{timeouts: {request: 200ms}, ` + toV1 + `}]`),
		expect: []expectation{
			{call{header: with(doDelay, "5s")}, want{status: 504}},
			{call{}, want{app: "echo-1"}},
		},
	}, {
		name: "retries of codes",
		yaml: route(`[{retry: {codes: [500], attempts: 2, backoff: 5ms}, ` + toV1 + `}]`),
		expect: []expectation{
			{call{method: http.MethodPost, header: map[string]string{doStatus: "500", doFail: "2", doKey: "a"}}, want{app: "echo-1"}},
			{call{header: map[string]string{doStatus: "500", doFail: "3", doKey: "b"}}, want{status: 500}},
			{call{header: map[string]string{doStatus: "502", doFail: "1", doKey: "c"}}, want{status: 502}},
		},
	}, {
		name:   "a try that takes too long is given up for another",
		yaml:   route(`[{timeouts: {request: 10s, backendRequest: 200ms}, retry: {codes: [504], attempts: 1}, backendRefs: [{name: echo, port: 80}]}]`),
		expect: []expectation{{call{header: with(doDelay, "5s")}, want{status: 504}}},
	}})
	if n := len(w.apps["echo-1"].requests()); n < 7 {
		t.Errorf("echo-1 got %d requests, which is too few for what was tried again", n)
	}
}

// TestRouteSession: the first answer decides who answers the rest, by cookie and by header.
func TestRouteSession(t *testing.T) {
	w := newWorld(t)
	for kind, spec := range map[string]string{
		"Cookie": "sessionName: sid", "Permanent": "absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}", "Header": "type: Header, sessionName: x-sid",
	} {
		t.Run(kind, func(t *testing.T) {
			w.apply(t, route(`[{sessionPersistence: {`+spec+`}, backendRefs: [{name: echo, port: 80}]}]`))
			first := w.call(t, call{})
			header := with("X-Sid", first.header.Get("X-Sid"))
			if kind != "Header" {
				c, err := http.ParseSetCookie(first.header.Get("Set-Cookie"))
				if err != nil {
					t.Fatal(err)
				}
				if permanent := c.MaxAge == 3600; permanent != (kind == "Permanent") {
					t.Errorf("%+v", c)
				}
				header = with("Cookie", c.Name+"="+c.Value)
			}
			if got := w.tally(t, 20, call{header: header}); got[first.app] != 20 {
				t.Errorf("%v, not all %s", got, first.app)
			}
		})
	}
}
