package identity

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/comity-mesh/comity/mesh"
)

// Limits of a peer's certificate chain, checked before the chain is built.
const (
	maxChain     = 5
	maxCertBytes = 16 << 10
)

// ErrPeer is wrapped by every refusal of VerifyPeer.
var ErrPeer = errors.New("peer certificate refused")

var (
	oidSAN             = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage        = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidNameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}
)

// VerifyPeer verifies an X509-SVID with the chain that the peer sent (leaf first) against the bundle
// of the trust domain in it, and returns the identity that it proves. On top of X509-SVID 5 as
// go-spiffe does it, it demands: one URI SAN in canonical form (read from the raw extension) and no
// SAN of another kind that looks like a SPIFFE ID; a critical KeyUsage with digitalSignature; both
// client and server EKU where there is an EKU; at most 5 certificates; SPIFFE IDs in intermediates
// only of the same trust domain; and a chain of at least two that ends in a usable authority.
//
// bundles decides which trust domains exist at all; now is the validator's clock.
func VerifyPeer(certs []*x509.Certificate, bundles BundleSource, now time.Time) (ID, error) {
	id, err := verifyPeer(certs, bundles, now)
	if err != nil {
		return ID{}, fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return id, nil
}

func verifyPeer(certs []*x509.Certificate, bundles BundleSource, now time.Time) (ID, error) {
	if len(certs) == 0 {
		return ID{}, errors.New("there is none")
	}
	if len(certs) > maxChain {
		return ID{}, fmt.Errorf("%d certificates, more than %d", len(certs), maxChain)
	}
	for _, c := range certs {
		if len(c.Raw) > maxCertBytes {
			return ID{}, fmt.Errorf("a certificate of %d bytes, more than %d", len(c.Raw), maxCertBytes)
		}
	}
	id, err := LeafID(certs[0])
	if err != nil {
		return ID{}, err
	}
	if err := checkIntermediates(certs[1:], id.td); err != nil {
		return ID{}, err
	}
	bundle, ok := bundles.BundleFor(id.td)
	if !ok || bundle.TrustDomain != id.td {
		return ID{}, fmt.Errorf("trust domain %s is not trusted here", id.td)
	}
	roots := make([]*x509.Certificate, 0, len(bundle.Authorities))
	for _, c := range bundle.Authorities {
		// An unusable one is passed over, not fatal: the others still stand.
		if CheckAuthority(c, id.td, now) == nil {
			roots = append(roots, c)
		}
	}
	if len(roots) == 0 {
		return ID{}, fmt.Errorf("trust domain %s has no authority in force", id.td)
	}
	td, err := spiffeid.TrustDomainFromString(string(id.td))
	if err != nil {
		return ID{}, err
	}
	got, chains, err := x509svid.Verify(certs, x509bundle.FromX509Authorities(td, roots), x509svid.WithTime(now))
	if err != nil {
		return ID{}, err
	}
	if got.String() != id.String() {
		return ID{}, fmt.Errorf("read as %q and as %q", got, id)
	}
	if !slices.ContainsFunc(chains, soundChain) {
		return ID{}, errors.New("no chain of it ends in an authority")
	}
	return id, nil
}

// soundChain refuses the chain that is only the leaf, found among the authorities.
func soundChain(chain []*x509.Certificate) bool {
	if len(chain) < 2 {
		return false
	}
	for _, c := range chain[1:] {
		if !c.IsCA || !c.BasicConstraintsValid || c.KeyUsage&x509.KeyUsageCertSign == 0 {
			return false
		}
	}
	return true
}

// LeafID reads the identity a leaf claims and checks the leaf's own shape (X509-SVID 3 to 5). It
// proves nothing: use VerifyPeer, or call it only on a certificate that VerifyPeer has accepted.
func LeafID(c *x509.Certificate) (ID, error) {
	if c.IsCA {
		return ID{}, errors.New("a CA certificate can't identify a workload")
	}
	if c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return ID{}, errors.New("its key usage allows to sign certificates or CRLs")
	}
	if c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return ID{}, errors.New("its key usage lacks digitalSignature")
	}
	if !critical(c, oidKeyUsage) {
		return ID{}, errors.New("its key usage is not critical")
	}
	if err := checkEKU(c); err != nil {
		return ID{}, err
	}
	if err := checkLeafKey(c); err != nil {
		return ID{}, err
	}
	uris, err := uriSANs(c)
	if err != nil {
		return ID{}, err
	}
	if len(uris) != 1 {
		return ID{}, fmt.Errorf("%d URI SANs, exactly one is allowed", len(uris))
	}
	for _, n := range c.DNSNames {
		// RFC 5280 names have no slash or colon; some matchers fall back to DNS SANs.
		if mesh.CheckSubdomain(n) != nil {
			return ID{}, fmt.Errorf("DNS SAN %q is not a DNS name", n)
		}
	}
	return ParseID(uris[0])
}

func checkEKU(c *x509.Certificate) error {
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 {
		return nil
	}
	if !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) || !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return errors.New("its extended key usage lacks serverAuth or clientAuth")
	}
	return nil
}

func checkLeafKey(c *x509.Certificate) error {
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return errors.New("its ECDSA key has less than 256 bits")
		}
	case *rsa.PublicKey:
		// The upper bound keeps a hostile peer from buying a slow verification.
		if n := k.N.BitLen(); n < 2048 || n > 8192 {
			return fmt.Errorf("its RSA key has %d bits, not 2048 to 8192", n)
		}
	default:
		return fmt.Errorf("its key is of type %T, neither ECDSA nor RSA", k)
	}
	return nil
}

func checkIntermediates(certs []*x509.Certificate, td mesh.TrustDomain) error {
	for _, c := range certs {
		uris, err := uriSANs(c)
		if err != nil {
			return err
		}
		for _, u := range uris {
			if u != scheme+string(td) {
				return fmt.Errorf("an intermediate carries the identity %q, not %s%s", u, scheme, td)
			}
		}
	}
	return nil
}

func critical(c *x509.Certificate, oid asn1.ObjectIdentifier) bool {
	for _, e := range c.Extensions {
		if e.Id.Equal(oid) {
			return e.Critical
		}
	}
	return false
}

// uriSANs reads the URI SANs as they are written: url.URL lowers the scheme and forgets an empty
// query, so that what Envoy compares would not be what we judged.
func uriSANs(c *x509.Certificate) ([]string, error) {
	const tagURI = 6 // GeneralName uniformResourceIdentifier, RFC 5280 4.2.1.6
	var uris []string
	for _, e := range c.Extensions {
		if !e.Id.Equal(oidSAN) {
			continue
		}
		var names []asn1.RawValue
		rest, err := asn1.Unmarshal(e.Value, &names)
		if err != nil || len(rest) != 0 {
			return nil, errors.New("its SAN extension can't be read")
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == tagURI {
				uris = append(uris, string(n.Bytes))
			}
		}
	}
	return uris, nil
}

// NameConstrained reports whether an authority carries a critical name constraint that permits URIs
// of exactly the trust domain, and no DNS names or mail addresses but under "invalid".
func NameConstrained(c *x509.Certificate, td mesh.TrustDomain) bool {
	return critical(c, oidNameConstraints) &&
		slices.Equal(c.PermittedURIDomains, []string{string(td)}) &&
		slices.Equal(c.PermittedDNSDomains, []string{noName}) &&
		slices.Equal(c.PermittedEmailAddresses, []string{noName})
}
