package openapi_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/policy/openapi"
)

var pets = openapi.Options{Service: policy.ServiceRef{Namespace: "shop", Name: "pets", Port: 80}}

func document(paths string) []byte {
	return []byte("openapi: 3.0.3\ninfo: {title: x, version: '1'}\npaths:\n" + paths)
}

// routesOf decodes the HTTPRoutes among resources.
func routesOf(t *testing.T, resources []mesh.Resource) []policy.Route {
	t.Helper()
	var out []policy.Route
	for _, r := range resources {
		if r.Kind != mesh.KindHTTPRoute {
			continue
		}
		spec, err := policy.DecodeAs[policy.HTTPRoute](r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, policy.Route{Resource: r, Spec: spec})
	}
	return out
}

func TestResources(t *testing.T) {
	doc, err := os.ReadFile("testdata/pets.yaml")
	if err != nil {
		t.Fatal(err)
	}
	resources, err := openapi.Resources(doc, pets)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range routesOf(t, resources) {
		for _, rule := range r.Spec.Rules {
			line := r.Resource.Name + " " + string(*rule.Name)
			for _, m := range rule.Matches {
				line += fmt.Sprintf(" %s %s %s", *m.Method, *m.Path.Type, *m.Path.Value)
			}
			if rule.Timeouts != nil {
				line += " " + string(*rule.Timeouts.Request)
			}
			got = append(got, line)
		}
	}
	want := []string{
		"pets owner GET RegularExpression /v1/pets/[^/]+/me(?:)",
		"pets get-pets-id-part GET RegularExpression /v1/pets/[^/]+/[^/]+",
		"pets-pets list-pets GET Exact /v1/pets",
		"pets-pets create-pet POST Exact /v1/pets",
		"pets-pets my-pets GET Exact /v1/pets/mine",
		"pets-pets get-pet GET RegularExpression /v1/pets/[^/]+ 2s",
		"pets-rest rest",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	last := resources[len(resources)-2]
	if last.Kind != mesh.KindTrafficPolicy || string(last.Spec) != `{"targetRef":{"group":"gateway.networking.k8s.io","kind":"HTTPRoute","name":"pets-pets","sectionName":"create-pet"},"retry":{"requests":"All"}}` {
		t.Errorf("%s %s", last.Key, last.Spec)
	}
	if again, err := openapi.Resources(doc, pets); err != nil || !cmp.Equal(resources, again) {
		t.Errorf("not the same again: %v", err)
	}
}

// TestPrecedence: by the precedence of the Gateway API the operation that says most of a path has its requests, in whatever order the document has them.
func TestPrecedence(t *testing.T) {
	resources, err := openapi.Resources(document(`
  /a/{x}/{y}: {get: {operationId: any, responses: {default: {description: x}}}}
  /a/{x}/b: {get: {operationId: b, responses: {default: {description: x}}}}
  /a/b/{y}: {get: {operationId: under-b, responses: {default: {description: x}}}}
  /a/{x}/{y}.json: {get: {operationId: json, responses: {default: {description: x}}}}
  /a/{x}/b.json: {get: {operationId: b-json, responses: {default: {description: x}}}}
  /a/b/c: {get: {operationId: exact, responses: {default: {description: x}}}}
  "/{t}/{u}/{v}": {get: {operationId: all, responses: {default: {description: x}}}}
  /a/{x}: {get: {operationId: short, responses: {default: {description: x}}}}
  /a/: {get: {operationId: slash, responses: {default: {description: x}}}}
`), pets)
	if err != nil {
		t.Fatal(err)
	}
	matches, overridden := policy.RoutesFor(routesOf(t, resources), pets.Service, policy.Clients{})
	if len(overridden) > 0 {
		t.Errorf("overridden: %v", overridden)
	}
	for path, want := range map[string]string{
		"/a/b/c": "exact", "/a/x/b": "b", "/a/x/c": "any", "/a/x/c.json": "json", "/a/x/b.json": "b-json", "/a/xbjson/bxjson": "any", "/z/y/x": "all",
		"/a/x": "short", "/a/": "slash", "/a/x/b/c": "rest", "/a//b": "rest",
	} {
		for _, m := range matches {
			pattern := "(?s:" + regexp.QuoteMeta(*m.Match.Path.Value) + ")"
			switch *m.Match.Path.Type {
			case gatewayv1.PathMatchRegularExpression:
				pattern = *m.Match.Path.Value
			case gatewayv1.PathMatchPathPrefix:
				pattern += ".*"
			}
			if !regexp.MustCompile("^(?:" + pattern + ")$").MatchString(path) {
				continue
			}
			if m.RuleName != want {
				t.Errorf("%s: %s, not %s", path, m.RuleName, want)
			}
			break
		}
	}
}

// TestManyOperations: more than fit a route make more routes, each within the bounds.
func TestManyOperations(t *testing.T) {
	var paths strings.Builder
	for i := range 40 {
		fmt.Fprintf(&paths, "  /p%d: {get: {tags: [Big Tag], responses: {default: {description: x}}}}\n", i)
	}
	fmt.Fprint(&paths, "  /rest: {get: {tags: [rest], responses: {default: {description: x}}}}\n")
	strict := pets
	strict.Strict = true
	for o, want := range map[*openapi.Options]string{
		&pets: "pets-big-tag pets-big-tag-2 pets-big-tag-3 pets-rest pets-rest-2", &strict: "pets-big-tag pets-big-tag-2 pets-big-tag-3 pets-rest",
	} {
		resources, err := openapi.Resources(document(paths.String()), *o)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, r := range resources {
			names = append(names, r.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	op := func(rest string) string { return "{get: {" + rest + "responses: {default: {description: x}}}}" }
	for name, c := range map[string]struct{ doc, says string }{
		"not OpenAPI":      {"hello", "not understood"},
		"Swagger 2":        {"swagger: '2.0'\ninfo: {title: x, version: '1'}\npaths: {/a: " + op("") + "}", "Swagger 2"},
		"nothing":          {string(document("  {}")), "no operations"},
		"one name twice":   {string(document("  /a: " + op("operationId: getIt, ") + "\n  /b: " + op("operationId: get_it, "))), `"get-it"`},
		"a name of ours":   {string(document("  /a: " + op("operationId: Rest, "))), `"rest"`},
		"no name":          {string(document("  /a: " + op("operationId: '???', "))), "no rule can be named"},
		"a server's path":  {"servers: [{url: 'https://x/{v}', variables: {v: {default: a}}}]\n" + string(document("  /a: "+op(""))), "can't be known"},
		"no time":          {string(document("  /a: " + op("x-comity-timeout: soon, "))), "timeouts/request"},
		"no yes or no":     {string(document("  /a: " + op("x-comity-retryable: perhaps, "))), "x-comity-retryable"},
		"what never comes": {string(document("  /a%2fb: " + op(""))), "path/value"},
		"another file":     {string(document("  /a: {$ref: other.yaml}")), "not understood"},
	} {
		if _, err := openapi.Resources([]byte(c.doc), pets); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
