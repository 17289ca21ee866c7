package policy_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

func decodeRoute(t *testing.T, origin mesh.Origin, created mesh.Revision, name, spec string) policy.Route {
	t.Helper()
	res := resource(t, mesh.KindHTTPRoute, "shop", name, spec)
	res.Origin, res.Created = origin, created
	if bad := policy.Validate(res); bad != nil {
		t.Fatalf("%s: %v", name, bad)
	}
	s, err := policy.DecodeAs[policy.HTTPRoute](res)
	if err != nil {
		t.Fatal(err)
	}
	return policy.Route{Resource: res, Spec: s}
}

func TestRoutesForOrder(t *testing.T) {
	spec := func(port, matches string) string {
		return `{"parentRefs":[{"group":"","kind":"Service","name":"web"` + port + `}],"rules":[{"matches":[` + matches + `],"backendRefs":[{"name":"web","port":80}]}]}`
	}
	path := func(kind, v, more string) string {
		return `{"path":{"type":"` + kind + `","value":"` + v + `"}` + more + `}`
	}
	header := `,"headers":[{"name":"X","value":"1"}]`
	routes := []policy.Route{
		decodeRoute(t, "global", 1, "all", spec("", `{}`)),
		decodeRoute(t, "global", 2, "many", spec("", path("PathPrefix", "/a", "")+","+path("PathPrefix", "/a", header)+","+path("PathPrefix", "/a", `,"method":"GET"`)+","+path("PathPrefix", "/abc", "")+","+path("Exact", "/a", ""))),
		decodeRoute(t, "east", 9, "own", spec("", path("PathPrefix", "/a/", ""))),
		decodeRoute(t, "global", 9, "ported", spec(`,"port":80`, path("Exact", "/a", ""))),
		decodeRoute(t, "global", 1, "elsewhere", spec(`,"port":81`, path("Exact", "/z", ""))),
	}
	got, overridden := policy.RoutesFor(routes, policy.ServiceRef{Namespace: "shop", Name: "web", Port: 80}, policy.Clients{})
	var order []string
	for _, m := range got {
		s := fmt.Sprintf("%s %s %s", m.Route.Name, *m.Match.Path.Type, *m.Match.Path.Value)
		if m.Match.Method != nil {
			s += " " + string(*m.Match.Method)
		}
		for _, h := range m.Match.Headers {
			s += " " + string(h.Name)
		}
		order = append(order, s)
	}
	want := []string{
		"ported Exact /a", "many PathPrefix /abc", "many PathPrefix /a GET", "many PathPrefix /a X", "own PathPrefix /a", "all PathPrefix /",
	}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	many := routes[1].Resource.Key
	if diff := cmp.Diff(map[mesh.Key][]mesh.Key{many: {routes[3].Resource.Key, routes[2].Resource.Key}}, overridden); diff != "" {
		t.Errorf("overridden (-want +got):\n%s", diff)
	}
	if m, _ := policy.RoutesFor(routes, policy.ServiceRef{Namespace: "other", Name: "web", Port: 80}, policy.Clients{}); len(m) != 0 {
		t.Errorf("routes of another namespace apply: %v", m)
	}
}

func TestPoliciesFor(t *testing.T) {
	mk := func(ns, name, spec string) policy.Authorization {
		res := resource(t, mesh.KindAuthorizationPolicy, ns, name, spec)
		s, err := policy.DecodeAs[policy.AuthorizationPolicy](res)
		if err != nil {
			t.Fatal(err)
		}
		return policy.Authorization{Resource: res, Spec: s}
	}
	all := []policy.Authorization{
		mk("shop", "z-ns", `{"action":"Allow"}`),
		mk("shop", "a-target", `{"action":"Allow","targetRef":{"kind":"Service","name":"web"}}`),
		mk("shop", "other", `{"action":"Allow","targetRef":{"kind":"Service","name":"db"}}`),
		mk("bank", "web", `{"action":"Deny","targetRef":{"kind":"Service","name":"web"}}`),
		mk("bank", "ns", `{"action":"Deny"}`),
		mk(policy.SystemNamespace, "mesh", `{"action":"Deny"}`),
	}
	names := func(ps []policy.Authorization) (out []string) {
		for _, p := range ps {
			out = append(out, p.Resource.Namespace+"/"+p.Resource.Name)
		}
		return out
	}
	got := policy.PoliciesFor(all, policy.ServiceRef{Namespace: "shop", Name: "web"})
	if diff := cmp.Diff([]string{"shop/a-target", "shop/z-ns"}, names(got.Allow)); diff != "" {
		t.Errorf("allow:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"comity-system/mesh"}, names(got.Deny)); diff != "" {
		t.Errorf("deny:\n%s", diff)
	}
}

// The most specific policy decides alone; of equals a zone's own, then the older, and the others are told.
func TestFailoverFor(t *testing.T) {
	made := func(origin mesh.Origin, ns, name, target string, created mesh.Revision) policy.Failover {
		f := policy.Failover{Spec: &policy.FailoverPolicy{}}
		f.Resource.Key = mesh.Key{Origin: origin, Kind: mesh.KindFailoverPolicy, Namespace: ns, Name: name}
		f.Resource.Created = created
		if target != "" {
			f.Spec.TargetRef = &policy.TargetRef{Kind: "Service", Name: target}
		}
		return f
	}
	all := []policy.Failover{
		made(mesh.OriginGlobal, policy.SystemNamespace, "mesh", "", 1),
		made(mesh.OriginGlobal, "shop", "all", "", 2),
		made(mesh.OriginGlobal, "shop", "pay-old", "pay", 3),
		made("east", "shop", "pay-zone", "pay", 9),
		made(mesh.OriginGlobal, "shop", "pay-new", "pay", 7),
	}
	for service, want := range map[policy.ServiceRef]string{
		{Namespace: "shop", Name: "pay"}:  "pay-zone, not pay-old pay-new",
		{Namespace: "shop", Name: "cart"}: "all, not",
		{Namespace: "bank", Name: "pay"}:  "mesh, not",
	} {
		won, losers := policy.FailoverFor(all, service)
		got := won.Resource.Name + ", not"
		for _, k := range losers {
			got += " " + k.Name
		}
		if got != want {
			t.Errorf("%v: %s, want %s", service, got, want)
		}
	}
	if won, _ := policy.FailoverFor(all[1:], policy.ServiceRef{Namespace: "bank", Name: "pay"}); won != nil {
		t.Errorf("a policy of another namespace applies: %v", won.Resource.Key)
	}
}
