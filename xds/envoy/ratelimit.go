package envoy

import (
	"regexp"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	localratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	networkratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/local_ratelimit/v3"
	sslv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/ssl/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/xds/ir"
)

const (
	// limitedHeader names the limit to who is refused by it.
	limitedHeader = "comity-limited-by"

	// maxBuckets is how many callers or values of a header are told apart at once; whoever comes back after so many others
	// finds a full bucket. A bucket takes some hundred bytes.
	maxBuckets = 10_000

	limitKey  = "limit"
	callerKey = "caller"
	headerKey = "header"
	noneKey   = "none"
)

// rateLimit is a filter for one limit, so that each says its own name and how long to wait.
func (b *messages) rateLimit(l ir.RateLimit) proto.Message {
	all := &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
	m := &localratelimitv3.LocalRateLimit{
		StatPrefix: l.Name, FilterEnabled: all, FilterEnforced: all,
		EnableRetryAfterHeader: true, RateLimitedAsResourceExhausted: true,
		ResponseHeadersToAdd: []*corev3.HeaderValueOption{{
			Header: &corev3.HeaderValue{Key: limitedHeader, Value: l.Name}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}},
	}
	if l.Match == nil && !l.EachCaller && l.EachHeader == "" {
		m.TokenBucket = tokenBucket(l.Bucket)
		return m
	}
	counts := []*routev3.RateLimit_Action{{ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{
		GenericKey: &routev3.RateLimit_Action_GenericKey{DescriptorKey: limitKey, DescriptorValue: limitKey},
	}}}
	if l.Match != nil {
		counts = []*routev3.RateLimit_Action{{ActionSpecifier: &routev3.RateLimit_Action_HeaderValueMatch_{
			HeaderValueMatch: &routev3.RateLimit_Action_HeaderValueMatch{DescriptorKey: limitKey, DescriptorValue: limitKey, Headers: b.requestHeaders(*l.Match)},
		}}}
	}
	add := func(bucket ir.Bucket, action *routev3.RateLimit_Action, key, value string) {
		d := &commonratelimitv3.LocalRateLimitDescriptor{
			Entries:     []*commonratelimitv3.RateLimitDescriptor_Entry{{Key: limitKey, Value: limitKey}},
			TokenBucket: tokenBucket(bucket),
		}
		if key != "" {
			d.Entries = append(d.Entries, &commonratelimitv3.RateLimitDescriptor_Entry{Key: key, Value: value})
		}
		m.Descriptors = append(m.Descriptors, d)
		if action != nil {
			m.RateLimits = append(m.RateLimits, &routev3.RateLimit{Actions: append(slices.Clip(counts), action)})
		}
	}
	switch {
	case l.EachCaller:
		m.MaxDynamicDescriptors = u32(maxBuckets)
		// The exact ones come first: Envoy takes the first that fits.
		for _, c := range l.Callers {
			add(c.Bucket, nil, callerKey, c.Identity)
		}
		add(l.Bucket, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Extension{
			Extension: b.extension(callerKey, &sslv3.UriSanInput{}),
		}}, callerKey, "") // an entry without a value is a bucket for each
	case l.EachHeader != "":
		m.MaxDynamicDescriptors = u32(maxBuckets)
		add(l.Bucket, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{
			RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{HeaderName: l.EachHeader, DescriptorKey: headerKey},
		}}, headerKey, "")
		add(l.Bucket, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_HeaderValueMatch_{
			HeaderValueMatch: &routev3.RateLimit_Action_HeaderValueMatch{
				DescriptorKey: noneKey, DescriptorValue: noneKey, ExpectMatch: no(),
				Headers: []*routev3.HeaderMatcher{{Name: l.EachHeader, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}},
			},
		}}, noneKey, noneKey)
	default:
		add(l.Bucket, nil, "", "")
		m.RateLimits = append(m.RateLimits, &routev3.RateLimit{Actions: counts})
	}
	return m
}

// connectionLimit closes what comes too fast before its first byte is read.
func connectionLimit(l ir.ConnectionLimit) proto.Message {
	return &networkratelimitv3.LocalRateLimit{StatPrefix: l.Name, ShareKey: l.Name, TokenBucket: tokenBucket(l.Bucket)}
}

// pattern is met by what matches the regular expression (RE2) as a whole.
func pattern(re string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: re}}}
}

func tokenBucket(k ir.Bucket) *typev3.TokenBucket {
	return &typev3.TokenBucket{MaxTokens: k.Size, TokensPerFill: u32(k.Fill), FillInterval: duration(k.Interval)}
}

// requestHeaders is a match in terms of headers alone, of which the path with its query is one; never empty.
func (b *messages) requestHeaders(m ir.Match) []*routev3.HeaderMatcher {
	rest := `([/?].*)?`
	switch m.Path.Kind {
	case ir.PathExact:
		rest = `(\?.*)?`
	case ir.PathPrefix:
		rest = ".*"
	case ir.PathElements:
	}
	out := b.match(m).Headers
	if m.Path.Kind != ir.PathPrefix || m.Path.Value != "/" || len(out) == 0 {
		out = append(out, headerMatcher(":path", pattern(regexp.QuoteMeta(m.Path.Value)+rest)))
	}
	return out
}

// limitedReply says to who is refused which limit it was.
func (b *messages) limitedReply() *hcmv3.ResponseMapper {
	return b.replyTo("local_rate_limited", problem{
		code: "RATE-LIMITED", title: "A rate limit has no room for the request", detail: "%RESP(" + limitedHeader + ")%",
		try: "Wait for as many seconds as retry-after says; the limit is in a TrafficPolicy of the service: comity get trafficpolicies",
	})
}

// problem is RFC 9457 problem details of an answer that a filter makes.
type problem struct{ code, title, detail, try string }

// replyTo gives the answers that a filter makes, known by how its response code details begin, a body that people understand.
func (b *messages) replyTo(details string, p problem) *hcmv3.ResponseMapper {
	return &hcmv3.ResponseMapper{
		Filter: b.because(details),
		BodyFormatOverride: &corev3.SubstitutionFormatString{
			ContentType: problemJSON,
			Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: stringStruct(map[string]string{
				"code": p.code, "title": p.title, "status": "%RESPONSE_CODE%", "detail": p.detail, "caller": "%DOWNSTREAM_PEER_URI_SAN%", "try": p.try,
			})},
		},
	}
}
