package envoy

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	sslv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/xds/ir"
)

const (
	// MalformedIdentity names the refusal of a certificate by which nobody can be recognised.
	MalformedIdentity = "malformed-identity:certificate-without-exactly-one-canonical-SPIFFE-ID"
	// NoIdentity names the refusal of who is of another trust domain; the handshake refuses them before.
	NoIdentity = "no-identity:not-of-the-expected-trust-domain"

	// canonicalID also refuses the comma that joins several URIs, and what could be taken for syntax in
	// x-forwarded-client-cert.
	canonicalID = `spiffe://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+`
	// auditPrefix sets what an Audit notes apart from what is decided, in counters and in access logs.
	auditPrefix = "audit_"

	// ambiguousPath has, before the query, an escaped slash, or a semicolon, with which applications end a part of a path or don't.
	ambiguousPath = `(?i)[^?]*(%(2f|5c|3b)|;).*`
)

// rbac is the filter that decides, with what would be decided in shadow. Counters name policies, whose names are few and known, where
// the sums don't say the same: they cost 2 % of a request's CPU.
func (b *messages) rbac(a ir.Authorization) *rbacv3.RBAC {
	m := &rbacv3.RBAC{TrackPerRuleStats: len(a.Shadow) > 0 || several(a.Callers), Matcher: b.authorize(a.Callers, b.refuseBy(NoIdentity), b.refuseBy(MalformedIdentity))}
	if len(a.Shadow) > 0 {
		m.ShadowMatcher = b.authorize(a.Shadow, b.refuseBy(NoIdentity), b.refuseBy(MalformedIdentity))
	}
	return m
}

// several reports whether more than one policy allows, or more than one denies.
func several(callers []ir.Caller) bool {
	by := map[bool]string{}
	for _, c := range callers {
		for _, d := range c.Decisions {
			if first, ok := by[d.Allow]; ok && first != d.Policy {
				return true
			}
			by[d.Allow] = d.Policy
		}
	}
	return false
}

// audit decides nothing: what it would allow is noted.
func (b *messages) audit(a ir.Audit) proto.Message {
	return &rbacv3.RBAC{TrackPerRuleStats: true, ShadowRulesStatPrefix: auditPrefix, ShadowMatcher: b.authorize(a.Callers, nil, nil)}
}

// authorize looks up the caller once, then tries only what concerns it. The input is all URIs of the
// certificate joined by commas, so that an exact match fails closed on two of them; Envoy's
// principal_name would take any of them, and DNS names too. unknown is for callers of no pattern and for requests of which nothing
// was decided, malformed for certificates that prove nothing; nil does nothing.
func (b *messages) authorize(callers []ir.Caller, unknown, malformed *xdsmatcherv3.Matcher_OnMatch) *xdsmatcherv3.Matcher {
	if len(callers) == 1 && callers[0].Identity == "" {
		on := b.decide(callers[0].Decisions, unknown)
		if m := on.GetMatcher(); m != nil {
			return m
		}
		return &xdsmatcherv3.Matcher{OnNoMatch: on}
	}
	exact := map[string]*xdsmatcherv3.Matcher_OnMatch{}
	prefix := map[string]*xdsmatcherv3.Matcher_OnMatch{}
	for _, c := range callers {
		if c.Identity.Prefix() {
			prefix[string(c.Identity)] = b.decide(c.Decisions, unknown)
		} else {
			exact[string(c.Identity)] = b.decide(c.Decisions, unknown)
		}
	}
	rest := unknown
	if len(prefix) > 0 {
		rest = b.canonicalOnly(onMatcher(&xdsmatcherv3.Matcher{
			MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
				Input:    b.uriSAN(),
				TreeType: &xdsmatcherv3.Matcher_MatcherTree_PrefixMatchMap{PrefixMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{Map: prefix}},
			}},
			OnNoMatch: rest,
		}), malformed)
	}
	if len(exact) == 0 {
		if m := rest.GetMatcher(); m != nil {
			return m
		}
		return &xdsmatcherv3.Matcher{OnNoMatch: rest}
	}
	return &xdsmatcherv3.Matcher{
		MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
			Input:    b.uriSAN(),
			TreeType: &xdsmatcherv3.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{Map: exact}},
		}},
		OnNoMatch: rest,
	}
}

// canonicalOnly keeps back whatever a prefix must not be trusted with. Exact matches come before it: a
// string that equals a canonical ID is one.
func (b *messages) canonicalOnly(then, malformed *xdsmatcherv3.Matcher_OnMatch) *xdsmatcherv3.Matcher_OnMatch {
	return onMatcher(&xdsmatcherv3.Matcher{
		MatcherType: list(field(b.single(b.uriSAN(), regex(canonicalID)), then)),
		OnNoMatch:   malformed,
	})
}

// decide tries decisions in order; the last one is for every request, or else the rest is unknown's. Many that look at paths are
// looked up by path.
func (b *messages) decide(decisions []ir.Decision, unknown *xdsmatcherv3.Matcher_OnMatch) *xdsmatcherv3.Matcher_OnMatch {
	var fields []*xdsmatcherv3.Matcher_MatcherList_FieldMatcher
	rest := unknown
	for i, d := range decisions {
		if len(d.Requests) == 0 {
			rest = b.act(d.Policy, d.Allow)
			break
		}
		if paths, n := pathsFirst(decisions[i:]); n > 0 {
			rest = onMatcher(b.byPath(paths, b.decide(decisions[i+n:], unknown)))
			break
		}
		var ways []*xdsmatcherv3.Matcher_MatcherList_Predicate
		for _, r := range d.Requests {
			ways = append(ways, b.request(r))
		}
		fields = append(fields, field(or(ways), b.act(d.Policy, d.Allow)))
	}
	if len(fields) == 0 {
		return rest
	}
	return onMatcher(&xdsmatcherv3.Matcher{MatcherType: list(fields...), OnNoMatch: rest})
}

func (b *messages) uriSAN() *xdscorev3.TypedExtensionConfig {
	return b.input("envoy.matching.inputs.uri_san", &sslv3.UriSanInput{})
}

func (b *messages) header(name string) *xdscorev3.TypedExtensionConfig {
	return b.input("envoy.matching.inputs.request_headers", &matcherv3.HttpRequestHeaderMatchInput{HeaderName: name})
}

func (b *messages) input(name string, m proto.Message) *xdscorev3.TypedExtensionConfig {
	return &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: b.any(m)}
}

func (b *messages) refuseBy(policy string) *xdsmatcherv3.Matcher_OnMatch { return b.act(policy, false) }

func (b *messages) act(policy string, allow bool) *xdsmatcherv3.Matcher_OnMatch {
	action := rbacconfigv3.RBAC_DENY
	if allow {
		action = rbacconfigv3.RBAC_ALLOW
	}
	return &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
		Action: b.input("envoy.filters.rbac.action", &rbacconfigv3.Action{Name: policy, Action: action}),
	}}
}

func (b *messages) single(input *xdscorev3.TypedExtensionConfig, how *xdsmatcherv3.StringMatcher) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{
		SinglePredicate: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
			Input: input, Matcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{ValueMatch: how},
		},
	}}
}

func onMatcher(m *xdsmatcherv3.Matcher) *xdsmatcherv3.Matcher_OnMatch {
	return &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Matcher{Matcher: m}}
}

func list(fields ...*xdsmatcherv3.Matcher_MatcherList_FieldMatcher) *xdsmatcherv3.Matcher_MatcherList_ {
	return &xdsmatcherv3.Matcher_MatcherList_{MatcherList: &xdsmatcherv3.Matcher_MatcherList{Matchers: fields}}
}

func field(p *xdsmatcherv3.Matcher_MatcherList_Predicate, then *xdsmatcherv3.Matcher_OnMatch) *xdsmatcherv3.Matcher_MatcherList_FieldMatcher {
	return &xdsmatcherv3.Matcher_MatcherList_FieldMatcher{Predicate: p, OnMatch: then}
}

// or and and take one predicate as itself, because the message demands two.
func or(ps []*xdsmatcherv3.Matcher_MatcherList_Predicate) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	if len(ps) == 1 {
		return ps[0]
	}
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_OrMatcher{
		OrMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: ps},
	}}
}

func and(ps []*xdsmatcherv3.Matcher_MatcherList_Predicate) *xdsmatcherv3.Matcher_MatcherList_Predicate {
	if len(ps) == 1 {
		return ps[0]
	}
	return &xdsmatcherv3.Matcher_MatcherList_Predicate{MatchType: &xdsmatcherv3.Matcher_MatcherList_Predicate_AndMatcher{
		AndMatcher: &xdsmatcherv3.Matcher_MatcherList_Predicate_PredicateList{Predicate: ps},
	}}
}

func exact(s string) *xdsmatcherv3.StringMatcher {
	return &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: s}}
}

func sameWord(s string) *xdsmatcherv3.StringMatcher {
	return &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Exact{Exact: s}, IgnoreCase: true}
}

func prefixed(s string) *xdsmatcherv3.StringMatcher {
	return &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_Prefix{Prefix: s}}
}

func regex(s string) *xdsmatcherv3.StringMatcher {
	return &xdsmatcherv3.StringMatcher{MatchPattern: &xdsmatcherv3.StringMatcher_SafeRegex{SafeRegex: &xdsmatcherv3.RegexMatcher{
		EngineType: &xdsmatcherv3.RegexMatcher_GoogleRe2{GoogleRe2: &xdsmatcherv3.RegexMatcher_GoogleRE2{}}, Regex: s,
	}}}
}
