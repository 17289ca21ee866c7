package identity

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// Tokens admit a zone or a workload for the first time. A token holds a 256-bit secret from which
// an Ed25519 key is derived; the holder proves that it knows the token by signing a transcript with
// that key over the TLS session's exporter. The token itself never crosses, and who issued it keeps
// only the public key: a stolen store holds nothing that can join.

const (
	joinPrefix    = "comity-join-"
	enrolPrefix   = "comity-enrol-"
	maxTokenText  = 8 << 10
	maxEndpoints  = 8
	checksumBytes = 4
)

// ErrToken is wrapped by every error about the text of a token. Errors never quote the token.
var ErrToken = errors.New("not a usable token")

// Secret is the secret part of a token. It prints as "[secret]" wherever it is formatted or logged.
type Secret struct{ b [32]byte }

// NewSecret makes 256 random bits.
func NewSecret() (Secret, error) {
	var s Secret
	if _, err := rand.Read(s.b[:]); err != nil {
		return Secret{}, fmt.Errorf("random secret: %w", err)
	}
	return s, nil
}

func (Secret) String() string { return "[secret]" }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return "[secret]" }

// LogValue hides the secret from slog.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

// MarshalJSON refuses: a secret has no business in a document.
func (Secret) MarshalJSON() ([]byte, error) {
	return nil, errors.New("a token's secret is not marshalled")
}

func (s Secret) key(purpose string) (ed25519.PrivateKey, error) {
	seed, err := hkdf.Key(sha256.New, s.b[:], nil, "comity-token-v1 "+purpose, ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive a token's key: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

func (s Secret) isZero() bool {
	var zero Secret
	return subtle.ConstantTimeCompare(s.b[:], zero.b[:]) == 1
}

// NewTokenID makes the public name of a token: 64 random bits in hex.
func NewTokenID() (string, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("random token id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// JoinToken lets one zone join, once. Everything but Secret may be shown.
type JoinToken struct {
	ID        string
	Zone      string
	Endpoints []string // host:port of global's federation service, at least one
	Pin       Pin      // of global's root
	Expires   time.Time
	Secret    Secret
}

// EnrolToken lets workloads of one service account, or zone ingresses, enrol with their zone.
// Everything but Secret may be shown.
type EnrolToken struct {
	ID   string
	Zone string
	Role mesh.Role // sidecar, ingress or egress
	// Namespace and ServiceAccount of the workload; both empty for an ingress or egress.
	Namespace      string
	ServiceAccount string
	Endpoints      []string // host:port of the zone's enrolment service, at least one
	Pin            Pin      // of the zone's root
	Expires        time.Time
	Limit          int // how many instances may enrol with it, 1 to 100,000
	Secret         Secret
}

// tokenText is the document inside a token's text.
type tokenText struct {
	ID             string   `json:"i"`
	Zone           string   `json:"z"`
	Role           string   `json:"r,omitempty"`
	Namespace      string   `json:"n,omitempty"`
	ServiceAccount string   `json:"a,omitempty"`
	Endpoints      []string `json:"e"`
	Pin            []byte   `json:"p"`
	Expires        int64    `json:"x"` // Unix seconds
	Limit          int      `json:"l,omitempty"`
	Secret         []byte   `json:"s"`
}

// Text is the token as a user carries it: comity-join-<base64url>. It is a secret.
func (t JoinToken) Text() (string, error) {
	if err := t.check(); err != nil {
		return "", err
	}
	return encodeToken(joinPrefix, tokenText{
		ID: t.ID, Zone: t.Zone, Endpoints: t.Endpoints, Pin: t.Pin[:], Expires: t.Expires.Unix(), Secret: t.Secret.b[:],
	})
}

// String names the token without its secret.
func (t JoinToken) String() string { return "join token " + t.ID + " of zone " + t.Zone }

// PublicKey is what the issuer stores to verify Prove.
func (t JoinToken) PublicKey() (ed25519.PublicKey, error) { return publicKey(t.Secret, "join") }

// Prove signs a JoinTranscript.
func (t JoinToken) Prove(transcript []byte) ([]byte, error) {
	return prove(t.Secret, "join", transcript)
}

func (t JoinToken) check() error {
	if err := mesh.CheckZoneName(t.Zone); err != nil {
		return fmt.Errorf("%w: zone %w", ErrToken, err)
	}
	return checkCommon(t.ID, t.Endpoints, t.Expires, t.Secret)
}

// ParseJoinToken reads what JoinToken.Text wrote. Expiry is not checked: only its issuer's clock and
// record count.
func ParseJoinToken(s string) (JoinToken, error) {
	d, err := decodeToken(joinPrefix, s)
	if err != nil {
		return JoinToken{}, err
	}
	if d.Role != "" || d.Namespace != "" || d.ServiceAccount != "" || d.Limit != 0 {
		return JoinToken{}, fmt.Errorf("%w: it is no join token", ErrToken)
	}
	t := JoinToken{ID: d.ID, Zone: d.Zone, Endpoints: d.Endpoints, Pin: Pin(d.Pin), Expires: time.Unix(d.Expires, 0).UTC(), Secret: Secret{[32]byte(d.Secret)}}
	return t, t.check()
}

// Text is the token as a user carries it: comity-enrol-<base64url>. It is a secret.
func (t EnrolToken) Text() (string, error) {
	if err := t.Check(); err != nil {
		return "", err
	}
	return encodeToken(enrolPrefix, tokenText{
		ID: t.ID, Zone: t.Zone, Role: string(t.Role), Namespace: t.Namespace, ServiceAccount: t.ServiceAccount,
		Endpoints: t.Endpoints, Pin: t.Pin[:], Expires: t.Expires.Unix(), Limit: t.Limit, Secret: t.Secret.b[:],
	})
}

// String names the token without its secret.
func (t EnrolToken) String() string { return "enrolment token " + t.ID + " of zone " + t.Zone }

// PublicKey is what the issuer stores to verify Prove.
func (t EnrolToken) PublicKey() (ed25519.PublicKey, error) { return publicKey(t.Secret, "enrol") }

// Prove signs an EnrolTranscript.
func (t EnrolToken) Prove(transcript []byte) ([]byte, error) {
	return prove(t.Secret, "enrol", transcript)
}

// Check reports why the token can't be issued as it is.
func (t EnrolToken) Check() error {
	if err := mesh.CheckLabel(t.Zone); err != nil {
		return fmt.Errorf("%w: zone %w", ErrToken, err)
	}
	switch t.Role {
	case mesh.RoleSidecar:
		if _, err := WorkloadID("check.invalid", t.Namespace, t.ServiceAccount); err != nil {
			return fmt.Errorf("%w: %w", ErrToken, err)
		}
	case mesh.RoleIngress, mesh.RoleEgress:
		if t.Namespace != "" || t.ServiceAccount != "" {
			return fmt.Errorf("%w: an %s has neither namespace nor service account", ErrToken, t.Role)
		}
	default:
		return fmt.Errorf("%w: role %q can't enrol", ErrToken, t.Role)
	}
	if t.Limit < 1 || t.Limit > 100_000 {
		return fmt.Errorf("%w: an instance limit of %d is not 1 to 100000", ErrToken, t.Limit)
	}
	return checkCommon(t.ID, t.Endpoints, t.Expires, t.Secret)
}

// ParseEnrolToken reads what EnrolToken.Text wrote. Expiry is not checked: only its issuer's clock
// and record count.
func ParseEnrolToken(s string) (EnrolToken, error) {
	d, err := decodeToken(enrolPrefix, s)
	if err != nil {
		return EnrolToken{}, err
	}
	t := EnrolToken{
		ID: d.ID, Zone: d.Zone, Role: mesh.Role(d.Role), Namespace: d.Namespace, ServiceAccount: d.ServiceAccount,
		Endpoints: d.Endpoints, Pin: Pin(d.Pin), Expires: time.Unix(d.Expires, 0).UTC(), Limit: d.Limit, Secret: Secret{[32]byte(d.Secret)},
	}
	return t, t.Check()
}

func checkCommon(id string, endpoints []string, expires time.Time, s Secret) error {
	if b, err := hex.DecodeString(id); err != nil || len(b) != 8 || strings.ToLower(id) != id {
		return fmt.Errorf("%w: its id is not 16 hex digits", ErrToken)
	}
	if len(endpoints) < 1 || len(endpoints) > maxEndpoints {
		return fmt.Errorf("%w: %d endpoints, not 1 to %d", ErrToken, len(endpoints), maxEndpoints)
	}
	for _, e := range endpoints {
		if err := checkHostPort(e); err != nil {
			return fmt.Errorf("%w: endpoint %w", ErrToken, err)
		}
	}
	if expires.Unix() <= 0 {
		return fmt.Errorf("%w: it has no expiry", ErrToken)
	}
	if s.isZero() {
		return fmt.Errorf("%w: it has no secret", ErrToken)
	}
	return nil
}

func checkHostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not host:port", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no port between 1 and 65535", s)
	}
	if net.ParseIP(host) == nil && mesh.CheckSubdomain(host) != nil {
		return fmt.Errorf("%q has neither an IP address nor a DNS name", s)
	}
	return nil
}

func publicKey(s Secret, purpose string) (ed25519.PublicKey, error) {
	k, err := s.key(purpose)
	if err != nil {
		return nil, err
	}
	return ed25519.PublicKey(k[ed25519.SeedSize:]), nil
}

func prove(s Secret, purpose string, transcript []byte) ([]byte, error) {
	k, err := s.key(purpose)
	if err != nil {
		return nil, err
	}
	return ed25519.Sign(k, transcript), nil
}

func encodeToken(prefix string, d tokenText) (string, error) {
	doc, err := json.Marshal(d) //nolint:gosec // to carry the secret is what a token is for
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrToken, err)
	}
	return prefix + base64.RawURLEncoding.EncodeToString(append(doc, checksum(prefix, doc)...)), nil
}

// decodeToken checks sizes and the checksum, which catches a token that was cut or retyped before
// anybody is asked about it.
func decodeToken(prefix, s string) (tokenText, error) {
	if len(s) > maxTokenText {
		return tokenText{}, fmt.Errorf("%w: %d characters, more than %d", ErrToken, len(s), maxTokenText)
	}
	body, ok := strings.CutPrefix(strings.TrimSpace(s), prefix)
	if !ok {
		return tokenText{}, fmt.Errorf("%w: it doesn't begin with %s", ErrToken, prefix)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(raw) <= checksumBytes {
		return tokenText{}, fmt.Errorf("%w: it was altered or cut", ErrToken)
	}
	doc, sum := raw[:len(raw)-checksumBytes], raw[len(raw)-checksumBytes:]
	if subtle.ConstantTimeCompare(sum, checksum(prefix, doc)) != 1 {
		return tokenText{}, fmt.Errorf("%w: it was altered or cut", ErrToken)
	}
	var d tokenText
	if err := json.Unmarshal(doc, &d); err != nil {
		// The JSON error could quote a part of the token.
		return tokenText{}, fmt.Errorf("%w: it can't be read", ErrToken)
	}
	if len(d.Pin) != len(Pin{}) || len(d.Secret) != 32 {
		return tokenText{}, fmt.Errorf("%w: its pin or secret has the wrong length", ErrToken)
	}
	return d, nil
}

func checksum(prefix string, doc []byte) []byte {
	return digest(canonical(prefix, doc))[:checksumBytes]
}
