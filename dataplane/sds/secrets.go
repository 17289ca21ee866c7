package sds

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/comity-mesh/comity/identity"
)

// Names of the secrets that are served.
const (
	// Identity is the proxy's certificate chain and private key.
	Identity = "identity"
	// ZoneRoots validates peers of the proxy's own trust domain: a SPIFFE validator with that one
	// trust domain.
	ZoneRoots = "zone_roots"
)

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// secret is one version of one secret, marshalled once for all streams.
type secret struct {
	version string
	body    *anypb.Any
}

// Secrets is what a Server serves. It is safe for concurrent use; the zero value is not usable, see
// NewSecrets.
type Secrets struct {
	mu      sync.Mutex
	current map[string]secret
	changed chan struct{} // closed and replaced at every change
}

// NewSecrets holds nothing yet: Envoys that ask are answered when there is something.
func NewSecrets() *Secrets {
	return &Secrets{current: map[string]secret{}, changed: make(chan struct{})}
}

// SetIdentity replaces the certificate (leaf first, as in TLS) and its key.
func (s *Secrets) SetIdentity(chain []*x509.Certificate, key *ecdsa.PrivateKey) error {
	if len(chain) == 0 || !key.PublicKey.Equal(chain[0].PublicKey) {
		return errors.New("serve an identity: the key does not belong to the certificate")
	}
	keyPEM, err := identity.PEMKey(key)
	if err != nil {
		return fmt.Errorf("serve an identity: %w", err)
	}
	return s.set(&tlsv3.Secret{Name: Identity, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(identity.PEMCertificates(chain...)),
		PrivateKey:       inline(keyPEM),
	}}})
}

// SetRoots replaces the roots of the proxy's trust domain. A bundle without authorities is refused:
// Envoy would refuse it too and keep the old trust.
func (s *Secrets) SetRoots(b identity.Bundle) error {
	if len(b.Authorities) == 0 {
		return errors.New("serve roots: there are none")
	}
	spiffe, err := anypb.New(&tlsv3.SPIFFECertValidatorConfig{TrustDomains: []*tlsv3.SPIFFECertValidatorConfig_TrustDomain{{
		Name: string(b.TrustDomain), TrustBundle: inline(b.PEM()),
	}}})
	if err != nil {
		return fmt.Errorf("serve roots: %w", err)
	}
	return s.set(&tlsv3.Secret{Name: ZoneRoots, Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		CustomValidatorConfig: &corev3.TypedExtensionConfig{Name: "envoy.tls.cert_validator.spiffe", TypedConfig: spiffe},
	}}})
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func (s *Secrets) set(m *tlsv3.Secret) error {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		// The message may hold the key; its error is not passed on.
		return fmt.Errorf("serve secret %s: it can't be marshalled", m.GetName())
	}
	// The version is shown in Envoy's admin; a digest of a secret that holds 256 random bits tells
	// nothing about it.
	sum := sha256.Sum256(body)
	next := secret{version: hex.EncodeToString(sum[:8]), body: &anypb.Any{TypeUrl: secretType, Value: body}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current[m.GetName()].version == next.version {
		return nil
	}
	s.current[m.GetName()] = next
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// get returns the current version, false if there is none yet.
func (s *Secrets) get(name string) (secret, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.current[name]
	return v, ok
}

// wake is closed at the next change.
func (s *Secrets) wake() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}
