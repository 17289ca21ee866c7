package envoy

import (
	"regexp"
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	networkinputsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	ipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/ip/v3"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/xds/ir"
)

// visitors decides without asking for an identity.
func (b *messages) visitors(v ir.Visitors) proto.Message {
	m := &rbacv3.RBAC{TrackPerRuleStats: len(v.Shadow) > 0, Matcher: b.authorize([]ir.Caller{{Decisions: v.Decisions}}, nil, nil)}
	if len(v.Shadow) > 0 {
		m.ShadowMatcher = b.authorize([]ir.Caller{{Decisions: v.Shadow}}, nil, nil)
	}
	return m
}

// proven is met by clients whose certificate has one of the identities. Envoy hands several over as one text, joined by commas.
func (b *messages) proven(ids []ir.IdentityMatch) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	var ways []*xdsmatcherv3.Matcher_MatcherList_Predicate
	for _, id := range ids {
		one := regexp.QuoteMeta(string(id.Identity))
		if id.Identity.Prefix() {
			one += "[^,]*"
		}
		if id.AmongOthers {
			one = "(.*,)?" + one + "(,.*)?"
		}
		ways = append(ways, b.single(b.uriSAN(), regex(one)))
	}
	return or(ways)
}

// askedFor is met by clients who asked for one of the names within TLS.
func (b *messages) askedFor(names []string) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	input := b.input("envoy.matching.inputs.server_name", &networkinputsv3.ServerNameInput{})
	var ways []*xdsmatcherv3.Matcher_MatcherList_Predicate
	for _, name := range names {
		how := exact(name)
		if suffix, ok := strings.CutPrefix(name, "*"); ok {
			how = &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Suffix{Suffix: suffix}}
		}
		ways = append(ways, b.single(input, how))
	}
	return or(ways)
}

// from is met by clients of the ranges. The address is the one that the manager found: that of the connection, or what trusted proxies
// said of it.
func (b *messages) from(r ir.RequestMatch) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	m := &ipv3.Ip{StatPrefix: "visitors"}
	for _, p := range r.Addresses {
		bits := uint32(p.Bits()) //nolint:gosec // at most 128
		m.CidrRanges = append(m.CidrRanges, &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: u32(bits)})
	}
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input: b.input("envoy.matching.inputs.source_ip", &networkinputsv3.SourceIPInput{}),
			Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_CustomMatch{
				CustomMatch: &xdscorev3.TypedExtensionConfig{Name: "envoy.matching.matchers.ip", TypedConfig: b.any(m)},
			},
		},
	}}
}
