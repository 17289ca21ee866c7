package envoy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
)

// issuer signs tokens and publishes its key.
type issuer struct {
	name, kid string
	key       *ecdsa.PrivateKey
}

func newIssuer(t *testing.T, name, kid string) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{name, kid, key}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwks is the set of its public key (RFC 7517).
func (i issuer) jwks(t *testing.T) string {
	t.Helper()
	point, err := i.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","kid":%q,"alg":"ES256","x":%q,"y":%q}]}`, i.kid, b64(point[1:33]), b64(point[33:]))
}

// token is signed as the header's algorithm says: ES256 honestly, HS256 with the public key as if it were a secret, none not at all.
func (i issuer) token(t *testing.T, alg string, claims object) string {
	t.Helper()
	full := object{"iss": i.name, "sub": "ann", "aud": "shop", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(full, claims)
	head, err := json.Marshal(object{"alg": alg, "kid": i.kid, "typ": "JWT"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	text := b64(head) + "." + b64(body)
	var signature []byte
	switch alg {
	case "ES256":
		sum := sha256.Sum256([]byte(text))
		r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		signature = make([]byte, 64)
		r.FillBytes(signature[:32])
		s.FillBytes(signature[32:])
	case "HS256":
		mac := hmac.New(sha256.New, []byte(i.jwks(t)))
		mac.Write([]byte(text))
		signature = mac.Sum(nil)
	}
	return text + "." + b64(signature)
}

func bearer(token string) map[string]string {
	return map[string]string{"Authorization": "Bearer " + token}
}

// TestTokens: valid, expired and misdirected tokens; forged ones; what the application is told; what policies decide by claims.
func TestTokens(t *testing.T) {
	w := newWorld(t)
	users, staff, mallory := newIssuer(t, "https://users.example", "u1"), newIssuer(t, "https://staff.example", "s1"), newIssuer(t, "https://users.example", "u1")
	w.apply(t, fmt.Sprintf(`
kind: AuthenticationPolicy
metadata: {name: users}
spec:
  targetRef: {kind: Service, name: echo}
  jwt:
    providers:
    - name: users
      issuer: %s
      audiences: [shop, other]
      jwks: {inline: '%s'}
      claimsToHeaders: [{claim: sub, header: x-user}, {claim: org.name, header: X-User-Org}]
    - {name: staff, issuer: %s, audiences: [shop], jwks: {inline: '%s'}, clockSkew: 0s, forward: true, from: {headers: [{name: x-token}], params: [token], cookies: [session]}}
---
kind: AuthorizationPolicy
metadata: {name: admins}
spec:
  targetRef: {kind: Service, name: echo}
  action: Deny
  rules:
  - {to: [{paths: [/banned]}], when: {claims: [{name: sub, values: [eve]}]}}
---
kind: AuthorizationPolicy
metadata: {name: level}
spec:
  targetRef: {kind: Service, name: echo}
  action: Deny
  rules: [{to: [{paths: ["/admin*"]}], when: {claims: [{name: realm.roles, values: [guest]}]}}, {to: [{paths: ["/admin*"]}], when: {claims: [{name: 'a\.b', values: ["7", "true"]}]}}, {to: [{paths: ["/admin*"]}], when: {claims: [{name: scope, values: [blocked]}]}}]
`, users.name, users.jwks(t), staff.name, staff.jwks(t)))

	ok := users.token(t, "ES256", nil)
	for name, c := range map[string]struct {
		call
		want
	}{
		"valid":              {call{header: bearer(ok)}, want{told: map[string]string{"X-User": "ann", "Authorization": ""}}},
		"nested claim":       {call{header: bearer(users.token(t, "ES256", object{"org": object{"name": "acme"}}))}, want{told: map[string]string{"X-User-Org": "acme"}}},
		"another audience":   {call{header: bearer(users.token(t, "ES256", object{"aud": []string{"x", "other"}}))}, want{}},
		"none":               {call{}, want{status: 401, body: []string{"NOT-AUTHENTICATED", "Jwt_is_missing"}}},
		"expired":            {call{header: bearer(users.token(t, "ES256", object{"exp": time.Now().Add(-2 * time.Minute).Unix()}))}, want{status: 401, body: []string{"NOT-AUTHENTICATED", "jwt_authn_access_denied{Jwt_is_expired}"}}},
		"within the skew":    {call{header: bearer(users.token(t, "ES256", object{"exp": time.Now().Add(-10 * time.Second).Unix()}))}, want{}},
		"not yet":            {call{header: bearer(users.token(t, "ES256", object{"nbf": time.Now().Add(2 * time.Minute).Unix()}))}, want{status: 401}},
		"wrong audience":     {call{header: bearer(users.token(t, "ES256", object{"aud": "else"}))}, want{status: 401}},
		"wrong issuer":       {call{header: bearer(users.token(t, "ES256", object{"iss": "https://else.example"}))}, want{status: 401}},
		"another's key":      {call{header: bearer(mallory.token(t, "ES256", nil))}, want{status: 401}},
		"alg none":           {call{header: bearer(users.token(t, "none", nil))}, want{status: 401}},
		"key as a secret":    {call{header: bearer(users.token(t, "HS256", nil))}, want{status: 401}},
		"staff by users":     {call{header: bearer(users.token(t, "ES256", object{"iss": staff.name}))}, want{status: 401}},
		"changed":            {call{header: bearer(ok[:len(ok)-8] + "AAAAAAAA")}, want{status: 401}},
		"another place":      {call{header: map[string]string{"x-token": ok}}, want{status: 401}},
		"staff in a header":  {call{header: map[string]string{"x-token": staff.token(t, "ES256", nil), "x-user": "root"}}, want{told: map[string]string{"X-User": ""}}},
		"staff in the query": {call{path: "/?token=" + staff.token(t, "ES256", nil)}, want{}},
		"staff in a cookie":  {call{header: map[string]string{"Cookie": "session=" + staff.token(t, "ES256", nil)}}, want{}},
		"no skew":            {call{header: map[string]string{"x-token": staff.token(t, "ES256", object{"exp": time.Now().Add(-10 * time.Second).Unix()})}}, want{status: 401}},
		"claim header spoof": {call{header: map[string]string{"Authorization": "Bearer " + ok, "x-user": "root", "x_user": "root", "x-user_org": "root", "x-user-org": "root"}},
			want{told: map[string]string{"X-User": "ann", "X_user": "", "X-User-Org": "", "X-User_org": ""}}},
		"denied by a claim": {call{path: "/banned", header: bearer(users.token(t, "ES256", object{"sub": "eve"}))}, want{status: 403}},
		"not denied":        {call{path: "/banned", header: bearer(ok)}, want{}},
		"a list":            {call{path: "/admin", header: bearer(users.token(t, "ES256", object{"realm": object{"roles": []string{"x", "guest"}}}))}, want{status: 403}},
		"another list":      {call{path: "/admin", header: bearer(users.token(t, "ES256", object{"realm": object{"roles": []string{"guests"}}}))}, want{}},
		"a number":          {call{path: "/admin", header: bearer(users.token(t, "ES256", object{"a.b": 7}))}, want{status: 403}},
		"a boolean":         {call{path: "/admin", header: bearer(users.token(t, "ES256", object{"a.b": true}))}, want{status: 403}},
		"a scope":           {call{path: "/admin", header: bearer(users.token(t, "ES256", object{"scope": "read blocked"}))}, want{status: 403}},
		"a path trick":      {call{path: "/x/../%61dmin", header: bearer(users.token(t, "ES256", object{"scope": "read blocked"}))}, want{status: 403}},
		"another service":   {call{to: "echo-v1.shop.svc.clusterset.local"}, want{}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.want.check(w.call(t, c.call)); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := w.callGRPC(t, "web", "echo.shop.svc.clusterset.local:9090", "/test.Echo/Say", nil); err == nil || !strings.Contains(err.Error(), "Unauthenticated") {
		t.Errorf("gRPC without a token: %v", err)
	}
	if _, err := w.callGRPC(t, "web", "echo.shop.svc.clusterset.local:9090", "/test.Echo/Say", map[string]string{"authorization": "Bearer " + ok}); err != nil {
		t.Errorf("gRPC with a token: %v", err)
	}
}

// TestTokensOfRoutes: what a rule of a route demands is demanded whatever name the request asks for, and optional tokens are still verified.
func TestTokensOfRoutes(t *testing.T) {
	w := newWorld(t)
	users := newIssuer(t, "https://users.example", "u1")
	w.apply(t, fmt.Sprintf(`
kind: HTTPRoute
metadata: {name: echo}
spec:
  parentRefs: [{group: "", kind: Service, name: echo, port: 80}]
  rules:
  - {name: account, matches: [{path: {type: PathPrefix, value: /account}}], backendRefs: [{name: echo-v1, port: 80}]}
  - backendRefs: [{name: echo-v1, port: 80}]
---
kind: AuthenticationPolicy
metadata: {name: account}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: echo, sectionName: account}
  jwt: {providers: [{name: users, issuer: %[1]s, jwks: {inline: '%[2]s'}}]}
---
kind: AuthenticationPolicy
metadata: {name: pay}
spec:
  targetRef: {kind: Service, name: pay}
  jwt: {mode: Optional, providers: [{name: users, issuer: %[1]s, jwks: {inline: '%[2]s'}, claimsToHeaders: [{claim: sub, header: x-user}]}]}
`, users.name, users.jwks(t)))
	ok := bearer(users.token(t, "ES256", nil))
	const v1 = "echo-v1.shop.svc.clusterset.local"
	for _, e := range []expectation{
		{want: want{app: "echo-1"}},
		{call{path: "/account"}, want{status: 401}},
		{call{path: "/account", header: ok}, want{app: "echo-1"}},
		{call{path: "/account/x", to: v1}, want{status: 401}},
		{call{path: "//account", to: v1}, want{status: 401}},
		{call{path: "/account%2fx", to: v1}, want{status: 401}},
		{call{path: "/accounts", to: v1}, want{app: "echo-1"}},
		{call{to: payHost, header: map[string]string{"x-user": "root"}}, want{app: "pay-1", told: map[string]string{"X-User": ""}}},
		{call{to: payHost, header: ok}, want{told: map[string]string{"X-User": "ann"}}},
		{call{to: payHost, header: bearer("nonsense")}, want{status: 401}},
	} {
		if err := e.check(w.call(t, e.call)); err != nil {
			t.Errorf("%+v: %v", e.call, err)
		}
	}
}

// TestKeysFetched: keys come by URL and rotate; the last good ones stay while nobody answers, and without any nobody gets in.
func TestKeysFetched(t *testing.T) {
	w := newWorld(t)
	first, second := newIssuer(t, "https://users.example", "k1"), newIssuer(t, "https://users.example", "k2")
	var keys atomic.Pointer[string]
	served := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if k := keys.Load(); k != nil {
			_, _ = io.WriteString(rw, *k)
			return
		}
		rw.WriteHeader(http.StatusServiceUnavailable)
	}))
	served.Config.ErrorLog = log.New(io.Discard, "", 0)
	certificate := selfSigned(t, "localhost")
	served.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	served.StartTLS()
	t.Cleanup(served.Close)
	root := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}))
	fetched := func(ca string) string {
		return fmt.Sprintf(`
kind: AuthenticationPolicy
metadata: {name: users}
spec:
  targetRef: {kind: Service, name: echo-v1}
  jwt:
    providers:
    - name: users
      issuer: https://users.example
      jwks:
        url: https://localhost:%d/keys
        refresh: 10s
        ca: {pem: %s}
`, portOf(served.Listener.Addr()), ca)
	}
	quoted, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	old, renewed := call{to: "echo-v1.shop.svc.clusterset.local", header: bearer(first.token(t, "ES256", nil))}, call{to: "echo-v1.shop.svc.clusterset.local", header: bearer(second.token(t, "ES256", nil))}
	w.apply(t, fetched(string(quoted)))
	if err := (want{status: 401}).check(w.call(t, old)); err != nil {
		t.Errorf("without keys: %v", err)
	}
	set := first.jwks(t)
	keys.Store(&set)
	eventually(t, "take the first key", func() error { return want{}.check(w.call(t, old)) })
	if err := (want{status: 401}).check(w.call(t, renewed)); err != nil {
		t.Errorf("before the rotation: %v", err)
	}
	set2 := second.jwks(t)
	keys.Store(&set2)
	eventually(t, "take the second key", func() error { return want{}.check(w.call(t, renewed)) })
	if err := (want{status: 401}).check(w.call(t, old)); err != nil {
		t.Errorf("after the rotation: %v", err)
	}
	keys.Store(nil)
	p := w.sidecar(t, "echo-1")
	failed := func() int { return p.stat(t, "filter_chain.jwt_authn.jwks_fetch_failed") }
	before := failed()
	eventually(t, "miss a fetch", func() error {
		if failed() == before {
			return fmt.Errorf("%d failed", before)
		}
		return nil
	})
	if err := (want{}).check(w.call(t, renewed)); err != nil {
		t.Errorf("the last good keys: %v", err)
	}
	// A server that the authority doesn't vouch for gives nobody's keys.
	keys.Store(&set2)
	other, err := json.Marshal(string(w.zones[0].authority.bundle()))
	if err != nil {
		t.Fatal(err)
	}
	w.apply(t, fetched(string(other)))
	before = failed()
	eventually(t, "refuse the server", func() error {
		if failed() == before {
			return fmt.Errorf("%d failed", before)
		}
		return nil
	})
	if err := (want{status: 401}).check(w.call(t, renewed)); err != nil {
		t.Errorf("keys of who knows whom: %v", err)
	}
}

// TestKeysOfTheZone: with keys that the zone has fetched, no change of a policy depends on an issuer that is away.
func TestKeysOfTheZone(t *testing.T) {
	w := newWorld(t)
	first, second := newIssuer(t, "https://users.example", "k1"), newIssuer(t, "https://users.example", "k2")
	gone := policy.JWKS{URL: "https://issuer.invalid/keys"}
	users := fmt.Sprintf(`
kind: AuthenticationPolicy
metadata: {name: users}
spec: {targetRef: {kind: Service, name: echo}, jwt: {providers: [{name: users, issuer: "https://users.example", jwks: {url: %q}}]}}
`, gone.URL)
	w.zones[0].Keys = map[string]topology.Keys{gone.Source(): {JWKS: first.jwks(t)}}
	w.apply(t, users)
	old, renewed := call{header: bearer(first.token(t, "ES256", nil))}, call{header: bearer(second.token(t, "ES256", nil))}
	good := func(what string, c call) {
		t.Helper()
		if err := (want{}).check(w.call(t, c)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	good("at first", old)
	for what, more := range map[string]string{
		"a policy of the service": "kind: AuthorizationPolicy\nmetadata: {name: no-put}\nspec: {targetRef: {kind: Service, name: echo}, action: Deny, rules: [{to: [{methods: [PUT]}]}]}",
		"a limit":                 "kind: TrafficPolicy\nmetadata: {name: limit}\nspec: {targetRef: {kind: Service, name: echo}, rateLimit: {requests: [{name: all, limit: {count: 1000, per: 1s}}]}}",
	} {
		w.apply(t, users+"---\n"+more)
		good("after "+what, old)
	}
	w.zones[0].Keys = map[string]topology.Keys{gone.Source(): {JWKS: second.jwks(t), Problem: "https://issuer.invalid/keys answers 503; those of 10:00 are used"}}
	w.publish(t)
	good("after a rotation", renewed)
	if err := (want{status: 401}).check(w.call(t, old)); err != nil {
		t.Errorf("the key that was taken back: %v", err)
	}
	_, issues := w.topologies()
	if !slices.ContainsFunc(issues[0], func(i topology.Issue) bool {
		return i.Key.Name == "users" && strings.Contains(i.Message, "answers 503")
	}) {
		t.Errorf("the policy's status does not say what is wrong: %+v", issues[0])
	}
}

// selfSigned is the certificate of a server that is its own authority.
func selfSigned(t *testing.T, host string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	like := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, like, like, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
