package envoy

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"crypto/ecdsa"
)

// forged is a token whose header and claims are as they are given, signed by the issuer's key.
func (i issuer) forged(t *testing.T, header, claims object) string {
	t.Helper()
	part := func(o object) string {
		raw, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return b64(raw)
	}
	text := part(header) + "." + part(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
}

// TestHostileTokens: games with what a token says of its key, with its size and its places end in 401, and every one of many issuers
// vouches for its own tokens alone.
func TestHostileTokens(t *testing.T) {
	w := newWorld(t)
	var issuers []issuer
	var providers []string
	for n := range 8 {
		i := newIssuer(t, fmt.Sprintf("https://i%d.example", n), fmt.Sprintf("k%d", n))
		issuers = append(issuers, i)
		providers = append(providers, fmt.Sprintf(`{name: i%d, issuer: %q, audiences: [shop], jwks: {inline: '%s'}}`, n, i.name, i.jwks(t)))
	}
	w.apply(t, fmt.Sprintf(`
kind: AuthenticationPolicy
metadata: {name: many}
spec: {targetRef: {kind: Service, name: echo-v1}, jwt: {providers: [%s]}}
`, strings.Join(providers, ", ")))
	mine, other := issuers[0], issuers[7]
	good := object{"alg": "ES256", "typ": "JWT", "kid": "k0"}
	with := func(o object, field string, value any) object {
		o = maps.Clone(o)
		if o[field] = value; value == nil {
			delete(o, field)
		}
		return o
	}
	claims := object{"iss": mine.name, "aud": "shop", "sub": "ann", "exp": time.Now().Add(time.Hour).Unix()}
	key := other.key.PublicKey
	point, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	embedded := object{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
	for name, c := range map[string]struct {
		token  string
		status int
	}{
		"as it should be":             {mine.forged(t, good, claims), 200},
		"no kid":                      {mine.forged(t, with(good, "kid", nil), claims), 200},
		"another issuer's kid":        {mine.forged(t, with(good, "kid", "k7"), claims), 401},
		"a kid that is a path":        {mine.forged(t, with(good, "kid", "../../dev/null"), claims), 401},
		"a kid that is a query":       {mine.forged(t, with(good, "kid", "k0' OR '1'='1"), claims), 401},
		"a long kid":                  {mine.forged(t, with(good, "kid", strings.Repeat("k", 8000)), claims), 401},
		"a kid that is no text":       {mine.forged(t, with(good, "kid", 7), claims), 401},
		"its own key along":           {other.forged(t, with(with(good, "kid", nil), "jwk", embedded), claims), 401},
		"a URL for its key":           {other.forged(t, with(good, "jku", "https://mallory.example/keys"), claims), 401},
		"another issuer's key":        {other.forged(t, with(good, "kid", nil), claims), 401},
		"another algorithm":           {mine.forged(t, with(good, "alg", "ES384"), claims), 401},
		"an algorithm in lower case":  {mine.forged(t, with(good, "alg", "es256"), claims), 401},
		"none in capitals":            {mine.forged(t, with(good, "alg", "NONE"), claims), 401},
		"no algorithm":                {mine.forged(t, with(good, "alg", nil), claims), 401},
		"no issuer":                   {mine.forged(t, good, with(claims, "iss", nil)), 401},
		"an issuer with a slash more": {mine.forged(t, good, with(claims, "iss", mine.name+"/")), 401},
		"no end":                      {mine.forged(t, good, with(claims, "exp", nil)), 200},
		"an end that is text":         {mine.forged(t, good, with(claims, "exp", "tomorrow")), 401},
		"an end in the past":          {mine.forged(t, good, with(claims, "exp", -1)), 401},
		"an audience that contains":   {mine.forged(t, good, with(claims, "aud", "shopping")), 401},
		"three parts and more":        {mine.forged(t, good, claims) + ".e30", 401},
		"two parts":                   {strings.Join(strings.Split(mine.forged(t, good, claims), ".")[:2], ".") + ".", 401},
		"60 KB":                       {mine.forged(t, good, with(claims, "x", strings.Repeat("x", 40_000))), 200},
		"of the last issuer":          {other.forged(t, with(good, "kid", "k7"), with(claims, "iss", other.name)), 200},
	} {
		if r := w.call(t, call{to: "echo-v1.shop.svc.clusterset.local", header: bearer(c.token)}); r.status != c.status {
			t.Errorf("%s: %d, not %d: %s", name, r.status, c.status, r.body)
		}
	}
	// More than Envoy takes of headers.
	if r, err := w.try(t, call{to: "echo-v1.shop.svc.clusterset.local", header: bearer(mine.forged(t, good, with(claims, "x", strings.Repeat("x", 80_000))))}); err == nil && r.status < 400 {
		t.Errorf("too much: %d", r.status)
	}

	web := w.zones[0].authority.issue(t, "/ns/shop/sa/web")
	ok, bad := "Bearer "+mine.forged(t, good, claims), "Bearer "+other.forged(t, good, claims)
	for name, fields := range map[string][][2]string{
		"a bad token before a good one": {{"authorization", bad}, {"authorization", ok}},
		"a bad token after a good one":  {{"authorization", ok}, {"authorization", bad}},
		"two in one":                    {{"authorization", ok + ", " + bad}},
		"a bad one in another spelling": {{"authorization", ok}, {"Authorization", bad}},
	} {
		status, body := w.rawRequest(t, "echo-1", "echo-v1", &web, append([][2]string{{":path", "/"}}, fields...)...)
		if status == 200 && strings.Contains(string(body), strings.TrimPrefix(bad, "Bearer ")) {
			t.Errorf("%s: the application got a token that nobody verified", name)
		}
	}
}
