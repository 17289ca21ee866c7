package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

// rogue is an authority in the hands of an attacker: it signs whatever it is told, with or without
// the name constraints that an honest authority of ours carries.
type rogue struct {
	td   mesh.TrustDomain
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	now  time.Time
}

func newRogue(t *testing.T, td mesh.TrustDomain, now time.Time) rogue {
	t.Helper()
	r := rogue{td: td, key: newKey(t), now: now}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rogue of " + string(td)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, r.key.Public(), r.key)
	if err != nil {
		t.Fatal(err)
	}
	r.cert = mustParse(t, der)
	return r
}

func mustParse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (r rogue) bundle() identity.Bundle {
	return identity.Bundle{TrustDomain: r.td, Authorities: []*x509.Certificate{r.cert}}
}

// name is one SAN with its GeneralName tag.
type name struct {
	tag int
	val string
}

const (
	tagMail = 1
	tagDNS  = 2
	tagURI  = 6
)

func san(t *testing.T, names ...name) pkix.Extension {
	t.Helper()
	var raw []asn1.RawValue
	for _, n := range names {
		raw = append(raw, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: n.tag, Bytes: []byte(n.val)})
	}
	der, err := asn1.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: der}
}

// forge signs a leaf with the given SANs as bytes; change may alter the template first.
func (r rogue) forge(t *testing.T, change func(*x509.Certificate), names ...name) []*x509.Certificate {
	t.Helper()
	return forge(t, r.cert, r.key, r.now, change, names...)
}

func forge(t *testing.T, issuer *x509.Certificate, key any, now time.Time, change func(*x509.Certificate), names ...name) []*x509.Certificate {
	t.Helper()
	return forgeFor(t, newKey(t), issuer, key, now, change, names...)
}

func forgeFor(t *testing.T, leafKey *ecdsa.PrivateKey, issuer *x509.Certificate, key any, now time.Time, change func(*x509.Certificate), names ...name) []*x509.Certificate {
	t.Helper()
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if len(names) > 0 {
		tpl.ExtraExtensions = []pkix.Extension{san(t, names...)}
	}
	if change != nil {
		change(tpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, issuer, leafKey.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil // what the standard library can't parse never reaches a verifier
	}
	return []*x509.Certificate{c}
}

func refused(t *testing.T, chain []*x509.Certificate, bundles identity.BundleSource, now time.Time) {
	t.Helper()
	if chain == nil {
		return
	}
	if id, err := identity.VerifyPeer(chain, bundles, now); !errors.Is(err, identity.ErrPeer) || id != (identity.ID{}) {
		t.Errorf("accepted as %q (%v)", id, err)
	}
}

const me = "spiffe://a.example/ns/x/sa/y"

// What an attacker who holds a whole, unconstrained authority of a.example can't do.
func TestVerifyPeerRefusesForgedLeaves(t *testing.T) {
	now := time.Now()
	a, b := newRogue(t, "a.example", now), newZone(t, "b.example", now)
	bundles := identity.NewBundles(a.bundle(), b.bundle())
	if _, err := identity.VerifyPeer(a.forge(t, nil, name{tagURI, me}), bundles, now); err != nil {
		t.Fatalf("the honest form: %v", err)
	}
	if _, err := identity.VerifyPeer(a.forge(t, nil, name{tagURI, me}, name{tagDNS, "web.example"}), bundles, now); err != nil {
		t.Errorf("with a DNS name: %v", err)
	}
	victim := "spiffe://b.example/ns/x/sa/victim"
	for what, names := range map[string][]name{
		"1 another trust domain":          {{tagURI, victim}},
		"2 own and foreign URI":           {{tagURI, me}, {tagURI, victim}},
		"3 foreign and own URI":           {{tagURI, victim}, {tagURI, me}},
		"2 the same URI twice":            {{tagURI, me}, {tagURI, me}},
		"4 SPIFFE ID as a DNS name":       {{tagURI, me}, {tagDNS, victim}},
		"4 only as a DNS name":            {{tagDNS, me}},
		"8 https URI":                     {{tagURI, "https://a.example/ns/x"}},
		"8 https URI beside it":           {{tagURI, me}, {tagURI, "https://a.example/"}},
		"9 dot segments":                  {{tagURI, "spiffe://a.example/ns/../sa/y"}},
		"9 dot segment":                   {{tagURI, "spiffe://a.example/./y"}},
		"9 empty segment":                 {{tagURI, "spiffe://a.example/ns//y"}},
		"9 trailing slash":                {{tagURI, me + "/"}},
		"9 encoded slash":                 {{tagURI, "spiffe://a.example/ns%2fx"}},
		"9 encoded dots":                  {{tagURI, "spiffe://a.example/%2e%2e/y"}},
		"9 encoded letter":                {{tagURI, "spiffe://a.example/ns/%78/sa/y"}},
		"9 port":                          {{tagURI, "spiffe://a.example:443/ns/x"}},
		"9 user info":                     {{tagURI, "spiffe://u@a.example/ns/x"}},
		"9 query":                         {{tagURI, me + "?a=b"}},
		"9 empty query":                   {{tagURI, me + "?"}},
		"9 fragment":                      {{tagURI, me + "#f"}},
		"9 upper-case trust domain":       {{tagURI, "spiffe://A.example/ns/x/sa/y"}},
		"9 upper-case scheme":             {{tagURI, "SPIFFE://a.example/ns/x/sa/y"}},
		"9 not ASCII":                     {{tagURI, "spiffe://a.example/ns/\xc3\xa4"}},
		"9 comma":                         {{tagURI, me + ",spiffe://b.example/ns/x"}},
		"9 XFCC injection":                {{tagURI, me + ";URI=" + victim}},
		"9 NUL":                           {{tagURI, me + "\x00"}},
		"9 trailing dot in trust domain":  {{tagURI, "spiffe://a.example./ns/x"}},
		"10 root path":                    {{tagURI, "spiffe://a.example"}},
		"10 root path with slash":         {{tagURI, "spiffe://a.example/"}},
		"11 2,049 bytes":                  {{tagURI, me + strings.Repeat("y", 2049-len(me))}},
		"8 no trust domain":               {{tagURI, "spiffe:///ns/x"}},
		"8 mail address that looks right": {{tagMail, me}},
	} {
		t.Run(what, func(t *testing.T) { refused(t, a.forge(t, nil, names...), bundles, now) })
	}
	if _, err := identity.VerifyPeer(a.forge(t, nil, name{tagURI, me + strings.Repeat("y", 2048-len(me))}), bundles, now); err != nil {
		t.Errorf("2,048 bytes: %v", err)
	}
	for what, change := range map[string]func(*x509.Certificate){
		"5 subject in place of a SAN": func(c *x509.Certificate) {
			c.Subject.CommonName = victim
			c.ExtraExtensions = nil
		},
		"6 CA":                    func(c *x509.Certificate) { c.IsCA = true },
		"6 keyCertSign":           func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"6 crlSign":               func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign },
		"6 no key usage":          func(c *x509.Certificate) { c.KeyUsage = 0 },
		"6 only keyAgreement":     func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement },
		"6 only codeSigning":      func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} },
		"6 only clientAuth":       func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} },
		"12 expired by a second":  func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) },
		"12 ten minutes too soon": func(c *x509.Certificate) { c.NotBefore = now.Add(10 * time.Minute) },
	} {
		t.Run(what, func(t *testing.T) { refused(t, a.forge(t, change, name{tagURI, me}), bundles, now) })
	}
	t.Run("0 nothing", func(t *testing.T) {
		if _, err := identity.VerifyPeer(nil, bundles, now); !errors.Is(err, identity.ErrPeer) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("0 long chain", func(t *testing.T) {
		chain := a.forge(t, nil, name{tagURI, me})
		for range 5 {
			chain = append(chain, a.cert)
		}
		refused(t, chain, bundles, now)
	})
	t.Run("0 intermediate of another trust domain", func(t *testing.T) {
		refused(t, append(a.forge(t, nil, name{tagURI, me}), b.issuer.Certificate()), bundles, now)
	})
}

// What a stolen key of an honest authority can't do: its constraints are critical.
func TestNameConstraintsHold(t *testing.T) {
	now := time.Now()
	a := newZone(t, "a.example", now)
	signer, chainOf := a.issuer.Key(), func(c []*x509.Certificate) []*x509.Certificate {
		return append(c, a.issuer.Certificate())
	}
	// The victim's name under the thief's authority, against a bundle that (wrongly) trusts it for b.
	wrong := identity.Bundle{TrustDomain: "b.example", Authorities: []*x509.Certificate{a.root.Root()}}
	if err := wrong.Check(now); err == nil {
		t.Error("a.example's root is taken as an authority of b.example")
	}
	refused(t, chainOf(forge(t, a.issuer.Certificate(), signer, now, nil, name{tagURI, "spiffe://b.example/ns/x/sa/y"})), wrong, now)

	roots, mids := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(a.root.Root())
	mids.AddCert(a.issuer.Certificate())
	for what, names := range map[string][]name{
		"foreign URI":        {{tagURI, "spiffe://b.example/ns/x/sa/y"}},
		"second foreign URI": {{tagURI, me}, {tagURI, "spiffe://b.example/ns/x/sa/y"}},
		"DNS name":           {{tagURI, me}, {tagDNS, "b.example"}},
		"mail address":       {{tagURI, me}, {tagMail, "root@b.example"}},
	} {
		leaf := forge(t, a.issuer.Certificate(), signer, now, nil, names...)
		if leaf == nil {
			continue
		}
		// Even a verifier that knows nothing of SPIFFE refuses.
		_, err := leaf[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: mids, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

func TestVerifyPeerRefusesWrongChains(t *testing.T) {
	now := time.Now()
	a, other := newZone(t, "a.example", now), newZone(t, "a.example", now)
	is, _ := a.leaf(t, "/ns/x/sa/y")

	t.Run("7 the authority itself", func(t *testing.T) {
		refused(t, a.issuer.Chain(), a.bundle(), now)
		refused(t, a.root.Chain(), a.bundle(), now)
	})
	t.Run("42 a leaf among the authorities", func(t *testing.T) {
		b := identity.Bundle{TrustDomain: "a.example", Authorities: []*x509.Certificate{is.Leaf}}
		refused(t, []*x509.Certificate{is.Leaf}, b, now)
		if b.Check(now) == nil {
			t.Error("such a bundle passes its check")
		}
	})
	t.Run("13 the old root after it was revoked", func(t *testing.T) {
		refused(t, is.Chain, other.bundle(), now)
		refused(t, is.Chain, identity.Bundle{TrustDomain: "a.example"}, now)
	})
	t.Run("13 a prepared root before its activation", func(t *testing.T) {
		both := identity.Bundle{TrustDomain: "a.example", Authorities: []*x509.Certificate{other.root.Root(), a.root.Root()}}
		if _, err := identity.VerifyPeer(is.Chain, both, now); err != nil {
			t.Error(err)
		}
	})
	t.Run("14 self-signed with the right names", func(t *testing.T) {
		key := newKey(t)
		tpl := *is.Leaf
		tpl.Subject, tpl.Issuer = a.issuer.Certificate().Subject, a.issuer.Certificate().Subject
		tpl.ExtraExtensions, tpl.PublicKey = nil, key.Public()
		der, err := x509.CreateCertificate(rand.Reader, &tpl, &tpl, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, []*x509.Certificate{mustParse(t, der), a.issuer.Certificate()}, a.bundle(), now)
	})
	t.Run("the chain without its intermediate", func(t *testing.T) {
		refused(t, is.Chain[:1], a.bundle(), now)
	})
	t.Run("a CA below the path length", func(t *testing.T) {
		key := newKey(t)
		tpl := &x509.Certificate{
			SerialNumber: big.NewInt(9), Subject: pkix.Name{CommonName: "sub"}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}
		der, err := x509.CreateCertificate(rand.Reader, tpl, a.issuer.Certificate(), key.Public(), a.issuer.Key())
		if err != nil {
			t.Fatal(err)
		}
		sub := mustParse(t, der)
		leaf := forge(t, sub, key, now, nil, name{tagURI, me})
		refused(t, append(leaf, sub, a.issuer.Certificate()), a.bundle(), now)
	})
	t.Run("a weak key", func(t *testing.T) {
		for what, pub := range map[string]any{"P-224": weakEC(t), "RSA-1024": weakRSA(t)} {
			r := newRogue(t, "a.example", now)
			tpl := *is.Leaf
			der, err := x509.CreateCertificate(rand.Reader, &tpl, r.cert, pub, r.key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := identity.VerifyPeer([]*x509.Certificate{mustParse(t, der)}, r.bundle(), now); err == nil {
				t.Errorf("accepted %s", what)
			}
		}
	})
}

func weakEC(t *testing.T) any {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k.Public()
}

func weakRSA(t *testing.T) any {
	t.Helper()
	// The standard library makes no such key any more; the modulus only has to look like one.
	n := new(big.Int).Lsh(big.NewInt(1), 1023)
	return &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}
}

// 55: a request's own claims don't count, and bad requests are refused.
func TestParseCSR(t *testing.T) {
	key := newKey(t)
	tpl := &x509.CertificateRequest{
		Subject:         pkix.Name{CommonName: "spiffe://b.example/ns/x/sa/victim"},
		DNSNames:        []string{"victim.example"},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}},
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, tpl, key)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := identity.ParseCSR(der)
	if err != nil || !pub.Equal(key.Public()) {
		t.Fatalf("ParseCSR = %v, %v", pub, err)
	}
	now := time.Now()
	a := newZone(t, "a.example", now)
	is, err := a.issuer.Sign(pub, a.id(t, "/ns/x/sa/y"), 0, now)
	if err != nil {
		t.Fatal(err)
	}
	if is.Leaf.IsCA || len(is.Leaf.DNSNames) != 0 || is.Leaf.Subject.CommonName != "" || is.Leaf.URIs[0].String() != me {
		t.Errorf("the request left traces: %+v", is.Leaf.Subject)
	}

	bad := append([]byte(nil), der...)
	bad[len(bad)-1] ^= 1
	if _, err := identity.ParseCSR(bad); err == nil {
		t.Error("accepted with a broken signature")
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for what, k := range map[string]any{"RSA": rsaKey, "P-384": p384} {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := identity.ParseCSR(der); err == nil {
			t.Errorf("accepted a key of type %s", what)
		}
	}
	if _, err := identity.ParseCSR(make([]byte, identity.MaxCSRBytes+1)); err == nil {
		t.Error("accepted an oversize request")
	}
}
