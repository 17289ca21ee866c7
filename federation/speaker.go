package federation

import "github.com/comity-mesh/comity/federation/federationpb"

// Speaker sends statements to one reader: of each subject only the newest, of a subject only one at a time, bundles
// before the rest, and nothing that the reader holds already. Zones use it among themselves where global is away.
// Not safe for concurrent use.
type Speaker struct{ s speaker }

// NewSpeaker makes a speaker for a reader that says what it holds.
func NewSpeaker(heads []*federationpb.StatementHead) *Speaker {
	s := &Speaker{}
	s.s.start(heads)
	return s
}

// Offer hands in a statement that may be news.
func (s *Speaker) Offer(st *federationpb.Statement) { s.s.offer(st) }

// Next is a statement to send now, nil for none: there is nothing, or too much is unanswered.
func (s *Speaker) Next() *federationpb.Statement {
	st, _ := s.s.next().(*federationpb.Statement)
	return st
}

// Unanswered counts the statements that were sent and not acknowledged.
func (s *Speaker) Unanswered() int { return len(s.s.outstanding) }

// Ack takes the reader's answer to one of them; ErrProtocol if there is none such.
func (s *Speaker) Ack(a *federationpb.StatementAck) error { return s.s.ack(a) }

// CheckStatement reports why a statement is not well-formed, empty if it is. Who signed it is for its reader to verify.
func CheckStatement(s *federationpb.Statement) string { return checkStatement(s) }
