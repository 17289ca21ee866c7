package demo

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"strings"
	"time"
)

// The attacks of `comity demo --check`. Each returns nil if it got through, which is the failure of the
// check, and otherwise how it was turned away.

var errGotThrough = errors.New("got through")

// plaintext speaks HTTP without TLS to a sidecar's inbound listener.
func plaintext(ctx context.Context, addr string) (string, error) {
	c, err := dial(ctx, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: pay.shop\r\n\r\n"); err != nil {
		return closedHow(err), nil
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if strings.HasPrefix(line, "HTTP/") {
		return "", fmt.Errorf("%w: answered %q to plaintext", errGotThrough, strings.TrimSpace(line))
	}
	return closedHow(err), nil
}

// forged presents a certificate that names the identity but comes from a CA of the attacker's own.
func forged(ctx context.Context, addr, sni, identity string) (string, error) {
	cert, err := rogueCertificate(identity)
	if err != nil {
		return "", err
	}
	how, err := tlsRequest(ctx, addr, sni, &cert)
	if err == nil && strings.Contains(how, "certificate required") {
		return how, errors.New("the forged certificate was never shown, so nothing was proven")
	}
	return how, err
}

// tlsRequest reports how the peer refused. It does not verify the peer: an attacker would not either, and
// what is under test is the peer's verification of the caller.
func tlsRequest(ctx context.Context, addr, sni string, cert *tls.Certificate) (string, error) {
	raw, err := dial(ctx, addr)
	if err != nil {
		return "", err
	}
	defer raw.Close()
	c := tls.Client(raw, &tls.Config{
		// Not Certificates: Go would keep back one whose CA the server does not list.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert == nil {
				return new(tls.Certificate), nil
			}
			return cert, nil
		},
		ServerName: sni, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		InsecureSkipVerify: true, //nolint:gosec // the attacker's side: see above
	})
	if err := c.HandshakeContext(ctx); err != nil {
		return closedHow(err), nil
	}
	// With TLS 1.3 the client's handshake is over before the server has judged its certificate: the
	// verdict is the first read.
	if _, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return closedHow(err), nil
	}
	buf := make([]byte, 9)
	if _, err := io.ReadFull(c, buf); err != nil {
		return closedHow(err), nil
	}
	return "", fmt.Errorf("%w: %s spoke HTTP/2 to it", errGotThrough, addr)
}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return c, c.SetDeadline(time.Now().Add(5 * time.Second))
}

func closedHow(err error) string {
	var alert tls.AlertError
	switch {
	case err == nil:
		return "connection closed"
	case errors.As(err, &alert):
		return "TLS alert: " + strings.TrimPrefix(alert.Error(), "tls: ")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case strings.Contains(err.Error(), "reset by peer"), strings.Contains(err.Error(), "broken pipe"):
		return "connection reset"
	case strings.Contains(err.Error(), "remote error: tls: "):
		return "TLS alert: " + err.Error()[strings.Index(err.Error(), "tls: ")+5:]
	default:
		return err.Error()
	}
}

// rogueCertificate makes a CA that claims the identity's trust domain and lets it issue the identity.
func rogueCertificate(identity string) (tls.Certificate, error) {
	id, err := url.Parse(identity)
	if err != nil {
		return tls.Certificate{}, err
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: id.Host}},
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs: []*url.URL{id},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}, nil
}
