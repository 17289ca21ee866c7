package envoy

import (
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
	return &rbacv3.RBAC{Matcher: b.authorize([]ir.Caller{{Decisions: v.Decisions}}, nil, nil)}
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
