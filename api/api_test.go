package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/comity-mesh/comity/api"
	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// env is a real server over a real store.
type env struct {
	*testing.T
	url    string
	token  string
	store  store.Store
	tokens *api.Tokens
	log    *bytes.Buffer
}

func start(t *testing.T, change func(*api.Config)) *env {
	t.Helper()
	st, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"), sqlitestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tokens := api.NewTokens(st, nil)
	var token string
	err = tokens.EnsureBootstrapAdmin(t.Context(), func(made string) error { token = made; return nil })
	if err != nil || token == "" {
		t.Fatalf("bootstrap: %q, %v", token, err)
	}
	e := &env{T: t, token: token, store: st, tokens: tokens, log: &bytes.Buffer{}}
	cfg := api.Config{Store: st, Mode: api.ModeGlobal, Tokens: tokens, Version: "test", Registerer: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(e.log, nil))}
	if change != nil {
		change(&cfg)
	}
	h, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		// The store first: it ends the streams that Close waits for.
		if err := st.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		srv.Close()
	})
	e.url = srv.URL
	return e
}

// serveAgain serves the same store once more, as a replica or after a restart.
func serveAgain(t *testing.T, e *env) string {
	t.Helper()
	h, err := api.New(api.Config{Store: e.store, Mode: api.ModeGlobal, Tokens: e.tokens, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) problem(t *testing.T) (p client.Problem) {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("content type %q of %d %s", got, a.status, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Fatal(err)
	}
	if p.Status != a.status || p.Title == "" || p.Code == "" {
		t.Fatalf("problem %s", a.body)
	}
	return p
}

// call sends a request; headers are pairs. A body without Content-Type header is JSON.
func (e *env) call(method, path, body string, headers ...string) answer {
	e.Helper()
	req, err := http.NewRequestWithContext(e.Context(), method, e.url+path, strings.NewReader(body))
	if err != nil {
		e.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+e.token)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		e.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		e.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(text)}
}

func (e *env) want(a answer, status int, code string) answer {
	e.Helper()
	if a.status != status {
		e.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if code != "" {
		if p := a.problem(e.T); p.Code != code {
			e.Fatalf("code %q, want %q: %s", p.Code, code, a.body)
		}
	}
	return a
}

func (e *env) object(a answer) (o client.Object) {
	e.Helper()
	if err := json.Unmarshal([]byte(a.body), &o); err != nil {
		e.Fatalf("%v: %s", err, a.body)
	}
	return o
}

func service(name, labels string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":%q,"namespace":"shop","labels":{%s}},"spec":{"selector":{"app":"x"},"ports":[{"port":80}]}}`, name, labels)
}

func zone(name string) string {
	return fmt.Sprintf(`{"apiVersion":"mesh.comity.dev/v1alpha1","kind":"Zone","metadata":{"name":%q},"spec":{"namespaces":["*"]}}`, name)
}

const services = "/api/v1/namespaces/shop/services"

func TestLifeOfAResource(t *testing.T) {
	e := start(t, nil)
	a := e.want(e.call("POST", services, service("web", ""), "Comity-Reason", "first%20try", "User-Agent", "comity/1"), 201, "")
	o := e.object(a)
	tag := a.header.Get("ETag")
	if o.Metadata.UID == "" || o.Metadata.ResourceVersion != "1" || o.Metadata.Origin != "global" || tag != `"`+o.Metadata.UID+`:1"` {
		t.Fatalf("created %s, etag %s", a.body, tag)
	}
	e.want(e.call("POST", services, service("web", "")), 409, api.CodeExists)

	got := e.want(e.call("GET", services+"/web", ""), 200, "")
	if got.header.Get("ETag") != tag || got.header.Get("X-Content-Type-Options") != "nosniff" || got.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("headers %v", got.header)
	}
	changed := service("web", `"tier":"front"`)
	e.want(e.call("PUT", services+"/web", changed), 428, api.CodePrecondition)
	p := e.want(e.call("PUT", services+"/web", changed, "If-Match", `"x:9"`), 412, api.CodeStale)
	if !strings.Contains(p.body, `"current":{`) {
		t.Errorf("412 without the current object: %s", p.body)
	}
	e.want(e.call("PUT", services+"/web", changed, "If-None-Match", "*"), 412, api.CodeStale)
	e.want(e.call("PUT", services+"/other", changed, "If-Match", "*"), 422, api.CodeInvalid)
	a = e.want(e.call("PUT", services+"/web", changed, "If-Match", tag), 200, "")
	e.want(e.call("PUT", services+"/web", changed, "If-Match", tag), 412, api.CodeStale)
	if a.header.Get("Comity-Outcome") != "configured" || a.header.Get("Comity-Revision") != "2" {
		t.Errorf("headers %v", a.header)
	}
	e.want(e.call("PUT", services+"/new", strings.ReplaceAll(changed, `"web"`, `"new"`), "If-None-Match", "*"), 201, "")
	e.want(e.call("DELETE", services+"/web", "", "If-Match", tag), 412, api.CodeStale)
	e.want(e.call("DELETE", services+"/web?dryRun=All", ""), 200, "")
	e.want(e.call("DELETE", services+"/web", ""), 200, "")
	e.want(e.call("DELETE", services+"/web", ""), 404, api.CodeNotFound)
	e.want(e.call("GET", services+"/web", ""), 404, api.CodeNotFound)

	var h api.HistoryList
	if err := json.Unmarshal([]byte(e.want(e.call("GET", services+"/web/history", ""), 200, "").body), &h); err != nil {
		t.Fatal(err)
	}
	if len(h.Items) != 3 || h.Items[0].After != nil || h.Items[2].Before != nil || h.Items[2].Reason != "first try" || h.Items[2].Source != "cli" || h.Items[2].Actor != "user:admin" {
		t.Errorf("history %+v", h.Items)
	}
}

func TestApply(t *testing.T) {
	var told int
	e := start(t, func(c *api.Config) { c.OnApply = func(context.Context, store.Result) { told++ } })
	docs := `# a comment only
---
apiVersion: mesh.comity.dev/v1alpha1
kind: Zone
metadata: {name: aws-east}
---
---
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata:
    name: web
    namespace: shop
    annotations: {mesh.comity.dev/zones: "aws-east"}
  spec: {selector: {app: web}, ports: [{port: 80, appProtocol: http}]}
`
	apply := func(body string, headers ...string) client.ApplyResult {
		t.Helper()
		var r client.ApplyResult
		if err := json.Unmarshal([]byte(e.want(e.call("POST", "/api/v1/_apply", body, headers...), 200, "").body), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	y := []string{"Content-Type", "application/yaml"}
	dry := e.want(e.call("POST", "/api/v1/_apply?dryRun=All", docs, y...), 200, "")
	if !strings.Contains(dry.body, `"revision":0`) || !strings.Contains(dry.body, `"dryRun":true`) || !strings.Contains(dry.body, `"object":{`) || told != 0 {
		t.Fatalf("dry run %s", dry.body)
	}
	r := apply(docs, append(y, "Idempotency-Key", "k")...)
	if r.Revision != 1 || len(r.Items) != 2 || r.Items[1].Outcome != "created" || told != 1 {
		t.Fatalf("%+v", r)
	}
	if r := apply(docs, append(y, "Idempotency-Key", "k")...); !r.Replayed || told != 1 {
		t.Fatalf("replay %+v", r)
	}
	e.want(e.call("POST", "/api/v1/_apply", "["+zone("b")+"]", "Idempotency-Key", "k"), 422, api.CodeIdempotencyReuse)
	if r := apply(docs, y...); r.Changed() || r.Revision != 1 {
		t.Fatalf("the same again %+v", r)
	}
	// Applying what get printed changes nothing and needs no editing.
	got := e.want(e.call("GET", services+"/web", ""), 200, "").body
	if r := apply(got); r.Changed() {
		t.Fatalf("get, then apply: %+v", r)
	}

	bad := `[` + zone("ok") + `,{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop","annotations":{"mesh.comity.dev/zones":"mars"}},"spec":{"selector":{"a":"b"},"ports":[{"port":0,"prot":1}]}}]`
	p := e.want(e.call("POST", "/api/v1/_apply", bad), 422, api.CodeInvalid).problem(t)
	if len(p.Errors) != 2 || p.Errors[0].Pointer != "/1/spec/ports/0/prot" || p.Errors[0].Hint == "" || p.Errors[1].Code != api.CodeUnknownZone {
		t.Fatalf("errors %+v", p.Errors)
	}
	e.want(e.call("GET", "/api/v1/zones/ok", ""), 404, api.CodeNotFound)
	e.want(e.call("POST", "/api/v1/_apply", "["+zone("a")+","+zone("a")+"]"), 422, api.CodeInvalid)
	e.want(e.call("POST", "/api/v1/_apply", `[{"kind":"Zone","metadata":{"nam":"x"}}]`), 422, api.CodeInvalid)
}

func TestOwnership(t *testing.T) {
	e := start(t, nil)
	foreign := mesh.Resource{Key: mesh.Key{Origin: "aws-east", Kind: mesh.KindService, Namespace: "shop", Name: "web"}, APIVersion: "v1", UID: "u", Generation: 1, Spec: json.RawMessage(`{}`)}
	if _, err := e.store.Apply(t.Context(), store.Batch{Writes: []store.Write{{Resource: foreign, Copy: true}}}); err != nil {
		t.Fatal(err)
	}
	if o := e.object(e.want(e.call("GET", services+"/web", ""), 200, "")); o.Metadata.Origin != "aws-east" {
		t.Fatalf("the only one is %s", o.Metadata.Origin)
	}
	p := e.want(e.call("DELETE", services+"/web", ""), 403, api.CodeNotOwner).problem(t)
	if !strings.Contains(p.Detail, "zone aws-east") {
		t.Errorf("the owner is not named: %s", p.Detail)
	}
	e.want(e.call("PUT", services+"/web", service("web", ""), "If-Match", "*"), 403, api.CodeNotOwner)
	e.want(e.call("PUT", services+"/web?origin=aws-east", service("web", ""), "If-Match", "*"), 403, api.CodeNotOwner)
	e.want(e.call("POST", services, strings.Replace(service("x", ""), `"name"`, `"origin":"aws-east","name"`, 1)), 403, api.CodeNotOwner)
	e.want(e.call("POST", services, service("web", "")), 201, "")
	if o := e.object(e.want(e.call("GET", services+"/web", ""), 200, "")); o.Metadata.Origin != "global" {
		t.Fatalf("own first, got %s", o.Metadata.Origin)
	}
	if o := e.object(e.want(e.call("GET", services+"/web?origin=aws-east", ""), 200, "")); o.Metadata.Origin != "aws-east" {
		t.Fatalf("asked for aws-east, got %s", o.Metadata.Origin)
	}
	workload := `{"apiVersion":"mesh.comity.dev/v1alpha1","kind":"Workload","metadata":{"name":"w","namespace":"shop"},"spec":{}}`
	e.want(e.call("POST", "/api/v1/_apply", workload), 403, api.CodeForbidden)

	z := start(t, func(c *api.Config) { c.Mode, c.ZoneName = api.ModeZone, "aws-east" })
	z.want(z.call("POST", "/api/v1/zones", zone("b")), 403, api.CodeForbidden)
	z.want(z.call("POST", services, service("web", "")), 201, "")
	if o := z.object(z.call("GET", services+"/web", "")); o.Metadata.Origin != "aws-east" {
		t.Fatalf("made in a zone, of %s", o.Metadata.Origin)
	}
}

func TestLists(t *testing.T) {
	e := start(t, nil)
	for i := range 7 {
		e.want(e.call("POST", services, service(fmt.Sprintf("s%d", i), fmt.Sprintf(`"odd":"%d"`, i%2))), 201, "")
	}
	list := func(query string) (names string, l client.List) {
		t.Helper()
		a := e.want(e.call("GET", "/api/v1/services"+query, ""), 200, "")
		if err := json.Unmarshal([]byte(a.body), &l); err != nil {
			t.Fatal(err)
		}
		for _, o := range l.Items {
			names += o.Metadata.Name + " "
		}
		return strings.TrimSpace(names), l
	}
	for query, want := range map[string]string{
		"?labelSelector=odd=1":                "s1 s3 s5",
		"?labelSelector=odd%3D1,odd%3D%3D1":   "s1 s3 s5",
		"?contains=3":                         "s3",
		"?sort=-changed&limit=2":              "s6 s5",
		"?origin=aws-east":                    "",
		"?origin=global&sort=name&limit=1000": "s0 s1 s2 s3 s4 s5 s6",
	} {
		if got, _ := list(query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	var all []string
	next := ""
	for {
		names, l := list("?limit=3&continue=" + next)
		all = append(all, names)
		if next = l.Continue; next == "" {
			break
		}
	}
	if got := strings.Join(all, "|"); got != "s0 s1 s2|s3 s4 s5|s6" {
		t.Errorf("pages %s", got)
	}
	for _, query := range []string{"?sort=size", "?labelSelector=a%20in%20(b)", "?continue=zzz"} {
		e.want(e.call("GET", "/api/v1/services"+query, ""), 400, api.CodeMalformed)
	}
	for _, query := range []string{"?limit=5000", "?limit=x", "?nonsense=1"} {
		e.want(e.call("GET", "/api/v1/services"+query, ""), 422, api.CodeInvalid)
	}
}

func TestHostileInput(t *testing.T) {
	e := start(t, nil)
	deep := strings.Repeat(`[`, 100_000)
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [lol,lol,lol,lol,lol,lol,lol,lol,lol]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&bomb, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), ","))
	}
	nested := `{"apiVersion":"mesh.comity.dev/v1alpha1","kind":"Zone","metadata":{"name":"a"},"spec":` + strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 201)
	for name, c := range map[string]struct {
		body, contentType string
		status            int
		code              string
	}{
		"empty":             {"", "application/json", 400, api.CodeMalformed},
		"not JSON":          {"{", "application/json", 400, api.CodeMalformed},
		"deep JSON":         {deep, "application/json", 400, api.CodeMalformed},
		"nested":            {nested, "application/json", 422, api.CodeInvalid},
		"a number":          {"7", "application/json", 422, api.CodeInvalid},
		"null":              {"null", "application/json", 422, api.CodeInvalid},
		"twice":             {`{"kind":"Zone","kind":"Zone"}`, "application/json", 422, api.CodeInvalid},
		"unknown field":     {`{"kindd":"Zone"}`, "application/json", 422, api.CodeInvalid},
		"unknown kind":      {`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}`, "application/json", 422, api.CodeInvalid},
		"too large":         {strings.Repeat(" ", 9<<20), "application/json", 413, api.CodeTooLarge},
		"large spec":        {`{"apiVersion":"mesh.comity.dev/v1alpha1","kind":"Zone","metadata":{"name":"a"},"spec":{"displayName":"` + strings.Repeat("x", 1<<20) + `"}}`, "application/json", 422, api.CodeInvalid},
		"no content type":   {zone("a"), "", 415, api.CodeMediaType},
		"form":              {"a=b", "application/x-www-form-urlencoded", 415, api.CodeMediaType},
		"odd content type":  {zone("a"), "application/json+;;;=", 415, api.CodeMediaType},
		"alias bomb":        {bomb.String(), "application/yaml", 400, api.CodeMalformed},
		"merge key":         {"a: &x {b: c}\nd: {<<: *x}", "application/yaml", 400, api.CodeMalformed},
		"deep YAML":         {strings.Repeat("[", 20_000), "application/yaml", 400, api.CodeMalformed},
		"wide YAML":         {"[" + strings.Repeat("a,", 1<<20) + "]", "application/yaml", 413, api.CodeTooLarge},
		"not YAML":          {"a: [", "application/yaml", 400, api.CodeMalformed},
		"infinite":          {"kind: .inf", "application/yaml", 400, api.CodeMalformed},
		"large YAML":        {strings.Repeat("# comment\n", 500_000), "application/yaml", 413, api.CodeTooLarge},
		"nothing but lines": {"---\n---\n", "application/yaml", 400, api.CodeMalformed},
		"YAML twice":        {"kind: Zone\nkind: Zone", "application/yaml", 0, ""},
		"slash in the name": {zone("a/b"), "application/json", 422, api.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			a := e.call("POST", "/api/v1/_apply", c.body, "Content-Type", c.contentType)
			if c.status == 0 {
				if a.status != 400 && a.status != 422 {
					t.Fatalf("%d: %.300s", a.status, a.body)
				}
				return
			}
			if a.status != c.status || a.problem(t).Code != c.code || len(a.body) > 64<<10 {
				t.Fatalf("%d, want %d %s: %.300s", a.status, c.status, c.code, a.body)
			}
		})
	}
	if h, err := e.store.Head(t.Context()); err != nil || h.Revision != 0 {
		t.Errorf("refused input wrote revision %d, %v", h.Revision, err)
	}
	e.want(e.call("GET", "/api/v1/service", ""), 404, api.CodeNotFound)
	e.want(e.call("GET", "/nowhere", ""), 404, api.CodeNotFound)
	if a := e.want(e.call("PATCH", "/api/v1/zones/a", "{}"), 405, api.CodeMethod); !strings.Contains(a.header.Get("Allow"), "PUT") {
		t.Errorf("Allow: %s", a.header.Get("Allow"))
	}
	e.want(e.call("POST", "/api/v1/_apply", zone("a"), "Comity-Reason", "a%0Ab"), 400, api.CodeMalformed)
	e.want(e.call("POST", "/api/v1/_apply?dryRun=Some", zone("a")), 422, api.CodeInvalid)
}

func TestOpenAPI(t *testing.T) {
	e := start(t, nil)
	a := e.want(e.call("GET", "/openapi.json", "", "Authorization", ""), 200, "")
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]struct{ Responses map[string]any }
		Components struct {
			Schemas         map[string]any
			SecuritySchemes map[string]any
		}
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" || doc.Components.SecuritySchemes["token"] == nil || doc.Components.Schemas["Zone"] == nil {
		t.Errorf("document %s %v", doc.OpenAPI, doc.Components.SecuritySchemes)
	}
	put := doc.Paths["/api/v1/namespaces/{namespace}/httproutes/{name}"]["put"]
	if put.Responses["default"] == nil || put.Responses["200"] == nil {
		t.Errorf("responses %v", put.Responses)
	}
	// Every reference leads somewhere.
	for rest := a.body; ; {
		i := strings.Index(rest, `"#/components/schemas/`)
		if i < 0 {
			break
		}
		rest = rest[i+len(`"#/components/schemas/`):]
		if name := rest[:strings.IndexByte(rest, '"')]; doc.Components.Schemas[name] == nil {
			t.Errorf("schema %s is referred to and not there", name)
		}
	}
}
