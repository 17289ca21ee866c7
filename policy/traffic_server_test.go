package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// TestValidateServerSide: what is said wrongly about limits, faults, shedding, layers and dependencies is refused with the place.
func TestValidateServerSide(t *testing.T) {
	const toRule = `"targetRef":{"group":"gateway.networking.k8s.io","kind":"HTTPRoute","name":"web"},`
	for name, c := range map[string]struct {
		spec string
		want []string
	}{
		"limits":             {`{"rateLimit":{"requests":[{"limit":{"count":10}},{"name":"fair","limit":{"count":10,"per":"1m","burst":20},"each":{"caller":true},"overrides":[{"caller":"spiffe://a.example/ns/shop/sa/web","limit":{"count":1}}]},{"limit":{"count":1},"each":{"header":"X-Tenant"},"match":{"method":"GET","path":{"value":"/a"},"headers":[{"name":"x","value":"y"}]}}],"connections":{"limit":{"count":5}}}}`, nil},
		"limit of nothing":   {`{"rateLimit":{}}`, []string{"/spec/rateLimit required"}},
		"limit bounds":       {`{"rateLimit":{"requests":[{"name":"A b","limit":{"count":0,"per":"10ms","burst":2000000000}}]}}`, []string{"/spec/rateLimit/requests/0/name invalid", "/spec/rateLimit/requests/0/limit/count out_of_range", "/spec/rateLimit/requests/0/limit/per out_of_range", "/spec/rateLimit/requests/0/limit/burst out_of_range"}},
		"limit each":         {`{"rateLimit":{"requests":[{"limit":{"count":1},"each":{"caller":true,"header":"x"}},{"limit":{"count":1},"each":{}},{"limit":{"count":1},"each":{"header":"a b"}}]}}`, []string{"/spec/rateLimit/requests/0/each invalid", "/spec/rateLimit/requests/1/each invalid", "/spec/rateLimit/requests/2/each/header invalid"}},
		"limit overrides":    {`{"rateLimit":{"requests":[{"limit":{"count":1},"overrides":[{"caller":"web","limit":{"count":1}}]},{"limit":{"count":1},"each":{"caller":true},"overrides":[{"caller":"spiffe://a.example/ns/","limit":{"count":1}},{"caller":"spiffe://a.example/x","limit":{"count":1}},{"caller":"spiffe://a.example/x","limit":{"count":1}}]}]}}`, []string{"/spec/rateLimit/requests/0/overrides invalid", "/spec/rateLimit/requests/0/overrides/0/caller invalid", "/spec/rateLimit/requests/1/overrides/0/caller invalid", "/spec/rateLimit/requests/1/overrides/2/caller duplicate"}},
		"shared limits":      {`{"rateLimit":{"shared":{"service":{"name":"Q","port":0},"domain":"a b","timeout":"2h","requests":[{"name":""},{"name":"a","each":{}},{"name":"a"}]}}}`, []string{"/spec/rateLimit/shared/service/name invalid", "/spec/rateLimit/shared/service/port required", "/spec/rateLimit/shared/domain invalid", "/spec/rateLimit/shared/timeout out_of_range", "/spec/rateLimit/shared/requests/0/name required", "/spec/rateLimit/shared/requests/1/each invalid", "/spec/rateLimit/shared/requests/2/name duplicate"}},
		"no shared limit":    {`{"rateLimit":{"shared":{"service":{"name":"q","port":1},"requests":[]}}}`, []string{"/spec/rateLimit/shared/requests required"}},
		"limit match":        {`{"rateLimit":{"requests":[{"limit":{"count":1},"match":{"queryParams":[{"name":"a","value":"b"}]}}]}}`, []string{"/spec/rateLimit/requests/0/match/queryParams unsupported"}},
		"limit of a route":   {`{` + toRule + `"rateLimit":{"connections":{"limit":{"count":1}}}}`, []string{"/spec/rateLimit/connections invalid"}},
		"layer":              {`{"targetRef":{"kind":"Service","name":"web","sectionName":"http"},"layer":"l4"}`, nil},
		"layer unknown":      {`{"layer":"L4"}`, []string{"/spec/layer invalid"}},
		"layer of a route":   {`{` + toRule + `"layer":"l4"}`, []string{"/spec/layer invalid"}},
		"shedding":           {`{"loadShedding":{"latency":"20ms"}}`, nil},
		"shedding bounds":    {`{"loadShedding":{"alwaysConcurrent":20000}}`, []string{"/spec/loadShedding/latency required", "/spec/loadShedding/alwaysConcurrent out_of_range"}},
		"fault":              {`{"fault":{"match":{"method":"POST","headers":[{"name":"x","value":"y"}]},"delay":{"percent":20,"for":"1s"},"abort":{"percent":10,"grpcStatus":14},"bandwidth":{"response":64,"percent":50}}}`, nil},
		"fault of nothing":   {`{"fault":{"match":{"method":"POST"}}}`, []string{"/spec/fault required"}},
		"fault abort":        {`{"fault":{"abort":{"percent":101,"status":200}}}`, []string{"/spec/fault/abort/percent out_of_range", "/spec/fault/abort/status out_of_range"}},
		"fault both":         {`{"fault":{"abort":{"percent":1,"status":500,"grpcStatus":3}}}`, []string{"/spec/fault/abort invalid"}},
		"fault grpc":         {`{"fault":{"abort":{"percent":1,"grpcStatus":17}}}`, []string{"/spec/fault/abort/grpcStatus out_of_range"}},
		"fault bandwidth":    {`{"fault":{"match":{"method":"POST"},"bandwidth":{"request":64}}}`, []string{"/spec/fault/bandwidth/request unsupported"}},
		"dependencies":       {`{"targetRef":{"kind":"Service","name":"web"},"dependencies":[{"service":"cart"},{"service":"pay","namespace":"bank"},{"namespace":"bank"}]}`, nil},
		"no dependencies":    {`{"dependencies":[]}`, nil},
		"dependencies wrong": {`{"dependencies":[{},{"service":"A b"},{"namespace":"B c"},{"service":"x"},{"service":"x"}]}`, []string{"/spec/dependencies/0 required", "/spec/dependencies/1/service invalid", "/spec/dependencies/2/namespace invalid", "/spec/dependencies/4 duplicate"}},
		"port dependencies":  {`{"targetRef":{"kind":"Service","name":"web","sectionName":"http"},"dependencies":[]}`, []string{"/spec/dependencies unsupported"}},
		"route dependencies": {`{` + toRule + `"dependencies":[{"service":"cart"}]}`, []string{"/spec/dependencies unsupported"}},
		"fault no bandwidth": {`{"fault":{"bandwidth":{"percent":200}}}`, []string{"/spec/fault/bandwidth required", "/spec/fault/bandwidth/percent out_of_range"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := policy.Validate(resource(t, mesh.KindTrafficPolicy, "shop", "p", c.spec))
			if diff := cmp.Diff(c.want, found(got)); diff != "" {
				t.Errorf("field errors (-want +got):\n%s%+v", diff, got)
			}
		})
	}
}
