package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// keysName is `jwks/<host>:<port>`, where keys of tokens are fetched, and a digest of whom to believe there if that is said.
func keysName(k policy.JWKS) string {
	host, port := k.Host()
	name := "jwks/" + host + ":" + strconv.Itoa(int(port))
	if k.CA == nil {
		return name
	}
	sum := sha256.Sum256([]byte(k.CA.PEM))
	return name + "/" + hex.EncodeToString(sum[:4])
}

// tokens verifies what requests to a port must carry: as the routes say by which they came, else as the port does. That a request
// came by a route is told by its match alone, not by its host, which a caller can choose: so what a route demands can't be gone
// round by asking for the same path under another name.
func (tr *Translator) tokens(s *topology.Service, p topology.Port) []ir.Filter {
	whole := tr.t.Authentication(s, p, mesh.Key{}, "").Spec.JWT
	j := &ir.JWT{}
	for _, from := range tr.routedTo()[topology.ServicePort{ServiceName: s.ServiceName, Port: p.Number}] {
		group := from.matches
		// What ends a list as the port does is left to the port, so that it takes nothing from the lists behind it.
		for n := len(group); n > 0 && reflect.DeepEqual(tr.tokensOf(s, p, group[n-1]), whole); n-- {
			group = group[:n-1]
		}
		for _, m := range group {
			tr.demand(j, ir.JWTRule{Match: matchOf(m.Match)}, tr.tokensOf(s, p, m))
		}
	}
	differs := len(j.Rules) > 0
	tr.demand(j, ir.JWTRule{Match: anyPath()}, whole)
	if len(j.Providers) == 0 {
		return nil
	}
	if differs {
		// Of an escaped slash or a semicolon applications make different things, and of a path that is compared: a token must be there.
		strict := ir.JWTRule{AmbiguousPath: true}
		for _, p := range j.Providers {
			strict.Providers = append(strict.Providers, p.Name)
		}
		j.Rules = append([]ir.JWTRule{strict}, j.Rules...)
	}
	return []ir.Filter{{JWT: j}}
}

func (tr *Translator) tokensOf(s *topology.Service, p topology.Port, m policy.RouteMatch) *policy.JWT {
	return tr.t.Authentication(s, p, m.Route, m.RuleName).Spec.JWT
}

// demand adds a rule, and the providers that it needs.
func (tr *Translator) demand(j *ir.JWT, rule ir.JWTRule, spec *policy.JWT) {
	if spec != nil {
		rule.Optional = spec.Mode == policy.JWTOptional
		for _, p := range spec.Providers {
			rule.Providers = append(rule.Providers, addProvider(j, tr.providerOf(p)))
		}
	}
	j.Rules = append(j.Rules, rule)
}

// addProvider adds a provider, once, by a name that no other has, and returns the name.
func addProvider(j *ir.JWT, p ir.JWTProvider) string {
	name := p.Name
	for n := 2; ; n++ {
		i := slices.IndexFunc(j.Providers, func(o ir.JWTProvider) bool { return o.Name == p.Name })
		if i < 0 {
			j.Providers = append(j.Providers, p)
			return p.Name
		}
		if reflect.DeepEqual(j.Providers[i], p) {
			return p.Name
		}
		p.Name = name + "~" + strconv.Itoa(n)
	}
}

func (tr *Translator) providerOf(p policy.JWTProvider) ir.JWTProvider {
	out := ir.JWTProvider{
		Name: p.Name, Issuer: p.Issuer, Audiences: p.Audiences, Keys: p.JWKS.Inline,
		Skew: uint32(p.Skew() / time.Second), Forward: p.Forward,
		Headers: []ir.JWTHeader{{Name: "authorization", Prefix: "Bearer "}},
	}
	if keys, ok := tr.t.FetchedKeys(p.JWKS); ok {
		out.Keys = keys
	} else if p.JWKS.URL != "" {
		out.Fetch = &ir.JWTFetch{URI: p.JWKS.URL, Cluster: keysName(p.JWKS), Every: millis(p.JWKS.Every())}
	}
	if f := p.From; f != nil {
		out.Headers, out.Params, out.Cookies = nil, f.Params, f.Cookies
		for _, h := range f.Headers {
			out.Headers = append(out.Headers, ir.JWTHeader{Name: strings.ToLower(h.Name), Prefix: h.Prefix})
		}
	}
	for _, t := range p.ClaimsToHeaders {
		out.Tell = append(out.Tell, ir.JWTTell{Header: strings.ToLower(t.Header), Claim: t.Claim})
	}
	return out
}

// keyClusters are where the keys for a port are fetched that the zone does not have.
func (tr *Translator) keyClusters(s *topology.Service, p topology.Port) []ir.Cluster {
	return tr.keyClustersOf(tr.authentications(s, p))
}

func (tr *Translator) keyClustersOf(said []policy.Merged[policy.AuthenticationPolicy]) []ir.Cluster {
	var out []ir.Cluster
	for _, m := range said {
		for _, keys := range m.Spec.Fetched() {
			if _, ok := tr.t.FetchedKeys(keys); ok {
				continue
			}
			host, port := keys.Host()
			tls := &ir.OutsideTLS{ServerName: host, AuthoritySecret: systemRoots}
			if ca := keys.CA; ca != nil {
				tls.AuthoritySecret, tls.Authorities = "", ca.PEM
			}
			out = append(out, ir.Cluster{
				Name: keysName(keys), Protocol: ir.HTTP1, ConnectTimeout: externalConnectTimeout, IdleTimeout: appIdle,
				Outside: &ir.Outside{Endpoints: []ir.OutsideEndpoint{{Address: host, Port: port, Weight: 1}}, TLS: tls},
				Sources: m.Sources,
			})
		}
	}
	return out
}

// authentications are what is said of the requests to a port, of all of them and by the routes that lead there.
func (tr *Translator) authentications(s *topology.Service, p topology.Port) []policy.Merged[policy.AuthenticationPolicy] {
	out := []policy.Merged[policy.AuthenticationPolicy]{tr.t.Authentication(s, p, mesh.Key{}, "")}
	for _, from := range tr.routedTo()[topology.ServicePort{ServiceName: s.ServiceName, Port: p.Number}] {
		for _, m := range from.matches {
			out = append(out, tr.t.Authentication(s, p, m.Route, m.RuleName))
		}
	}
	return out
}

// authenticationSources are the policies that say what requests to a port must prove.
func (tr *Translator) authenticationSources(s *topology.Service, p topology.Port) ir.Sources {
	var out ir.Sources
	for _, m := range tr.authentications(s, p) {
		out = append(out, m.Sources...)
	}
	return out
}
