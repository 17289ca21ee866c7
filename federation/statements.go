package federation

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation/federationpb"
)

// Kinds of statements.
const (
	StatementBundle  = "bundle"  // subject: the trust domain
	StatementExport  = "export"  // subject: namespace/service
	StatementIngress = "ingress" // subject: ""
)

// Subject says what a statement is about; a newer one about the same replaces it.
type Subject struct {
	Zone    string
	Kind    string
	Subject string
}

// SubjectOf is what a statement is about.
func SubjectOf(s *federationpb.Statement) Subject {
	return Subject{Zone: s.GetZone(), Kind: s.GetKind(), Subject: s.GetSubject()}
}

// HeadOf names a statement in a hello.
func HeadOf(s *federationpb.Statement) *federationpb.StatementHead {
	return &federationpb.StatementHead{
		Zone: s.GetZone(), Kind: s.GetKind(), Subject: s.GetSubject(),
		Incarnation: s.GetIncarnation(), Sequence: s.GetSequence(),
	}
}

// DigestHeads is the same for the same heads in any order, and for hardly any others; nil for none.
func DigestHeads(heads []*federationpb.StatementHead) []byte {
	if len(heads) == 0 {
		return nil
	}
	lines := make([]string, 0, len(heads))
	for _, h := range heads {
		lines = append(lines, fmt.Sprintf("%q %q %q %q %d\n", h.GetZone(), h.GetKind(), h.GetSubject(), h.GetIncarnation(), h.GetSequence()))
	}
	slices.Sort(lines)
	sum := sha256.New()
	for _, l := range lines {
		sum.Write([]byte(l))
	}
	return sum.Sum(nil)
}

// Newer reports whether a statement replaces what is held of the same subject: a higher sequence of the
// same incarnation, or another incarnation. Which incarnation of a zone is the present one is for the
// owner of the store to know (global pins it at join).
func Newer(s *federationpb.Statement, heldIncarnation string, heldSequence uint64) bool {
	return s.GetIncarnation() != heldIncarnation || s.GetSequence() > heldSequence
}

type version struct {
	incarnation string
	sequence    uint64
}

// speaker sends statements: of each subject only the newest, of a subject only one at a time, bundles
// before the rest because nothing else can be believed without them.
type speaker struct {
	heads       map[Subject]version // what the peer is known to hold, or to have refused
	pending     map[Subject]*federationpb.Statement
	queues      [2][]Subject // bundles, others
	outstanding map[Subject]version
	started     bool
}

func (s *speaker) start(heads []*federationpb.StatementHead) {
	s.started = true
	if s.heads == nil {
		s.heads = make(map[Subject]version, len(heads))
	}
	for _, h := range heads {
		k := Subject{Zone: h.GetZone(), Kind: h.GetKind(), Subject: h.GetSubject()}
		s.heads[k] = version{h.GetIncarnation(), h.GetSequence()}
	}
	for k, st := range s.pending { // offered before the peer said what it has
		if h, ok := s.heads[k]; ok && !Newer(st, h.incarnation, h.sequence) {
			delete(s.pending, k)
		}
	}
}

func (s *speaker) offer(st *federationpb.Statement) {
	k := SubjectOf(st)
	if h, ok := s.heads[k]; ok && !Newer(st, h.incarnation, h.sequence) {
		return
	}
	if o, ok := s.outstanding[k]; ok && !Newer(st, o.incarnation, o.sequence) {
		return
	}
	if p, ok := s.pending[k]; ok {
		if Newer(st, p.GetIncarnation(), p.GetSequence()) {
			s.pending[k] = st
		}
		return
	}
	if s.pending == nil {
		s.pending = map[Subject]*federationpb.Statement{}
	}
	s.pending[k] = st
	s.enqueue(k)
}

func (s *speaker) enqueue(k Subject) {
	q := 1
	if k.Kind == StatementBundle {
		q = 0
	}
	s.queues[q] = append(s.queues[q], k)
}

func (s *speaker) next() proto.Message {
	if !s.started || len(s.outstanding) >= maxSaid {
		return nil
	}
	for q := range s.queues {
		for i := 0; i < len(s.queues[q]); i++ {
			k := s.queues[q][i]
			st, ok := s.pending[k]
			if !ok {
				continue
			}
			if _, busy := s.outstanding[k]; busy {
				continue
			}
			s.queues[q] = append(s.queues[q][:i:i], s.queues[q][i+1:]...)
			delete(s.pending, k)
			if s.outstanding == nil {
				s.outstanding = map[Subject]version{}
			}
			s.outstanding[k] = version{st.GetIncarnation(), st.GetSequence()}
			return st
		}
		if len(s.pending) == 0 {
			s.queues[q] = nil // only names of what was dropped
		}
	}
	return nil
}

func (s *speaker) ack(a *federationpb.StatementAck) error {
	k := Subject{Zone: a.GetZone(), Kind: a.GetKind(), Subject: a.GetSubject()}
	v := version{a.GetIncarnation(), a.GetSequence()}
	if s.outstanding[k] != v {
		return violation("ack of a statement that is not outstanding")
	}
	delete(s.outstanding, k)
	s.heads[k] = v
	return nil
}

// checkStatement reports why a statement is not well-formed. Who signed it is for the owner to verify.
func checkStatement(s *federationpb.Statement) string {
	switch {
	case proto.Size(s) > MaxStatement:
		return "larger than 512 KiB"
	case s.GetKind() == "" || len(s.GetKind()) > 63 || len(s.GetSubject()) > 512:
		return "kind is missing, or kind or subject too long"
	case s.GetIncarnation() == "" || len(s.GetIncarnation()) > 64 || s.GetSequence() == 0:
		return "incarnation or sequence is missing"
	case len(s.GetChain()) > 8:
		return "more than 8 certificates"
	}
	return ""
}

func answerOf(s *federationpb.Statement, refused string) *federationpb.StatementAck {
	return &federationpb.StatementAck{
		Zone: s.GetZone(), Kind: s.GetKind(), Subject: s.GetSubject(),
		Incarnation: s.GetIncarnation(), Sequence: s.GetSequence(), Refused: bounded(refused, 512),
	}
}
