package envoy

import (
	"net/netip"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/xds/ir"
)

// outside makes a cluster lead out of the mesh. What is resolved by name is ready at once, without addresses at first: a
// name server that is slow or away holds up nothing else.
func (b *messages) outside(m *clusterv3.Cluster, c ir.Cluster) {
	kind := clusterv3.Cluster_STATIC
	m.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: c.Name}
	for _, e := range c.Outside.Endpoints {
		if _, err := netip.ParseAddr(e.Address); err != nil {
			kind = clusterv3.Cluster_STRICT_DNS
		}
		if n := len(m.GetLoadAssignment().GetEndpoints()); n == 0 || m.LoadAssignment.Endpoints[n-1].Priority != e.Priority {
			m.LoadAssignment.Endpoints = append(m.LoadAssignment.Endpoints, &endpointv3.LocalityLbEndpoints{Priority: e.Priority})
		}
		l := m.LoadAssignment.Endpoints[len(m.GetLoadAssignment().GetEndpoints())-1]
		l.LbEndpoints = append(l.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(e.Address, e.Port)}},
			LoadBalancingWeight: u32(e.Weight),
		})
	}
	m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: kind}
	m.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{}
	if kind == clusterv3.Cluster_STRICT_DNS {
		m.WaitForWarmOnInit = no()
		m.RespectDnsTtl = true //nolint:staticcheck // its successor is another type of cluster, which Envoys of the last year don't know
		// Few machines reach IPv6 servers only, and many can't reach any.
		m.DnsLookupFamily = clusterv3.Cluster_V4_PREFERRED
		m.DnsFailureRefreshRate = &clusterv3.Cluster_RefreshRate{BaseInterval: seconds(1), MaxInterval: seconds(10)} //nolint:staticcheck // as above
	}
	if t := c.Outside.TLS; t != nil {
		m.TransportSocket = b.tlsSocket(b.outsideTLS(*t, c.Protocol))
	}
}

// outsideTLS believes whoever shows a certificate of the authorities with the server's name.
func (b *messages) outsideTLS(t ir.OutsideTLS, p ir.Protocol) proto.Message {
	context := &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{{
		SanType: tlsv3.SubjectAltNameMatcher_DNS,
		Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: t.ServerName}},
	}}}
	common := &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
	}
	switch p {
	case ir.HTTP1:
		common.AlpnProtocols = []string{"http/1.1"}
	case ir.HTTP2:
		common.AlpnProtocols = alpn(true)
	case ir.Bytes:
	}
	if t.TLS13 {
		common.TlsParams = tls13()
	}
	if t.Certificate != "" {
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{{Name: t.Certificate, SdsConfig: fromAgentSoon()}}
	}
	if t.AuthoritySecret == "" {
		context.TrustedCa = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: t.Authorities}}
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: context}
	} else {
		common.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         context,
			ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: t.AuthoritySecret, SdsConfig: fromAgentSoon()},
		}}
	}
	return &tlsv3.UpstreamTlsContext{Sni: t.ServerName, CommonTlsContext: common}
}

// fromAgentSoon is fromAgent for what may be missing on the machine: nothing else waits for it for long, and until it is
// there connections that need it fail.
func fromAgentSoon() *corev3.ConfigSource {
	s := fromAgent()
	s.InitialFetchTimeout = seconds(1)
	return s
}
