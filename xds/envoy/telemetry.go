package envoy

import (
	"cmp"
	"maps"
	"slices"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	fileaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	otelaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/open_telemetry/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/xds/ir"
)

// accessLogs log what the fields say of a request or connection.
func (b *messages) accessLogs(t *ir.Telemetry, fields map[string]string) []*accesslogv3.AccessLog {
	if t == nil {
		return nil
	}
	maps.Copy(fields, endFields(t.Ends))
	var out []*accesslogv3.AccessLog
	for _, l := range t.Logs {
		log := &accesslogv3.AccessLog{Name: "envoy.access_loggers.file", Filter: logFilter(l)}
		var sink proto.Message = &fileaccesslogv3.FileAccessLog{
			Path: l.File,
			AccessLogFormat: &fileaccesslogv3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
				Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: stringStruct(fields)},
			}},
		}
		if c := l.Collector; c != nil {
			log.Name = "envoy.access_loggers.open_telemetry"
			sink = &otelaccesslogv3.OpenTelemetryAccessLogConfig{
				LogName: "comity", GrpcService: grpcTo(*c), DisableBuiltinLabels: true,
				ResourceAttributes: attributes(map[string]string{"service.name": cmp.Or(t.Ends.Proxy, t.Ends.Reporter), "comity.zone": t.Ends.Zone}),
				Attributes:         attributes(fields),
			}
		}
		log.ConfigType = &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.any(sink)}
		out = append(out, log)
	}
	return out
}

// endFields are the fields that say between whom. What is not known before is what the other end proved, and the zone of the
// endpoint that was chosen.
func endFields(e ir.Ends) map[string]string {
	return map[string]string{
		"reporter": e.Reporter, "zone": e.Zone,
		"sourceName": cmp.Or(e.Source, "%DOWNSTREAM_PEER_URI_SAN%"), "sourceZone": e.SourceZone,
		"destination":     cmp.Or(e.Destination, "%UPSTREAM_CLUSTER%"),
		"destinationZone": cmp.Or(e.DestinationZone, upstreamZone),
	}
}

// upstreamZone is the zone of the endpoint that was chosen.
const upstreamZone = "%UPSTREAM_METADATA(" + matchNamespace + ":" + zoneLabel + ")%"

func attributes(fields map[string]string) *commonv1.KeyValueList {
	out := &commonv1.KeyValueList{}
	for _, k := range slices.Sorted(maps.Keys(fields)) {
		out.Values = append(out.Values, &commonv1.KeyValue{Key: k, Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: fields[k]}}})
	}
	return out
}

func grpcTo(c ir.Collector) *corev3.GrpcService {
	return &corev3.GrpcService{
		Timeout:         seconds(5),
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: c.Cluster, Authority: c.Authority}},
	}
}

// runtimeKey is demanded by Envoy where a number could be changed at run time; nobody sets these.
const runtimeKey = "comity.telemetry."

func atLeast(value uint32, key string) *accesslogv3.ComparisonFilter {
	return &accesslogv3.ComparisonFilter{
		Op: accesslogv3.ComparisonFilter_GE, Value: &corev3.RuntimeUInt32{DefaultValue: value, RuntimeKey: runtimeKey + key},
	}
}

// logFilter is nil for everything.
func logFilter(l ir.AccessLog) *accesslogv3.AccessLogFilter {
	var all []*accesslogv3.AccessLogFilter
	if l.MinStatus > 0 {
		all = append(all, &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{
			StatusCodeFilter: &accesslogv3.StatusCodeFilter{Comparison: atLeast(l.MinStatus, "status")},
		}})
	}
	if l.MinDuration > 0 {
		all = append(all, &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_DurationFilter{
			DurationFilter: &accesslogv3.DurationFilter{Comparison: atLeast(uint32(l.MinDuration), "duration")}, //nolint:gosec // at most an hour
		}})
	}
	if len(l.Flags) > 0 {
		all = append(all, &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
			ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: l.Flags},
		}})
	}
	if l.PathPrefix != "" {
		all = append(all, &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{
			HeaderFilter: &accesslogv3.HeaderFilter{Header: &routev3.HeaderMatcher{
				Name: ":path", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
					MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: l.PathPrefix},
				}},
			}},
		}})
	}
	if l.PerMillion > 0 {
		all = append(all, &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_RuntimeFilter{
			RuntimeFilter: &accesslogv3.RuntimeFilter{
				RuntimeKey: runtimeKey + "sample", UseIndependentRandomness: true,
				PercentSampled: &typev3.FractionalPercent{Numerator: l.PerMillion, Denominator: typev3.FractionalPercent_MILLION},
			},
		}})
	}
	return allOf(all...)
}

// allOf is met where all are; nil for none.
func allOf(filters ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	switch len(filters) {
	case 0:
		return nil
	case 1:
		return filters[0]
	}
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{AndFilter: &accesslogv3.AndFilter{Filters: filters}}}
}

// trace has a manager tell of requests as spans.
func (b *messages) trace(m *hcmv3.HttpConnectionManager, tele ir.Telemetry) {
	t := tele.Tracing
	// Envoy notes in it whether a request is traced.
	m.GenerateRequestId = yes()
	m.Tracing = &hcmv3.HttpConnectionManager_Tracing{
		RandomSampling: percent(t.Percent), OverallSampling: percent(100), ClientSampling: percent(0),
		Provider: b.tracer(*t, cmp.Or(tele.Ends.Proxy, tele.Ends.Reporter)), CustomTags: spanTags(tele.Ends, t.Tags),
	}
}

func (b *messages) tracer(t ir.Tracing, service string) *tracev3.Tracing_Http {
	name := "envoy.tracers.opentelemetry"
	var m proto.Message
	switch t.Protocol {
	case ir.SpansZipkin:
		name = "envoy.tracers.zipkin"
		z := &tracev3.ZipkinConfig{
			CollectorCluster: t.Collector.Cluster, CollectorEndpoint: "/api/v2/spans", CollectorHostname: t.Collector.Authority,
			CollectorEndpointVersion: tracev3.ZipkinConfig_HTTP_JSON, TraceId_128Bit: true,
			// Both ends tell of one request each by a span of its own, as with OTLP.
			SharedSpanContext: no(),
		}
		if t.W3C {
			z.TraceContextOption = tracev3.ZipkinConfig_USE_B3_WITH_W3C_PROPAGATION
		}
		m = z
	case ir.SpansOTLPHTTP:
		m = &tracev3.OpenTelemetryConfig{ServiceName: service, HttpService: &corev3.HttpService{HttpUri: &corev3.HttpUri{
			Uri: "http://" + t.Collector.Authority + "/v1/traces", Timeout: seconds(5),
			HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: t.Collector.Cluster},
		}}}
	case ir.SpansOTLP:
		m = &tracev3.OpenTelemetryConfig{ServiceName: service, GrpcService: grpcTo(t.Collector)}
	}
	return &tracev3.Tracing_Http{Name: name, ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: b.any(m)}}
}

// spanTags are people's tags after the mesh's own.
func spanTags(e ir.Ends, tags []ir.SpanTag) []*tracingv3.CustomTag {
	var out []*tracingv3.CustomTag
	literal := func(name, value string) {
		if value != "" {
			out = append(out, &tracingv3.CustomTag{Tag: name, Type: &tracingv3.CustomTag_Literal_{Literal: &tracingv3.CustomTag_Literal{Value: value}}})
		}
	}
	literal("comity.reporter", e.Reporter)
	literal("comity.zone", e.Zone)
	literal("comity.source", e.Source)
	literal("comity.source.zone", e.SourceZone)
	literal("comity.destination", e.Destination)
	literal("comity.destination.zone", e.DestinationZone)
	if e.DestinationZone == "" {
		out = append(out, &tracingv3.CustomTag{Tag: "comity.destination.zone", Type: &tracingv3.CustomTag_Metadata_{Metadata: &tracingv3.CustomTag_Metadata{
			Kind: &metadatav3.MetadataKind{Kind: &metadatav3.MetadataKind_Host_{Host: &metadatav3.MetadataKind_Host{}}},
			MetadataKey: &metadatav3.MetadataKey{Key: matchNamespace, Path: []*metadatav3.MetadataKey_PathSegment{{
				Segment: &metadatav3.MetadataKey_PathSegment_Key{Key: zoneLabel},
			}}},
		}}})
	}
	for _, t := range tags {
		if t.Header == "" {
			literal(t.Name, t.Literal)
			continue
		}
		out = append(out, &tracingv3.CustomTag{Tag: t.Name, Type: &tracingv3.CustomTag_RequestHeader{RequestHeader: &tracingv3.CustomTag_Header{Name: t.Header, DefaultValue: t.Default}}})
	}
	return out
}
