package identity

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// ParsePEMCertificates reads all CERTIFICATE blocks, at most MaxAuthorities; other blocks and text
// between blocks are refused.
func ParsePEMCertificates(data []byte) ([]*x509.Certificate, error) {
	if len(data) > MaxBundleBytes {
		return nil, fmt.Errorf("certificates of %d bytes, more than %d", len(data), MaxBundleBytes)
	}
	var out []*x509.Certificate
	for len(data) > 0 {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" || len(out) == MaxAuthorities {
			return nil, fmt.Errorf("a PEM block %q after %d certificates", block.Type, len(out))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out), err)
		}
		out, data = append(out, c), rest
	}
	if len(out) == 0 {
		return nil, errors.New("no PEM certificate found")
	}
	return out, nil
}

// ParseDERChain reads certificates in DER as they come over a wire, leaf first: at most 5, each at
// most 16 KiB.
func ParseDERChain(raw [][]byte) ([]*x509.Certificate, error) {
	if len(raw) == 0 || len(raw) > maxChain {
		return nil, fmt.Errorf("a chain of %d certificates, not 1 to %d", len(raw), maxChain)
	}
	out := make([]*x509.Certificate, len(raw))
	for i, der := range raw {
		if len(der) > maxCertBytes {
			return nil, fmt.Errorf("certificate %d has %d bytes, more than %d", i, len(der), maxCertBytes)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i, err)
		}
		out[i] = c
	}
	return out, nil
}

// DERChain is the inverse of ParseDERChain.
func DERChain(chain []*x509.Certificate) [][]byte {
	out := make([][]byte, len(chain))
	for i, c := range chain {
		out[i] = c.Raw
	}
	return out
}

// PEMKey encodes a private key as PKCS #8 in PEM. It is a secret: write it only where its owner
// alone can read it.
func PEMKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParsePEMKey reads the first block of a file as a PKCS #8 private key. Errors never quote it.
func ParsePEMKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no PKCS #8 private key in PEM found")
	}
	return parseKey(block.Bytes)
}

func parseKey(der []byte) (crypto.Signer, error) {
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("the private key can't be read")
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a private key of type %T can't sign", k)
	}
	return s, nil
}
