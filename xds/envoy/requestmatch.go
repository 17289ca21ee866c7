package envoy

import (
	"regexp"
	"strconv"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	networkinputsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	metadatamatcherv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/input_matchers/metadata/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/comity-mesh/comity/xds/ir"
)

// request is met by the requests of a decision.
func (b *messages) request(r ir.RequestMatch) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	var all []*xdsmatcherv3.Matcher_MatcherList_Predicate
	if r.AmbiguousPath {
		all = append(all, b.single(b.header(":path"), regex(ambiguousPath)))
	}
	if len(r.Methods) > 0 {
		var ways []*xdsmatcherv3.Matcher_MatcherList_Predicate
		for _, m := range r.Methods {
			// In any case: HTTP/2 lets "Delete" through, and many an application takes it for DELETE.
			ways = append(ways, b.single(b.header(":method"), sameWord(m)))
		}
		all = append(all, or(ways))
	}
	if len(r.Paths) > 0 {
		var ways []*xdsmatcherv3.Matcher_MatcherList_Predicate
		for _, p := range r.Paths {
			if p.Kind == ir.PathPrefix {
				ways = append(ways, b.single(b.header(":path"), prefixed(p.Value)))
				continue
			}
			// The header carries the query too.
			ways = append(ways, b.single(b.header(":path"), exact(p.Value)), b.single(b.header(":path"), prefixed(p.Value+"?")))
		}
		all = append(all, or(ways))
	}
	if len(r.Addresses) > 0 {
		all = append(all, b.from(r))
	}
	if len(r.Identities) > 0 {
		all = append(all, b.proven(r.Identities))
	}
	if len(r.ServerNames) > 0 {
		all = append(all, b.askedFor(r.ServerNames))
	}
	for _, h := range r.Headers {
		all = append(all, b.headerValues(h))
	}
	for _, c := range r.Claims {
		all = append(all, b.claim(c))
	}
	return and(all)
}

// headerValues: Envoy hands a repeated header over as one text, joined by commas.
func (b *messages) headerValues(h ir.HeaderValues) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	var ways []*xdsmatcherv3.Matcher_MatcherList_Predicate
	for _, v := range h.Values {
		switch {
		case v.Prefix && v.Value == "":
			ways = append(ways, b.single(b.header(h.Name), regex(".*")))
		case h.AmongOthers && v.Prefix:
			ways = append(ways, b.single(b.header(h.Name), regex(`(.*,[ \t]*)?`+regexp.QuoteMeta(v.Value)+".*")))
		case h.AmongOthers:
			ways = append(ways, b.single(b.header(h.Name), regex(`(.*,[ \t]*)?`+regexp.QuoteMeta(v.Value)+`([ \t]*,.*)?`)))
		case v.Prefix:
			ways = append(ways, b.single(b.header(h.Name), prefixed(v.Value)))
		default:
			ways = append(ways, b.single(b.header(h.Name), exact(v.Value)))
		}
	}
	return or(ways)
}

// Where the filter that verifies tokens leaves the claims.
const (
	jwtFilter = "envoy.filters.http.jwt_authn"
	claimsKey = "claims"
)

// claim is met by a claim, or by a member of a claim that is a list.
func (b *messages) claim(c ir.ClaimValues) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	at := &networkinputsv3.DynamicMetadataInput{Filter: jwtFilter, Path: []*networkinputsv3.DynamicMetadataInput_PathSegment{segment(claimsKey)}}
	for _, part := range c.Path {
		at.Path = append(at.Path, segment(part))
	}
	var ways []*xdsmatcherv3.Matcher_MatcherList_Predicate
	for _, want := range c.Values {
		for _, v := range valuesWritten(want) {
			member := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_ListMatch{
				ListMatch: &matcherv3.ListMatcher{MatchPattern: &matcherv3.ListMatcher_OneOf{OneOf: v}},
			}}
			for _, m := range []*matcherv3.ValueMatcher{v, member} {
				ways = append(ways, b.metadata(b.input("envoy.matching.inputs.dynamic_metadata", at), m))
			}
		}
	}
	return or(ways)
}

func segment(key string) *networkinputsv3.DynamicMetadataInput_PathSegment {
	return &networkinputsv3.DynamicMetadataInput_PathSegment{Segment: &networkinputsv3.DynamicMetadataInput_PathSegment_Key{Key: key}}
}

// valuesWritten are the values that JSON writes as the text, with quotes or without.
func valuesWritten(text string) []*matcherv3.ValueMatcher {
	out := []*matcherv3.ValueMatcher{{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: exactly(text)}}}
	if text == "true" || text == "false" {
		out = append(out, &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_BoolMatch{BoolMatch: text == "true"}})
	}
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		out = append(out, &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_DoubleMatch{
			DoubleMatch: &matcherv3.DoubleMatcher{MatchPattern: &matcherv3.DoubleMatcher_Exact{Exact: n}},
		}})
	}
	return out
}

// metadata compares a value that a filter before left.
func (b *messages) metadata(input *xdscorev3.TypedExtensionConfig, how *matcherv3.ValueMatcher) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input: input, Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_CustomMatch{
				CustomMatch: b.input("envoy.matching.matchers.metadata_matcher", &metadatamatcherv3.Metadata{Value: how}),
			},
		},
	}}
}
