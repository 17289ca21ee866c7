package api

import (
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// describe completes the OpenAPI document with what the handlers decide at run time: bodies, answers
// and problems. The types are the same that are encoded and decoded.
func (s *server) describe() {
	doc := s.api.OpenAPI()
	ref := func(v any) *huma.Schema { return doc.Components.Schemas.Schema(reflect.TypeOf(v), true, "") }
	problemSchema := ref(problem{})
	answers := map[string]*huma.Schema{
		"apply": ref(client.ApplyResult{}), "proxies": ref(client.ProxyList{}), "failover": ref(client.FailoverList{}), "whoami": ref(Whoami{}),
		"create-token": ref(client.APIToken{}), "list-tokens": ref(client.APITokens{}),
	}
	bodies := map[string]*huma.Schema{
		"create-token": ref(client.APITokenRequest{}),
		"apply":        {OneOf: []*huma.Schema{ref(client.Object{}), {Type: huma.TypeArray, Items: ref(client.Object{})}}},
	}
	for _, k := range policy.Kinds() {
		object := kindSchema(doc, k)
		list := &huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{
			"apiVersion": {Type: huma.TypeString}, "kind": {Type: huma.TypeString}, "items": {Type: huma.TypeArray, Items: object},
			"continue": {Type: huma.TypeString}, "revision": ref(mesh.Revision(0)), "cursor": {Type: huma.TypeString},
		}}
		for _, id := range []string{"get", "create", "replace", "delete"} {
			answers[id+"-"+k.Singular] = object
		}
		bodies["create-"+k.Singular], bodies["replace-"+k.Singular] = object, object
		answers["list-"+k.Singular], answers["list-all-"+k.Singular] = list, list
		answers["history-"+k.Singular] = ref(HistoryList{})
	}
	for _, path := range doc.Paths {
		for _, op := range []*huma.Operation{path.Get, path.Post, path.Put, path.Delete} {
			if op == nil {
				continue
			}
			op.Responses["default"] = &huma.Response{Description: "A problem (RFC 9457)", Content: map[string]*huma.MediaType{problemType: {Schema: problemSchema}}}
			if schema := answers[op.OperationID]; schema != nil {
				setAnswer(op, schema)
			}
			if schema := bodies[op.OperationID]; schema != nil {
				op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
					"application/json": {Schema: schema}, "application/yaml": {Schema: schema},
				}}
			}
		}
	}
}

func setAnswer(op *huma.Operation, schema *huma.Schema) {
	status := "200"
	if op.Method == http.MethodPost && strings.HasPrefix(op.OperationID, "create-") {
		status = "201"
	}
	for code := range op.Responses {
		if strings.HasPrefix(code, "2") {
			delete(op.Responses, code)
		}
	}
	r := &huma.Response{Description: "Done", Content: map[string]*huma.MediaType{"application/json": {Schema: schema}}}
	if strings.HasPrefix(op.OperationID, "list-") && op.OperationID != "list-tokens" {
		r.Content["text/event-stream"] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString, Description: "Events added, modified, deleted, bookmark and error; every id is a cursor."}}
	}
	op.Responses[status] = r
}

// kindSchema adds the schema of a kind's object and returns a reference to it.
func kindSchema(doc *huma.OpenAPI, k policy.KindInfo) *huma.Schema {
	spec, err := policy.Decode(k.Kind, nil)
	if err != nil {
		return &huma.Schema{Type: huma.TypeObject}
	}
	schemas := doc.Components.Schemas
	specSchema := schemas.Schema(reflect.TypeOf(spec).Elem(), true, "")
	var status any = client.ResourceObjectStatus{}
	if k.Kind == mesh.KindZone {
		status = client.ZoneObjectStatus{}
	}
	schemas.Map()[string(k.Kind)] = &huma.Schema{
		Type: huma.TypeObject, Description: k.Summary, AdditionalProperties: false,
		Properties: map[string]*huma.Schema{
			"apiVersion": {Type: huma.TypeString, Enum: []any{k.APIVersion}},
			"kind":       {Type: huma.TypeString, Enum: []any{string(k.Kind)}},
			"metadata":   schemas.Schema(reflect.TypeFor[client.Metadata](), true, ""),
			"spec":       specSchema,
			"status":     schemas.Schema(reflect.TypeOf(status), true, ""),
		},
		Required: []string{"apiVersion", "kind", "metadata"},
	}
	return &huma.Schema{Ref: "#/components/schemas/" + string(k.Kind)}
}
