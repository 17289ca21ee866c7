package envoy

import (
	"maps"
	"slices"
	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/mesh"
)

// Every listener can tell the agent of what passes through it, and does so only while the agent sets TapKey in Envoy's
// runtime, to millionths of all: so a tap changes no listener. Not set, it costs a look into a table, 0.02 us a request
// (1,000 of these filters in one listener made a request 20 us dearer), and no timer runs.
const (
	// TapKey is in the agent's hands alone.
	TapKey = "comity.tap"
	// TapConnections is the log of connections that a listener took; the others are of requests, and of connections that are passed on.
	TapConnections = "connections"
	tapRequests    = "requests"
	tapBytes       = "bytes"
)

// tapTags are those of what is told to the agent, which knows them by these names (dataplane/tap): what the entries of access
// logs have no field for.
func tapTags(requests bool) map[string]string {
	tags := map[string]string{
		"chain": "%FILTER_CHAIN_NAME%", "flags": "%RESPONSE_FLAGS%", "server": "%UPSTREAM_PEER_URI_SAN%",
		"zone": "%UPSTREAM_METADATA(" + matchNamespace + ":" + zoneLabel + ")%",
	}
	if !requests { // what an admission found out; of requests their metadata say it
		tags["decision"], tags["policy"] = stateOf(decisionState), stateOf(policyState)
		return tags
	}
	tags["b3"], tags["traceparent"] = "%REQ(X-B3-TRACEID)%", "%REQ(TRACEPARENT)%"
	return tags
}

// tellRelayed is tellBytes of connections whose client was recognised by the listener that relays them.
func (b *messages) tellRelayed() *accesslogv3.AccessLog {
	tags := tapTags(false)
	tags["caller"] = stateOf(callerState)
	return b.tap("envoy.access_loggers.tcp_grpc", &grpclogv3.TcpGrpcAccessLogConfig{CommonConfig: tapLog(tapBytes, tags)})
}

// tellRequests tells of requests, tellBytes of connections.
func (b *messages) tellRequests() *accesslogv3.AccessLog {
	return b.tap("envoy.access_loggers.http_grpc", &grpclogv3.HttpGrpcAccessLogConfig{CommonConfig: tapLog(tapRequests, tapTags(true)), AdditionalRequestHeadersToLog: mesh.TapHeaders()})
}

func (b *messages) tellBytes(name string) *accesslogv3.AccessLog {
	return b.tap("envoy.access_loggers.tcp_grpc", &grpclogv3.TcpGrpcAccessLogConfig{CommonConfig: tapLog(name, tapTags(false))})
}

func (b *messages) tap(logger string, config proto.Message) *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: logger,
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_RuntimeFilter{RuntimeFilter: &accesslogv3.RuntimeFilter{
			RuntimeKey: TapKey, UseIndependentRandomness: true, PercentSampled: &typev3.FractionalPercent{Denominator: typev3.FractionalPercent_MILLION},
		}}},
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.any(config)},
	}
}

// tapLog is the same wherever it can be: Envoy has one stream, and what belongs to it, for all that are alike.
func tapLog(name string, tags map[string]string) *grpclogv3.CommonGrpcAccessLogConfig {
	name, _, _ = strings.Cut(name, "/") // "inbound" of all chains
	c := &grpclogv3.CommonGrpcAccessLogConfig{
		LogName: name, TransportApiVersion: corev3.ApiVersion_V3,
		GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: LocalSDSCluster}}},
		// Each entry goes at once, so that nothing waits for a timer, and none need run.
		BufferSizeBytes: u32(0), BufferFlushInterval: seconds(3600),
	}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		c.CustomTags = append(c.CustomTags, &tracingv3.CustomTag{Tag: k, Type: &tracingv3.CustomTag_Value{Value: tags[k]}})
	}
	return c
}
