package envoy

import (
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
)

// TestLua: a script at the server sees what callers send and changes what they get, one at the client only of its own requests;
// the wider runs first.
func TestLua(t *testing.T) {
	w := newWorld(t)
	w.table(t, []feature{{
		name: "at both sides",
		yaml: `
kind: Extension
metadata: {name: narrow}
spec:
  targetRef: {kind: Service, name: echo, sectionName: http}
  lua: {inline: "function envoy_on_request(h) h:headers():add('x-way', 'narrow') end"}
---
kind: Extension
metadata: {name: wide}
spec:
  lua: {inline: "function envoy_on_request(h) h:headers():add('x-way', 'wide') end"}
---
kind: Extension
metadata: {name: client}
spec:
  targetRef: {kind: Service, name: echo}
  side: Client
  lua: {inline: "function envoy_on_response(h) h:headers():add('x-seen-by', 'client') end"}
`,
		expect: []expectation{
			{want: want{told: map[string]string{"X-Way": "wide, narrow"}, header: map[string]string{"X-Seen-By": "client"}}},
			{call{to: "echo.shop.one.mesh"}, want{header: map[string]string{"X-Seen-By": "client"}}}, // by the name that pins it, too
			{call{to: payHost}, want{told: map[string]string{"X-Way": "wide"}, header: map[string]string{"X-Seen-By": ""}}},
		},
	}, {
		name: "one that fails does not fail the request",
		yaml: `
kind: Extension
metadata: {name: broken}
spec: {targetRef: {kind: Service, name: echo}, lua: {inline: "function envoy_on_request(h) error('no') end"}}
`,
		expect: []expectation{{}},
	}})
}

// TestExternalAuthorization: who is asked decides, over gRPC and HTTP; when it can't be asked, failOpen does.
func TestExternalAuthorization(t *testing.T) {
	w := newWorld(t)
	w.workload(0, "guard", nil)
	w.service("guard", `{"app":"guard"}`, "one")
	w.apps["guard"].decide = func(r *authv3.CheckRequest) *authv3.CheckResponse {
		h := r.GetAttributes().GetRequest().GetHttp()
		if h.GetHeaders()["x-password"] != "sesame" || string(h.GetRawBody()) == "forbidden" {
			return &authv3.CheckResponse{
				Status: &statuspb.Status{Code: int32(codes.PermissionDenied)},
				HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
					Status: &typev3.HttpStatus{Code: typev3.StatusCode_PaymentRequired}, Body: "pay first, " + r.GetAttributes().GetSource().GetPrincipal(),
				}},
			}
		}
		return &authv3.CheckResponse{
			Status: &statuspb.Status{},
			HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{Headers: []*corev3.HeaderValueOption{
				{Header: &corev3.HeaderValue{Key: "x-user", Value: "ali"}},
			}}},
		}
	}
	const asks = `
kind: Extension
metadata: {name: guard}
spec:
  targetRef: {kind: Service, name: echo}
  externalAuthorization: `
	sesame := map[string]string{"X-Password": "sesame"}
	w.table(t, []feature{{
		name: "gRPC",
		yaml: asks + `{service: {name: guard, port: 9090}, timeout: 5s, bodyBytes: 100}`,
		expect: []expectation{
			{want: want{status: 402, body: []string{"pay first, spiffe://one.example/ns/shop/sa/web"}}},
			{call{header: sesame}, want{told: map[string]string{"X-User": "ali"}}},
			{call{header: sesame, method: "POST", body: "forbidden"}, want{status: 402}},
			{call{to: payHost}, want{app: "pay-1"}}, // is not asked about
		},
	}, {
		name: "HTTP",
		yaml: asks + `{service: {name: guard, port: 80}, protocol: HTTP, timeout: 5s, pathPrefix: /ask, requestHeaders: [x-do-status], upstreamHeaders: [x-app]}`,
		expect: []expectation{
			{call{path: "/y"}, want{told: map[string]string{"X-App": "guard"}, path: "/y"}},
			{call{header: map[string]string{doStatus: "401"}}, want{status: 401, app: "guard"}},
		},
	}, {
		name:   "nobody there, closed",
		yaml:   asks + `{service: {name: nobody, port: 80}}`,
		expect: []expectation{{want: want{status: 403}}},
	}, {
		name:   "nobody there, over HTTP, closed",
		yaml:   asks + `{service: {name: nobody, port: 80}, protocol: HTTP}`,
		expect: []expectation{{want: want{status: 403}}},
	}, {
		name:   "nobody there, open",
		yaml:   asks + `{service: {name: nobody, port: 80}, failOpen: true}`,
		expect: []expectation{{}},
	}})
	w.apply(t, asks+`{service: {name: guard, port: 9090}, timeout: 5s}`)
	w.apps["guard"].close()
	if err := (want{status: 403}).check(w.call(t, call{header: sesame})); err != nil {
		t.Errorf("with a guard that died: %v", err)
	}
}

// TestPatch: what is merged is in Envoy's configuration; what Envoy refuses is refused with its reason, and the last good one
// stays.
func TestPatch(t *testing.T) {
	w := newWorld(t)
	const patch = `
kind: Extension
metadata: {name: patch, namespace: comity-system}
spec: {patch: {resource: RouteConfiguration, name: outbound, merge: `
	w.apply(t, patch+`{response_headers_to_add: [{header: {key: x-patched, value: by-hand}}]}}}`)
	if err := (want{header: map[string]string{"X-Patched": "by-hand"}}).check(w.call(t, call{})); err != nil {
		t.Error(err)
	}
	config, err := w.sidecar(t, "web").ask("/config_dump")
	if err != nil || !strings.Contains(config, "by-hand") {
		t.Errorf("the patch is not in Envoy's configuration: %v", err)
	}
	// Valid to our eyes, not to Envoy's: it has no such cluster (validate_clusters asks it to look).
	refused := w.offer(t, patch+`{validate_clusters: true, virtual_hosts: [{name: more, domains: ["more.example"], routes: [{match: {prefix: "/"}, route: {cluster: there-is-none}}]}]}}}`)
	if len(refused) == 0 || !strings.Contains(strings.Join(refused, "\n"), "there-is-none") {
		t.Errorf("Envoy refused %q", refused)
	}
	if err := (want{header: map[string]string{"X-Patched": "by-hand"}}).check(w.call(t, call{})); err != nil {
		t.Errorf("the last good one did not stay: %v", err)
	}
}
