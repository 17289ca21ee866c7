package policy_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

func TestActing(t *testing.T) {
	const rules = `"rules":[{"name":"one","backendRefs":[{"name":"pay-v2","port":80}]}]`
	made := []mesh.Resource{
		resource(t, mesh.KindMeshConfig, "", "default", `{}`),
		resource(t, mesh.KindHTTPRoute, "shop", "canary", `{"parentRefs":[{"group":"","kind":"Service","name":"pay"}],`+rules+`}`),
		resource(t, mesh.KindHTTPRoute, "bank", "mine", `{"parentRefs":[{"group":"","kind":"Service","name":"pay","namespace":"shop"}],`+rules+`}`),
		resource(t, mesh.KindHTTPRoute, "shop", "front", `{"parentRefs":[{"name":"edge"}],"rules":[{"backendRefs":[{"name":"pay","port":80}]}]}`),
		resource(t, mesh.KindTCPRoute, "bank", "ledger", `{"parentRefs":[{"name":"edge"}],"rules":[{"backendRefs":[{"name":"pay","namespace":"shop","port":80}]}]}`),
		resource(t, mesh.KindTCPRoute, "bank", "own", `{"parentRefs":[{"name":"edge"}],"rules":[{"backendRefs":[{"name":"pay","port":80}]}]}`),
		resource(t, mesh.KindHTTPRoute, "shop", "other", `{"parentRefs":[{"group":"","kind":"Service","name":"cart"}],`+rules+`}`),
		resource(t, mesh.KindTrafficPolicy, "shop", "rule", `{"targetRef":{"kind":"HTTPRoute","group":"gateway.networking.k8s.io","name":"canary","sectionName":"one"},"timeouts":{"request":"1s"}}`),
		resource(t, mesh.KindTrafficPolicy, "bank", "theirs", `{"targetRef":{"kind":"HTTPRoute","group":"gateway.networking.k8s.io","name":"mine"},"timeouts":{"request":"1s"}}`),
		resource(t, mesh.KindTrafficPolicy, "shop", "elsewhere", `{"targetRef":{"kind":"HTTPRoute","group":"gateway.networking.k8s.io","name":"mine"},"timeouts":{"request":"1s"}}`),
		resource(t, mesh.KindTelemetryPolicy, "shop", "port", `{"targetRef":{"kind":"Service","name":"pay","sectionName":"http"},"metrics":{"callers":true}}`),
		resource(t, mesh.KindAuthorizationPolicy, "shop", "web", `{"targetRef":{"kind":"Service","name":"pay"},"action":"Allow"}`),
		resource(t, mesh.KindAuthorizationPolicy, "shop", "cart", `{"targetRef":{"kind":"Service","name":"cart"},"action":"Allow"}`),
		resource(t, mesh.KindFailoverPolicy, "shop", "all", `{}`),
		resource(t, mesh.KindTrafficPolicy, "bank", "all", `{"timeouts":{"request":"1s"}}`),
		resource(t, mesh.KindTrafficPolicy, policy.SystemNamespace, "all", `{"timeouts":{"request":"1s"}}`),
		resource(t, mesh.KindTrafficPolicy, "shop", "unreadable", `{"fromTheFuture":true}`),
	}
	var got []string
	for _, a := range policy.Acting(made, "shop", "pay") {
		got = append(got, fmt.Sprintf("%s/%s %s %s", a.Key.Namespace, a.Key.Name, a.As, a.Of))
	}
	want := []string{
		"shop/canary routes ", "bank/mine routes-callers bank", "shop/front leads-here ", "bank/ledger leads-here ", "shop/rule rule canary, one", "bank/theirs route mine",
		"shop/port port http", "shop/web service ", "shop/all namespace ", "/default mesh ", "comity-system/all mesh ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nnot\n%q", got, want)
	}
}
