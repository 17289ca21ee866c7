package envoy

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// conformance is a test of the Gateway API's conformance suite, by its short name, for routes of Services and of Gateways alike: rules,
// and what requests meet. `v1`, `v2` and `v3` stand for backends, the third in another zone.
type conformance struct {
	name   string
	rules  string
	expect []expectation
}

const (
	v1 = `backendRefs: [{name: echo-v1, port: 80}]`
	v2 = `backendRefs: [{name: echo-v2, port: 80}]`
	v3 = `backendRefs: [{name: pay, port: 80}]`

	allowOrigin, allowMethods, allowHeaders, allowCredentials = "Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Allow-Credentials"
	// Headers as the suite edits them.
	suiteEdits = `set: [{name: X-Header-Set, value: set-overwrites-values}], add: [{name: X-Header-Add, value: header-val-1}, {name: x-header-ADD-append, value: header-val-2}], remove: [X-Header-Remove]`
)

var (
	suiteSent = map[string]string{"x-header-set": "set-val", "X-Header-Add-Append": "append-val-1", "X-Header-Remove": "remove-val", "Another-Header": "another"}
	suiteTold = map[string]string{"X-Header-Set": "set-overwrites-values", "X-Header-Add": "header-val-1", "X-Header-Add-Append": "append-val-1, header-val-2", "X-Header-Remove": "", "Another-Header": "another"}
)

func asks(path, app string) expectation { return expectation{call{path: path}, want{app: app}} }

func unmatched(path string) expectation {
	return expectation{call{path: path}, want{status: http.StatusNotFound}}
}

func whose(path string, header map[string]string, app string) expectation {
	return expectation{call{path: path, header: header}, want{app: app}}
}

func method(m, path string, header map[string]string, app string) expectation {
	x := expectation{call{method: m, path: path, header: header}, want{app: app}}
	if app == "" {
		x.status = http.StatusNotFound
	}
	return x
}

func tells(path, sees, host string) expectation {
	return expectation{call{path: path, header: suiteSent}, want{path: sees, told: suiteTold, body: []string{`"host":"` + host}}}
}

// failing is a request of which the first n are answered with a status, or end without an answer.
func failing(path, key, status, n string, as want) expectation {
	header := map[string]string{doKey: key, doFail: n, doStatus: status}
	if status == "" {
		header[doReset] = "yes"
	}
	return expectation{call{path: path, header: header}, as}
}

// moved is an answer that leads elsewhere; {host} and {port} are those by which it was asked.
func moved(path string, status int, location string) expectation {
	return expectation{call{path: path}, want{status: status, header: with("Location", location)}}
}

// preflight is what a browser asks before it makes a request of another origin.
func preflight(path, origin, method, headers string, answer map[string]string) expectation {
	ask := map[string]string{"Origin": origin, "Access-Control-Request-Method": method}
	if headers != "" {
		ask["Access-Control-Request-Headers"] = headers
	}
	return expectation{call{method: http.MethodOptions, path: path, header: ask}, want{header: answer}}
}

func suite() []conformance {
	edit := func(more string) string {
		return `filters: [` + more + `{type: RequestHeaderModifier, requestHeaderModifier: {` + suiteEdits + `}}]`
	}
	return []conformance{{
		name:  "HTTPRouteExactPathMatching",
		rules: `{matches: [{path: {type: Exact, value: /one}}], ` + v1 + `}, {matches: [{path: {type: Exact, value: /two}}], ` + v2 + `}`,
		expect: []expectation{
			asks("/one", "echo-1"), asks("/two", "echo-2"), unmatched("/"), unmatched("/one/example"), unmatched("/two/"), unmatched("/Two"),
		},
	}, {
		name: "HTTPRoutePathMatchOrder",
		rules: `{matches: [{path: {type: Exact, value: /match}}], ` + v1 + `}, {matches: [{path: {type: Exact, value: /match/exact}}], ` + v2 + `}, {matches: [{path: {type: Exact, value: /match/exact/one}}], ` + v3 + `},
  {matches: [{path: {value: /match/}}], ` + v3 + `}, {matches: [{path: {value: /match/prefix/}}], ` + v1 + `}, {matches: [{path: {value: /match/prefix/one}}], ` + v2 + `}`,
		expect: []expectation{
			asks("/match/exact/one", "pay-1"), asks("/match/exact", "echo-2"), asks("/match", "echo-1"), asks("/match/prefix/one/any", "echo-2"), asks("/match/prefix/any", "echo-1"), asks("/match/any", "pay-1"),
		},
	}, {
		name: "HTTPRouteHeaderMatching",
		rules: `{matches: [{headers: [{name: version, value: one}]}], ` + v1 + `}, {matches: [{headers: [{name: version, value: two}]}], ` + v2 + `}, {matches: [{headers: [{name: version, value: two}, {name: color, value: orange}]}], ` + v1 + `},
  {matches: [{headers: [{name: color, value: blue}]}, {headers: [{name: color, value: green}]}], ` + v1 + `}, {matches: [{headers: [{name: color, value: red}]}, {headers: [{name: color, value: yellow}]}], ` + v2 + `}`,
		expect: []expectation{
			whose("/", with("Version", "one"), "echo-1"), whose("/", with("Version", "two"), "echo-2"), whose("/", map[string]string{"Version": "two", "Color": "orange"}, "echo-1"),
			whose("/", map[string]string{"Version": "two", "Color": "blue"}, "echo-2"), whose("/", with("Color", "blue"), "echo-1"), whose("/", with("Color", "green"), "echo-1"),
			whose("/", with("Color", "red"), "echo-2"), whose("/", with("Color", "yellow"), "echo-2"),
			{call{header: with("Color", "orange")}, want{status: 404}}, {call{header: with("Color", "purple")}, want{status: 404}}, {call{header: with("Some-Other-Header", "one")}, want{status: 404}},
		},
	}, {
		name: "HTTPRouteMethodMatching",
		rules: `{matches: [{method: POST}], ` + v1 + `}, {matches: [{method: GET}], ` + v2 + `}, {matches: [{path: {value: /path1}, method: GET}], ` + v1 + `}, {matches: [{headers: [{name: version, value: one}], method: PUT}], ` + v2 + `},
  {matches: [{path: {value: /path2}, headers: [{name: version, value: two}], method: POST}], ` + v3 + `}, {matches: [{path: {value: /path3}, method: PATCH}, {path: {value: /path4}, headers: [{name: version, value: three}], method: DELETE}], ` + v1 + `},
  {matches: [{path: {value: /path5}}], ` + v1 + `}, {matches: [{method: PATCH}], ` + v2 + `}, {matches: [{headers: [{name: version, value: four}]}], ` + v3 + `}`,
		expect: []expectation{
			method("POST", "/", nil, "echo-1"), method("GET", "/", nil, "echo-2"), method("HEAD", "/", nil, ""), method("GET", "/path1", nil, "echo-1"), method("PUT", "/", with("Version", "one"), "echo-2"),
			method("POST", "/path2", with("Version", "two"), "pay-1"), method("PATCH", "/path3", nil, "echo-1"), method("DELETE", "/path4", with("Version", "three"), "echo-1"), method("PUT", "/", nil, ""),
			method("DELETE", "/path4", nil, ""), method("PATCH", "/path5", nil, "echo-1"), method("PATCH", "/", with("Version", "four"), "echo-2"),
		},
	}, {
		name: "HTTPRouteQueryParamMatching",
		rules: `{matches: [{queryParams: [{name: animal, value: whale}]}], ` + v1 + `}, {matches: [{queryParams: [{name: animal, value: dolphin}]}], ` + v2 + `},
  {matches: [{queryParams: [{name: animal, value: dolphin}, {name: color, value: blue}]}, {queryParams: [{name: ANIMAL, value: Whale}]}], ` + v3 + `},
  {matches: [{path: {value: /path1}, queryParams: [{name: animal, value: whale}]}], ` + v1 + `}, {matches: [{headers: [{name: version, value: one}], queryParams: [{name: animal, value: whale}]}], ` + v2 + `},
  {matches: [{path: {value: /path2}, headers: [{name: version, value: two}], queryParams: [{name: animal, value: whale}]}], ` + v3 + `},
  {matches: [{path: {value: /path3}, queryParams: [{name: animal, value: shark}]}, {path: {value: /path4}, headers: [{name: version, value: three}], queryParams: [{name: animal, value: kraken}]}], ` + v1 + `},
  {matches: [{path: {value: /path5}}], ` + v1 + `}, {matches: [{queryParams: [{name: animal, value: hydra}]}], ` + v2 + `}, {matches: [{headers: [{name: version, value: four}]}], ` + v3 + `}`,
		expect: []expectation{
			asks("/?animal=whale", "echo-1"), asks("/?animal=dolphin", "echo-2"), asks("/?animal=dolphin&color=blue", "pay-1"), asks("/?ANIMAL=Whale", "pay-1"), asks("/?animal=whale&otherparam=irrelevant", "echo-1"),
			asks("/?animal=dolphin&color=yellow", "echo-2"), unmatched("/?color=blue"), unmatched("/?animal=dog"), unmatched("/?animal=whaledolphin"), unmatched("/"), asks("/path1?animal=whale", "echo-1"),
			whose("/?animal=whale", with("Version", "one"), "echo-2"), whose("/path2?animal=whale", with("Version", "two"), "pay-1"), asks("/path3?animal=shark", "echo-1"),
			whose("/path4?animal=kraken", with("Version", "three"), "echo-1"), unmatched("/?animal=shark"), unmatched("/path4?animal=kraken"), asks("/path5?animal=hydra", "echo-1"), whose("/?animal=hydra", with("Version", "four"), "pay-1"),
		},
	}, {
		name:  "HTTPRouteMatching",
		rules: `{matches: [{path: {value: /}}, {headers: [{name: version, value: one}]}], ` + v1 + `}, {matches: [{path: {value: /v2}}, {headers: [{name: version, value: two}]}], ` + v2 + `}`,
		expect: []expectation{
			asks("/", "echo-1"), asks("/example", "echo-1"), whose("/", with("Version", "one"), "echo-1"), asks("/v2", "echo-2"), asks("/v2/example", "echo-2"), whose("/", with("Version", "two"), "echo-2"), asks("/v2/", "echo-2"),
			asks("/v2example", "echo-1"), asks("/foo/v2/example", "echo-1"),
		},
	}, {
		name:   "HTTPRouteNamedRule",
		rules:  `{name: named-rule, matches: [{path: {value: /named}}], ` + v1 + `}, {matches: [{path: {value: /unnamed}}], ` + v2 + `}`,
		expect: []expectation{asks("/named", "echo-1"), asks("/unnamed", "echo-2")},
	}, {
		name:   "HTTPRouteRequestHeaderModifier",
		rules:  `{` + edit("") + `, ` + v1 + `}`,
		expect: []expectation{tells("/multiple", "/multiple", "")},
	}, {
		name:   "HTTPRouteBackendRequestHeaderModifier",
		rules:  `{backendRefs: [{name: echo-v1, port: 80, ` + edit("") + `}]}`,
		expect: []expectation{tells("/multiple", "/multiple", "")},
	}, {
		name: "HTTPRouteResponseHeaderModifier",
		rules: `{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: set-overwrites-values}], add: [{name: x-lowercase-add, value: a}, {name: X-UPPERCASE-ADD, value: b}], remove: [X-Header-Remove]}},
    {type: RequestHeaderModifier, requestHeaderModifier: {` + suiteEdits + `}}], ` + v1 + `}`,
		expect: []expectation{{
			call{header: map[string]string{doAnswer: "x-header-set=original;X-Header-Remove=val;x-lowercase-ADD=first;Another-Header=val"}},
			want{header: map[string]string{"X-Header-Set": "set-overwrites-values", "X-Header-Remove": "", "Another-Header": "val", "X-Uppercase-Add": "b"}, told: map[string]string{"X-Header-Set": "set-overwrites-values"}},
		}},
	}, {
		name: "HTTPRouteRewritePath",
		rules: `{matches: [{path: {value: /prefix/one}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}}}], ` + v1 + `},
  {matches: [{path: {value: /strip-prefix}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], ` + v1 + `},
  {matches: [{path: {value: /full/one}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one}}}], ` + v1 + `},
  {matches: [{path: {value: /full/edited}}], ` + edit(`{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /test}}}, `) + `, ` + v1 + `},
  {matches: [{path: {value: /prefix/edited}}], ` + edit(`{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /prefix}}}, `) + `, ` + v1 + `}`,
		expect: []expectation{
			{call{path: "/prefix/one/two"}, want{path: "/one/two"}}, {call{path: "/strip-prefix/three"}, want{path: "/three"}}, {call{path: "/strip-prefix"}, want{path: "/"}}, {call{path: "/full/one/two"}, want{path: "/one"}},
			tells("/full/edited/test", "/test", ""), tells("/prefix/edited/one", "/prefix/one", ""),
		},
	}, {
		name: "HTTPRouteRewriteHost",
		rules: `{matches: [{path: {value: /one}}], filters: [{type: URLRewrite, urlRewrite: {hostname: one.example.org}}], ` + v1 + `}, {filters: [{type: URLRewrite, urlRewrite: {hostname: example.org}}], ` + v2 + `},
  {matches: [{path: {value: /edited}}], ` + edit(`{type: URLRewrite, urlRewrite: {hostname: test.example.org}}, `) + `, ` + v2 + `}`,
		expect: []expectation{
			{call{path: "/one"}, want{app: "echo-1", body: []string{`"host":"one.example.org"`}}}, {call{path: "/two"}, want{app: "echo-2", body: []string{`"host":"example.org"`}}}, tells("/edited", "/edited", "test.example.org"),
		},
	}, {
		name: "HTTPRouteBackendURLRewrite",
		rules: `{matches: [{path: {value: /full}}], backendRefs: [{name: echo-v1, port: 80, filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /rewritten-full}}}]}]},
  {matches: [{path: {value: /prefix}}], backendRefs: [{name: echo-v1, port: 80, filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /rewritten-prefix}}}]}]}`,
		expect: []expectation{{call{path: "/full/original"}, want{path: "/rewritten-full"}}, {call{path: "/prefix/original"}, want{path: "/rewritten-prefix/original"}}},
	}, {
		name: "HTTPRouteRedirectPath",
		rules: `{matches: [{path: {value: /original-prefix}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}}}]},
  {matches: [{path: {value: /full}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /full-path-replacement}}}]},
  {matches: [{path: {value: /path-and-host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}}}]},
  {matches: [{path: {value: /path-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}}}]},
  {matches: [{path: {value: /full-path-and-host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, path: {type: ReplaceFullPath, replaceFullPath: /replacement-full}}}]},
  {matches: [{path: {value: /full-path-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, path: {type: ReplaceFullPath, replaceFullPath: /replacement-full}}}]}`,
		expect: []expectation{
			moved("/original-prefix/lemon", 302, "http://{host}/replacement-prefix/lemon"), moved("/full/path/original", 302, "http://{host}/full-path-replacement"),
			moved("/path-and-host", 302, "http://example.org{port}/replacement-prefix"), moved("/path-and-status", 301, "http://{host}/replacement-prefix"),
			moved("/full-path-and-host", 302, "http://example.org{port}/replacement-full"), moved("/full-path-and-status", 301, "http://{host}/replacement-full"),
		},
	}, {
		name: "HTTPRouteRedirectHostPortScheme", // HTTPRouteRedirectHostAndStatus, HTTPRouteRedirectPort, HTTPRouteRedirectScheme, HTTPRoute303Redirect, 307, 308
		rules: `{matches: [{path: {value: /host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org}}]}, {matches: [{path: {value: /host-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 301}}]},
  {matches: [{path: {value: /port}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8083}}]}, {matches: [{path: {value: /port-and-host}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8083, hostname: example.org}}]},
  {matches: [{path: {value: /port-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8083, statusCode: 301}}]},
  {matches: [{path: {value: /scheme}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}, {matches: [{path: {value: /scheme-and-host}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: example.org}}]},
  {matches: [{path: {value: /scheme-and-status}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]},
  {matches: [{path: {value: /303}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 303}}]}, {matches: [{path: {value: /307}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 307}}]},
  {matches: [{path: {value: /308}}], filters: [{type: RequestRedirect, requestRedirect: {statusCode: 308}}]}`,
		expect: []expectation{
			moved("/host", 302, "http://example.org{port}/host"), moved("/host-and-status", 301, "http://example.org{port}/host-and-status"), moved("/port", 302, "http://{host}:8083/port"),
			moved("/port-and-host", 302, "http://example.org:8083/port-and-host"), moved("/port-and-status", 301, "http://{host}:8083/port-and-status"), moved("/scheme", 302, "https://{host}/scheme"),
			moved("/scheme-and-host", 302, "https://example.org/scheme-and-host"), moved("/scheme-and-status", 301, "https://{host}/scheme-and-status"),
			moved("/303", 303, "http://{host}/303"), moved("/307", 307, "http://{host}/307"), moved("/308", 308, "http://{host}/308"),
		},
	}, {
		name: "HTTPRouteBackendRequestRedirect",
		rules: `{matches: [{path: {value: /full}}], backendRefs: [{name: echo-v1, port: 80, filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /redirected-full}}}]}]},
  {matches: [{path: {value: /prefix}}], backendRefs: [{name: echo-v1, port: 80, filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /redirected-prefix}}}]}]}`,
		expect: []expectation{moved("/full/original", 302, "http://{host}/redirected-full"), moved("/prefix/original", 302, "http://{host}/redirected-prefix/original")},
	}, {
		name: "HTTPRouteCORS",
		rules: `{matches: [{path: {value: /cors-1}}], filters: [{type: CORS, cors: {allowOrigins: ["https://www.foo.com", "https://*.bar.com"], allowMethods: [GET, OPTIONS], allowHeaders: [x-header-1, x-header-2], exposeHeaders: [x-header-3, x-header-4], allowCredentials: true, maxAge: 3600}}], ` + v1 + `},
  {matches: [{path: {value: /cors-2}}], filters: [{type: CORS, cors: {allowOrigins: ["https://www.foo.com"], allowMethods: ["*"]}}], ` + v1 + `},
  {matches: [{path: {value: /any}}], filters: [{type: CORS, cors: {allowOrigins: ["*"], allowMethods: [PUT], allowCredentials: false}}], ` + v1 + `},
  {matches: [{path: {value: /all}}], filters: [{type: CORS, cors: {allowOrigins: ["*"], allowMethods: ["*"], allowHeaders: ["*"], allowCredentials: true}}], ` + v1 + `},
  {matches: [{path: {value: /all-unauth}}], filters: [{type: CORS, cors: {allowOrigins: ["*"], allowMethods: ["*"], allowHeaders: ["*"], allowCredentials: false}}], ` + v1 + `}`,
		expect: func() (out []expectation) {
			for _, origin := range []string{"https://www.foo.com", "https://www.bar.com", "https://xpto.www.bar.com"} {
				out = append(out, preflight("/cors-1", origin, "GET", "x-header-1, x-header-2", map[string]string{
					allowOrigin: origin, allowMethods: "GET, OPTIONS", allowHeaders: "x-header-1, x-header-2", "Access-Control-Expose-Headers": "x-header-3, x-header-4",
					"Access-Control-Max-Age": "3600", allowCredentials: "true", "X-App": "",
				}))
			}
			return append(out,
				preflight("/cors-1", "https://foobar.com", "GET", "", with(allowOrigin, "")),
				expectation{call{path: "/cors-1", header: with("Origin", "https://www.foo.com")}, want{app: "echo-1", header: with(allowOrigin, "https://www.foo.com")}},
				expectation{call{path: "/cors-1", header: with("Origin", "https://www.bar.com")}, want{app: "echo-1", header: with(allowOrigin, "https://www.bar.com")}},
				expectation{call{path: "/cors-1", header: with("Origin", "https://foobar.com")}, want{app: "echo-1", header: with(allowOrigin, "")}},
				preflight("/cors-2", "https://www.foo.com", "POST", "", map[string]string{allowOrigin: "https://www.foo.com", allowMethods: "POST", allowCredentials: ""}),
				preflight("/any", "https://foobar.com", "PUT", "", map[string]string{allowOrigin: "https://foobar.com", allowMethods: "PUT", allowCredentials: ""}),
				preflight("/any", "https://foobar.com:12345", "PUT", "", map[string]string{allowOrigin: "https://foobar.com:12345", allowMethods: "PUT", allowCredentials: ""}),
				expectation{call{method: "PUT", path: "/any", header: with("Origin", "https://foobar.com:12345")}, want{app: "echo-1", header: map[string]string{allowOrigin: "https://foobar.com:12345", allowCredentials: ""}}},
				preflight("/all", "https://other.foo.com", "PUT", "x-header-1, x-header-2", map[string]string{allowOrigin: "https://other.foo.com", allowMethods: "PUT", allowHeaders: "x-header-1, x-header-2", allowCredentials: "true"}),
				preflight("/all-unauth", "https://other.foo.com", "PUT", "x-header-1, x-header-2", map[string]string{allowOrigin: "https://other.foo.com", allowMethods: "PUT", allowHeaders: "x-header-1, x-header-2", allowCredentials: ""}),
				expectation{call{path: "/all", header: with("Origin", "https://other.foo.com")}, want{header: map[string]string{allowOrigin: "https://other.foo.com", allowCredentials: "true"}}},
				expectation{call{path: "/all-unauth", header: with("Origin", "https://other.foo.com")}, want{header: map[string]string{allowOrigin: "https://other.foo.com", allowCredentials: ""}}},
			)
		}(),
	}, {
		name: "HTTPRouteRequestTimeout",
		rules: `{matches: [{path: {value: /request-timeout}}], timeouts: {request: 500ms}, ` + v1 + `}, {matches: [{path: {value: /disable-request-timeout}}], timeouts: {request: 0s}, ` + v1 + `},
  {matches: [{path: {value: /backend-timeout}}], timeouts: {backendRequest: 500ms}, ` + v1 + `}, {matches: [{path: {value: /disable-backend-timeout}}], timeouts: {backendRequest: 0s}, ` + v1 + `}`,
		expect: []expectation{
			asks("/request-timeout", "echo-1"), {call{path: "/request-timeout", header: with(doDelay, "2s")}, want{status: 504}}, {call{path: "/disable-request-timeout", header: with(doDelay, "1s")}, want{app: "echo-1"}},
			asks("/backend-timeout", "echo-1"), {call{path: "/backend-timeout", header: with(doDelay, "2s")}, want{status: 504}}, {call{path: "/disable-backend-timeout", header: with(doDelay, "1s")}, want{app: "echo-1"}},
		},
	}, {
		name: "HTTPRouteRetry",
		rules: `{matches: [{path: {value: /three}}], retry: {codes: [500], attempts: 3, backoff: 1ms}, ` + v1 + `}, {matches: [{path: {value: /two}}], retry: {codes: [500, 502, 503, 504], attempts: 2, backoff: 1ms}, ` + v1 + `},
  {matches: [{path: {value: /lost}}], retry: {attempts: 3, backoff: 1ms}, ` + v1 + `}`,
		expect: []expectation{
			failing("/three", "a", "500", "2", want{app: "echo-1"}), failing("/three", "b", "500", "4", want{status: 500}), failing("/three", "c", "503", "1", want{status: 503}),
			failing("/two", "d", "500", "1", want{app: "echo-1"}), failing("/two", "e", "500", "3", want{status: 500}), failing("/two", "f", "502", "1", want{app: "echo-1"}), failing("/two", "g", "502", "3", want{status: 502}),
			failing("/two", "h", "503", "1", want{app: "echo-1"}), failing("/two", "i", "503", "3", want{status: 503}), failing("/two", "j", "504", "1", want{app: "echo-1"}), failing("/two", "k", "504", "3", want{status: 504}),
			// HTTPRouteRetryConnectionError
			failing("/lost", "l", "", "2", want{app: "echo-1"}), failing("/lost", "m", "", "4", want{status: 503}),
		},
	}}
}

// TestConformance: routes of a Service (the suite's mesh profile) and of a Gateway do what the Gateway API's conformance suite, in its
// state after v1.6, demands of rules.
func TestConformance(t *testing.T) {
	w, at := edgeWorld(t)
	port := w.port()
	parents := map[string]string{"Mesh": `{group: "", kind: Service, name: echo, port: 80}`, "Gateway": "{name: edge}"}
	for _, c := range suite() {
		for where, parent := range parents {
			t.Run(where+c.name, func(t *testing.T) {
				w.apply(t, fmt.Sprintf(`
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: comity, listeners: [{name: http, port: %d, protocol: HTTP}]}
---
kind: HTTPRoute
metadata: {name: it}
spec: {parentRefs: [%s], rules: [%s]}
`, port, parent, c.rules))
				for _, e := range c.expect {
					if key := e.call.header[doKey]; key != "" {
						e.call.header = map[string]string{doKey: key + where, doFail: e.call.header[doFail], doStatus: e.call.header[doStatus], doReset: e.call.header[doReset]}
					}
					var r reply
					var err error
					asked := strings.NewReplacer("{host}", echoHost, "{port}", "")
					if where == "Mesh" {
						r, err = w.try(t, e.call)
					} else {
						r, err = visitor{at: at, port: port}.ask(t, e.call)
						asked = strings.NewReplacer("{host}", "x.test", "{port}", ":"+strconv.Itoa(int(port)))
					}
					if to := e.want.header["Location"]; to != "" {
						e.want.header = with("Location", asked.Replace(to))
					}
					if err == nil {
						err = e.check(r)
					}
					if err != nil {
						t.Errorf("%+v: %v", e.call, err)
					}
				}
			})
		}
	}
}

// ask is get for what a call asks for; its host is `to`, else x.test.
func (v visitor) ask(t *testing.T, c call) (reply, error) {
	t.Helper()
	host, method, path := "x.test", http.MethodGet, "/"
	for _, set := range []struct{ p, v *string }{{&host, &c.to}, {&method, &c.method}, {&path, &c.path}} {
		if *set.v != "" {
			*set.p = *set.v
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+net.JoinHostPort(v.at, strconv.Itoa(int(v.port)))+path, strings.NewReader(c.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for k, value := range c.header {
		req.Header.Set(k, value)
	}
	return exchange(t, v.client(t), req)
}

// TestConformanceOfListeners: what the suite demands of host names, listeners and server names of Gateways, and of copies.
func TestConformanceOfListeners(t *testing.T) {
	w, at := edgeWorld(t)
	ca := newPublicCA(t)
	w.putSecret(t, "all", ca.issue(t, "*.example.com"), nil)
	plain, secure := w.port(), w.port()
	gateway := func(listeners string) string {
		return "kind: Gateway\nmetadata: {name: edge}\nspec: {gatewayClassName: comity, listeners: [" + listeners + "]}\n"
	}
	route := func(name, listener, more, backend string) string {
		return fmt.Sprintf("---\nkind: HTTPRoute\nmetadata: {name: %s}\nspec: {parentRefs: [%s]%s, rules: [{%s}]}\n", name, listener, more, backend)
	}
	t.Run("HTTPRouteListenerHostnameMatching", func(t *testing.T) {
		listener := func(name, host string) string {
			return fmt.Sprintf("{name: %s, port: %d, protocol: HTTP, hostname: %q}", name, plain, host)
		}
		w.apply(t, gateway(listener("one", "bar.com")+", "+listener("two", "foo.bar.com")+", "+listener("three", "*.bar.com")+", "+listener("four", "*.foo.com"))+
			route("v1", "{name: edge, sectionName: one}", "", v1)+route("v2", "{name: edge, sectionName: two}", "", v2)+
			route("v3", "{name: edge, sectionName: three}, {name: edge, sectionName: four}", "", v3))
		visitor{at: at, port: plain}.table(t, []visit{
			{host: "bar.com", path: "/", app: "echo-1"}, {host: "foo.bar.com", path: "/", app: "echo-2"}, {host: "baz.bar.com", path: "/", app: "pay-1"}, {host: "multiple.prefixes.bar.com", path: "/", app: "pay-1"},
			{host: "multiple.prefixes.foo.com", path: "/", app: "pay-1"}, {host: "foo.com", path: "/", status: 404}, {host: "no.matching.host", path: "/", status: 404},
		})
	})
	t.Run("HTTPRouteMatchingAcrossRoutes", func(t *testing.T) {
		w.apply(t, gateway(fmt.Sprintf("{name: http, port: %d, protocol: HTTP}", plain))+
			route("part1", "{name: edge}", ", hostnames: [example.com, example.net]", "matches: [{path: {value: /}}, {headers: [{name: version, value: one}]}], "+v1)+
			route("part2", "{name: edge}", ", hostnames: [example.com]", "matches: [{path: {value: /v2}}, {headers: [{name: version, value: two}]}], "+v2))
		visitor{at: at, port: plain}.table(t, []visit{
			{host: "example.com", path: "/", app: "echo-1"}, {host: "example.com", path: "/example", app: "echo-1"}, {host: "example.net", path: "/example", app: "echo-1"}, {host: "example.com", path: "/example", header: []string{"Version", "one"}, app: "echo-1"},
			{host: "example.com", path: "/v2", app: "echo-2"}, {host: "example.net", path: "/v2", app: "echo-1"}, {host: "example.com", path: "/v2/example", app: "echo-2"}, {host: "example.com", path: "/", header: []string{"Version", "two"}, app: "echo-2"},
		})
	})
	t.Run("HTTPRouteHTTPSListenerDetectMisdirectedRequests", func(t *testing.T) {
		listener := func(name, host string) string {
			return fmt.Sprintf("{name: %s, port: %d, protocol: HTTPS%s, tls: {certificateRefs: [{name: all}]}}", name, secure, host)
		}
		w.apply(t, gateway(listener("https", "")+", "+listener("host", ", hostname: second-example.org")+", "+listener("wild", `, hostname: "*.wildcard.org"`)+", "+listener("within", ", hostname: fourth-example.wildcard.org"))+
			route("one", "{name: edge, sectionName: https}", ", hostnames: [example.org]", v1)+route("two", "{name: edge, sectionName: host}", "", v2)+
			route("three", "{name: edge, sectionName: wild}", "", v3)+route("four", "{name: edge, sectionName: within}", "", v1))
		for _, x := range []struct {
			serverName, host string
			status           int
			app              string
		}{
			{"example.org", "example.org", 200, "echo-1"}, {"example.org", "second-example.org", 421, ""}, {"example.org", "unknown-example.org", 404, ""},
			{"second-example.org", "second-example.org", 200, "echo-2"}, {"second-example.org", "example.org", 421, ""}, {"second-example.org", "unknown-example.org", 421, ""},
			{"third-example.wildcard.org", "third-example.wildcard.org", 200, "pay-1"}, {"third-example.wildcard.org", "fith-example.wildcard.org", 200, "pay-1"}, {"third-example.wildcard.org", "fourth-example.wildcard.org", 421, ""},
			{"third-example.wildcard.org", "second-example.org", 421, ""}, {"third-example.wildcard.org", "unknown-example.org", 421, ""},
			{"fourth-example.wildcard.org", "fourth-example.wildcard.org", 200, "echo-1"}, {"fourth-example.wildcard.org", "fith-example.wildcard.org", 421, ""},
			{"unknown-example.org", "example.org", 200, "echo-1"}, {"unknown-example.org", "unknown-example.org", 404, ""},
		} {
			v := visitor{at: at, port: secure, tls: &tls.Config{InsecureSkipVerify: true, ServerName: x.serverName}} //nolint:gosec // what is asked is the point
			if r := v.must(t, x.serverName, "/", "Host", x.host); r.status != x.status || r.app != x.app {
				t.Errorf("%s over a connection for %s: %d by %q, not %d by %q", x.host, x.serverName, r.status, r.app, x.status, x.app)
			}
		}
	})
	t.Run("GatewayModifyListeners", func(t *testing.T) {
		site := route("site", "{name: edge}", "", v1)
		first := fmt.Sprintf("{name: https, port: %d, protocol: HTTPS, hostname: secure.test.com, tls: {certificateRefs: [{name: all}]}}", secure)
		both := first + fmt.Sprintf(", {name: http, port: %d, protocol: HTTP, hostname: data.test.com}", plain)
		v, s := visitor{at: at, port: plain}, visitor{at: at, port: secure, tls: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // who answers is not the point
		w.apply(t, gateway(first)+site)
		if _, err := v.get(t, "data.test.com", "/"); err == nil {
			t.Error("a port that no listener has is served")
		}
		w.apply(t, gateway(both)+site)
		v.table(t, []visit{{host: "data.test.com", path: "/", app: "echo-1"}})
		s.table(t, []visit{{host: "secure.test.com", path: "/", app: "echo-1"}})
		w.apply(t, gateway(first)+site)
		s.table(t, []visit{{host: "secure.test.com", path: "/", app: "echo-1"}})
		eventually(t, "the listener that was removed ends", func() error {
			if r, err := v.get(t, "data.test.com", "/"); err == nil {
				return fmt.Errorf("it answers %d", r.status)
			}
			return nil
		})
	})
	t.Run("HTTPRouteRequestMultipleMirrors", func(t *testing.T) {
		w.apply(t, gateway(fmt.Sprintf("{name: http, port: %d, protocol: HTTP}", plain))+route("copies", "{name: edge}", "", `filters: [{type: RequestHeaderModifier, requestHeaderModifier: {`+suiteEdits+`}},
  {type: RequestMirror, requestMirror: {backendRef: {name: echo-v2, port: 80}}}, {type: RequestMirror, requestMirror: {backendRef: {name: pay, port: 80}, percent: 20}}], `+v1))
		const n = 300
		for range n {
			if r, err := (visitor{at: at, port: plain}).ask(t, call{path: "/copied", header: suiteSent}); err != nil || r.app != "echo-1" {
				t.Fatalf("%q, %v", r.app, err)
			}
		}
		copies := func(app string) (count int) {
			for _, r := range w.apps[app].requests() {
				if r.Path != "/copied" {
					continue
				}
				if count++; r.Header.Get("X-Header-Set") != "set-overwrites-values" || r.Header.Get("X-Header-Remove") != "" {
					t.Errorf("a copy is told %v", r.Header)
				}
			}
			return count
		}
		eventually(t, "each request is copied once", func() error {
			if got := copies("echo-2"); got != n {
				return fmt.Errorf("%d of %d", got, n)
			}
			return nil
		})
		if got := copies("pay-1"); got < 25 || got > 95 { // 5 sigma are 35
			t.Errorf("HTTPRouteRequestPercentageMirror: %d of %d at 20 %%", got, n)
		}
	})
	t.Run("copies of one backend's requests", func(t *testing.T) {
		w.apps["pay-1"].forget()
		w.apply(t, gateway(fmt.Sprintf("{name: http, port: %d, protocol: HTTP}", plain))+route("copies", "{name: edge}", "", `backendRefs: [{name: echo-v1, port: 80, filters: [{type: RequestMirror, requestMirror: {backendRef: {name: pay, port: 80}}}]}]`))
		visitor{at: at, port: plain}.table(t, []visit{{host: "x.test", path: "/of-one", app: "echo-1"}})
		eventually(t, "the copy arrives", func() error {
			if len(w.apps["pay-1"].requests()) == 0 {
				return fmt.Errorf("it has not")
			}
			return nil
		})
	})
	t.Run("MeshPorts", func(t *testing.T) {
		w.apply(t, fmt.Sprintf(`
kind: Service
metadata: {name: two-ports}
origin: one
spec: {selector: {app: echo-1}, ports: [{name: a, port: 80, targetPort: %[1]d, appProtocol: http}, {name: b, port: 8080, targetPort: %[1]d, appProtocol: http}]}
---
kind: Service
metadata: {name: both-ports}
origin: one
spec: {selector: {app: echo-2}, ports: [{name: a, port: 80, targetPort: %[1]d, appProtocol: http}, {name: b, port: 8080, targetPort: %[1]d, appProtocol: http}]}
---
kind: HTTPRoute
metadata: {name: one}
spec: {parentRefs: [{group: "", kind: Service, name: two-ports, port: 80}], rules: [{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: v1}]}}], backendRefs: [{name: two-ports, port: 80}]}]}
---
kind: HTTPRoute
metadata: {name: every}
spec: {parentRefs: [{group: "", kind: Service, name: both-ports}], rules: [{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: v2}]}}], backendRefs: [{name: both-ports, port: 80}]}]}
`, w.ports.http))
		for _, x := range []struct{ host, app, set string }{
			{"two-ports.shop.svc.clusterset.local", "echo-1", "v1"}, {"two-ports.shop.svc.clusterset.local:8080", "echo-1", ""},
			{"both-ports.shop.svc.clusterset.local", "echo-2", "v2"}, {"both-ports.shop.svc.clusterset.local:8080", "echo-2", "v2"},
		} {
			if r := w.call(t, call{to: x.host}); r.app != x.app || r.header.Get("X-Header-Set") != x.set {
				t.Errorf("%s: by %q, %q", x.host, r.app, r.header.Get("X-Header-Set"))
			}
		}
	})
	t.Run("TLSRouteHostnameIntersection", func(t *testing.T) {
		target := w.port()
		for app, name := range map[string]string{"echo-1": "first", "echo-2": "second"} {
			tlsApp(t, net.JoinHostPort(w.spec(t, app).Spec.AppAddress, strconv.Itoa(int(target))), ca.issue(t, "abc.example.com"), name)
		}
		for _, x := range []struct {
			listener string
			routes   [2]string
			want     map[string]string
		}{
			{"abc.example.com", [2]string{"*.example.com", ""}, map[string]string{"abc.example.com": "first", "non.matching.com": ""}},
			{"*.example.com", [2]string{"abc.example.com", "*.com"}, map[string]string{"abc.example.com": "first", "other.example.com": "second", "non.matching.com": ""}},
			{"*.com", [2]string{"abc.example.com", "*.example.com"}, map[string]string{"abc.example.com": "first", "other.example.com": "second", "non.matching.com": ""}},
			{"", [2]string{"abc.example.com", "*.com"}, map[string]string{"abc.example.com": "first", "other.example.com": "second", "non.matching.org": ""}},
		} {
			host := ""
			if x.listener != "" {
				host = fmt.Sprintf(", hostname: %q", x.listener)
			}
			docs := gateway(fmt.Sprintf("{name: tls, port: %d, protocol: TLS%s, allowedRoutes: {kinds: [{kind: TLSRoute}]}, tls: {mode: Passthrough}}", secure, host))
			for i, of := range []string{"first", "second"} {
				docs += fmt.Sprintf("---\nkind: Service\nmetadata: {name: %s}\norigin: one\nspec: {selector: {app: echo-%d}, ports: [{port: 443, targetPort: %d}]}\n", of, i+1, target)
				if x.routes[i] != "" {
					docs += fmt.Sprintf("---\nkind: TLSRoute\nmetadata: {name: %[1]s}\nspec: {parentRefs: [{name: edge}], hostnames: [%[2]q], rules: [{backendRefs: [{name: %[1]s, port: 443}]}]}\n", of, x.routes[i])
				}
			}
			w.apply(t, docs)
			for name, want := range x.want {
				line := ""
				c, err := tls.Dial("tcp", net.JoinHostPort(at, strconv.Itoa(int(secure))), &tls.Config{InsecureSkipVerify: true, ServerName: name}) //nolint:gosec // who answers is the point
				if err == nil {
					line, _ = readLine(c)
					_ = c.Close()
				}
				if strings.TrimSpace(line) != want {
					t.Errorf("listener %q, routes %q: %s is answered by %q, not %q (%v)", x.listener, x.routes, name, line, want, err)
				}
			}
		}
	})
	t.Run("TCPRouteParentRefAttachAll", func(t *testing.T) {
		tcp := gateway(fmt.Sprintf("{name: one, port: %d, protocol: TCP}, {name: two, port: %d, protocol: TCP}", plain, secure))
		stream := func(name, parent, backend string, port int) string {
			return fmt.Sprintf("---\nkind: TCPRoute\nmetadata: {name: %s}\nspec: {parentRefs: [%s], rules: [{backendRefs: [{name: %s, port: %d}]}]}\n", name, parent, backend, port)
		}
		answers := func(port uint16) string {
			line, err := readLine(dial(t, net.JoinHostPort(at, strconv.Itoa(int(port)))))
			if err != nil {
				return "closed"
			}
			return strings.TrimSpace(line)
		}
		for _, x := range []struct{ what, docs, one, two string }{
			{"TCPRouteParentRefAttachAll", stream("all", "{name: edge}", "echo-v1", 7070), "echo-1", "echo-1"},
			{"TCPRouteParentRefPortAndSectionName", stream("by-name", "{name: edge, sectionName: one}", "echo-v1", 7070) + stream("by-port", fmt.Sprintf("{name: edge, port: %d}", secure), "echo-v2", 7070), "echo-1", "echo-2"},
			{"TCPRouteMultipleRoutesAttachment", stream("older", "{name: edge}", "echo-v2", 7070) + stream("newer", "{name: edge}", "echo-v1", 7070), "echo-2", "echo-2"},
			{"TCPRouteInvalidBackendRefNonexistent", stream("gone", "{name: edge}", "gone", 7070), "closed", "closed"},
		} {
			w.apply(t, tcp+x.docs)
			if one, two := answers(plain), answers(secure); one != x.one || two != x.two {
				t.Errorf("%s: %q and %q, not %q and %q", x.what, one, two, x.one, x.two)
			}
		}
	})
}
