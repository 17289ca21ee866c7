package envoy

import (
	"slices"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	dataaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	statsaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stats/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/comity-mesh/comity/internal/signals"
	"github.com/comity-mesh/comity/xds/ir"
)

// Envoy counts requests by cluster and zone, and by listener, at no cost that could be measured. What it does not tell apart, it
// notes by loggers that write nothing but counters: answers that it makes before it chooses an endpoint, gRPC's errors, connections,
// and callers where a policy wants that. A logger costs a request less than 1 us if its filter turns it down, and up to 1.5 us if it counts it
// (docs/observability.md).

// httpNotes are the loggers of a manager of HTTP.
func (b *messages) httpNotes(h ir.HTTP) []*accesslogv3.AccessLog {
	of := clientTags()
	if h.Authorize {
		of = serverTags(h.StatPrefix, h.Callers)
	}
	out := []*accesslogv3.AccessLog{b.note(grpcErrors(), counter(signals.NotedErrors, append(slices.Clip(of), tag(signals.TagStatus, "%GRPC_STATUS(SNAKE_STRING)%"))))}
	code := tag(signals.TagCode, "%RESPONSE_CODE%")
	switch {
	case !h.Authorize:
		out = append(out, b.note(ownAnswers(), counter(signals.NotedAnswers, append(slices.Clip(of), code))))
	case h.Callers:
		out = append(out, b.note(nil, counter(signals.NotedCalls, append(slices.Clip(of), code))))
	}
	if h.Methods {
		out = append(out, b.methodNotes(h.StatPrefix, code)...)
	}
	return out
}

// methodNotes count answers by method. What strangers make up is one method, so that they can't use up the counters that there may be.
func (b *messages) methodNotes(chain string, code *statsaccesslogv3.Config_Tag) []*accesslogv3.AccessLog {
	known := func(not bool, method string) *accesslogv3.AccessLog {
		filter := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{HeaderFilter: &accesslogv3.HeaderFilter{
			Header: &routev3.HeaderMatcher{Name: ":method", InvertMatch: not, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: strings.Join(signals.Methods(), "|")}},
			}}},
		}}}
		return b.note(filter, counter(signals.NotedMethods, append(serverTags(chain, false), tag(signals.TagMethod, method), code)))
	}
	return []*accesslogv3.AccessLog{known(false, "%REQ(:METHOD)%"), known(true, signals.Other)}
}

// tcpNotes are the logger of a TCP proxy, which must flush its logs when connected. Callers are always told apart: of connections
// there are few.
func (b *messages) tcpNotes(t ir.TCP) []*accesslogv3.AccessLog {
	of := clientTags()
	if t.Serves {
		of = serverTags(t.StatPrefix, true)
	}
	if t.Serves && t.Relayed {
		of = []*statsaccesslogv3.Config_Tag{tag(signals.TagChain, t.StatPrefix), tag(signals.TagCaller, stateOf(callerState))}
	}
	c := counter(signals.NotedConnections, of)
	open := &statsaccesslogv3.Config_Gauge{
		Stat: &statsaccesslogv3.Config_Stat{Name: signals.NotedOpen, Tags: of}, ValueFixed: wrapperspb.UInt64(1),
		AddSubtract: &statsaccesslogv3.Config_Gauge_PairedAddSubtract{
			AddLogType: dataaccesslogv3.AccessLogType_TcpUpstreamConnected, SubLogType: dataaccesslogv3.AccessLogType_TcpConnectionEnd,
		},
	}
	// What was added is subtracted when the connection is gone, without a log of that; one at the end of a connection that reached nobody
	// would be an error in Envoy's own log.
	return []*accesslogv3.AccessLog{b.note(connected(false), c, open)}
}

// note is a logger that counts what its filter lets by; nil: all.
func (b *messages) note(filter *accesslogv3.AccessLogFilter, c *statsaccesslogv3.Config_Counter, gauges ...*statsaccesslogv3.Config_Gauge) *accesslogv3.AccessLog {
	m := &statsaccesslogv3.Config{Counters: []*statsaccesslogv3.Config_Counter{c}, Gauges: gauges, StatsScope: &typev3.Scope{
		// A scope of its own: one that loggers share crashes Envoy 1.40 when it ends.
		Prefix: signals.NotesScope, MaxCounters: u32(signals.MaxNotes), MaxGauges: u32(signals.MaxNotes),
	}}
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.stats", Filter: filter,
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.any(m)},
	}
}

func counter(name string, tags []*statsaccesslogv3.Config_Tag) *statsaccesslogv3.Config_Counter {
	return &statsaccesslogv3.Config_Counter{Stat: &statsaccesslogv3.Config_Stat{Name: name, Tags: tags}, ValueFixed: wrapperspb.UInt64(1)}
}

func tag(name, format string) *statsaccesslogv3.Config_Tag {
	return &statsaccesslogv3.Config_Tag{Name: name, ValueFormat: format}
}

// clientTags say who was asked.
func clientTags() []*statsaccesslogv3.Config_Tag {
	return []*statsaccesslogv3.Config_Tag{tag(signals.TagCluster, "%UPSTREAM_CLUSTER%"), tag(signals.TagZone, upstreamZone)}
}

// serverTags say by which chain somebody asked, and who, if wanted.
func serverTags(chain string, callers bool) []*statsaccesslogv3.Config_Tag {
	out := []*statsaccesslogv3.Config_Tag{tag(signals.TagChain, chain)}
	if callers {
		out = append(out, tag(signals.TagCaller, "%DOWNSTREAM_PEER_URI_SAN%"))
	}
	return out
}

// ownAnswers is met by answers of an Envoy that chose no endpoint for them: faults, limits, and what another server refused.
func ownAnswers() *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{"FI", "RL", "UAEX"}},
	}}
}

// grpcErrors is met by answers to requests of gRPC whose status is not OK.
func grpcErrors() *accesslogv3.AccessLogFilter {
	return allOf(
		&accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_HeaderFilter{HeaderFilter: &accesslogv3.HeaderFilter{
			Header: &routev3.HeaderMatcher{Name: "content-type", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
				MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "application/grpc"},
			}}},
		}}},
		&accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_GrpcStatusFilter{GrpcStatusFilter: &accesslogv3.GrpcStatusFilter{
			Statuses: []accesslogv3.GrpcStatusFilter_Status{accesslogv3.GrpcStatusFilter_OK}, Exclude: true,
		}}},
	)
}

// connected is met when a connection of TCP has reached an endpoint, or else at its end.
func connected(not bool) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_LogTypeFilter{LogTypeFilter: &accesslogv3.LogTypeFilter{
		Types: []dataaccesslogv3.AccessLogType{dataaccesslogv3.AccessLogType_TcpUpstreamConnected}, Exclude: not,
	}}}
}

// tcpLogs are the logs, at the end of a connection, the taps and the notes.
func (b *messages) tcpLogs(t ir.TCP) []*accesslogv3.AccessLog {
	fields := tcpLogFields()
	if t.Relayed {
		fields["caller"] = stateOf(callerState)
	}
	logs := b.accessLogs(t.Telemetry, fields)
	for _, l := range logs {
		atEnd := []*accesslogv3.AccessLogFilter{connected(true)}
		if l.Filter != nil {
			atEnd = append(atEnd, l.Filter)
		}
		l.Filter = allOf(atEnd...)
	}
	tap := b.tellBytes(tapBytes)
	if t.Relayed {
		tap = b.tellRelayed()
	}
	return append(append(logs, tap), b.tcpNotes(t)...)
}
