package envoy

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/comity-mesh/comity/xds/ir"
)

// jwt verifies tokens. Of the claims it leaves what decides by them can see.
func (b *messages) jwt(j ir.JWT) proto.Message {
	m := &jwtauthnv3.JwtAuthentication{Providers: map[string]*jwtauthnv3.JwtProvider{}}
	for _, p := range j.Providers {
		m.Providers[p.Name] = jwtProvider(p)
	}
	for _, r := range j.Rules {
		rule := &jwtauthnv3.RequirementRule{Match: b.match(r.Match)}
		if r.AmbiguousPath {
			rule.Match = &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: ambiguousPath}}}
		}
		if need := jwtRequirement(r); need != nil {
			rule.RequirementType = &jwtauthnv3.RequirementRule_Requires{Requires: need}
		}
		m.Rules = append(m.Rules, rule)
	}
	return m
}

func jwtProvider(p ir.JWTProvider) *jwtauthnv3.JwtProvider {
	m := &jwtauthnv3.JwtProvider{
		Issuer: p.Issuer, Audiences: p.Audiences, Forward: p.Forward, ClockSkewSeconds: p.Skew,
		FromParams: p.Params, FromCookies: p.Cookies,
		PayloadInMetadata: claimsKey,
		NormalizePayloadInMetadata: &jwtauthnv3.JwtProvider_NormalizePayload{
			SpaceDelimitedClaims: []string{"scope", "scp"}, // RFC 8693, 4.2
		},
	}
	if p.Skew == 0 {
		m.ClockSkewSeconds = 1 // 0 is Envoy's default, a minute
	}
	for _, h := range p.Headers {
		m.FromHeaders = append(m.FromHeaders, &jwtauthnv3.JwtHeader{Name: h.Name, ValuePrefix: h.Prefix})
	}
	for _, t := range p.Tell {
		m.ClaimToHeaders = append(m.ClaimToHeaders, &jwtauthnv3.JwtClaimToHeader{HeaderName: t.Header, ClaimName: t.Claim})
	}
	if f := p.Fetch; f != nil {
		m.JwksSourceSpecifier = &jwtauthnv3.JwtProvider_RemoteJwks{RemoteJwks: &jwtauthnv3.RemoteJwks{
			HttpUri: &corev3.HttpUri{
				Uri: f.URI, HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: f.Cluster}, Timeout: seconds(5),
			},
			CacheDuration: duration(f.Every),
			// Ahead of the requests, and again and again: the last good keys stay while nobody answers.
			AsyncFetch: &jwtauthnv3.JwksAsyncFetch{FastListener: true, FailedRefetchDuration: seconds(1)},
		}}
	} else {
		m.JwksSourceSpecifier = &jwtauthnv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{
			Specifier: &corev3.DataSource_InlineString{InlineString: p.Keys},
		}}
	}
	return m
}

// jwtRequirement is nil where no token is needed.
func jwtRequirement(r ir.JWTRule) *jwtauthnv3.JwtRequirement {
	var ways []*jwtauthnv3.JwtRequirement
	for _, name := range r.Providers {
		ways = append(ways, &jwtauthnv3.JwtRequirement{RequiresType: &jwtauthnv3.JwtRequirement_ProviderName{ProviderName: name}})
	}
	if r.Optional && len(ways) > 0 {
		ways = append(ways, &jwtauthnv3.JwtRequirement{RequiresType: &jwtauthnv3.JwtRequirement_AllowMissing{AllowMissing: &emptypb.Empty{}}})
	}
	switch len(ways) {
	case 0:
		return nil
	case 1:
		return ways[0]
	}
	return &jwtauthnv3.JwtRequirement{RequiresType: &jwtauthnv3.JwtRequirement_RequiresAny{
		RequiresAny: &jwtauthnv3.JwtRequirementOrList{Requirements: ways},
	}}
}

// toldLookAlikes are the other spellings of the headers in which applications are told claims; see [mesh.CallerLookAlikes].
func toldLookAlikes(f ir.Filters) []string {
	var out []string
	seen := map[string]bool{}
	for _, one := range f.Before {
		if one.JWT == nil {
			continue
		}
		for _, p := range one.JWT.Providers {
			for _, t := range p.Tell {
				if !seen[t.Header] {
					seen[t.Header] = true
					out = append(out, lookAlikes(t.Header)...)
				}
			}
		}
	}
	return out
}

// lookAlikes are the spellings of a name with underscores for some of its dashes, but not the name.
func lookAlikes(name string) []string {
	parts := strings.Split(name, "-")
	out := []string{parts[0]}
	for _, p := range parts[1:] {
		var longer []string
		for _, before := range out {
			longer = append(longer, before+"-"+p, before+"_"+p)
		}
		out = longer
	}
	return out[1:]
}
