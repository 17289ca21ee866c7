package dataplane

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

// credential is the proxy's certificate and key of the moment and the roots it trusts: for the
// agent's own connections, and for Envoy through the secrets. It is safe for concurrent use.
type credential struct {
	secrets holder

	mu       sync.RWMutex
	cert     *tls.Certificate
	received time.Time
	bundle   identity.Bundle
}

// holder hands certificate and roots on: to an Envoy (sds.Secrets) or a gRPC client (proxyless.Client).
type holder interface {
	SetRoots(identity.Bundle) error
	SetIdentity(chain []*x509.Certificate, key *ecdsa.PrivateKey) error
}

var errNoCertificate = errors.New("there is no certificate yet")

// certificate is an identity.CertSource.
func (c *credential) certificate() (*tls.Certificate, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.cert == nil {
		return nil, errNoCertificate
	}
	return c.cert, nil
}

// usable is certificate, or an error once it has expired.
func (c *credential) usable(now time.Time) bool {
	_, until := c.lifetime()
	return now.Before(until)
}

// lifetime is when the certificate was received and when it expires; zero before there is one.
func (c *credential) lifetime() (received, until time.Time) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.cert == nil {
		return time.Time{}, time.Time{}
	}
	return c.received, c.cert.Leaf.NotAfter
}

// BundleFor makes it an identity.BundleSource of the one trust domain.
func (c *credential) BundleFor(td mesh.TrustDomain) (identity.Bundle, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.bundle.BundleFor(td)
}

// setRoots replaces the trusted roots and hands them to Envoy. The new ones must be usable as a whole.
func (c *credential) setRoots(b identity.Bundle, now time.Time) error {
	if err := b.Check(now); err != nil {
		return fmt.Errorf("roots of the zone: %w", err)
	}
	if err := c.secrets.SetRoots(b); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bundle = b
	return nil
}

// setCertificate replaces certificate and key after checking that the chain proves want to anybody
// with the zone's roots, and hands them to Envoy.
func (c *credential) setCertificate(chain []*x509.Certificate, key *ecdsa.PrivateKey, want string, now time.Time) error {
	id, err := identity.VerifyPeer(chain, c, now)
	if err != nil {
		return fmt.Errorf("certificate from the zone: %w", err)
	}
	if id.String() != want {
		return fmt.Errorf("certificate from the zone: it is for %s, not for %s", id, want)
	}
	if err := c.secrets.SetIdentity(chain, key); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cert, c.received = identity.TLSCertificate(chain, key), now
	return nil
}
