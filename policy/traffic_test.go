package policy_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// TestTrafficPolicyRefused: what can't take effect is refused when it is written, at the field.
func TestTrafficPolicyRefused(t *testing.T) {
	const service = `"targetRef":{"kind":"Service","name":"cart"},`
	const external = `"targetRef":{"group":"mesh.comity.dev","kind":"ExternalService","name":"bank"},`
	const route = `"targetRef":{"group":"gateway.networking.k8s.io","kind":"HTTPRoute","name":"cart"},`
	for _, c := range []struct{ spec, pointer string }{ // an empty pointer: it is accepted
		{route + `"timeouts":{"request":"1s"},"retry":{"attempts":1},"session":{"header":"x"}`, ""},
		{route + `"timeouts":{"connect":"1s"}`, "/spec/timeouts/connect"},
		{route + `"retry":{"budget":{}}`, "/spec/retry/budget"},
		{route + `"circuitBreaker":{"maxRequests":1}`, "/spec/circuitBreaker"},
		{route + `"connectionPool":{"idle":"1s"}`, "/spec/connectionPool"},
		{route + `"outlier":{}`, "/spec/outlier"},
		{route + `"healthCheck":{"tcp":{}}`, "/spec/healthCheck"},
		{route + `"loadBalancer":{"algorithm":"Random"}`, "/spec/loadBalancer"},

		{external + `"timeouts":{"request":"1s"},"retry":{"attempts":1},"circuitBreaker":{"maxRequests":1},"outlier":{}`, ""},
		{external + `"session":{"header":"x"}`, "/spec/session"},
		{external + `"loadShedding":{}`, "/spec/loadShedding"},
		{external + `"layer":"l4"`, "/spec/layer"},

		{service + `"timeouts":{"request":"0s"}`, ""},
		{service + `"timeouts":{}`, "/spec/timeouts"},
		{service + `"timeouts":{"request":"1s","backendRequest":"2s"}`, "/spec/timeouts/backendRequest"},
		{service + `"timeouts":{"idle":"1ms"}`, "/spec/timeouts/idle"},
		{service + `"retry":{"attempts":11}`, "/spec/retry/attempts"},
		{service + `"retry":{"reasons":["200"]}`, "/spec/retry/reasons/0"},
		{service + `"retry":{"reasons":["503","sometimes"]}`, "/spec/retry/reasons/1"},
		{service + `"retry":{"reasons":["503","503"]}`, "/spec/retry/reasons/1"},
		{service + `"retry":{"reasons":["unavailable"]}`, "/spec/retry/reasons/0"},
		{service + `"retry":{"reasons":["unavailable"],"requests":"All"}`, ""},
		{service + `"retry":{"budget":{"percent":0}}`, "/spec/retry/budget/percent"},
		{service + `"circuitBreaker":{}`, "/spec/circuitBreaker"},
		{service + `"circuitBreaker":{"maxRequests":0}`, "/spec/circuitBreaker/maxRequests"},
		{service + `"connectionPool":{"maxConnectionAge":"1ms"}`, "/spec/connectionPool/maxConnectionAge"},
		{service + `"outlier":{"answers":"All"}`, "/spec/outlier/answers"},
		{service + `"outlier":{"failurePercentage":{}}`, "/spec/outlier/failurePercentage/threshold"},
		{service + `"outlier":{"ejection":"1ms"}`, "/spec/outlier/ejection"},
		{service + `"healthCheck":{}`, "/spec/healthCheck"},
		{service + `"healthCheck":{"tcp":{},"interval":"100ms"}`, "/spec/healthCheck/interval"},
		{service + `"healthCheck":{"http":{"path":"healthz"}}`, "/spec/healthCheck/http/path"},
		{service + `"loadBalancer":{"algorithm":"Maglev"}`, "/spec/loadBalancer/hash"},
		{service + `"loadBalancer":{"hash":[{"header":"x"}]}`, "/spec/loadBalancer/hash"},
		{service + `"loadBalancer":{"algorithm":"RingHash","hash":[{"header":"x","query":"y"}]}`, "/spec/loadBalancer/hash/0"},
		{service + `"loadBalancer":{"algorithm":"RingHash","hash":[{"cookie":{"name":"a b"}}]}`, "/spec/loadBalancer/hash/0/cookie/name"},
		{service + `"loadBalancer":{"algorithm":"Random","slowStart":{"window":"1s"}}`, "/spec/loadBalancer/slowStart"},
		{service + `"loadBalancer":{"slowStart":{}}`, "/spec/loadBalancer/slowStart/window"},
		{service + `"loadBalancer":{"slowStart":{"window":"1s","aggression":0}}`, "/spec/loadBalancer/slowStart/aggression"},
		{service + `"session":{}`, "/spec/session"},
		{service + `"session":{"cookie":{}}`, "/spec/session/cookie/name"},
		{service + `"session":{"cookie":{"name":"a","ttl":"1ms"}}`, "/spec/session/cookie/ttl"},
	} {
		wrong := policy.Validate(mesh.Resource{
			Key:        mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindTrafficPolicy, Namespace: "shop", Name: "cart"},
			APIVersion: policy.APIVersion, Spec: json.RawMessage("{" + c.spec + "}"),
		})
		switch {
		case c.pointer == "" && wrong != nil:
			t.Errorf("%s: %+v", c.spec, wrong)
		case c.pointer != "" && !slices.ContainsFunc(wrong, func(f policy.FieldError) bool { return f.Pointer == c.pointer }):
			t.Errorf("%s: nothing wrong with %s: %+v", c.spec, c.pointer, wrong)
		}
	}
}
