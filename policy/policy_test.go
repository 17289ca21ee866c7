package policy_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

func resource(t *testing.T, kind mesh.Kind, ns, name, spec string) mesh.Resource {
	t.Helper()
	info, ok := policy.Lookup(string(kind))
	if !ok {
		t.Fatalf("no kind %s", kind)
	}
	return mesh.Resource{
		Key:        mesh.Key{Origin: mesh.OriginGlobal, Kind: kind, Namespace: ns, Name: name},
		APIVersion: info.APIVersion, Spec: json.RawMessage(spec),
	}
}

// found is what a test compares of a field error.
func found(fields []policy.FieldError) []string {
	var out []string
	for _, f := range fields {
		out = append(out, f.Pointer+" "+f.Code)
	}
	return out
}

func TestValidate(t *testing.T) {
	route := func(rule string) string {
		return `{"parentRefs":[{"group":"","kind":"Service","name":"web"}],"rules":[` + rule + `]}`
	}
	to := `"backendRefs":[{"name":"web","port":80}]`
	for name, c := range map[string]struct {
		kind     mesh.Kind
		ns, name string
		spec     string
		want     []string
	}{
		"zone":                {mesh.KindZone, "", "aws-east", `{"cloud":"aws","region":"us-east-1","namespaces":["*"],"trustDomain":"aws-east.demo.example"}`, nil},
		"empty zone":          {mesh.KindZone, "", "aws-east", ``, nil},
		"zone null":           {mesh.KindZone, "", "aws-east", `{"cloud":null}`, nil},
		"reserved zone":       {mesh.KindZone, "", "global", `{}`, []string{"/metadata/name invalid"}},
		"zone in namespace":   {mesh.KindZone, "shop", "east", `{}`, []string{"/metadata/namespace invalid"}},
		"star and names":      {mesh.KindZone, "", "east", `{"namespaces":["*","shop"]}`, []string{"/spec/namespaces/0 invalid"}},
		"unknown field":       {mesh.KindZone, "", "east", `{"clod":"aws"}`, []string{"/spec/clod unknown_field"}},
		"wrong case":          {mesh.KindZone, "", "east", `{"Cloud":"aws"}`, []string{"/spec/Cloud unknown_field"}},
		"twice":               {mesh.KindZone, "", "east", `{"cloud":"aws","cloud":"gcp"}`, []string{"/spec/cloud duplicate"}},
		"wrong type":          {mesh.KindZone, "", "east", `{"cloud":1}`, []string{"/spec/cloud wrong_type"}},
		"not JSON":            {mesh.KindZone, "", "east", `{`, []string{"/spec malformed"}},
		"trailing":            {mesh.KindZone, "", "east", `{} {}`, []string{"/spec malformed"}},
		"list":                {mesh.KindZone, "", "east", `[]`, []string{"/spec wrong_type"}},
		"mesh config":         {mesh.KindMeshConfig, "", "default", `{"defaultAuthorization":"Allow","accessLog":{"path":"/dev/stdout"}}`, nil},
		"mesh config name":    {mesh.KindMeshConfig, "", "other", `{"defaultAuthorization":"Maybe"}`, []string{"/metadata/name invalid", "/spec/defaultAuthorization invalid"}},
		"service":             {mesh.KindService, "shop", "web", `{"selector":{"app":"web"},"ports":[{"port":80,"appProtocol":"http"}]}`, nil},
		"service without":     {mesh.KindService, "shop", "web", `{}`, []string{"/spec/selector required", "/spec/ports required"}},
		"service websocket":   {mesh.KindService, "shop", "web", `{"selector":{"app":"web"},"ports":[{"name":"ws","port":80,"appProtocol":"kubernetes.io/ws"},{"name":"wss","port":443,"appProtocol":"kubernetes.io/wss"}]}`, []string{"/spec/ports/1/appProtocol unsupported"}},
		"service ports":       {mesh.KindService, "shop", "web", `{"selector":{"app":"web"},"ports":[{"port":80},{"port":80,"name":"a","protocol":"UDP","appProtocol":"htp"}]}`, []string{"/spec/ports/0/name required", "/spec/ports/1/port duplicate", "/spec/ports/1/protocol unsupported", "/spec/ports/1/appProtocol invalid"}},
		"port too large":      {mesh.KindService, "shop", "web", `{"selector":{"app":"web"},"ports":[{"port":65536}]}`, []string{"/spec/ports/0/port out_of_range"}},
		"no namespace":        {mesh.KindServiceExport, "", "web", ``, []string{"/metadata/namespace required"}},
		"workload":            {mesh.KindWorkload, "shop", "web-1", `{"serviceAccount":"web","address":"10.0.0.1","inboundPort":15006,"upstreams":[{"service":"db","port":5432,"localPort":5432}]}`, nil},
		"proxyless workload":  {mesh.KindWorkload, "shop", "web-1", `{"serviceAccount":"web","address":"10.0.0.1","proxyless":true}`, nil},
		"proxyless ports":     {mesh.KindWorkload, "shop", "web-1", `{"serviceAccount":"web","address":"10.0.0.1","proxyless":true,"inboundPort":1,"outboundPort":2}`, []string{"/spec/inboundPort invalid", "/spec/outboundPort invalid"}},
		"workload ports":      {mesh.KindWorkload, "shop", "web-1", `{"serviceAccount":"web","address":"0.0.0.0","inboundPort":1,"outboundPort":1,"upstreams":[{"service":"db","port":5432,"localPort":1}]}`, []string{"/spec/address invalid", "/spec/outboundPort duplicate", "/spec/upstreams/0/localPort duplicate"}},
		"route":               {mesh.KindHTTPRoute, "shop", "web", route(`{"matches":[{"path":{"type":"Exact","value":"/a"},"headers":[{"name":"x","value":"1"}],"method":"GET"}],` + to + `}`), nil},
		"route to gateway":    {mesh.KindHTTPRoute, "shop", "web", `{"parentRefs":[{"name":"gw"}],"hostnames":["a.example"],"rules":[{` + to + `}]}`, nil},
		"route host":          {mesh.KindHTTPRoute, "shop", "web", `{"parentRefs":[{"name":"gw","sectionName":"-"}],"hostnames":["a.*"],"rules":[{` + to + `}]}`, []string{"/spec/hostnames/0 invalid", "/spec/parentRefs/0/sectionName invalid"}},
		"route service host":  {mesh.KindHTTPRoute, "shop", "web", `{"parentRefs":[{"group":"","kind":"Service","name":"web"}],"hostnames":["a.example"],"rules":[{` + to + `}]}`, []string{"/spec/hostnames unsupported"}},
		"route regex":         {mesh.KindHTTPRoute, "shop", "web", route(`{"matches":[{"path":{"type":"RegularExpression","value":"/a("},"headers":[{"type":"RegularExpression","name":"x","value":"*"}],"queryParams":[{"name":"q","value":"1"},{"name":"q","value":""}]}],` + to + `}`), []string{"/spec/rules/0/matches/0/path/value invalid", "/spec/rules/0/matches/0/headers/0/value invalid", "/spec/rules/0/matches/0/queryParams/1/name duplicate", "/spec/rules/0/matches/0/queryParams/1/value required"}},
		"route filters":       {mesh.KindHTTPRoute, "shop", "web", route(`{"filters":[{"type":"CORS"},{"type":"ExtensionRef"},{"type":"URLRewrite","urlRewrite":{}},{"type":"RequestHeaderModifier","requestHeaderModifier":{"set":[{"name":"Host","value":"x"}],"add":[{"name":"a","value":"b"}],"remove":["A"]}}],"timeouts":{"request":"1s","backendRequest":"2s"},` + to + `}`), []string{"/spec/rules/0/filters/0/cors required", "/spec/rules/0/filters/1/type unsupported", "/spec/rules/0/filters/2/urlRewrite required", "/spec/rules/0/filters/3/requestHeaderModifier/set/0/name unsupported", "/spec/rules/0/filters/3/requestHeaderModifier/remove/0 duplicate", "/spec/rules/0/timeouts/backendRequest invalid"}},
		"route redirects":     {mesh.KindHTTPRoute, "shop", "web", route(`{"filters":[{"type":"RequestRedirect","requestRedirect":{"statusCode":200,"scheme":"ftp","path":{"type":"ReplacePrefixMatch"}}}],"matches":[{"path":{"type":"Exact","value":"/a"}}],` + to + `}`), []string{"/spec/rules/0/filters/0/requestRedirect/scheme invalid", "/spec/rules/0/filters/0/requestRedirect/statusCode out_of_range", "/spec/rules/0/filters/0/requestRedirect/path/type invalid", "/spec/rules/0/filters/0/requestRedirect/path/replacePrefixMatch required", "/spec/rules/0/filters/0/requestRedirect invalid"}},
		"route weights":       {mesh.KindHTTPRoute, "shop", "web", route(`{"backendRefs":[{"name":"a","port":80,"weight":0}]},{"backendRefs":[]}`), nil},
		"authz":               {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Allow","rules":[{"from":[{"identities":["spiffe://a.example/ns/shop/sa/web"],"zones":["east"]}],"to":[{"methods":["GET"],"paths":["/pay/*"]}]}]}`, nil},
		"authz empty source":  {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Allow","rules":[{"from":[{}],"to":[{}]}]}`, []string{"/spec/rules/0/from/0 required", "/spec/rules/0/to/0 required"}},
		"authz empty from":    {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Allow","rules":[{"from":[]}]}`, []string{"/spec/rules/0 invalid"}},
		"authz dead path":     {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Deny","rules":[{"to":[{"paths":["/%70riv*","/a//b","/w/./x","/x/.."]}]}]}`, []string{"/spec/rules/0/to/0/paths/0 invalid", "/spec/rules/0/to/0/paths/1 invalid", "/spec/rules/0/to/0/paths/2 invalid", "/spec/rules/0/to/0/paths/3 invalid"}},
		"authz comma":         {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Allow","rules":[{"from":[{"identities":["spiffe://a.example/ns/shop,b"]}]}]}`, []string{"/spec/rules/0/from/0/identities/0 invalid"}},
		"authz bare domain":   {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Deny","rules":[{"from":[{"identities":["spiffe://a.example"],"serviceAccounts":["x"]}]}]}`, []string{"/spec/rules/0/from/0/identities/0 invalid", "/spec/rules/0/from/0/namespaces required"}},
		"authz action":        {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"allow"}`, []string{"/spec/action invalid"}},
		"authz mesh targeted": {mesh.KindAuthorizationPolicy, policy.SystemNamespace, "p", `{"action":"Deny","targetRef":{"kind":"Service","name":"x"}}`, []string{"/spec/targetRef unsupported"}},
		"authz shadow":        {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Deny","mode":"Shadow","targetRef":{"kind":"Service","name":"web","sectionName":"http"},"rules":[{"to":[{"headers":[{"name":"X-A","values":["a","b*","*"]}]}],"when":{"claims":[{"name":"a\\.b.c","values":["x"]}]}}]}`, nil},
		"authz of a route":    {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Deny","targetRef":{"group":"gateway.networking.k8s.io","kind":"HTTPRoute","name":"r"}}`, []string{"/spec/targetRef/kind unsupported"}},
		"authz audit":         {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Audit","mode":"Shadow"}`, []string{"/spec/mode invalid"}},
		"authz visitors":      {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Allow","targetRef":{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"edge"},"rules":[{"from":[{"addresses":["192.0.2.7","192.0.2.0/24","2001:db8::/32"]}],"when":{"claims":[{"name":"org","values":["x"]}]}}]}`, nil},
		"authz watchers":      {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Audit","targetRef":{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"edge"},"rules":[{"from":[{"identities":["spiffe://partner.example/app/"]}],"to":[{"serverNames":["*.example.com","example.com"]}]}]}`, nil},
		"authz server names":  {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Deny","rules":[{"to":[{"serverNames":["*"]}]}]}`, []string{"/spec/rules/0/to/0/serverNames/0 invalid", "/spec/rules/0/to/0/serverNames invalid"}},
		"authz no visitors":   {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Allow","mode":"Shadow","targetRef":{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"edge"},"rules":[{"from":[{"zones":["west"]},{"addresses":["192.0.2.7/24"]}],"to":[{"ports":[80]}]}]}`, []string{"/spec/rules/0/from/0 invalid", "/spec/rules/0/from/0/addresses required", "/spec/rules/0/from/1/addresses/0 invalid", "/spec/rules/0/to/0/ports invalid"}},
		"authz addresses":     {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Allow","rules":[{"from":[{"zones":["west"],"addresses":["192.0.2.7"]}]}]}`, []string{"/spec/rules/0/from/0/addresses invalid"}},
		"authz headers":       {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Deny","rules":[{"to":[{"headers":[{"name":":path","values":["x"]},{"name":"Host","values":["a*b"]},{"name":"x-forwarded-client-cert","values":[]},{"name":"a","values":[" b","\u00e4"]}]}]}]}`, []string{"/spec/rules/0/to/0/headers/0/name invalid", "/spec/rules/0/to/0/headers/1/name unsupported", "/spec/rules/0/to/0/headers/1/values/0 invalid", "/spec/rules/0/to/0/headers/2/name unsupported", "/spec/rules/0/to/0/headers/2/values required", "/spec/rules/0/to/0/headers/3/values/0 invalid", "/spec/rules/0/to/0/headers/3/values/1 invalid"}},
		"authz claims":        {mesh.KindAuthorizationPolicy, "shop", "p", `{"action":"Allow","rules":[{"when":{"claims":[]}},{"when":{"claims":[{"name":"a..b","values":["x"]},{"name":"a","values":[]}]}}]}`, []string{"/spec/rules/0/when/claims required", "/spec/rules/1/when/claims/0/name invalid", "/spec/rules/1/when/claims/1/values required"}},
		"authn":               {mesh.KindAuthenticationPolicy, "shop", "p", `{"targetRef":{"kind":"Service","name":"web"},"jwt":{"mode":"Optional","providers":[{"name":"a","issuer":"https://a.example","jwks":{"inline":"{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"l5uPwjBOYWdh7RpCXl5I6bAMCxDfbx4jqS0oWJdb9Ec\",\"y\":\"YkF8f_xdfmAy2DkW1J_oqPie9nOTPybiWDXoXNBrxXg\"}]}"}},{"name":"b","issuer":"b","audiences":["x"],"clockSkew":"0s","forward":true,"jwks":{"url":"https://b.example/keys","refresh":"1m"},"from":{"headers":[{"name":"x-token","prefix":"Bearer "}],"params":["t"],"cookies":["c"]},"claimsToHeaders":[{"claim":"org.name","header":"X-Org"}]}]}}`, nil},
		"authn nothing":       {mesh.KindAuthenticationPolicy, "shop", "p", `{}`, []string{"/spec required"}},
		"authn providers":     {mesh.KindAuthenticationPolicy, "shop", "p", `{"jwt":{"mode":"Maybe","providers":[{"name":"a","issuer":"i i","jwks":{}},{"name":"a","issuer":"j","jwks":{"url":"http://b.example/keys"}}]}}`, []string{"/spec/jwt/mode invalid", "/spec/jwt/providers/0/issuer invalid", "/spec/jwt/providers/0/jwks invalid", "/spec/jwt/providers/1/name duplicate", "/spec/jwt/providers/1/jwks/url invalid"}},
		"authn no keys":       {mesh.KindAuthenticationPolicy, "shop", "p", `{"jwt":{"providers":[{"name":"a","issuer":"i","jwks":{"inline":"{\"keys\":[]}"}}]}}`, []string{"/spec/jwt/providers/0/jwks/inline invalid"}},
		"authn secret key":    {mesh.KindAuthenticationPolicy, "shop", "p", `{"jwt":{"providers":[{"name":"a","issuer":"i","jwks":{"inline":"{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}"}}]}}`, []string{"/spec/jwt/providers/0/jwks/inline invalid"}},
		"authn short key":     {mesh.KindAuthenticationPolicy, "shop", "p", `{"jwt":{"providers":[{"name":"a","issuer":"i","jwks":{"inline":"{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}]}"}}]}}`, []string{"/spec/jwt/providers/0/jwks/inline invalid"}},
		"authn bad point":     {mesh.KindAuthenticationPolicy, "shop", "p", `{"jwt":{"providers":[{"name":"a","issuer":"i","jwks":{"inline":"{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAA\",\"y\":\"AAAA\"}]}"}}]}}`, []string{"/spec/jwt/providers/0/jwks/inline invalid"}},
		"authn not JSON":      {mesh.KindAuthenticationPolicy, "shop", "p", `{"jwt":{"providers":[{"name":"a","issuer":"i","jwks":{"inline":"keys"}}]}}`, []string{"/spec/jwt/providers/0/jwks/inline invalid"}},
		"authn headers":       {mesh.KindAuthenticationPolicy, "shop", "p", `{"jwt":{"providers":[{"name":"a","issuer":"i","jwks":{"url":"https://10.0.0.1:0/","refresh":"1s","ca":{"secret":"x"}},"from":{},"claimsToHeaders":[{"claim":"a..b","header":"authorization"},{"claim":"a","header":"x-a_b"},{"claim":"a","header":"X-forwarded-for"},{"claim":"a","header":"x-a"},{"claim":"b","header":"X-A"}]}]}}`, []string{"/spec/jwt/providers/0/jwks/url invalid", "/spec/jwt/providers/0/jwks/refresh out_of_range", "/spec/jwt/providers/0/jwks/ca/secret unsupported", "/spec/jwt/providers/0/from required", "/spec/jwt/providers/0/claimsToHeaders/0/claim invalid", "/spec/jwt/providers/0/claimsToHeaders/0/header invalid", "/spec/jwt/providers/0/claimsToHeaders/1/header invalid", "/spec/jwt/providers/0/claimsToHeaders/2/header invalid", "/spec/jwt/providers/0/claimsToHeaders/4/header duplicate"}},
		"authn mtls":          {mesh.KindAuthenticationPolicy, "shop", "p", `{"targetRef":{"kind":"Service","name":"web","sectionName":"http"},"mtls":{"mode":"Permissive"}}`, nil},
		"authn mtls route":    {mesh.KindAuthenticationPolicy, "shop", "p", `{"targetRef":{"group":"gateway.networking.k8s.io","kind":"HTTPRoute","name":"web"},"mtls":{"mode":"Off"}}`, []string{"/spec/mtls/mode invalid", "/spec/mtls invalid"}},
		"zone drained":        {mesh.KindZone, "", "east", `{"drain":{"over":"1m30s","reason":"new kernel"},"revoked":{"reason":"stolen"}}`, nil},
		"zone drained badly":  {mesh.KindZone, "", "east", `{"drain":{"over":"25h","reason":"a\nb"},"revoked":{"reason":"a\u0000"}}`, []string{"/spec/drain/over out_of_range", "/spec/drain/reason invalid", "/spec/revoked/reason invalid"}},
		"drained for ever":    {mesh.KindZone, "", "east", `{"drain":{"over":"-1s"}}`, []string{"/spec/drain/over invalid"}},
		"detection":           {mesh.KindMeshConfig, "", "default", `{"detection":{"connectTimeout":"300ms","retry":{"attempts":0,"perTryTimeout":"250ms","hedge":true},"panicPercent":0},"trust":{"lease":"72h","afterLease":"Keep"}}`, nil},
		"detection limits":    {mesh.KindMeshConfig, "", "default", `{"detection":{"connectTimeout":"1ms","retry":{"attempts":11,"hedge":true,"backOff":{"base":"1s"}},"outlier":{"localFailures":0,"maxEjectionPercent":101},"keepalive":{"interval":"1"},"probe":{"failures":0}},"trust":{"lease":"1s","afterLease":"Maybe"}}`, []string{"/spec/detection/connectTimeout out_of_range", "/spec/detection/retry/attempts out_of_range", "/spec/detection/retry/perTryTimeout required", "/spec/detection/retry/backOff/max invalid", "/spec/detection/outlier/localFailures out_of_range", "/spec/detection/outlier/maxEjectionPercent out_of_range", "/spec/detection/keepalive/interval invalid", "/spec/detection/probe/failures out_of_range", "/spec/trust/lease out_of_range", "/spec/trust/afterLease invalid"}},
		"failover":            {mesh.KindFailoverPolicy, "shop", "p", `{"targetRef":{"kind":"Service","name":"pay"},"mode":"Armed","active":"b","tiers":[{"name":"a","zones":[{"local":true}]},{"name":"b","zones":[{"zone":"east","weight":80},{"cloud":"gcp"}]}],"threshold":70,"dwell":"10s","failbackDelay":"0s"}`, nil},
		"failover default":    {mesh.KindFailoverPolicy, policy.SystemNamespace, "p", `{}`, nil},
		"failover implicit":   {mesh.KindFailoverPolicy, "shop", "p", `{"mode":"Armed","active":"mesh"}`, nil},
		"failover active":     {mesh.KindFailoverPolicy, "shop", "p", `{"active":"elsewhere"}`, []string{"/spec/active invalid", "/spec/active invalid"}},
		"failover tiers":      {mesh.KindFailoverPolicy, "shop", "p", `{"mode":"auto","tiers":[{"name":"a","zones":[{},{"zone":"east","local":true},{"zone":"west","weight":0}]},{"name":"a","zones":[{"zone":"west"}]},{"zones":[]}],"threshold":0,"dwell":"2h"}`, []string{"/spec/mode invalid", "/spec/threshold out_of_range", "/spec/dwell out_of_range", "/spec/tiers/0/zones/0 required", "/spec/tiers/0/zones/1 invalid", "/spec/tiers/0/zones/2/weight out_of_range", "/spec/tiers/1/name duplicate", "/spec/tiers/1/zones/0 duplicate", "/spec/tiers/2/name required", "/spec/tiers/2/zones required"}},
		"failover no tiers":   {mesh.KindFailoverPolicy, "shop", "p", `{"tiers":[]}`, []string{"/spec/tiers required"}},
		"failover mesh":       {mesh.KindFailoverPolicy, policy.SystemNamespace, "p", `{"targetRef":{"kind":"Service","name":"x"}}`, []string{"/spec/targetRef unsupported"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := policy.Validate(resource(t, c.kind, c.ns, c.name, c.spec))
			if diff := cmp.Diff(c.want, found(got)); diff != "" {
				t.Errorf("field errors (-want +got):\n%s%+v", diff, got)
			}
		})
	}
}

// A revocation is for good.
func TestValidateChange(t *testing.T) {
	revoked, not := resource(t, mesh.KindZone, "", "east", `{"revoked":{}}`), resource(t, mesh.KindZone, "", "east", `{}`)
	if got := found(policy.ValidateChange(revoked, not)); !cmp.Equal(got, []string{"/spec/revoked invalid"}) {
		t.Errorf("taken back: %v", got)
	}
	for _, c := range [][2]mesh.Resource{{not, revoked}, {revoked, revoked}, {not, not}} {
		if got := policy.ValidateChange(c[0], c[1]); got != nil {
			t.Errorf("%s to %s: %+v", c[0].Spec, c[1].Spec, got)
		}
	}
}

func TestValidateMetadata(t *testing.T) {
	res := resource(t, mesh.KindServiceExport, "shop", "web", "")
	res.APIVersion = "v1"
	res.Labels = map[string]string{"a b": "1", "ok": "-"}
	res.Annotations = map[string]string{mesh.AnnotationZones: "east, Bad", "example.com/x": "anything at all"}
	want := []string{
		"/apiVersion unsupported", "/metadata/labels/a b invalid", "/metadata/labels/ok invalid",
		"/metadata/annotations/mesh.comity.dev~1zones invalid",
	}
	if diff := cmp.Diff(want, found(policy.Validate(res))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	res = resource(t, mesh.KindHTTPRoute, "shop", "web", `{"parentRefs":[{"group":"","kind":"Service","name":"web","namespace":"bank"}],"rules":[{"backendRefs":[{"name":"web","port":80}]}]}`)
	res.Annotations = map[string]string{policy.AnnotationCallers: "web, batch"}
	if got := policy.Validate(res); got != nil {
		t.Errorf("a consumer's route: %+v", got)
	}
	res.Spec = json.RawMessage(strings.Replace(string(res.Spec), `[{"group"`, `[{"name":"edge"},{"group"`, 1))
	res.Annotations[policy.AnnotationCallers] = "web,,A"
	bad := "/metadata/annotations/mesh.comity.dev~1callers invalid"
	if diff := cmp.Diff([]string{bad, bad, bad}, found(policy.Validate(res))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := policy.Validate(mesh.Resource{Key: mesh.Key{Kind: "ListenerSet"}}); len(got) != 1 || got[0].Hint != "write the listeners into the Gateway" {
		t.Errorf("%+v", got)
	}
	if got := policy.Validate(mesh.Resource{Key: mesh.Key{Kind: "Servise"}}); len(got) != 1 || got[0].Hint != `did you mean "Service"?` {
		t.Errorf("unknown kind: %+v", got)
	}
}

func TestDecodeBounds(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40)
	large := `{"displayName":"` + strings.Repeat("x", policy.MaxSpecBytes) + `"}`
	many := `{"namespaces":[` + strings.TrimSuffix(strings.Repeat("1,", 1000), ",") + `]}`
	for spec, code := range map[string]string{deep: policy.CodeTooLarge, large: policy.CodeTooLarge, many: policy.CodeWrongType} {
		_, err := policy.Decode(mesh.KindZone, json.RawMessage(spec))
		var invalid *policy.InvalidError
		if !errors.As(err, &invalid) || invalid.Fields[0].Code != code || len(invalid.Fields) > 50 {
			t.Errorf("%.20s...: %v", spec, err)
		}
	}
}

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		``:                                     `{}`,
		` { "b" : 1.50, "a":[ {"c":null} ] } `: `{"a":[{}],"b":1.5}`,
		`{"b":"<&>","a":10000000000000000000000}`: `{"a":1e+22,"b":"<&>"}`,
	} {
		got, err := policy.Canonical(json.RawMessage(in))
		if err != nil || string(got) != want {
			t.Errorf("Canonical(%s) = %s, %v; want %s", in, got, err, want)
		}
	}
}

func TestLookup(t *testing.T) {
	for _, name := range []string{"Service", "services", "service", "svc", "SVC"} {
		if k, ok := policy.Lookup(name); !ok || k.Kind != mesh.KindService {
			t.Errorf("Lookup(%q) = %v, %v", name, k.Kind, ok)
		}
	}
	seen := map[string]mesh.Kind{}
	for _, k := range policy.Kinds() {
		for _, n := range append([]string{k.Plural, k.Singular}, k.Short...) {
			if by, ok := seen[n]; ok {
				t.Errorf("%q names %s and %s", n, by, k.Kind)
			}
			seen[n] = k.Kind
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, k := range policy.Kinds() {
		f.Add(string(k.Kind), []byte(`{"selector":{"a":"b"},"ports":[{"port":1}],"rules":[{"from":[{"zones":["a"]}]}]}`))
	}
	f.Add("Zone", []byte(`{"cloud":"a","cloud":null,"~/":1e999}`))
	f.Fuzz(func(t *testing.T, kind string, spec []byte) {
		v, err := policy.Decode(mesh.Kind(kind), spec)
		var invalid *policy.InvalidError
		if err != nil && (!errors.As(err, &invalid) || len(invalid.Fields) == 0) {
			t.Fatalf("an error without fields: %v", err)
		}
		if err != nil {
			return
		}
		// What was accepted is stable: canonical form and back.
		c, err := policy.Canonical(spec)
		if err != nil {
			t.Fatalf("decoded but not canonical: %v", err)
		}
		again, err := policy.Decode(mesh.Kind(kind), c)
		if err != nil {
			t.Fatalf("canonical form refused: %v", err)
		}
		if diff := cmp.Diff(v, again); diff != "" {
			t.Fatalf("canonical form means something else:\n%s", diff)
		}
		twice, err := policy.Canonical(c)
		if err != nil || string(twice) != string(c) {
			t.Fatalf("canonical form is not stable: %s, %s, %v", c, twice, err)
		}
		policy.Validate(mesh.Resource{Key: mesh.Key{Kind: mesh.Kind(kind), Name: "x", Namespace: "y"}, Spec: spec})
	})
}
