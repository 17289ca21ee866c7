package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/comity-mesh/comity/policy"
)

// checkPolicies is step 5: what people change of their traffic, one after the other, under requests of one connection.
func (d *Demo) checkPolicies(ctx context.Context) ([]string, error) {
	live := &liveConnection{demo: d, workload: "shopper-a", client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxConnsPerHost: 1}}}
	users, err := newIssuer()
	if err != nil {
		return nil, err
	}
	other, err := newIssuer()
	if err != nil {
		return nil, err
	}
	keys, err := users.keys()
	if err != nil {
		return nil, err
	}
	var facts []string
	for _, step := range []struct {
		what, docs string
		look       func() (string, error)
	}{
		{"HTTPRoute, 80 to 20 and a canary", helloRoute, func() (string, error) { return live.shares(ctx) }},
		{"TrafficPolicy, 5 requests an hour", helloLimit, func() (string, error) { return live.limited(ctx) }},
		{"AuthenticationPolicy, a token", fmt.Sprintf(helloTokens, users.name, keys), func() (string, error) { return live.tokens(ctx, users, other) }},
	} {
		change, err := d.ApplyAndWait(ctx, step.docs)
		if err != nil {
			return facts, fmt.Errorf("%s: %w", step.what, err)
		}
		seen, err := step.look()
		facts = append(facts, fmt.Sprintf("%s (at %d Envoys after %.1f ms): %s", step.what, change.Acked, ms(change.LastAck), seen))
		if err != nil {
			return facts, fmt.Errorf("%s: %w", step.what, err)
		}
	}
	if err := d.withdrawPolicies(ctx); err != nil {
		return facts, err
	}
	if code, text, err := live.hello(ctx); err != nil || code != http.StatusOK {
		return facts, fmt.Errorf("after all of it was deleted: %d %s %w", code, text, err)
	}
	facts = append(facts, fmt.Sprintf("all deleted; %d requests on one connection, which was never cut", live.requests))
	if live.connections != 1 {
		return facts, fmt.Errorf("the live connection was cut: %d connections", live.connections)
	}
	return facts, nil
}

func (d *Demo) withdrawPolicies(ctx context.Context) error {
	for _, r := range []struct{ plural, name string }{
		{"authenticationpolicies", "check-tokens"}, {"trafficpolicies", "check-limit"}, {"httproutes", "check-canary"},
	} {
		kind, _ := policy.Lookup(r.plural)
		rev, err := d.global.Delete(ctx, kind, namespace, r.name)
		if err != nil {
			return err
		}
		if err := d.awaitAcks(ctx, rev, &Change{}, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

const helloRoute = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: shop, name: check-canary}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 8080}]
  rules:
  - name: canary
    matches: [{path: {value: /hello}, headers: [{name: x-canary, value: "yes"}]}]
    backendRefs: [{group: mesh.comity.dev, kind: ZoneService, name: web.gcp-west, port: 8080}]
  - name: hello
    matches: [{path: {value: /hello}}]
    backendRefs:
    - {group: mesh.comity.dev, kind: ZoneService, name: web.aws-east, port: 8080, weight: 80}
    - {group: mesh.comity.dev, kind: ZoneService, name: web.gcp-west, port: 8080, weight: 20}
  - backendRefs: [{name: web, port: 8080}]
`

// shares counts who answers: weights are drawn, so that 250 requests at 80 to 20 miss by 25 about once in ten thousand times.
func (l *liveConnection) shares(ctx context.Context) (string, error) {
	const requests, want, slack = 250, 200, 25
	count := func(n int, h http.Header) (map[string]int, error) {
		by := map[string]int{}
		for range n {
			code, text, err := l.ask(ctx, h)
			var o Order
			if err != nil || code != http.StatusOK || json.Unmarshal([]byte(text), &o) != nil || len(o.Trail) == 0 {
				return by, fmt.Errorf("%d %s %w", code, text, err)
			}
			by[o.Trail[0].Zone]++
		}
		return by, nil
	}
	plain, err := count(requests, nil)
	if err != nil {
		return "", err
	}
	canary, err := count(20, http.Header{"X-Canary": {"yes"}})
	if err != nil {
		return "", err
	}
	seen := fmt.Sprintf("%d to aws-east and %d to gcp-west; with the header %d of 20 to gcp-west", plain["aws-east"], plain["gcp-west"], canary["gcp-west"])
	if off := plain["aws-east"] - want; off < -slack || off > slack || canary["gcp-west"] != 20 {
		return seen, errors.New("that is not what the route says")
	}
	return seen, nil
}

const helloLimit = `apiVersion: mesh.comity.dev/v1alpha1
kind: TrafficPolicy
metadata: {namespace: shop, name: check-limit}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: check-canary, sectionName: canary}
  rateLimit: {requests: [{name: slow, limit: {count: 5, per: 1h}, each: {caller: true}}]}
`

func (l *liveConnection) limited(ctx context.Context) (string, error) {
	codes, last := map[int]int{}, ""
	for range 12 {
		code, text, err := l.ask(ctx, http.Header{"X-Canary": {"yes"}})
		if err != nil {
			return "", err
		}
		codes[code]++
		last = text
	}
	seen := fmt.Sprintf("%d of 12 were let through, %d answered 429", codes[http.StatusOK], codes[http.StatusTooManyRequests])
	if codes[http.StatusOK] != 5 || codes[http.StatusTooManyRequests] != 7 || !strings.Contains(last, "check-limit/slow") {
		return seen, fmt.Errorf("not 5 and 7, or it does not name the limit: %s", last)
	}
	return seen, nil
}

// helloTokens has the names of the issuer and its keys left out.
const helloTokens = `apiVersion: mesh.comity.dev/v1alpha1
kind: AuthenticationPolicy
metadata: {namespace: shop, name: check-tokens}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: HTTPRoute, name: check-canary, sectionName: hello}
  jwt: {providers: [{name: users, issuer: %q, audiences: [shop], jwks: {inline: %q}}]}
`

func (l *liveConnection) tokens(ctx context.Context, users, other issuer) (string, error) {
	var seen []string
	hour := time.Hour
	for _, t := range []struct {
		what  string
		token func() (string, error)
		want  int
	}{
		{"none", func() (string, error) { return "", nil }, http.StatusUnauthorized},
		{"a valid one", func() (string, error) { return users.token("shop", hour) }, http.StatusOK},
		{"expired", func() (string, error) { return users.token("shop", -hour) }, http.StatusUnauthorized},
		{"for somebody else", func() (string, error) { return users.token("bank", hour) }, http.StatusUnauthorized},
		{"forged", func() (string, error) { return other.token("shop", hour) }, http.StatusUnauthorized},
	} {
		token, err := t.token()
		if err != nil {
			return "", err
		}
		h := http.Header{}
		if token != "" {
			h.Set("Authorization", "Bearer "+token)
		}
		code, text, err := l.ask(ctx, h)
		if err != nil {
			return "", err
		}
		seen = append(seen, fmt.Sprintf("%s %d", t.what, code))
		if code != t.want {
			return strings.Join(seen, ", "), fmt.Errorf("answered %d, not %d: %s", code, t.want, text)
		}
	}
	return strings.Join(seen, ", "), nil
}

// issuer signs tokens of users; what it is called is no address of anything.
type issuer struct {
	name string
	key  *ecdsa.PrivateKey
}

func newIssuer() (issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return issuer{"https://users.demo.example", key}, err
}

const keyID = "demo"

// keys is its JWKS (RFC 7517), without the secret.
func (i issuer) keys() (string, error) {
	out, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: keyID, Algorithm: string(jose.ES256), Use: "sig"}}})
	return string(out), err
}

// token is for an audience, and good for so long; negative: it has been good until then.
func (i issuer) token(audience string, lives time.Duration) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: keyID}}, nil)
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: i.name, Subject: "ann", Audience: jwt.Audience{audience}, Expiry: jwt.NewNumericDate(time.Now().Add(lives)),
	}).Serialize()
}
