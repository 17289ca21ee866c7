package envoy

import (
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	commonmatcherv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/comity-mesh/comity/xds/ir"
)

// matchNamespace is the metadata by which Envoy chooses among transport_socket_matches.
const matchNamespace = "envoy.transport_socket_match"

// zoneLabel in it names an endpoint's zone.
const zoneLabel = "zone"

func clusterMessage(b *messages, c ir.Cluster) (proto.Message, error) {
	if c.Proxyless {
		return proxylessClusterMessage(b, c)
	}
	m := &clusterv3.Cluster{
		Name:            c.Name,
		ConnectTimeout:  duration(c.ConnectTimeout),
		LbPolicy:        clusterv3.Cluster_ROUND_ROBIN,
		CircuitBreakers: circuitBreakers(c.Breaker),
	}
	switch {
	case c.Outside != nil:
		b.outside(m, c)
	case c.Forward != nil:
		b.forwardCluster(m, *c.Forward)
	case c.Admitted:
		chosenCluster(m)
	case c.Inside != "":
		b.insideCluster(m, c.Inside)
	case c.Fixed != nil:
		m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		m.LoadAssignment = fixedEndpoint(c.Name, *c.Fixed)
	default:
		source := fromADS()
		// A net only: endpoints come right after their cluster. Without it Envoy waits 15 s for those that don't.
		source.InitialFetchTimeout = seconds(1)
		m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		m.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: source}
		m.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{
			// By default Envoy waits up to 1 s to merge updates of health and weight: a second of requests to the dead.
			UpdateMergeWindow: durationpb.New(0),
			LocalityConfigSpecifier: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
				LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
			},
		}
	}
	if c.Balance != nil {
		if m.CommonLbConfig != nil {
			m.CommonLbConfig.LocalityConfigSpecifier = nil // it is in the policy, and Envoy refuses both
		}
		m.LoadBalancingPolicy = b.balance(*c.Balance, c.Outside != nil)
	}
	if h := c.HealthCheck; h != nil {
		m.HealthChecks = healthChecks(c)
		// What the zone took out is out, whatever a check says; by default Envoy would wait for one to fail.
		m.IgnoreHealthOnHostRemoval = true
	}
	if d := c.Detection; d != nil {
		if m.CommonLbConfig != nil {
			m.CommonLbConfig.HealthyPanicThreshold = percent(float64(d.PanicPercent))
		}
		m.OutlierDetection = outlierDetection(*d)
		if h := c.HealthCheck; h != nil && h.TCP {
			// The sidecar is there; that says nothing of the application for which its endpoint was ejected.
			m.OutlierDetection.SuccessfulActiveHealthCheckUnejectHost = no()
		}
		m.CloseConnectionsOnHostHealthFailure = true
	}
	if c.Protocol == ir.Bytes || slices.ContainsFunc(c.Peers, func(p ir.Peer) bool { return p.L4 }) {
		// The kernel notices peers that vanished; HTTP/2 has its own keepalive, with which applications may not agree.
		m.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveProbes: u32(3), KeepaliveTime: u32(10), KeepaliveInterval: u32(5),
		}}
	}
	if c.Protocol != ir.Bytes {
		m.TypedExtensionProtocolOptions = map[string]*anypb.Any{
			"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": b.any(httpOptions(c)),
		}
	}
	if c.MTLS {
		m.TransportSocketMatches = b.peerSockets(c)
		if c.Protocol == ir.Negotiated {
			// No endpoint gets it, the last match is for all; Envoy's own would be plaintext, with which nothing can be negotiated.
			m.TransportSocket = b.tlsSocket(impossibleTLS())
		}
	}
	return b.patched(m, c.Patches), b.err
}

func httpOptions(c ir.Cluster) *httpv3.HttpProtocolOptions {
	explicit := &httpv3.HttpProtocolOptions_ExplicitHttpConfig{}
	if c.Protocol == ir.HTTP1 {
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}
	} else {
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: http2Options(c)}
	}
	o := &httpv3.HttpProtocolOptions{
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: duration(c.IdleTimeout), MaxConnectionDuration: duration(c.MaxAge), MaxRequestsPerConnection: someU32(c.MaxRequests)},
		UpstreamProtocolOptions:   &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit},
	}
	if c.Protocol == ir.Negotiated {
		o.UpstreamProtocolOptions = negotiated(c)
	}
	if c.Forward != nil {
		// Envoy demands it of clusters that lead anywhere, for TLS, which this one does not speak.
		o.UpstreamHttpProtocolOptions = &corev3.UpstreamHttpProtocolOptions{AutoSni: true, AutoSanValidation: true}
	}
	if c.Detection != nil {
		o.OutlierDetection = &httpv3.HttpProtocolOptions_OutlierDetection{ErrorMatcher: failedAnswer(c.Detection.Answers)}
	}
	return o
}

func http2Options(c ir.Cluster) *corev3.Http2ProtocolOptions {
	h2 := &corev3.Http2ProtocolOptions{}
	if d := c.Detection; d != nil && d.KeepAlive > 0 {
		// The only way to notice soon that packets vanish; idle connections are closed, so it costs nothing when idle.
		h2.ConnectionKeepalive = &corev3.KeepaliveSettings{Interval: duration(d.KeepAlive), Timeout: duration(d.KeepAliveTimeout)}
	}
	return h2
}

// failedAnswer matches the answers by which an endpoint's own sidecar says that its application does not, and those that a policy
// names. No other answer counts against an endpoint, whatever its status.
func failedAnswer(also ir.Answers) *commonmatcherv3.MatchPredicate {
	header := func(h *routev3.HeaderMatcher) *commonmatcherv3.MatchPredicate {
		return &commonmatcherv3.MatchPredicate{Rule: &commonmatcherv3.MatchPredicate_HttpResponseHeadersMatch{
			HttpResponseHeadersMatch: &commonmatcherv3.HttpHeadersMatch{Headers: []*routev3.HeaderMatcher{h}},
		}}
	}
	status := func(re string) *commonmatcherv3.MatchPredicate {
		return header(headerMatcher(":status", &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: re}}}))
	}
	switch also { // the sidecar's own are 503
	case ir.GatewayErrors:
		return status("50[234]")
	case ir.ServerErrors:
		return status("5[0-9][0-9]")
	}
	return header(&routev3.HeaderMatcher{Name: noAnswerHeader, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}})
}

// outlierDetection ejects by what requests meet, at once: the interval only decides when an endpoint
// comes back, so it can be long and cost nothing. Short ejections send traffic back into the hole.
// What counts as a failed answer says failedAnswer; the statuses that an application passes on from deeper in the call graph
// would eject endpoints that are well.
func outlierDetection(d ir.Detection) *clusterv3.OutlierDetection {
	m := &clusterv3.OutlierDetection{
		SplitExternalLocalOriginErrors: true,
		ConsecutiveLocalOriginFailure:  u32(d.LocalFailures), EnforcingConsecutiveLocalOriginFailure: u32(100),
		Consecutive_5Xx: u32(d.GatewayFailures), EnforcingConsecutive_5Xx: u32(100),
		EnforcingConsecutiveGatewayFailure: u32(0),
		EnforcingSuccessRate:               u32(0), EnforcingLocalOriginSuccessRate: u32(0),
		Interval: duration(d.Interval), BaseEjectionTime: duration(d.Ejection), MaxEjectionPercent: u32(d.MaxEjectionPercent),
	}
	if d.FailurePercent > 0 {
		m.FailurePercentageThreshold, m.EnforcingFailurePercentage = u32(d.FailurePercent), u32(100)
		m.EnforcingFailurePercentageLocalOrigin = u32(100)
		m.FailurePercentageRequestVolume, m.FailurePercentageMinimumHosts = u32(d.FailureRequests), u32(d.FailureEndpoints)
	}
	return m
}

// peerSockets chooses by an endpoint's zone. The last match is for endpoints of no known zone: without
// it Envoy would speak plaintext to them.
func (b *messages) peerSockets(c ir.Cluster) []*clusterv3.Cluster_TransportSocketMatch {
	var out []*clusterv3.Cluster_TransportSocketMatch
	for _, p := range c.Peers {
		out = append(out, &clusterv3.Cluster_TransportSocketMatch{
			Name:            p.Zone,
			Match:           zoneMetadata(p.Zone),
			TransportSocket: b.tlsSocket(b.clientTLS(p, c.Protocol == ir.HTTP2 || c.Protocol == ir.Negotiated && !p.L4)),
		})
	}
	return append(out, &clusterv3.Cluster_TransportSocketMatch{
		Name: "none", Match: &structpb.Struct{}, TransportSocket: b.tlsSocket(impossibleTLS()),
	})
}

func zoneMetadata(zone string) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{zoneLabel: structpb.NewStringValue(zone)}}
}
