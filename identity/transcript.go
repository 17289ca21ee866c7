package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/comity-mesh/comity/mesh"
)

// ErrProof says that a proof of possession does not verify. It says nothing more, on purpose.
var ErrProof = errors.New("proof of possession refused")

// canonical is the encoding under every signature: each field, the domain first, behind its length
// as 4 bytes big-endian. No two lists of fields have the same encoding.
func canonical(domain string, fields ...[]byte) []byte {
	n := 4 + len(domain)
	for _, f := range fields {
		n += 4 + len(f)
	}
	out := make([]byte, 0, n)
	out = appendField(out, []byte(domain))
	for _, f := range fields {
		out = appendField(out, f)
	}
	return out
}

func appendField(out, f []byte) []byte {
	// Fields are bounded far below 4 GiB by every caller.
	out = binary.BigEndian.AppendUint32(out, uint32(len(f)))
	return append(out, f...)
}

func digest(b []byte) []byte {
	d := sha256.Sum256(b)
	return d[:]
}

// Exporter is keying material of a TLS session (RFC 8446 7.5), 32 bytes: equal on both sides, and
// on no other session. A proof over it can't be carried to another connection.
func Exporter(s tls.ConnectionState) ([]byte, error) {
	if s.Version < tls.VersionTLS13 {
		return nil, errors.New("TLS exporter: the session is older than TLS 1.3")
	}
	b, err := s.ExportKeyingMaterial("EXPORTER-comity-proof-v1", nil, 32)
	if err != nil {
		return nil, fmt.Errorf("TLS exporter: %w", err)
	}
	return b, nil
}

// JoinTranscript is what a joining zone signs with the key of its token.
type JoinTranscript struct {
	Exporter    []byte
	CSR         []byte // PKCS #10 DER
	TokenID     string
	Zone        string
	TrustDomain mesh.TrustDomain
	Incarnation mesh.Incarnation
}

// Bytes is the canonical encoding that is signed.
func (t JoinTranscript) Bytes() []byte {
	return canonical("comity-join-v1", t.Exporter, digest(t.CSR), []byte(t.TokenID), []byte(t.Zone),
		[]byte(t.TrustDomain), []byte(t.Incarnation))
}

// EnrolTranscript is what an enrolling agent signs with the key of its token.
type EnrolTranscript struct {
	Exporter []byte
	CSR      []byte
	TokenID  string
	Proxy    mesh.ProxyID
}

// Bytes is the canonical encoding that is signed.
func (t EnrolTranscript) Bytes() []byte {
	return canonical("comity-enrol-v1", t.Exporter, digest(t.CSR), []byte(t.TokenID),
		[]byte(t.Proxy.Role), []byte(t.Proxy.Namespace), []byte(t.Proxy.Name))
}

// RenewTranscript is what a zone or an agent signs with the key registered at first contact, when
// its certificate has ended. Who is the zone's name, or the proxy's ID as a string; Incarnation is
// empty for a proxy.
type RenewTranscript struct {
	Exporter    []byte
	CSR         []byte
	Who         string
	Incarnation mesh.Incarnation
}

// Bytes is the canonical encoding that is signed.
func (t RenewTranscript) Bytes() []byte {
	return canonical("comity-renew-v1", t.Exporter, digest(t.CSR), []byte(t.Who), []byte(t.Incarnation))
}

// SignTranscript signs a transcript with an ECDSA P-256 key: ASN.1 over its SHA-256.
func SignTranscript(key crypto.Signer, transcript []byte) ([]byte, error) {
	if _, err := checkP256(key.Public()); err != nil {
		return nil, fmt.Errorf("sign a proof: %w", err)
	}
	sig, err := key.Sign(rand.Reader, digest(transcript), crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign a proof: %w", err)
	}
	return sig, nil
}

// VerifyTranscript checks what SignTranscript made, or returns ErrProof.
func VerifyTranscript(pub crypto.PublicKey, transcript, sig []byte) error {
	key, err := checkP256(pub)
	if err != nil || len(sig) > 128 || !ecdsa.VerifyASN1(key, digest(transcript), sig) {
		return ErrProof
	}
	return nil
}

// VerifyTokenProof checks a proof made by a token (JoinToken.Prove, EnrolToken.Prove) against the
// token's public key, or returns ErrProof.
func VerifyTokenProof(pub ed25519.PublicKey, transcript, proof []byte) error {
	if len(pub) != ed25519.PublicKeySize || len(proof) != ed25519.SignatureSize || !ed25519.Verify(pub, transcript, proof) {
		return ErrProof
	}
	return nil
}
