package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// Lifetimes. A leaf is renewed at half its life, so 12 h give 6 h of grace without the zone's
// control plane.
const (
	RootTTL         = 5 * 365 * 24 * time.Hour
	IntermediateTTL = 30 * 24 * time.Hour
	LeafTTL         = 12 * time.Hour
	MinLeafTTL      = time.Minute
	MaxLeafTTL      = 24 * time.Hour

	// backdate covers the clock difference between zones that design allows.
	backdate = 5 * time.Minute

	// MaxCSRBytes bounds a certificate request.
	MaxCSRBytes = 16 << 10

	// noName is the only DNS domain and mail domain our CAs permit; RFC 6761 keeps it from existing.
	noName = "invalid"
)

// Authority is a certificate authority of one trust domain: the self-signed root that NewRoot makes
// or an intermediate below it, which signs leaves. Keys are ECDSA P-256. Both carry critical name
// constraints, so that a stolen key can't speak for another trust domain. Safe for concurrent use.
type Authority struct {
	td    mesh.TrustDomain
	key   crypto.Signer
	chain []*x509.Certificate // this authority first, the root last
}

// Issued is a leaf certificate with what is needed to use it.
type Issued struct {
	ID   ID
	Leaf *x509.Certificate
	// Chain is the leaf and the intermediates, without the root: what TLS sends.
	Chain []*x509.Certificate
	// Serial is the serial number as SerialOf writes it.
	Serial string
}

// SerialOf is a certificate's serial number in lower-case hex without leading zeros.
func SerialOf(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// NewRoot makes a root authority of the trust domain, with a new key.
func NewRoot(td mesh.TrustDomain, now time.Time) (*Authority, error) {
	if err := mesh.CheckTrustDomain(string(td)); err != nil {
		return nil, err
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	t, err := caTemplate(td, "root", now, now.Add(RootTTL))
	if err != nil {
		return nil, err
	}
	t.MaxPathLen = 1
	cert, err := createCertificate(t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &Authority{td: td, key: key, chain: []*x509.Certificate{cert}}, nil
}

// NewIntermediate makes an authority below a root, with a new key and path length 0.
func (a *Authority) NewIntermediate(now time.Time) (*Authority, error) {
	if len(a.chain) != 1 {
		return nil, errors.New("only a root makes an intermediate authority")
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	until := now.Add(IntermediateTTL)
	if root := a.chain[0]; until.After(root.NotAfter) {
		until = root.NotAfter
	}
	t, err := caTemplate(a.td, "intermediate", now, until)
	if err != nil {
		return nil, err
	}
	t.MaxPathLenZero = true
	cert, err := createCertificate(t, a.chain[0], key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	return &Authority{td: a.td, key: key, chain: []*x509.Certificate{cert, a.chain[0]}}, nil
}

// LoadAuthority puts an authority together from its key and its chain (itself first, the root last)
// and checks that they belong together.
func LoadAuthority(td mesh.TrustDomain, key crypto.Signer, chain []*x509.Certificate, now time.Time) (*Authority, error) {
	if len(chain) == 0 || len(chain) > maxChain-1 {
		return nil, fmt.Errorf("authority of %s: a chain of %d certificates, not 1 to %d", td, len(chain), maxChain-1)
	}
	for i, c := range chain {
		if err := CheckAuthority(c, td, now); err != nil {
			return nil, fmt.Errorf("authority of %s: certificate %d %w", td, i, err)
		}
		if issuer := chain[min(i+1, len(chain)-1)]; c.CheckSignatureFrom(issuer) != nil {
			return nil, fmt.Errorf("authority of %s: certificate %d is not signed by the next", td, i)
		}
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("authority of %s: %w", td, err)
	}
	if !bytes.Equal(pub, chain[0].RawSubjectPublicKeyInfo) {
		return nil, fmt.Errorf("authority of %s: the key does not belong to the certificate", td)
	}
	return &Authority{td: td, key: key, chain: chain}, nil
}

// TrustDomain is the trust domain the authority speaks for.
func (a *Authority) TrustDomain() mesh.TrustDomain { return a.td }

// Certificate is the authority's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.chain[0] }

// Root is the certificate its chain ends in.
func (a *Authority) Root() *x509.Certificate { return a.chain[len(a.chain)-1] }

// Chain is the authority's certificates, its own first and the root last.
func (a *Authority) Chain() []*x509.Certificate { return a.chain }

// Key signs for the authority. It must leave the process only sealed.
func (a *Authority) Key() crypto.Signer { return a.key }

// Bundle is the root as a bundle with the given sequence.
func (a *Authority) Bundle(sequence uint64) Bundle {
	return Bundle{TrustDomain: a.td, Sequence: sequence, RefreshHint: defaultRefreshHint, Authorities: []*x509.Certificate{a.Root()}}
}

// Sign issues a leaf for the key, good for client and server. Everything in it comes from the
// arguments, nothing from a request: the only name is the ID, the subject is empty. The ttl is 0
// for LeafTTL, else MinLeafTTL to MaxLeafTTL; the leaf never outlives its issuer.
func (a *Authority) Sign(pub crypto.PublicKey, id ID, ttl time.Duration, now time.Time) (Issued, error) {
	if ttl == 0 {
		ttl = LeafTTL
	}
	if ttl < MinLeafTTL || ttl > MaxLeafTTL {
		return Issued{}, fmt.Errorf("sign %s: a lifetime of %s is not between %s and %s", id, ttl, MinLeafTTL, MaxLeafTTL)
	}
	return a.sign(pub, id, ttl, now)
}

// SignFor is Sign for certificates between control planes, which may live longer: up to 90 days.
func (a *Authority) SignFor(pub crypto.PublicKey, id ID, ttl time.Duration, now time.Time) (Issued, error) {
	const longest = 90 * 24 * time.Hour
	if ttl < MinLeafTTL || ttl > longest {
		return Issued{}, fmt.Errorf("sign %s: a lifetime of %s is not between %s and %s", id, ttl, MinLeafTTL, longest)
	}
	return a.sign(pub, id, ttl, now)
}

func (a *Authority) sign(pub crypto.PublicKey, id ID, ttl time.Duration, now time.Time) (Issued, error) {
	key, err := checkP256(pub)
	if err != nil {
		return Issued{}, fmt.Errorf("sign %s: %w", id, err)
	}
	// ParseID again: an ID's fields are only as good as whoever made it.
	if again, err := ParseID(id.String()); err != nil || again != id {
		return Issued{}, fmt.Errorf("sign %q: %w", id, ErrID)
	}
	if id.td != a.td {
		return Issued{}, fmt.Errorf("sign %s: this authority speaks for %s only", id, a.td)
	}
	if id.SPIRE() {
		return Issued{}, fmt.Errorf("sign %s: %s is reserved by SPIRE", id, SPIREPrefix)
	}
	until := now.Add(ttl)
	if until.After(a.chain[0].NotAfter) {
		until = a.chain[0].NotAfter
	}
	if !until.After(now) {
		return Issued{}, fmt.Errorf("sign %s: the authority has expired", id)
	}
	from := now.Add(-backdate)
	if from.Before(a.chain[0].NotBefore) {
		from = a.chain[0].NotBefore
	}
	serial, err := newSerial()
	if err != nil {
		return Issued{}, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             from,
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: string(id.td), Path: id.path}},
	}
	leaf, err := createCertificate(t, a.chain[0], key, a.key)
	if err != nil {
		return Issued{}, fmt.Errorf("sign %s: %w", id, err)
	}
	chain := append([]*x509.Certificate{leaf}, a.chain[:len(a.chain)-1]...)
	return Issued{ID: id, Leaf: leaf, Chain: chain, Serial: SerialOf(leaf)}, nil
}

// WithRoot is a chain with the authority's root at its end, for servers that are reached by pin.
func (a *Authority) WithRoot(i Issued) []*x509.Certificate {
	chain := append([]*x509.Certificate(nil), i.Chain...)
	return append(chain, a.Root())
}

func caTemplate(td mesh.TrustDomain, role string, now, until time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		// The serial keeps the names of successive authorities apart.
		Subject:               pkix.Name{Organization: []string{"Comity"}, CommonName: role + " of " + string(td), SerialNumber: serial.Text(16)[:8]},
		NotBefore:             now.Add(-backdate),
		NotAfter:              until,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: string(td)}},
		// Critical: who doesn't know name constraints must refuse. DNS and mail are constrained to
		// nothing, because matchers fall back to those SANs when looking for an identity.
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{string(td)},
		PermittedDNSDomains:         []string{noName},
		PermittedEmailAddresses:     []string{noName},
	}, nil
}

func createCertificate(t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("create certificate: %w", err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back certificate: %w", err)
	}
	return c, nil
}

func newSerial() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("random serial: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and of one length
	return new(big.Int).SetBytes(b[:]), nil
}

// NewKey makes an ECDSA P-256 key, the only kind that Comity issues for.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}

func checkP256(pub crypto.PublicKey) (*ecdsa.PublicKey, error) {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the key is not ECDSA P-256")
	}
	return key, nil
}

// NewCSR makes a certificate request that carries nothing but the key, in DER.
func NewCSR(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return der, nil
}

// ParseCSR returns the key of a certificate request in DER (PKCS #10) after checking that the
// requester holds it. Names, extensions and attributes in it are ignored: identity comes from
// attestation alone. Only P-256, at most 16 KiB.
func ParseCSR(der []byte) (*ecdsa.PublicKey, error) {
	if len(der) > MaxCSRBytes {
		return nil, fmt.Errorf("certificate request of %d bytes, more than %d", len(der), MaxCSRBytes)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	key, err := checkP256(csr.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return key, nil
}
