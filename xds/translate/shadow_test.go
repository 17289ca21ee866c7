package translate_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/xds/topology/topologytest"
	"github.com/comity-mesh/comity/xds/translate"
)

// TestShadowSaysWhatWouldBe: policies in shadow mode foretell exactly what they decide when they are enforced, and change nothing
// of what is decided meanwhile.
func TestShadowSaysWhatWouldBe(t *testing.T) {
	for _, name := range []string{"authz-allow", "authz-deny", "authz-mixed"} {
		in := topologytest.Load(t, "testdata/"+name+"/input.yaml")
		enforced := authorizations(in)
		var without []mesh.Resource
		for i, r := range in.Resources {
			if r.Kind != mesh.KindAuthorizationPolicy {
				without = append(without, r)
				continue
			}
			spec, err := policy.DecodeAs[policy.AuthorizationPolicy](r)
			if err != nil {
				t.Fatal(err)
			}
			spec.Mode = policy.Shadow
			if in.Resources[i].Spec, err = json.Marshal(spec); err != nil {
				t.Fatal(err)
			}
		}
		shadowed := authorizations(in)
		in.Resources = without
		none := authorizations(in)
		for host, a := range enforced {
			got := shadowed[host]
			if diff := cmp.Diff(a.Callers, got.Shadow); diff != "" {
				t.Errorf("%s: %s: foretold (-enforced +shadow):\n%s", name, host, diff)
			}
			if diff := cmp.Diff(none[host].Callers, got.Callers); diff != "" {
				t.Errorf("%s: %s: decided meanwhile (-without +shadow):\n%s", name, host, diff)
			}
		}
		if len(enforced) == 0 {
			t.Errorf("%s: nothing is authorised", name)
		}
	}
}

// authorizations are those of all hosts of all proxies, by host.
func authorizations(in topology.Input) map[string]ir.Authorization {
	topo, _ := topology.Build(in)
	out := map[string]ir.Authorization{}
	for _, p := range topo.Proxies() {
		for _, table := range translate.Proxy(topo, p).Routes {
			for _, h := range table.Hosts {
				if h.Authorization != nil {
					out[h.Name] = *h.Authorization
				}
			}
		}
	}
	return out
}
