package envoy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

// authority issues what the zone's CA would issue, and what only a thief of its key could.
type authority struct {
	td mesh.TrustDomain
	*identity.Authority
}

func newAuthority(t *testing.T, td mesh.TrustDomain) authority {
	t.Helper()
	a, err := identity.NewRoot(td, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return authority{td, a}
}

func (a authority) issue(t *testing.T, path string) tls.Certificate {
	t.Helper()
	id, err := identity.NewID(a.td, path)
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	issued, err := a.Sign(key.Public(), id, 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: key, Leaf: issued.Leaf}
	for _, c := range issued.Chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}

// forge issues a certificate with any URIs, under a root of its own without name constraints or under
// the authority's.
func (a authority) forge(t *testing.T, uris ...string) tls.Certificate {
	t.Helper()
	return forge(t, a.Certificate(), a.Key().(*ecdsa.PrivateKey), uris...)
}

func forge(t *testing.T, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey, uris ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// plainRoot is a root of the trust domain without name constraints, as SPIRE makes them.
func plainRoot(t *testing.T, td mesh.TrustDomain) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse("spiffe://" + string(td))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: string(td)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{u},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// secret is the agent's SDS answer: the proxy's certificate and key.
func (a authority) secret(t *testing.T, c tls.Certificate) object {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	var chain []byte
	for _, der := range c.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return object{
		"name": "identity",
		"tlsCertificate": object{
			"certificateChain": object{"inlineString": string(chain)},
			"privateKey":       object{"inlineString": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))},
		},
	}
}

// bundle is the trust of the authority as the zone knows it.
func (a authority) bundle() []byte { return a.Bundle(1).PEM() }

// chainOf is a certificate with its issuers, leaf first.
func chainOf(c tls.Certificate) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, der := range c.Certificate {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}
