package api_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// TestNotes: names that nobody has are noted when they are applied and when the resource is looked at, until somebody has them.
func TestNotes(t *testing.T) {
	e := start(t, nil)
	e.twoZones()
	const authz = `{"apiVersion":"mesh.comity.dev/v1alpha1","kind":"AuthorizationPolicy","metadata":{"namespace":"shop","name":"p"},"spec":{
		"targetRef":{"kind":"Service","name":"web"},"action":"Allow","rules":[{"from":[{"namespaces":["shop"],"serviceAccounts":["carts"]},{"zones":["eest"]}]}]}}`
	apply := func(query, body string) []string {
		t.Helper()
		var res client.ApplyResult
		if err := json.Unmarshal([]byte(e.want(e.call("POST", "/api/v1/_apply"+query, body), 200, "").body), &res); err != nil {
			t.Fatal(err)
		}
		return res.Items[len(res.Items)-1].Notes
	}
	zone := `/spec/rules/0/from/1/zones/0: no zone "eest" is known; did you mean "east"?`
	// What comes in the same request is there; of callers nothing is said while there are no workloads.
	if got := apply("?dryRun=All", "["+service("web", "")+","+authz+"]"); !slices.Equal(got, []string{zone}) {
		t.Errorf("dry run: %q", got)
	}
	if got := apply("", authz); len(got) != 2 || !strings.Contains(got[1], `no Service "web" is known in namespace shop of any zone`) {
		t.Errorf("applied: %q", got)
	}
	workload := mesh.Resource{
		Key:        mesh.Key{Origin: "east", Kind: mesh.KindWorkload, Namespace: "shop", Name: "cart-1"},
		APIVersion: policy.APIVersion, UID: "u1", Generation: 1, Created: 1, Changed: 1, Spec: []byte(`{"serviceAccount":"cart"}`),
	}
	if _, err := e.store.Apply(t.Context(), store.Batch{Writes: []store.Write{{Resource: workload, Copy: true}}}); err != nil {
		t.Fatal(err)
	}
	e.want(e.call("POST", services, service("web", "")), 201, "")
	var st client.ResourceObjectStatus
	o := e.object(e.want(e.call("GET", "/api/v1/namespaces/shop/authorizationpolicies/p", ""), 200, ""))
	if err := json.Unmarshal(o.Status, &st); err != nil {
		t.Fatal(err)
	}
	account := `/spec/rules/0/from/0/serviceAccounts/0: no service account "carts" is known in namespace shop of any zone; did you mean "cart"?`
	if !slices.Equal(st.Notes, []string{account, zone}) || len(st.Zones) != 2 {
		t.Errorf("looked at: %q", st.Notes)
	}
	if got := apply("", strings.NewReplacer("carts", "cart", "eest", "west").Replace(authz)); got != nil {
		t.Errorf("mended: %q", got)
	}
}
