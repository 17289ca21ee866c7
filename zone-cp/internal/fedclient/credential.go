package fedclient

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

// Membership is what a zone knows of the global it has joined. The zero value has joined nobody.
type Membership struct {
	Endpoints   []string         `json:"endpoints"` // host:port of global's federation service
	TrustDomain mesh.TrustDomain `json:"trustDomain"`
	JoinedAt    time.Time        `json:"joinedAt,omitzero"`
	Expires     time.Time        `json:"expires,omitzero"` // of the present certificate
}

// Joined reports whether the zone belongs to a mesh.
func (m Membership) Joined() bool { return !m.JoinedAt.IsZero() }

// Credential is a zone's federation key with its certificate and global's roots, sealed on the
// zone's disk. The key is made before the first join and pinned by it, so that a join that was cut
// short resumes and a zone that was away for long renews. Safe for concurrent use.
type Credential struct {
	sealer *identity.Sealer
	path   string
	label  identity.SealLabel

	mu    sync.Mutex
	key   crypto.Signer
	chain []*x509.Certificate
	roots []*x509.Certificate
	Membership
}

// sealedCredential is the secret inside the file.
type sealedCredential struct {
	Key   string `json:"key"`   // PKCS #8 PEM
	Chain string `json:"chain"` // PEM, leaf first; empty before the join
	Roots string `json:"roots"` // PEM, global's
	Membership
}

// OpenCredential reads the credential in a folder, or makes a key for one.
func OpenCredential(dir, zone string, sealer *identity.Sealer) (*Credential, error) {
	c := &Credential{
		sealer: sealer, path: filepath.Join(dir, "federation.sealed"),
		label: identity.SealLabel{Zone: zone, KeyID: "federation", Version: 1},
	}
	data, err := sealer.ReadSealedFile(c.path, c.label)
	if errors.Is(err, fs.ErrNotExist) {
		key, err := identity.NewKey()
		if err != nil {
			return nil, err
		}
		c.key = key
		return c, c.save()
	}
	if err != nil {
		return nil, err
	}
	if err := c.read(data); err != nil {
		return nil, fmt.Errorf("%s: %w", c.path, err)
	}
	return c, nil
}

func (c *Credential) read(data []byte) error {
	var s sealedCredential
	if err := json.Unmarshal(data, &s); err != nil {
		return errors.New("it can't be read")
	}
	var err error
	if c.key, err = identity.ParsePEMKey([]byte(s.Key)); err != nil {
		return err
	}
	c.Membership = s.Membership
	if !s.Joined() {
		return nil
	}
	if c.chain, err = identity.ParsePEMCertificates([]byte(s.Chain)); err != nil {
		return err
	}
	c.roots, err = identity.ParsePEMCertificates([]byte(s.Roots))
	return err
}

// save writes the credential; the caller holds c.mu or is alone.
func (c *Credential) save() error {
	pem, err := identity.PEMKey(c.key)
	if err != nil {
		return err
	}
	data, err := json.Marshal(sealedCredential{
		Key: string(pem), Chain: string(identity.PEMCertificates(c.chain...)),
		Roots: string(identity.PEMCertificates(c.roots...)), Membership: c.Membership,
	})
	if err != nil {
		return fmt.Errorf("encode the federation credential: %w", err)
	}
	return c.sealer.WriteSealedFile(c.path, c.label, data)
}

// State is the membership now.
func (c *Credential) State() Membership {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Membership
}

// Certificate is an identity.CertSource.
func (c *Credential) Certificate() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.chain) == 0 {
		return nil, errors.New("the zone has not joined a mesh")
	}
	return identity.TLSCertificate(c.chain, c.key), nil
}

// BundleFor implements identity.BundleSource: global's trust domain and no other.
func (c *Credential) BundleFor(td mesh.TrustDomain) (identity.Bundle, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return identity.Bundle{TrustDomain: c.TrustDomain, Authorities: c.roots}, td == c.TrustDomain && td != ""
}

// renewAt is half of the certificate's life; the zero time before a join.
func (c *Credential) renewAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.chain) == 0 {
		return time.Time{}
	}
	leaf := c.chain[0]
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
}

func (c *Credential) csr() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return identity.NewCSR(c.key)
}

func (c *Credential) sign(transcript []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return identity.SignTranscript(c.key, transcript)
}

// install checks what global issued and keeps it. roots are those that vouch for global.
func (c *Credential) install(zone string, chainDER, rootsDER [][]byte, m Membership, now time.Time) error {
	chain, err := identity.ParseDERChain(chainDER)
	if err != nil {
		return fmt.Errorf("global's certificate: %w", err)
	}
	roots, err := identity.ParseDERChain(rootsDER)
	if err != nil {
		return fmt.Errorf("global's roots: %w", err)
	}
	bundle := identity.Bundle{TrustDomain: m.TrustDomain, Authorities: roots}
	if err := bundle.Check(now); err != nil {
		return fmt.Errorf("global's roots: %w", err)
	}
	// Global's clock may run ahead of ours by as much as zones' clocks may differ.
	id, err := identity.VerifyPeer(chain, bundle, later(now, chain[0].NotBefore, identity.ClockSkew))
	if err != nil {
		return fmt.Errorf("global's certificate: %w", err)
	}
	if want, err := identity.ZoneID(m.TrustDomain, zone); err != nil || id != want {
		return fmt.Errorf("global's certificate names %q, not this zone", id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if same, ok := c.key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !same.Equal(chain[0].PublicKey) {
		return errors.New("global's certificate is for another key")
	}
	m.Expires = chain[0].NotAfter
	c.chain, c.roots, c.Membership = chain, roots, m
	return c.save()
}

func later(now, notBefore time.Time, within time.Duration) time.Time {
	if notBefore.After(now) && notBefore.Sub(now) <= within {
		return notBefore
	}
	return now
}
