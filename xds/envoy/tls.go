package envoy

import (
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/xds/ir"
)

// nobody is an identity that no authority can issue: "invalid" is no trust domain (RFC 6761).
const nobody = "spiffe://nobody.invalid/"

func (b *messages) tlsSocket(m proto.Message) *corev3.TransportSocket {
	return &corev3.TransportSocket{
		Name:       "envoy.transport_sockets.tls",
		ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: b.any(m)},
	}
}

// tls13 sets both ends: Envoy's own maximum for clients is 1.2.
func tls13() *tlsv3.TlsParameters {
	return &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3}
}

func ownCertificate() []*tlsv3.SdsSecretConfig {
	return []*tlsv3.SdsSecretConfig{{Name: IdentitySecret, SdsConfig: fromAgent()}}
}

func alpn(http2 bool) []string {
	if http2 {
		return []string{"h2"}
	}
	return nil
}

// clientTLS expects one trust domain and one exact set of identities: with several of either, a
// certificate with a forged second URI would pass for the server.
func (b *messages) clientTLS(p ir.Peer, http2 bool) proto.Message {
	sans := make([]*tlsv3.SubjectAltNameMatcher, len(p.Identities))
	for i, id := range p.Identities {
		sans[i] = uriSAN(id)
	}
	return &tlsv3.UpstreamTlsContext{
		Sni:            p.SNI,
		MaxSessionKeys: u32(0), // a resumed session is not validated again
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:                      tls13(),
			AlpnProtocols:                  alpn(http2),
			TlsCertificateSdsSecretConfigs: ownCertificate(),
			ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: sans},
				ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: p.Trust, SdsConfig: fromADS()},
			}},
		},
	}
}

// impossibleTLS can't succeed: no certificate has this hash.
func impossibleTLS() proto.Message {
	return &tlsv3.UpstreamTlsContext{
		MaxSessionKeys: u32(0),
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams: tls13(),
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				VerifyCertificateHash: []string{strings.Repeat("0", 64)},
			}},
		},
	}
}

// serverTLS demands a certificate and resumes nothing: resumption would skip validation.
func (b *messages) serverTLS(t ir.ServerTLS) proto.Message {
	return &tlsv3.DownstreamTlsContext{
		RequireClientCertificate:         yes(),
		SessionTicketKeysType:            &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
		DisableStatefulSessionResumption: true,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams:                      tls13(),
			AlpnProtocols:                  alpn(t.HTTP2),
			TlsCertificateSdsSecretConfigs: ownCertificate(),
			ValidationContextType: &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
				ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: t.Peers, SdsConfig: fromADS()},
			},
		},
	}
}

// secretMessage trusts one trust domain by Envoy's SPIFFE validator, which takes the bundle by the
// certificate's first URI; the default validator would take any root for any name.
func secretMessage(b *messages, s ir.Secret) (proto.Message, error) {
	v := &tlsv3.CertificateValidationContext{
		CustomValidatorConfig: b.extension("envoy.tls.cert_validator.spiffe", &tlsv3.SPIFFECertValidatorConfig{
			TrustDomains: []*tlsv3.SPIFFECertValidatorConfig_TrustDomain{{
				Name:        s.TrustDomain,
				TrustBundle: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: s.Roots}},
			}},
		}),
	}
	return &tlsv3.Secret{Name: s.Name, Type: &tlsv3.Secret_ValidationContext{ValidationContext: v}}, b.err
}

func uriSAN(id string) *tlsv3.SubjectAltNameMatcher {
	return &tlsv3.SubjectAltNameMatcher{
		SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id}},
	}
}
