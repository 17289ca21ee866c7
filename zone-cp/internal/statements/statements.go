// Package statements carries signed statements between their form in identity, where they are signed
// and verified, and their form on the wire and on disk.
package statements

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

// ToProto gives the wire form.
func ToProto(s identity.Statement) *federationpb.Statement {
	return &federationpb.Statement{
		Kind: s.Kind, Zone: s.Zone, TrustDomain: string(s.TrustDomain), Incarnation: string(s.Incarnation),
		Sequence: s.Sequence, Subject: s.Subject, IssuedMs: s.Issued.UnixMilli(), LeaseUntilMs: s.LeaseUntil.UnixMilli(),
		Withdrawn: s.Withdrawn, Payload: s.Payload, Signature: s.Signature, Chain: s.Chain,
	}
}

// FromProto reads the wire form. It checks nothing.
func FromProto(s *federationpb.Statement) identity.Statement {
	return identity.Statement{
		Kind: s.GetKind(), Zone: s.GetZone(), TrustDomain: mesh.TrustDomain(s.GetTrustDomain()), Incarnation: mesh.Incarnation(s.GetIncarnation()),
		Sequence: s.GetSequence(), Subject: s.GetSubject(), Issued: time.UnixMilli(s.GetIssuedMs()), LeaseUntil: time.UnixMilli(s.GetLeaseUntilMs()),
		Withdrawn: s.GetWithdrawn(), Payload: s.GetPayload(), Signature: s.GetSignature(), Chain: s.GetChain(),
	}
}

// Encode gives the form on disk.
func Encode(s identity.Statement) ([]byte, error) {
	b, err := proto.Marshal(ToProto(s))
	if err != nil {
		return nil, fmt.Errorf("encode a statement: %w", err)
	}
	return b, nil
}

// Decode reads what Encode wrote. It checks nothing else.
func Decode(b []byte) (identity.Statement, error) {
	p := &federationpb.Statement{}
	if err := proto.Unmarshal(b, p); err != nil {
		return identity.Statement{}, fmt.Errorf("decode a statement: %w", err)
	}
	return FromProto(p), nil
}
