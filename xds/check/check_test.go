package check_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/check"
)

// TestPatch: a patch is read as the message that it is part of.
func TestPatch(t *testing.T) {
	for spec, says := range map[string]string{
		`{"patch":{"resource":"Cluster","name":"*","merge":{"respect_dns_ttl":true}}}`:                                                                                     "",
		`{"patch":{"resource":"Cluster","name":"*","merge":{"respectDnsTtl":true}}}`:                                                                                       "",
		`{"patch":{"resource":"Cluster","name":"*","merge":{"respect_dns":true}}}`:                                                                                         "respect_dns",
		`{"patch":{"resource":"Listener","name":"*","merge":{"respect_dns_ttl":true}}}`:                                                                                    "respect_dns_ttl",
		`{"patch":{"resource":"Cluster","name":"*","merge":{"connect_timeout":"soon"}}}`:                                                                                   "soon",
		`{"patch":{"resource":"Listener","name":"*","merge":{"filter_chains":[{"filters":[{"name":"x","typed_config":{"@type":"type.googleapis.com/envoy.nothing"}}]}]}}}`: "envoy.nothing",
		`{"lua":{"inline":"function envoy_on_request(h) end"}}`:                                                                                                            "",
	} {
		bad := check.Resource(mesh.Resource{Key: mesh.Key{Kind: mesh.KindExtension, Namespace: "comity-system", Name: "x"}, Spec: json.RawMessage(spec)})
		if says == "" && bad != nil || says != "" && (len(bad) != 1 || !strings.Contains(bad[0].Message, says)) {
			t.Errorf("%s: %+v, want %q", spec, bad, says)
		}
	}
}
