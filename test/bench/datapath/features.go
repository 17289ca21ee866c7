package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	randv2 "math/rand/v2"
	"strings"
	"text/template"

	_ "embed"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/test/bench/datapath/internal/load"
)

// feature is something that people ask for, and what is measured of it: what it adds to the CPU of a request from web-a to echo-a, at the
// client's sidecar and at the server's.
type feature struct {
	name string
	page string // of docs/policies, without .md
	text string // as the tables call it
	// beside is the feature whose cost is no part of this one's; none: the mesh as it comes.
	beside string
	limit  float64 // microseconds that it may add; 0: no limit
	// headers that requests have, names and values.
	headers []string
	// way, if requests don't go from sidecar to sidecar. A way of one hop is held against the client's sidecar.
	way func(b *bench) way
}

//go:embed features.yaml
var featureTemplates string

const (
	traffic, authorization, authentication = "trafficpolicy", "authorizationpolicy", "authenticationpolicy"
	telemetryPage, routePage               = "telemetrypolicy", "httproute"
)

// features have their documents in features.yaml, by name.
var features = []feature{
	{name: "timeouts", page: traffic, text: "`timeouts`: request, try and idle"},
	{name: "no-retries", page: traffic, text: "`retry.attempts: 0` instead of the default"},
	{name: "retries", page: traffic, text: "`retry` with `perTryTimeout` and a budget"},
	{name: "breaker", page: traffic, text: "`circuitBreaker`"},
	{name: "outlier", page: traffic, text: "`outlier` by server errors and percentage"},
	{name: "health", page: traffic, text: "`healthCheck` every 10 s"},
	{name: "least-request", page: traffic, text: "`loadBalancer: LeastRequest`"},
	{name: "hash", page: traffic, text: "`loadBalancer: Maglev` by a header", headers: []string{"x-user", "u1"}},
	{name: "session", page: traffic, text: "`session` by cookie, begun anew by each request"},
	{name: "limit", page: traffic, text: "`rateLimit`, one bucket"},
	{name: "limit-callers", page: traffic, text: "`rateLimit`, one for each caller"},
	{name: "fault", page: traffic, text: "`fault` that matches no request"},
	{name: "shedding", page: traffic, text: "`loadShedding`"},

	{name: "route", page: routePage, text: "one route"},
	{name: "routes", page: routePage, text: "100 routes by path, the last one taken, beside one", beside: "route", limit: 5},
	{name: "edits", page: routePage, text: "header edits: two of the request, one of the answer", beside: "route"},
	{name: "rewrite", page: routePage, text: "`URLRewrite`", beside: "route"},
	{name: "cors", page: routePage, text: "`CORS`, a request from an allowed origin", beside: "route", headers: []string{"origin", "https://shop.example"}},
	{name: "mirror", page: routePage, text: "`RequestMirror` of 0 %", beside: "route"},

	{name: "rules", page: authorization, text: "100 rules for other callers, beside one", limit: 2},
	{name: "rules-one", page: authorization, text: "a rule by method and path for the caller"},
	{name: "rules-paths", page: authorization, text: "100 rules by method and path for the caller, beside one", beside: "rules-one", limit: 2},
	{name: "shadow", page: authorization, text: "a policy in `mode: Shadow`"},
	{name: "audit", page: authorization, text: "an `Audit`"},

	{name: "permissive", page: authentication, text: "`mtls.mode: Permissive`, for callers with mTLS"},
	{name: "jwt", page: authentication, text: "`jwt`: an ES256 token, a claim to a header"},

	{name: "log", page: telemetryPage, text: "access log of every request to a file, at both ends"},
	{name: "log-errors", page: telemetryPage, text: "access log of errors alone"},
	{name: "trace-1", page: telemetryPage, text: "traces by OTLP, 1 %"},
	{name: "trace-100", page: telemetryPage, text: "traces by OTLP, 100 %"},
	{name: "metrics-callers", page: telemetryPage, text: "`metrics.callers`"},
	{name: "metrics-methods", page: telemetryPage, text: "`metrics.methods`"},
	{name: "metrics-rules", page: telemetryPage, text: "a route's named rule, with `metrics.rules: Durations`", beside: "route"},

	{name: "lua", page: "extension", text: "Lua that sets a header"},
	{name: "authz", page: "extension", text: "`externalAuthorization`, the question alone"},

	{name: "external", page: "externalservice", text: "an ExternalService in plaintext, beside a service of the mesh", way: func(b *bench) way {
		return way{Order: modes[0].order(b.mesh.proxies["web-a"].Outbound, "api.bank.example"), hops: []int{b.mesh.proxies["web-a"].EnvoyPID}}
	}},
	{name: "gateway", page: "gateway", text: "through a Gateway (HTTP) instead of a sidecar", way: func(b *bench) way {
		return way{Order: modes[0].order(fmt.Sprintf("127.0.0.1:%d", b.values.GatewayPort), "www.shop.example"), hops: []int{b.mesh.proxies["edge"].EnvoyPID, b.mesh.proxies["echo-a"].EnvoyPID}}
	}},
}

// values are what the documents of features need to know of this run.
type values struct {
	load.App
	Dir         string
	GatewayPort int
	JWKS        string
	token       string
}

// documents are those of a feature.
func (v values) documents(name string) (string, error) {
	t, err := template.New("features").Funcs(template.FuncMap{"upTo": func(n int) []int {
		out := make([]int, n)
		for i := range out {
			out[i] = i
		}
		return out
	}}).Parse(featureTemplates)
	if err != nil {
		return "", err
	}
	if t.Lookup(name) == nil {
		return "", fmt.Errorf("features.yaml has no %q", name)
	}
	var out bytes.Buffer
	err = t.ExecuteTemplate(&out, name, v)
	return strings.TrimSpace(out.String()), err
}

// newValues makes a key with which tokens are signed, and a token.
func newValues(app load.App, dir string) (values, error) {
	v := values{App: app, Dir: dir}
	var err error
	if v.GatewayPort, err = freePort(); err != nil {
		return v, err
	}
	key, err := identity.NewKey()
	if err != nil {
		return v, err
	}
	public, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		return v, err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	v.JWKS = fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"k","x":%q,"y":%q}]}`, b64(public[1:33]), b64(public[33:]))
	text := b64([]byte(`{"alg":"ES256","kid":"k","typ":"JWT"}`)) + "." + b64([]byte(`{"iss":"https://users.example","aud":"shop","sub":"u1","exp":4102444800}`))
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		return v, err
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	v.token = text + "." + b64(signature)
	return v, nil
}

// cost is what a feature adds to a request, in microseconds.
type cost struct {
	feature
	client, server []float64 // by round
	sum            []float64
}

// measureFeatures gives each feature a slice in each round, in random order, between some of the mesh as it comes. What a feature
// costs is its slice less the round's slices of what it stands beside.
func (b *bench) measureFeatures(ctx context.Context) ([]cost, error) {
	const plain = ""
	type turn struct {
		name string
		docs string
		way  way
	}
	base := b.contestants[oursA][modes[0].name]
	var turns []turn
	for range basesOfRound {
		turns = append(turns, turn{plain, "", base})
	}
	var chosen []feature
	for _, f := range features {
		if !b.chosen(f) {
			continue
		}
		chosen = append(chosen, f)
		docs, err := b.values.documents(f.name)
		if err != nil {
			return nil, err
		}
		w := base
		if f.way != nil {
			w = f.way(b)
		}
		w.Headers = f.headers
		if f.name == "jwt" {
			w.Headers = []string{"authorization", "Bearer " + b.values.token}
		}
		turns = append(turns, turn{f.name, docs, w})
	}
	var costs []cost
	for _, f := range chosen {
		costs = append(costs, cost{feature: f})
	}
	control := cost{feature: feature{name: "control", text: "nothing (control)"}}
	for round := range b.featureRounds {
		if round > 0 && b.spent(1) {
			break
		}
		randv2.Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
		seen := map[string][][]float64{}
		for _, t := range turns {
			if err := b.mesh.apply(ctx, t.docs); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
			var s slice
			err := b.repeat(func() (err error) { s, err = b.slice(t.way, b.featureRequests); return err })
			if err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
			seen[t.name] = append(seen[t.name], s.cpu)
		}
		for i := range costs {
			costs[i].add(seen[costs[i].name][0], seen[costs[i].beside])
		}
		control.add(seen[plain][0], seen[plain][1:])
	}
	return append(costs, control), b.mesh.apply(ctx, "")
}

// basesOfRound are the slices of the mesh as it comes in each round.
const basesOfRound = 5

func (b *bench) chosen(f feature) bool {
	if b.only == "" {
		return true
	}
	for prefix := range strings.SplitSeq(b.only, ",") {
		if strings.HasPrefix(f.name, prefix) || strings.HasPrefix(f.page, prefix) {
			return true
		}
	}
	return false
}

// add is a round's slice, and those that it is held against.
func (c *cost) add(with []float64, without [][]float64) {
	hop := func(i int) float64 {
		sum := 0.0
		for _, w := range without {
			sum += w[i]
		}
		return with[i] - sum/float64(len(without))
	}
	c.client = append(c.client, hop(0))
	if len(with) > 1 {
		c.server = append(c.server, hop(1))
		c.sum = append(c.sum, hop(0)+hop(1))
		return
	}
	c.sum = append(c.sum, hop(0))
}

func (b *bench) reportFeatures(costs []cost) {
	for _, c := range costs {
		e := estimateOf(c.sum)
		b.report.Note("%-60s client %+6.1f   server %+6.1f   both %+6.1f us (%+.1f to %+.1f)", c.text, median(c.client), median(c.server), e.value, e.low, e.high)
		if c.limit > 0 {
			b.report.Limit("datapath-"+c.name, "  "+c.text, e.value, "us", c.limit)
		}
	}
}

// costsTables are that of all features, and one for the page of each policy.
func (b *bench) costsTables(costs []cost) map[string]string {
	note := fmt.Sprintf("\n`make bench ARGS=datapath`, %s: %d rounds of %d requests each, HTTP/1.1 outside and HTTP/2 between, 1 KiB answers; medians of the differences within a round.\n",
		b.conditions, len(costs[0].sum), b.featureRequests)
	out := map[string]string{"costs": costsTable(costs, func(cost) bool { return true }) + note}
	for _, c := range costs {
		if c.page != "" {
			out["costs-"+c.page] = costsTable(costs, func(other cost) bool { return other.page == c.page || other.page == "" }) + note
		}
	}
	return out
}

// costsTable is of the costs that fit, with the control.
func costsTable(costs []cost, fits func(cost) bool) string {
	var t strings.Builder
	t.WriteString("| CPU of a request, µs | client's sidecar | server's sidecar | together (95 %) |\n|---|---|---|---|\n")
	for _, c := range costs {
		if !fits(c) {
			continue
		}
		server := ""
		if len(c.server) > 0 {
			server = signed(median(c.server))
		}
		e := estimateOf(c.sum)
		limit := ""
		switch {
		case c.limit > 0 && e.value > c.limit:
			limit = fmt.Sprintf("; limit %.0f: **not kept**", c.limit)
		case c.limit > 0:
			limit = fmt.Sprintf("; limit %.0f: kept", c.limit)
		}
		fmt.Fprintf(&t, "| %s | %s | %s | **%s** (%s to %s)%s |\n", c.text, signed(median(c.client)), server, signed(e.value), signed(e.low), signed(e.high), limit)
	}
	return t.String()
}

func signed(v float64) string {
	text := fmt.Sprintf("%+.1f", v)
	if text == "+0.0" || text == "-0.0" {
		return "0.0"
	}
	return text
}
