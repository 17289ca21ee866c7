package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

func TestMissing(t *testing.T) {
	known := policy.Known{
		Where: "any zone",
		Names: map[policy.Referent][]string{
			policy.ToZone: {"east", "west"}, policy.ToCloud: {"aws"}, policy.ToRegion: {}, policy.ToTrustDomain: {"east.example", "west.example"},
			policy.ToNamespace: {"shop", "bank"}, policy.ToAccount: {"shop/web", "shop/cart"},
			"Service": {"shop/pay", "bank/ledger"}, "Gateway": {"shop/front"}, "ExternalService": {"shop/cards"}, "HTTPRoute": {"shop/pay"},
		},
		Ports: map[string][]policy.ServicePort{"shop/pay": {{Name: "http", Port: 8080}, {Name: "raw", Port: 9090}}},
	}
	for _, c := range []struct {
		kind mesh.Kind
		spec string
		want []string
	}{
		{mesh.KindAuthorizationPolicy, `{"targetRef":{"kind":"Service","name":"pay","sectionName":"http"},"action":"Allow","rules":[
			{"from":[{"namespaces":["shop"],"serviceAccounts":["web"],"zones":["east"]},{"identities":["spiffe://east.example/ns/shop/sa/web","spiffe://west.example/"]}]}]}`, nil},
		{mesh.KindAuthorizationPolicy, `{"targetRef":{"kind":"Service","name":"pya","sectionName":"http"},"action":"Allow","rules":[
			{"from":[{"namespaces":["shop"],"serviceAccounts":["webb"],"zones":["weast"]},{"namespaces":["shopp"]}]}]}`, []string{
			`/spec/rules/0/from/0/serviceAccounts/0: no service account "webb" is known in namespace shop of any zone; did you mean "web"?`,
			`/spec/rules/0/from/0/zones/0: no zone "weast" is known; did you mean "west"?`,
			`/spec/rules/0/from/1/namespaces/0: no namespace "shopp" is known in any zone; did you mean "shop"?`,
			`/spec/targetRef/name: no Service "pya" is known in namespace shop of any zone; did you mean "pay"?`,
		}},
		{mesh.KindAuthorizationPolicy, `{"action":"Deny","rules":[{"from":[{"identities":["spiffe://eest.example/ns/shop/sa/cart","spiffe://east.example/ns/shop/sa/cat","spiffe://east.example/ns/bnak/"]}]}]}`, []string{
			`/spec/rules/0/from/0/identities/0: no trust domain "eest.example" is known; did you mean "east.example"?`,
			`/spec/rules/0/from/0/identities/1: no service account "cat" is known in namespace shop of any zone; did you mean "cart"?`,
			`/spec/rules/0/from/0/identities/2: no namespace "bnak" is known in any zone; did you mean "bank"?`,
		}},
		// Nobody of the namespace is there yet: who it will be, nobody knows.
		{mesh.KindAuthorizationPolicy, `{"action":"Allow","rules":[{"from":[{"namespaces":["bank"],"serviceAccounts":["teller"]}]}]}`, nil},
		{mesh.KindTrafficPolicy, `{"targetRef":{"kind":"Service","name":"pay","sectionName":"htp"},"dependencies":[{"service":"ledger"},{"namespace":"bank","service":"ledger"}]}`, []string{
			`/spec/dependencies/0/service: no Service "ledger" is known in namespace shop of any zone; did you mean "bank/ledger"?`,
			`/spec/targetRef/sectionName: service shop/pay has no port "htp"; it has http, raw`,
		}},
		{mesh.KindHTTPRoute, `{"parentRefs":[{"group":"","kind":"Service","name":"pay","port":80},{"name":"frnt"}],"rules":[{"backendRefs":[
			{"group":"mesh.comity.dev","kind":"ZoneService","name":"pay.wset","port":8080},{"group":"mesh.comity.dev","kind":"ExternalService","name":"card"}],
			"filters":[{"type":"RequestMirror","requestMirror":{"backendRef":{"name":"pay","port":8081}}}]}]}`, []string{
			`/spec/parentRefs/0/port: service shop/pay has no port 80; it has 8080, 9090`,
			`/spec/parentRefs/1/name: no Gateway "frnt" is known in namespace shop of any zone; did you mean "front"?`,
			`/spec/rules/0/backendRefs/0/name: no zone "wset" is known; did you mean "west"?`,
			`/spec/rules/0/backendRefs/1/name: no ExternalService "card" is known in namespace shop of any zone; did you mean "cards"?`,
			`/spec/rules/0/filters/0/requestMirror/backendRef/port: service shop/pay has no port 8081; it has 8080, 9090`,
		}},
		// Nobody has a region: what one would be called is not known.
		{mesh.KindFailoverPolicy, `{"tiers":[{"name":"a","zones":[{"zone":"est"},{"cloud":"asw","region":"r"}]}]}`, []string{
			`/spec/tiers/0/zones/0/zone: no zone "est" is known; did you mean "east"?`,
			`/spec/tiers/0/zones/1/cloud: no cloud "asw" is known; did you mean "aws"?`,
		}},
		{mesh.KindExternalService, `{"exit":{"zones":["east","wset"]}}`, []string{`/spec/exit/zones/1: no zone "wset" is known; did you mean "west"?`}},
		{mesh.KindMeshConfig, `{"egress":{"namespaces":{"shpo":"Allow"}}}`, []string{`/spec/egress/namespaces/shpo: no namespace "shpo" is known in any zone; did you mean "shop"?`}},
		{mesh.KindExtension, `{"externalAuthorization":{"service":{"name":"authz","port":9000}}}`, []string{`/spec/externalAuthorization/service/name: no Service "authz" is known in namespace shop of any zone`}},
	} {
		got := known.Missing(policy.References(mesh.Resource{Key: mesh.Key{Kind: c.kind, Namespace: "shop", Name: "x"}, Spec: []byte(c.spec)}))
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s\ngot  %s\nwant %s", c.spec, strings.Join(got, "\n     "), strings.Join(c.want, "\n     "))
		}
	}
	route := mesh.Resource{Key: mesh.Key{Kind: mesh.KindHTTPRoute, Namespace: "shop", Name: "x"}, Annotations: map[string]string{policy.AnnotationCallers: "web, crat"}}
	if got := known.Missing(policy.References(route)); len(got) != 1 || !strings.Contains(got[0], `"crat" is known in namespace shop of any zone; did you mean "cart"?`) {
		t.Error(got)
	}
}
