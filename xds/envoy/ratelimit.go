package envoy

import (
	"regexp"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	commonratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	localratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
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
		ResponseHeadersToAdd: limitedBy(l.Name),
	}
	if l.Match == nil && !l.EachCaller && l.EachHeader == "" {
		m.TokenBucket = tokenBucket(l.Bucket)
		return m
	}
	m.RateLimits = b.counted(limitKey, l.Counted)
	add := func(bucket ir.Bucket, key, value string) {
		d := &commonratelimitv3.LocalRateLimitDescriptor{
			Entries:     []*commonratelimitv3.RateLimitDescriptor_Entry{{Key: limitKey, Value: limitKey}},
			TokenBucket: tokenBucket(bucket),
		}
		if key != "" {
			d.Entries = append(d.Entries, &commonratelimitv3.RateLimitDescriptor_Entry{Key: key, Value: value})
		}
		m.Descriptors = append(m.Descriptors, d)
	}
	switch {
	case l.EachCaller:
		m.MaxDynamicDescriptors = u32(maxBuckets)
		// The exact ones come first: Envoy takes the first that fits.
		for _, c := range l.Callers {
			add(c.Bucket, callerKey, c.Identity)
		}
		add(l.Bucket, callerKey, "") // an entry without a value is a bucket for each
	case l.EachHeader != "":
		m.MaxDynamicDescriptors = u32(maxBuckets)
		add(l.Bucket, headerKey, "")
		add(l.Bucket, noneKey, noneKey)
	default:
		add(l.Bucket, "", "")
	}
	return m
}

// counted are the descriptors of the requests of a limit: that it counts them, and by what they are told apart.
func (b *messages) counted(limit string, c ir.Counted) []*routev3.RateLimit {
	first := &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{
		GenericKey: &routev3.RateLimit_Action_GenericKey{DescriptorKey: limitKey, DescriptorValue: limit},
	}}
	if c.Match != nil {
		first.ActionSpecifier = &routev3.RateLimit_Action_HeaderValueMatch_{
			HeaderValueMatch: &routev3.RateLimit_Action_HeaderValueMatch{DescriptorKey: limitKey, DescriptorValue: limit, Headers: b.requestHeaders(*c.Match)},
		}
	}
	and := func(more ...*routev3.RateLimit_Action) *routev3.RateLimit {
		return &routev3.RateLimit{Actions: append([]*routev3.RateLimit_Action{first}, more...)}
	}
	switch {
	case c.EachCaller:
		return []*routev3.RateLimit{and(&routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_Extension{
			Extension: b.extension(callerKey, &sslv3.UriSanInput{}),
		}})}
	case c.EachHeader != "":
		return []*routev3.RateLimit{
			and(&routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{
				RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{HeaderName: c.EachHeader, DescriptorKey: headerKey},
			}}),
			and(&routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_HeaderValueMatch_{
				HeaderValueMatch: &routev3.RateLimit_Action_HeaderValueMatch{
					DescriptorKey: noneKey, DescriptorValue: noneKey, ExpectMatch: no(),
					Headers: []*routev3.HeaderMatcher{{Name: c.EachHeader, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}},
				},
			}}),
		}
	}
	return []*routev3.RateLimit{and()}
}

// sharedLimits is one filter for all of them, so that who counts is asked once.
func (b *messages) sharedLimits(s ir.SharedLimits) proto.Message {
	m := &ratelimitv3.RateLimit{
		Domain: s.Domain, Timeout: duration(s.Timeout), FailureModeDeny: s.FailClosed, StatPrefix: s.Name,
		StatusOnError:                  &typev3.HttpStatus{Code: typev3.StatusCode_ServiceUnavailable},
		RateLimitedAsResourceExhausted: true, EnableRetryAfterHeader: true, DisableXEnvoyRatelimitedHeader: true,
		ResponseHeadersToAdd: limitedBy(s.Name),
		RateLimitService: &ratelimitconfigv3.RateLimitServiceConfig{
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: s.Cluster, Authority: s.Authority},
			}},
		},
	}
	for _, l := range s.Limits {
		m.RateLimits = append(m.RateLimits, b.counted(l.Name, l.Counted)...)
	}
	return m
}

// limitedBy adds to an answer who gave it.
func limitedBy(name string) []*corev3.HeaderValueOption {
	return []*corev3.HeaderValueOption{{
		Header: &corev3.HeaderValue{Key: limitedHeader, Value: name}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}}
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
	return b.replyTo(problem{
		details: []string{"local_rate_limited", "request_rate_limited"},
		code:    "RATE-LIMITED", title: "A rate limit has no room for the request", detail: "%RESP(" + limitedHeader + ")%",
		try: "Wait for as many seconds as retry-after says; the limit is in a TrafficPolicy of the service: comity get trafficpolicies",
	})
}

// problem is RFC 9457 problem details of the answers that a filter makes, known by how their response code details begin.
type problem struct {
	details                  []string
	code, title, detail, try string
}

// replyTo gives the answers that a filter makes a body that people understand.
func (b *messages) replyTo(p problem) *hcmv3.ResponseMapper {
	return &hcmv3.ResponseMapper{
		Filter: b.because(p.details...),
		BodyFormatOverride: &corev3.SubstitutionFormatString{
			ContentType: problemJSON,
			Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: stringStruct(map[string]string{
				"code": p.code, "title": p.title, "status": "%RESPONSE_CODE%", "detail": p.detail, "caller": "%DOWNSTREAM_PEER_URI_SAN%", "try": p.try,
			})},
		},
	}
}
