package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/comity-mesh/comity/xds/ir"
)

const (
	// Of one connection from outside: with the 50,000 that an ingress accepts, 1 MB each as in the mesh would be 50 GB.
	publicBuffer = 64 << 10
	// Of HTTP/2: as much as the buffer for a stream, and some streams at a time.
	publicWindow           = 64 << 10
	publicConnectionWindow = 1 << 20
	publicStreams          = 100
)

// Headers in which a Gateway tells servers of a client's certificate, which it has verified. They are of this proxy alone;
// x-forwarded-client-cert is of whoever calls in the mesh, which is the ingress.
const (
	clientHashHeader    = "comity-client-certificate-sha256"
	clientSubjectHeader = "comity-client-certificate-subject"
)

// guardListener bounds what a connection from outside can take.
func guardListener(m *listenerv3.Listener) {
	m.TrafficDirection = corev3.TrafficDirection_INBOUND
	m.PerConnectionBufferLimitBytes = u32(publicBuffer)
}

// guardRequests is what Envoy's documentation advises for proxies at the edge, and who the client is.
func guardRequests(m *hcmv3.HttpConnectionManager, e ir.Edge) {
	// x-forwarded-for gets the client's address, x-forwarded-proto how it came; what it wrote there itself is believed only as far as
	// proxies in front are.
	m.UseRemoteAddress, m.XffNumTrustedHops, m.SkipXffAppend = yes(), e.TrustedHops, false
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE
	// Servers take an escaped slash for a slash or not; so that routes here mean what they mean there, clients are sent to
	// the plain form.
	m.PathWithEscapedSlashesAction = hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT
	m.StripTrailingHostDot = true
	m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{
		IdleTimeout: seconds(300),
		// x_forwarded_for is x-forwarded-for to many a server.
		HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_REJECT_REQUEST,
	}
	m.StreamIdleTimeout = seconds(300)
	m.Http2ProtocolOptions = &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:        u32(publicStreams),
		InitialStreamWindowSize:     u32(publicWindow),
		InitialConnectionWindowSize: u32(publicConnectionWindow),
	}
}

// guardRoutes takes out of requests what only this proxy may say, and says it.
func guardRoutes(m *routev3.RouteConfiguration, e ir.EdgeRoutes) {
	m.IgnorePortInHostMatching = true
	// Envoy removes before it adds.
	m.RequestHeadersToRemove = []string{clientHashHeader, clientSubjectHeader, "x-envoy-external-address"}
	if !e.TellClient {
		return
	}
	for _, h := range []*corev3.HeaderValue{
		{Key: clientHashHeader, Value: "%DOWNSTREAM_PEER_FINGERPRINT_256%"}, {Key: clientSubjectHeader, Value: "%DOWNSTREAM_PEER_SUBJECT%"},
	} {
		m.RequestHeadersToAdd = append(m.RequestHeadersToAdd, &corev3.HeaderValueOption{Header: h, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD})
	}
}

// publicTLS ends TLS with certificates that only the agent of this machine has.
func (b *messages) publicTLS(t ir.PublicTLS) proto.Message {
	m := &tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3},
	}}
	if t.Minimum13 {
		m.CommonTlsContext.TlsParams.TlsMinimumProtocolVersion = tlsv3.TlsParameters_TLSv1_3
	}
	if t.HTTP {
		m.CommonTlsContext.AlpnProtocols = []string{"h2", "http/1.1"}
	}
	for _, name := range t.Certificates {
		m.CommonTlsContext.TlsCertificateSdsSecretConfigs = append(m.CommonTlsContext.TlsCertificateSdsSecretConfigs,
			&tlsv3.SdsSecretConfig{Name: name, SdsConfig: fromAgent()})
	}
	if t.Clients == "" {
		return m
	}
	m.RequireClientCertificate = wrapperspb.Bool(!t.Optional)
	// A resumed session would skip the validation.
	m.SessionTicketKeysType = &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true}
	m.DisableStatefulSessionResumption = true
	valid := &tlsv3.CertificateValidationContext{}
	if t.Optional {
		valid.TrustChainVerification = tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED
	}
	m.CommonTlsContext.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         valid,
			ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: t.Clients, SdsConfig: fromAgent()},
		},
	}
	return m
}
