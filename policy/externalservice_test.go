package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

func TestValidateExternalService(t *testing.T) {
	const port = `"ports":[{"port":80,"protocol":"http"}]`
	for name, c := range map[string]struct {
		spec string
		want []string
	}{
		"whole": {`{"hosts":["api.bank.example","192.0.2.1"],"exportTo":"Mesh","exit":{"gateway":true},"endpoints":[{"address":"a.bank.example","weight":3},{"address":"192.0.2.7","priority":1,"port":8080}],
			"ports":[{"port":80,"targetPort":443,"protocol":"http","tls":{"serverName":"x.example","minVersion":"1.3","ca":{"secret":"bank"},"clientCertificate":{"secret":"bank"}}}]}`, nil},
		"empty":            {`{}`, []string{"/spec/hosts required", "/spec/ports required"}},
		"names of ours":    {`{"hosts":["bank","web.shop.one.mesh","web.shop.svc.clusterset.local","API.example"],` + port + `}`, []string{"/spec/hosts/0 invalid", "/spec/hosts/1 invalid", "/spec/hosts/2 invalid", "/spec/hosts/3 invalid"}},
		"wildcard":         {`{"hosts":["*.bank.example"],` + port + `}`, []string{"/spec/hosts/0 invalid"}},
		"ports":            {`{"hosts":["a.example"],"ports":[{"port":80,"protocol":"http"},{"port":80,"name":"b","protocol":"udp"}]}`, []string{"/spec/ports/0/name required", "/spec/ports/1/port duplicate", "/spec/ports/1/protocol invalid"}},
		"TLS twice":        {`{"hosts":["a.example"],"ports":[{"port":443,"protocol":"tls","tls":{}}]}`, []string{"/spec/ports/0/tls invalid"}},
		"TLS":              {`{"hosts":["a.example"],"ports":[{"port":443,"protocol":"http","tls":{"minVersion":"1.1","ca":{},"clientCertificate":{"secret":"../x"}}}]}`, []string{"/spec/ports/0/tls/minVersion invalid", "/spec/ports/0/tls/clientCertificate/secret invalid", "/spec/ports/0/tls/ca invalid"}},
		"no certificate":   {`{"hosts":["a.example"],"ports":[{"port":443,"protocol":"http","tls":{"ca":{"pem":"hello"}}}]}`, []string{"/spec/ports/0/tls/ca/pem invalid"}},
		"endpoints":        {`{"hosts":["a.example"],` + port + `,"endpoints":[{"address":"0.0.0.0"},{"address":"b.example","priority":9,"weight":129},{"address":"b.example"}]}`, []string{"/spec/endpoints/0/address invalid", "/spec/endpoints/1/priority out_of_range", "/spec/endpoints/1/weight out_of_range", "/spec/endpoints/2 duplicate"}},
		"a port for all":   {`{"hosts":["a.example"],"ports":[{"name":"a","port":80,"protocol":"http"},{"name":"b","port":81,"protocol":"tcp"}],"endpoints":[{"address":"b.example","port":1}]}`, []string{"/spec/endpoints/0/port invalid"}},
		"exported":         {`{"hosts":["a.example"],` + port + `,"exportTo":"World"}`, []string{"/spec/exportTo invalid"}},
		"exit says so":     {`{"hosts":["a.example"],` + port + `,"exit":{"gatewy":true}}`, []string{"/spec/exit/gatewy unknown_field"}},
		"exit zones":       {`{"hosts":["a.example"],` + port + `,"exit":{"zones":["two","Two","two","global"]}}`, []string{"/spec/exit/zones/1 invalid", "/spec/exit/zones/2 duplicate", "/spec/exit/zones/3 invalid"}},
		"an exit zone":     {`{"hosts":["a.example"],` + port + `,"exit":{"zones":["two"]}}`, nil},
		"TLS mode of none": {`{"hosts":["a.example"],"ports":[{"port":443,"protocol":"http","tls":{"mode":"Insecure"}}]}`, []string{"/spec/ports/0/tls/mode unknown_field"}},
	} {
		got := found(policy.Validate(resource(t, mesh.KindExternalService, "shop", "bank", c.spec)))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
	system := found(policy.Validate(resource(t, mesh.KindExternalService, policy.SystemNamespace, "bank", `{"hosts":["a.example"],`+port+`}`)))
	if diff := cmp.Diff([]string{"/spec/exportTo invalid"}, system); diff != "" {
		t.Error(diff)
	}
	egress := found(policy.Validate(resource(t, mesh.KindMeshConfig, "", "default", `{"egress":{"undeclared":"Maybe","namespaces":{"Shop":"Deny","lab":""},"privateAddresses":"Deny","gateway":true}}`)))
	if diff := cmp.Diff([]string{"/spec/egress/undeclared invalid", "/spec/egress/namespaces/Shop invalid", "/spec/egress/namespaces/lab required"}, egress); diff != "" {
		t.Error(diff)
	}
	target := found(policy.Validate(resource(t, mesh.KindAuthorizationPolicy, "shop", "p", `{"targetRef":{"kind":"ExternalService","name":"bank"},"action":"Deny"}`)))
	if diff := cmp.Diff([]string{"/spec/targetRef/group unsupported"}, target); diff != "" {
		t.Error(diff)
	}
}
