package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// CertSource gives the certificate to present, asked at every handshake so that renewals need no
// restart. It must be safe for concurrent use.
type CertSource func() (*tls.Certificate, error)

// TLSOptions are the parts of a TLS configuration that may be left out.
type TLSOptions struct {
	// Now is the clock of the verification; nil means time.Now.
	Now func() time.Time
	// ClientCertOptional lets clients without certificate in (servers only). One that is presented
	// is verified and authorised all the same. Handlers must ask PeerID.
	ClientCertOptional bool
	// NextProtos are the ALPN protocols. gRPC sets its own.
	NextProtos []string
}

func (o TLSOptions) now() time.Time {
	if o.Now != nil {
		return o.Now()
	}
	return time.Now()
}

func (o TLSOptions) base() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: o.NextProtos,
		// A resumed session would let in a peer whose trust has ended since.
		SessionTicketsDisabled: true,
	}
}

// ServerTLS is the TLS 1.3 configuration of a server that presents cert and demands an X509-SVID
// verified against bundles and admitted by authorize. The errors of the handshake say why.
func ServerTLS(cert CertSource, bundles BundleSource, authorize Authorizer, o TLSOptions) *tls.Config {
	c := o.base()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert() }
	// The standard library's own verification knows no SPIFFE IDs; VerifyConnection does all of it.
	c.ClientAuth = tls.RequireAnyClientCert
	if o.ClientCertOptional {
		c.ClientAuth = tls.RequestClientCert
	}
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 && o.ClientCertOptional {
			return nil
		}
		return verifyAndAuthorize(s.PeerCertificates, bundles, authorize, o.now())
	}
	return c
}

// ClientTLS is the TLS 1.3 configuration of a client that presents cert (nil for none) and demands
// that the server is an X509-SVID verified against bundles and admitted by authorize.
func ClientTLS(cert CertSource, bundles BundleSource, authorize Authorizer, o TLSOptions) *tls.Config {
	c := clientBase(cert, o)
	c.VerifyConnection = func(s tls.ConnectionState) error {
		return verifyAndAuthorize(s.PeerCertificates, bundles, authorize, o.now())
	}
	return c
}

// PinnedClientTLS is ClientTLS for first contact, when all that is known is the pin of the other
// side's root from a token. The server must send its root in its chain; the root must match the pin,
// and the leaf must be the given path (GlobalCPPath, "/fed/zone-cp") of the trust domain that the
// root names. Read the bundle for later connections from the verified state with PinnedBundle.
func PinnedClientTLS(cert CertSource, pin Pin, path string, o TLSOptions) *tls.Config {
	c := clientBase(cert, o)
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := verifyPinned(s.PeerCertificates, pin, path, o.now())
		return err
	}
	return c
}

// PinnedBundle returns the bundle of a peer whose connection PinnedClientTLS has verified; its
// Sequence is 0.
func PinnedBundle(s tls.ConnectionState, pin Pin, path string, now time.Time) (Bundle, error) {
	return verifyPinned(s.PeerCertificates, pin, path, now)
}

func clientBase(cert CertSource, o TLSOptions) *tls.Config {
	c := o.base()
	// Host names prove nothing here: VerifyConnection verifies chain, identity and authorisation.
	c.InsecureSkipVerify = true
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if cert == nil {
			return &tls.Certificate{}, nil
		}
		return cert()
	}
	return c
}

func verifyAndAuthorize(certs []*x509.Certificate, bundles BundleSource, authorize Authorizer, now time.Time) error {
	id, err := VerifyPeer(certs, bundles, now)
	if err != nil {
		return err
	}
	if authorize == nil {
		return fmt.Errorf("%w: no authorizer admits %q", ErrPeer, id)
	}
	if err := authorize(id); err != nil {
		return fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return nil
}

func verifyPinned(certs []*x509.Certificate, pin Pin, path string, now time.Time) (Bundle, error) {
	if len(certs) == 0 || len(certs) > maxChain {
		return Bundle{}, fmt.Errorf("%w: a chain of %d certificates, not 1 to %d", ErrPeer, len(certs), maxChain)
	}
	for _, c := range certs[1:] {
		if KeyPin(c) != pin {
			continue
		}
		leaf, err := LeafID(certs[0])
		if err != nil {
			return Bundle{}, fmt.Errorf("%w: %w", ErrPeer, err)
		}
		b := Bundle{TrustDomain: leaf.td, Authorities: []*x509.Certificate{c}, RefreshHint: defaultRefreshHint}
		if err := b.Check(now); err != nil {
			return Bundle{}, fmt.Errorf("%w: %w", ErrPeer, err)
		}
		return b, verifyAndAuthorize(certs, b, AuthorizeOneOf(leaf.td.ID(path)), now)
	}
	return Bundle{}, fmt.Errorf("%w: no certificate of its chain has the pinned key", ErrPeer)
}

// PeerID is the identity of the other side of a connection made with ServerTLS or ClientTLS, an
// error if it presented no certificate.
func PeerID(s tls.ConnectionState) (ID, error) {
	if !s.HandshakeComplete || len(s.PeerCertificates) == 0 {
		return ID{}, errors.New("the peer presented no certificate")
	}
	return LeafID(s.PeerCertificates[0])
}

// TLSCertificate joins a chain (leaf first) and its key for the TLS stack.
func TLSCertificate(chain []*x509.Certificate, key any) *tls.Certificate {
	c := &tls.Certificate{PrivateKey: key}
	for _, x := range chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	if len(chain) > 0 {
		c.Leaf = chain[0]
	}
	return c
}

// SingleTrustDomain narrows a source to one trust domain.
func SingleTrustDomain(s BundleSource, td mesh.TrustDomain) BundleSource {
	return narrowed{s, td}
}

type narrowed struct {
	BundleSource
	td mesh.TrustDomain
}

func (n narrowed) BundleFor(td mesh.TrustDomain) (Bundle, bool) {
	if td != n.td {
		return Bundle{}, false
	}
	return n.BundleSource.BundleFor(td)
}
