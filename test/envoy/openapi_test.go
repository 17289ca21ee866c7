package envoy

import (
	"net/http"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/internal/signals"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/policy/openapi"
)

const orders = `
openapi: 3.0.3
info: {title: Orders, version: "1"}
servers: [{url: /v1}]
paths:
  /orders:
    post: {operationId: placeOrder, x-comity-retryable: true, responses: {"201": {description: placed}}}
  /orders/{id}:
    get: {operationId: getOrder, x-comity-timeout: 300ms, responses: {"200": {description: an order}}}
    delete: {operationId: dropOrder, x-comity-retryable: false, responses: {"204": {description: dropped}}}
  /orders/mine:
    get: {operationId: myOrders, responses: {"200": {description: orders}}}
`

// TestOpenAPI: what is imported of a document bounds, tries again and counts the requests of each operation by its name.
func TestOpenAPI(t *testing.T) {
	w := newWorld(t)
	resources, err := openapi.Resources([]byte(orders), openapi.Options{Service: policy.ServiceRef{Namespace: "shop", Name: "echo", Port: 80}})
	if err != nil {
		t.Fatal(err)
	}
	var docs strings.Builder
	for _, r := range resources {
		doc, err := yaml.Marshal(map[string]any{"kind": r.Kind, "metadata": map[string]string{"name": r.Name}, "spec": r.Spec})
		if err != nil {
			t.Fatal(err)
		}
		docs.WriteString("\n---\n" + string(doc))
	}
	fails := func(key string) map[string]string {
		return map[string]string{doStatus: "503", doFail: "1", doKey: key}
	}
	w.table(t, []feature{{
		name: "by operation",
		yaml: docs.String(),
		expect: []expectation{
			{call{method: http.MethodPost, path: "/v1/orders", header: fails("post")}, want{}},
			{call{method: http.MethodDelete, path: "/v1/orders/7", header: fails("delete")}, want{status: 503}},
			{call{path: "/v1/orders/7?all=1"}, want{path: "/v1/orders/7?all=1"}},
			{call{path: "/v1/orders/7", header: with(doDelay, "5s")}, want{status: 504}},
			{call{path: "/v1/orders/mine", header: with(doDelay, "600ms")}, want{}},
			{call{path: "/v1/elsewhere"}, want{}},
			{call{method: http.MethodPost, path: "/v1/orders/7", header: fails("rest")}, want{status: 503}},
		},
	}})
	told := scrape(t, w.exporter(t, "web", ""))
	for operation, counted := range map[string]map[string]float64{
		"place-order": {"2xx": 1}, "drop-order": {"5xx": 1}, "get-order": {"2xx": 1, "5xx": 1}, "my-orders": {"2xx": 1}, "rest": {"2xx": 1, "5xx": 1},
	} {
		of := []string{"route_namespace=shop", "route=echo", "rule=" + operation}
		if operation == "rest" {
			of[1] = "route=echo-rest"
		}
		for _, class := range []string{"2xx", "4xx", "5xx"} {
			if got := told.sum(signals.RuleRequests, append(of, "code_class="+class)...); got != counted[class] {
				t.Errorf("%s %s: %v, not %v", operation, class, got, counted[class])
			}
		}
		retries := 0.0
		if operation == "place-order" {
			retries = 1
		}
		if got := told.sum(signals.RuleRetries, of...); got != retries {
			t.Errorf("%s: %v retries, not %v", operation, got, retries)
		}
	}
}
