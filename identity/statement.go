package identity

import (
	"crypto"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// Limits of statements.
const (
	MaxStatementPayload = 1 << 20
	// MaxLease bounds how long a statement may hold without being renewed; it also bounds what an
	// old key can still say after its certificate has ended.
	MaxLease = 48 * time.Hour
	// ClockSkew is how far apart the clocks of zones may be.
	ClockSkew = 5 * time.Minute
)

// Why a statement is refused.
var (
	ErrStatement = errors.New("statement refused")
	// ErrLeaseEnded: the statement is genuine, but nobody has renewed it. What follows is policy.
	ErrLeaseEnded = errors.New("the statement's lease has ended")
)

// Statement is a zone's signed word about itself, as federationpb.Statement carries it. Times are
// whole milliseconds.
type Statement struct {
	Kind        string // "bundle", "export", "ingress"
	Zone        string
	TrustDomain mesh.TrustDomain
	Incarnation mesh.Incarnation
	Sequence    uint64
	Subject     string
	Issued      time.Time
	LeaseUntil  time.Time
	Withdrawn   bool
	Payload     []byte
	// Chain is the signer's certificates in DER, leaf first, without the root.
	Chain     [][]byte
	Signature []byte
}

// signed is the canonical encoding under the signature. The chain is not in it: the leaf's key made
// the signature, and the rest is only a way to the root.
func (s Statement) signed() []byte {
	n := func(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }
	withdrawn := []byte{0}
	if s.Withdrawn {
		withdrawn[0] = 1
	}
	return canonical("comity-statement-v1", []byte(s.Kind), []byte(s.Zone), []byte(s.TrustDomain),
		[]byte(s.Incarnation), n(s.Sequence), []byte(s.Subject),
		n(uint64(s.Issued.UnixMilli())), n(uint64(s.LeaseUntil.UnixMilli())),
		withdrawn, s.Payload)
}

// StatementSigner signs the statements of one zone with its current <trust domain>/fed/zone-cp
// certificate. Safe for concurrent use.
type StatementSigner struct{ cert CertSource }

// NewStatementSigner signs with whatever certificate the source gives at that moment.
func NewStatementSigner(cert CertSource) *StatementSigner { return &StatementSigner{cert} }

// Sign fills Chain and Signature, and cuts the times to milliseconds. The lease must be at most
// MaxLease long.
func (g *StatementSigner) Sign(s Statement) (Statement, error) {
	cert, err := g.cert()
	if err != nil {
		return Statement{}, fmt.Errorf("sign a statement: %w", err)
	}
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return Statement{}, errors.New("sign a statement: the certificate's key can't sign")
	}
	s.Issued, s.LeaseUntil = s.Issued.Truncate(time.Millisecond), s.LeaseUntil.Truncate(time.Millisecond)
	if err := s.check(); err != nil {
		return Statement{}, err
	}
	s.Chain = cert.Certificate
	if s.Signature, err = SignTranscript(key, s.signed()); err != nil {
		return Statement{}, err
	}
	return s, nil
}

func (s Statement) check() error {
	if err := mesh.CheckTrustDomain(string(s.TrustDomain)); err != nil {
		return fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if err := mesh.CheckZoneName(s.Zone); err != nil {
		return fmt.Errorf("%w: %w", ErrStatement, err)
	}
	switch {
	case s.Kind == "" || len(s.Kind) > 63 || len(s.Subject) > 1024 || len(s.Incarnation) == 0 || len(s.Incarnation) > 64:
		return fmt.Errorf("%w: kind, subject or incarnation is empty or too long", ErrStatement)
	case len(s.Payload) > MaxStatementPayload:
		return fmt.Errorf("%w: a payload of %d bytes, more than %d", ErrStatement, len(s.Payload), MaxStatementPayload)
	case s.Issued.Unix() <= 0 || s.Issued.Truncate(time.Millisecond) != s.Issued || s.LeaseUntil.Truncate(time.Millisecond) != s.LeaseUntil:
		return fmt.Errorf("%w: its times are not whole milliseconds after 1970", ErrStatement)
	case !s.LeaseUntil.After(s.Issued) || s.LeaseUntil.Sub(s.Issued) > MaxLease:
		return fmt.Errorf("%w: its lease is not between 0 and %s", ErrStatement, MaxLease)
	}
	return nil
}

// VerifyStatement checks that the zone whose bundle is given made the statement: the signer must be
// exactly <trust domain>/fed/zone-cp under that bundle. The signer's certificate must have been valid
// when the statement was issued, so that a statement outlives a restart of its reader; the lease must
// hold now, else the error is ErrLeaseEnded and everything else was in order.
func VerifyStatement(s Statement, bundle Bundle, now time.Time) error {
	if err := s.check(); err != nil {
		return err
	}
	if s.Withdrawn && len(s.Payload) > 0 {
		return fmt.Errorf("%w: it is withdrawn, and has a payload of %d bytes, which nobody would read and everybody keep", ErrStatement, len(s.Payload))
	}
	if bundle.TrustDomain != s.TrustDomain {
		return fmt.Errorf("%w: it is of %s, the bundle of %s", ErrStatement, s.TrustDomain, bundle.TrustDomain)
	}
	if s.Issued.After(now.Add(ClockSkew)) {
		return fmt.Errorf("%w: it was issued in the future, at %s", ErrStatement, s.Issued.UTC().Format(time.RFC3339))
	}
	chain, err := ParseDERChain(s.Chain)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStatement, err)
	}
	id, err := VerifyPeer(chain, bundle, s.Issued)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if id.String() != s.TrustDomain.ZoneCPID() {
		return fmt.Errorf("%w: %q may not speak for zone %s", ErrStatement, id, s.Zone)
	}
	if err := VerifyTranscript(chain[0].PublicKey, s.signed(), s.Signature); err != nil {
		return fmt.Errorf("%w: the signature does not verify", ErrStatement)
	}
	if !now.Before(s.LeaseUntil) {
		return fmt.Errorf("%w: at %s", ErrLeaseEnded, s.LeaseUntil.UTC().Format(time.RFC3339))
	}
	return nil
}
