package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/comity-mesh/comity/mesh"
)

// Limits of a bundle, checked before anything is parsed.
const (
	MaxBundleBytes = 256 << 10
	MaxAuthorities = 64

	minRefreshHint     = 30 * time.Second
	maxRefreshHint     = 24 * time.Hour
	defaultRefreshHint = 5 * time.Minute // SPIFFE Trust Domain and Bundle 6.1
)

// ErrBundle is wrapped by every error about the content of a bundle.
var ErrBundle = errors.New("unusable trust bundle")

// Bundle holds the X.509 authorities of one trust domain. An empty list of authorities is legal and
// means that nothing of that trust domain is valid any more. Values are treated as immutable.
type Bundle struct {
	TrustDomain mesh.TrustDomain
	// Sequence grows with every change of the content (spiffe_sequence).
	Sequence uint64
	// RefreshHint is how often to look for a newer one; 30 s to 24 h.
	RefreshHint time.Duration
	Authorities []*x509.Certificate
}

// BundleSource answers with the bundle of a trust domain, false if there is none. It must be safe
// for concurrent use; it is asked at every handshake.
type BundleSource interface {
	BundleFor(mesh.TrustDomain) (Bundle, bool)
}

// Bundles is a BundleSource that never changes.
type Bundles map[mesh.TrustDomain]Bundle

// NewBundles indexes bundles by their trust domain.
func NewBundles(list ...Bundle) Bundles {
	m := make(Bundles, len(list))
	for _, b := range list {
		m[b.TrustDomain] = b
	}
	return m
}

// BundleFor implements BundleSource.
func (m Bundles) BundleFor(td mesh.TrustDomain) (Bundle, bool) {
	b, ok := m[td]
	return b, ok
}

// BundleFor makes a single bundle a BundleSource.
func (b Bundle) BundleFor(td mesh.TrustDomain) (Bundle, bool) {
	return b, td == b.TrustDomain && td != ""
}

// Check reports why the bundle must not be trusted as a whole: no usable name, too many authorities,
// one twice, or one that CheckAuthority refuses.
func (b Bundle) Check(now time.Time) error {
	if err := mesh.CheckTrustDomain(string(b.TrustDomain)); err != nil {
		return fmt.Errorf("%w: %w", ErrBundle, err)
	}
	if len(b.Authorities) > MaxAuthorities {
		return fmt.Errorf("%w of %s: %d authorities, more than %d", ErrBundle, b.TrustDomain, len(b.Authorities), MaxAuthorities)
	}
	seen := make(map[Pin]bool, len(b.Authorities))
	for i, c := range b.Authorities {
		if err := CheckAuthority(c, b.TrustDomain, now); err != nil {
			return fmt.Errorf("%w of %s: authority %d: %w", ErrBundle, b.TrustDomain, i, err)
		}
		pin := KeyPin(c)
		if seen[pin] {
			return fmt.Errorf("%w of %s: authority %d is there twice", ErrBundle, b.TrustDomain, i)
		}
		seen[pin] = true
	}
	return nil
}

// CheckAuthority reports why a certificate must not be an authority of the trust domain: it must be
// a CA with keyCertSign, unexpired, with an ECDSA key of P-256 or more or an RSA key of 2048 bits or
// more, and a SPIFFE ID in it, if any, must be the trust domain itself (X509-SVID 3.2).
func CheckAuthority(c *x509.Certificate, td mesh.TrustDomain, now time.Time) error {
	if !c.BasicConstraintsValid || !c.IsCA {
		return errors.New("is not a CA certificate")
	}
	if c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("has no keyCertSign")
	}
	if now.After(c.NotAfter) {
		return fmt.Errorf("expired at %s", c.NotAfter.UTC().Format(time.RFC3339))
	}
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return fmt.Errorf("has an ECDSA key of %d bits, less than 256", k.Curve.Params().BitSize)
		}
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return fmt.Errorf("has an RSA key of %d bits, less than 2048", k.N.BitLen())
		}
	default:
		return fmt.Errorf("has a key of type %T, neither ECDSA nor RSA", k)
	}
	uris, err := uriSANs(c)
	if err != nil {
		return err
	}
	if len(uris) > 1 || len(uris) == 1 && uris[0] != scheme+string(td) {
		return fmt.Errorf("carries identities %q, not just that of trust domain %s", uris, td)
	}
	return nil
}

// Pin is the SHA-256 of a certificate's SubjectPublicKeyInfo.
type Pin [sha256.Size]byte

// KeyPin returns the pin of a certificate's key.
func KeyPin(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// String is the pin in lower-case hex.
func (p Pin) String() string { return hex.EncodeToString(p[:]) }

// Marshal writes the bundle as the JWKS of "SPIFFE Trust Domain and Bundle" 4, x509-svid keys only.
// The same bundle always gives the same bytes.
func (b Bundle) Marshal() ([]byte, error) {
	td, err := spiffeid.TrustDomainFromString(string(b.TrustDomain))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	if len(b.Authorities) == 0 {
		// go-spiffe would write "keys": null, which is no JWKS and which it refuses itself.
		return json.Marshal(struct {
			Keys     []string `json:"keys"`
			Sequence uint64   `json:"spiffe_sequence"`
			Hint     int64    `json:"spiffe_refresh_hint"`
		}{[]string{}, b.Sequence, int64(clampHint(b.RefreshHint) / time.Second)})
	}
	sb := spiffebundle.FromX509Authorities(td, b.Authorities)
	sb.SetSequenceNumber(b.Sequence)
	sb.SetRefreshHint(clampHint(b.RefreshHint))
	out, err := sb.Marshal()
	if err != nil {
		return nil, fmt.Errorf("marshal bundle of %s: %w", b.TrustDomain, err)
	}
	return out, nil
}

// PEM is the authorities in PEM, as Envoy's SPIFFE validator takes them; empty without authorities.
func (b Bundle) PEM() []byte { return PEMCertificates(b.Authorities...) }

// Equal reports whether both have the same trust domain, sequence and authorities in the same order.
func (b Bundle) Equal(o Bundle) bool {
	if b.TrustDomain != o.TrustDomain || b.Sequence != o.Sequence || len(b.Authorities) != len(o.Authorities) {
		return false
	}
	for i := range b.Authorities {
		if !b.Authorities[i].Equal(o.Authorities[i]) {
			return false
		}
	}
	return true
}

// PEMCertificates encodes certificates one after the other.
func PEMCertificates(list ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, c := range list {
		// Writing to a bytes.Buffer does not fail.
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return out.Bytes()
}

// ParseBundle reads a JWKS bundle of at most 256 KiB. The trust domain is never in the document; the
// caller says which one it asked for (SPIFFE Trust Domain and Bundle 3). Entries that the standard
// tells consumers to ignore (unknown kty or use, no x5c) are ignored, JWT keys and expired
// authorities too; anything else wrong with an authority refuses the whole bundle, as do duplicate
// members. An empty key list is a valid bundle without authorities.
func ParseBundle(td mesh.TrustDomain, data []byte, now time.Time) (Bundle, error) {
	if len(data) > MaxBundleBytes {
		return Bundle{}, fmt.Errorf("%w: %d bytes, more than %d", ErrBundle, len(data), MaxBundleBytes)
	}
	if err := mesh.CheckTrustDomain(string(td)); err != nil {
		return Bundle{}, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	if err := checkDuplicateMembers(data); err != nil {
		return Bundle{}, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	var doc struct {
		Keys     *[]json.RawMessage `json:"keys"`
		Sequence uint64             `json:"spiffe_sequence"`
		Hint     int64              `json:"spiffe_refresh_hint"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return Bundle{}, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	if doc.Keys == nil {
		return Bundle{}, fmt.Errorf("%w: it has no keys member", ErrBundle)
	}
	b := Bundle{TrustDomain: td, Sequence: doc.Sequence, RefreshHint: hintFromSeconds(doc.Hint)}
	keys, err := x509Keys(*doc.Keys)
	if err != nil {
		return Bundle{}, err
	}
	if len(keys) == 0 {
		return b, nil
	}
	certs, err := parseKeys(td, keys)
	if err != nil {
		return Bundle{}, err
	}
	for _, c := range certs {
		if !now.After(c.NotAfter) {
			b.Authorities = append(b.Authorities, c)
		}
	}
	if err := b.Check(now); err != nil {
		return Bundle{}, err
	}
	return b, nil
}

// x509Keys keeps the entries that carry an X.509 authority, with one certificate each: go-spiffe
// fails the whole bundle for an entry that the standard says to ignore.
func x509Keys(raw []json.RawMessage) ([]map[string]json.RawMessage, error) {
	if len(raw) > 4*MaxAuthorities {
		return nil, fmt.Errorf("%w: %d keys, more than %d", ErrBundle, len(raw), 4*MaxAuthorities)
	}
	var keys []map[string]json.RawMessage
	for i, r := range raw {
		var k struct {
			Kty string   `json:"kty"`
			Use string   `json:"use"`
			X5c []string `json:"x5c"`
		}
		var all map[string]json.RawMessage
		if json.Unmarshal(r, &all) != nil || all == nil || json.Unmarshal(r, &k) != nil {
			return nil, fmt.Errorf("%w: key %d is not a JSON Web Key", ErrBundle, i)
		}
		if k.Use != "x509-svid" || len(k.X5c) == 0 || k.Kty != "EC" && k.Kty != "RSA" {
			continue
		}
		first, err := json.Marshal(k.X5c[:1])
		if err != nil {
			return nil, fmt.Errorf("%w: key %d: %w", ErrBundle, i, err)
		}
		all["x5c"] = first
		keys = append(keys, all)
	}
	if len(keys) > MaxAuthorities {
		return nil, fmt.Errorf("%w: %d authorities, more than %d", ErrBundle, len(keys), MaxAuthorities)
	}
	return keys, nil
}

func parseKeys(td mesh.TrustDomain, keys []map[string]json.RawMessage) ([]*x509.Certificate, error) {
	doc, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	name, err := spiffeid.TrustDomainFromString(string(td))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	sb, err := spiffebundle.Parse(name, doc)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	return sb.X509Authorities(), nil
}

func hintFromSeconds(s int64) time.Duration {
	if s == 0 {
		return defaultRefreshHint
	}
	// Clamped before the multiplication: a huge hint must not overflow into a negative one.
	return clampHint(time.Duration(min(max(s, 1), int64(maxRefreshHint/time.Second))) * time.Second)
}

func clampHint(d time.Duration) time.Duration {
	if d == 0 {
		return defaultRefreshHint
	}
	return min(max(d, minRefreshHint), maxRefreshHint)
}

// checkDuplicateMembers refuses a JSON document in which an object has a member twice: readers
// disagree about which one counts.
func checkDuplicateMembers(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := walkJSON(d, 0); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	return nil
}

func walkJSON(d *json.Decoder, depth int) error {
	if depth > 8 {
		return errors.New("nested too deeply")
	}
	t, err := d.Token()
	if err != nil {
		return err
	}
	open, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if open == '{' {
			t, err := d.Token()
			if err != nil {
				return err
			}
			name, _ := t.(string)
			if seen[name] {
				return fmt.Errorf("member %q is there twice", name)
			}
			seen[name] = true
		}
		if err := walkJSON(d, depth+1); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}
