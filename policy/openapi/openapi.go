// Package openapi makes routes of what an application says that it offers: an OpenAPI document in, one HTTPRoute rule per operation
// out, so that policies and metrics have something to attach to by name.
package openapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Fields of an operation that OpenAPI leaves to others.
const (
	// Retryable says whether a request may be done twice, whatever its method: true or false.
	Retryable = "x-comity-retryable"
	// Timeout bounds a request, as "2s".
	Timeout = "x-comity-timeout"
)

const (
	maxDocument   = 8 << 20
	rulesPerRoute = 16
	restName      = "rest"
)

// Options say what the routes are for.
type Options struct {
	// Service is the parent of the routes and their backend, with a port.
	Service policy.ServiceRef
	// BasePath is before every path. Empty: the path of the document's first server.
	BasePath string
	// Strict leaves out the rule that takes what the document does not have, which then is answered 404.
	Strict bool
}

// Resources reads a document (OpenAPI 3, JSON or YAML, with no references to other files) and makes HTTPRoutes with a rule per operation,
// named as its operationId in kebab case: one route per first tag, and more where a tag has over 16 operations. Operations with
// x-comity-retryable get a TrafficPolicy each. The order is always the same. Everything returned is valid for policy.Validate.
func Resources(document []byte, o Options) ([]mesh.Resource, error) {
	if len(document) > maxDocument {
		return nil, fmt.Errorf("the document has %d bytes; at most %d are read", len(document), maxDocument)
	}
	doc, err := openapi3.NewLoader().LoadFromData(document)
	if err != nil {
		return nil, fmt.Errorf("not understood as OpenAPI 3: %w", err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.") {
		return nil, errors.New("only OpenAPI 3 is understood; Swagger 2 has to be converted first")
	}
	base, err := basePath(doc, o.BasePath)
	if err != nil {
		return nil, err
	}
	operations, err := read(doc, base)
	if err != nil {
		return nil, err
	}
	w := &writer{Options: o}
	w.routes(operations)
	return w.out, w.err
}

func basePath(doc *openapi3.T, said string) (string, error) {
	if said == "" && len(doc.Servers) > 0 {
		u, err := url.Parse(doc.Servers[0].URL)
		if err != nil || strings.ContainsAny(u.Path, "{}") {
			return "", fmt.Errorf("the path of the first server, %q, can't be known: say what it is", doc.Servers[0].URL)
		}
		said = u.Path
	}
	said = strings.TrimSuffix(said, "/")
	if said != "" && !strings.HasPrefix(said, "/") {
		said = "/" + said
	}
	return said, nil
}

// operation is one method of one path.
type operation struct {
	id     string // that of the document, or method and path
	name   string
	tag    string
	method string
	path   *path
	// What the operation says of itself; nil and empty for nothing.
	retryable *bool
	timeout   string
}

// read lists the operations, by path and method.
func read(doc *openapi3.T, base string) ([]operation, error) {
	var out []operation
	var paths []*path
	named := map[string]string{}
	for _, p := range slices.Sorted(slices.Values(doc.Paths.Keys())) {
		at := parsePath(base + p)
		paths = append(paths, at)
		methods := doc.Paths.Value(p).Operations()
		for _, method := range slices.Sorted(maps.Keys(methods)) {
			op, err := readOperation(methods[method], method, p)
			if err != nil {
				return nil, err
			}
			if by, taken := named[op.name]; taken || op.name == restName {
				return nil, fmt.Errorf("operations %q and %q would have one name, %q: change an operationId", max(by, restName), op.id, op.name)
			}
			named[op.name], op.path = op.id, at
			out = append(out, op)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the document has no operations")
	}
	order(paths)
	return out, nil
}

func readOperation(from *openapi3.Operation, method, path string) (operation, error) {
	op := operation{id: from.OperationID, method: method}
	if op.id == "" {
		op.id = method + " " + path
	}
	if op.name = kebab(op.id); mesh.CheckSubdomain(op.name) != nil {
		return op, fmt.Errorf("operation %q: no rule can be named %q", op.id, op.name)
	}
	if method == http.MethodTrace || method == http.MethodConnect {
		return op, fmt.Errorf("operation %q: %s is no method for an application", op.id, method)
	}
	if len(from.Tags) > 0 {
		op.tag = kebab(from.Tags[0])
	}
	for field, into := range map[string]any{Retryable: &op.retryable, Timeout: &op.timeout} {
		v, given := from.Extensions[field]
		if !given {
			continue
		}
		raw, err := json.Marshal(v)
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			return op, fmt.Errorf("operation %q: %s: %w", op.id, field, err)
		}
	}
	return op, nil
}

// kebab makes "listPetsByID" and "list pets_by ID" "list-pets-by-id".
func kebab(s string) string {
	var b strings.Builder
	in := []rune(s)
	upper := func(i int) bool { return i >= 0 && i < len(in) && in[i] >= 'A' && in[i] <= 'Z' }
	small := func(i int) bool {
		return i >= 0 && i < len(in) && (in[i] >= 'a' && in[i] <= 'z' || in[i] >= '0' && in[i] <= '9')
	}
	for i, c := range in {
		switch {
		case upper(i):
			if small(i-1) || upper(i-1) && small(i+1) {
				b.WriteByte('-')
			}
			b.WriteRune(c - 'A' + 'a')
		case small(i):
			b.WriteRune(c)
		default:
			b.WriteByte('-')
		}
	}
	return strings.Join(strings.FieldsFunc(b.String(), func(c rune) bool { return c == '-' }), "-")
}

// writer collects resources.
type writer struct {
	Options
	out []mesh.Resource
	err error
}

func (w *writer) routes(operations []operation) {
	byTag := map[string][]operation{}
	for _, op := range operations {
		byTag[op.tag] = append(byTag[op.tag], op)
	}
	for _, tag := range slices.Sorted(maps.Keys(byTag)) {
		for some := range slices.Chunk(byTag[tag], rulesPerRoute) {
			w.route(w.free(mesh.KindHTTPRoute, joined(w.Service.Name, tag)), some)
		}
	}
	if !w.Strict {
		w.add(mesh.KindHTTPRoute, w.free(mesh.KindHTTPRoute, joined(w.Service.Name, restName)), w.spec(gatewayv1.HTTPRouteRule{Name: ptr(gatewayv1.SectionName(restName))}))
	}
}

// free is a name that no resource has yet, with a number if need be.
func (w *writer) free(kind mesh.Kind, name string) string {
	taken := func(name string) bool {
		return slices.ContainsFunc(w.out, func(r mesh.Resource) bool { return r.Kind == kind && r.Name == name })
	}
	out := name
	for n := 2; taken(out); n++ {
		out = fmt.Sprintf("%s-%d", name, n)
	}
	return out
}

func joined(a, b string) string { return strings.TrimSuffix(a+"-"+b, "-") }

func (w *writer) route(name string, operations []operation) {
	var rules []gatewayv1.HTTPRouteRule
	for _, op := range operations {
		kind, value := op.path.match()
		rule := gatewayv1.HTTPRouteRule{
			Name:    ptr(gatewayv1.SectionName(op.name)),
			Matches: []gatewayv1.HTTPRouteMatch{{Path: &gatewayv1.HTTPPathMatch{Type: &kind, Value: &value}, Method: ptr(gatewayv1.HTTPMethod(op.method))}},
		}
		if op.timeout != "" {
			rule.Timeouts = &gatewayv1.HTTPRouteTimeouts{Request: ptr(gatewayv1.Duration(op.timeout))}
		}
		rules = append(rules, rule)
	}
	w.add(mesh.KindHTTPRoute, name, w.spec(rules...))
	for _, op := range operations {
		if op.retryable == nil {
			continue
		}
		retry := &policy.Retry{Requests: policy.RetryAll}
		if !*op.retryable {
			retry = &policy.Retry{Attempts: ptr(uint32(0))}
		}
		target := &policy.TargetRef{Group: gatewayv1.GroupName, Kind: string(mesh.KindHTTPRoute), Name: name, SectionName: op.name}
		w.add(mesh.KindTrafficPolicy, joined(w.Service.Name, op.name), policy.TrafficPolicy{Attachment: policy.Attachment{TargetRef: target}, Retry: retry})
	}
}

// spec is of a route whose rules all lead to the service.
func (w *writer) spec(rules ...gatewayv1.HTTPRouteRule) gatewayv1.HTTPRouteSpec {
	port := gatewayv1.PortNumber(w.Service.Port)
	for i := range rules {
		rules[i].BackendRefs = []gatewayv1.HTTPBackendRef{{BackendRef: gatewayv1.BackendRef{
			BackendObjectReference: gatewayv1.BackendObjectReference{Name: gatewayv1.ObjectName(w.Service.Name), Port: &port},
		}}}
	}
	return gatewayv1.HTTPRouteSpec{
		CommonRouteSpec: gatewayv1.CommonRouteSpec{ParentRefs: []gatewayv1.ParentReference{{
			Group: ptr(gatewayv1.Group("")), Kind: ptr(gatewayv1.Kind(mesh.KindService)), Name: gatewayv1.ObjectName(w.Service.Name), Port: &port,
		}}},
		Rules: rules,
	}
}

// add checks a resource as it will be when it is applied.
func (w *writer) add(kind mesh.Kind, name string, spec any) {
	raw, err := json.Marshal(spec)
	if err != nil {
		w.err = errors.Join(w.err, err)
		return
	}
	info, _ := policy.Lookup(string(kind))
	r := mesh.Resource{Key: mesh.Key{Kind: kind, Namespace: w.Service.Namespace, Name: name}, APIVersion: info.APIVersion, Spec: raw}
	for _, wrong := range policy.Validate(r) {
		w.err = errors.Join(w.err, fmt.Errorf("%s %s would be refused: %s: %s", kind, name, wrong.Pointer, wrong.Message))
	}
	w.out = append(w.out, r)
}

func ptr[T any](v T) *T { return &v }
