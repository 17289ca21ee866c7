package federation

import (
	"bytes"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
)

// GlobalConfig is what global knows of a zone when its session begins.
type GlobalConfig struct {
	Zone        string           // as authenticated by the certificate, not as claimed
	Incarnation mesh.Incarnation // of global's store
	Epoch       uint64           // of this session
	Up          mesh.Cursor      // of the zone's log: the newest batch applied
	// Heads are the zone's own statements that global holds.
	Heads          []*federationpb.StatementHead
	StatusEpoch    string // position in the zone's status book
	StatusSequence uint64
}

// GlobalSession is global's end of one stream. Not safe for concurrent use; Link guards it.
type GlobalSession struct {
	*core
	cfg     GlobalConfig
	peer    int
	welcome bool // sent
	// digest is what the zone says of the statements that it holds, until it is known which they are.
	digest []byte
	bye    *federationpb.Bye
	said   Ended
	asks   []*federationpb.Query
	asked  map[uint64]struct{}
}

// NewGlobalSession begins a session after the zone's hello, which its owner has read to learn how far
// the zone is. The first frame is the welcome, or a goodbye.
func NewGlobalSession(cfg GlobalConfig, hello *federationpb.ZoneHello) (*GlobalSession, error) {
	s := &GlobalSession{cfg: cfg, asked: map[uint64]struct{}{}}
	own := mesh.Origin(cfg.Zone)
	s.core = newCore(
		func(r mesh.Resource) bool { return r.Origin == mesh.OriginGlobal && r.InScope(cfg.Zone) },
		func(k mesh.Key) error {
			if k.Origin != own {
				return fmt.Errorf("origin %q is not the zone %q", bounded(string(k.Origin), 64), cfg.Zone)
			}
			return nil
		})
	if hello == nil {
		return nil, violation("the first frame is not a hello")
	}
	p, err := checkProtocol(hello.GetProtocol())
	if err != nil {
		return nil, err
	}
	if hello.GetZone() != cfg.Zone {
		return nil, violation("zone %q says that it is %q", cfg.Zone, bounded(hello.GetZone(), 63))
	}
	up := CursorFromProto(hello.GetUpHead())
	if up.Incarnation == "" || len(up.Incarnation) > 64 || len(hello.GetHeads()) > maxHeads || len(hello.GetHeadsDigest()) > 64 {
		return nil, violation("a hello without the head of the zone's log, or with too many statements")
	}
	s.peer = p
	s.in.start(cfg.Up, up.Incarnation)
	s.out.start(CursorFromProto(hello.GetDown()))
	if s.digest = hello.GetHeadsDigest(); len(s.digest) == 0 {
		s.say.start(hello.GetHeads())
	}
	s.effect(Started{
		Protocol: p, Epoch: cfg.Epoch, Peer: up.Incarnation,
		Version: bounded(hello.GetVersion(), 64),
	})
	return s, nil
}

// Relay hands in another zone's statement. It is sent unless the zone holds it or a newer one.
func (s *GlobalSession) Relay(st *federationpb.Statement) {
	if st.GetZone() != s.cfg.Zone {
		s.say.offer(st)
	}
}

// RelayAll hands in all statements of the other zones, before the first frame. If they are what the zone says that it
// holds, none is sent; otherwise the zone is asked which it holds, and gets what it lacks.
func (s *GlobalSession) RelayAll(list []*federationpb.Statement) {
	if len(s.digest) > 0 && !s.welcome {
		heads := make([]*federationpb.StatementHead, 0, len(list))
		for _, st := range list {
			if st.GetZone() != s.cfg.Zone {
				heads = append(heads, HeadOf(st))
			}
		}
		if bytes.Equal(DigestHeads(heads), s.digest) {
			s.digest = nil
			s.say.start(heads)
		}
	}
	for _, st := range list {
		s.Relay(st)
	}
}

// takeHeads takes what the zone holds, if it was asked for.
func (s *GlobalSession) takeHeads(h *federationpb.StatementHeads) error {
	if len(s.digest) == 0 || !s.welcome || len(h.GetHeads()) > maxHeads {
		return violation("heads of statements that were not asked for, or too many")
	}
	s.digest = nil
	s.say.start(h.GetHeads())
	return nil
}

// Ask sends a question to the zone. It reports false if too many are unanswered.
func (s *GlobalSession) Ask(q *federationpb.Query) bool {
	if len(s.asked) >= maxAsked {
		return false
	}
	s.asked[q.GetId()] = struct{}{}
	s.asks = append(s.asks, q)
	return true
}

// Follows reports whether the zone can be asked what goes on until it is withdrawn (federationpb.Query.Follow).
func (s *GlobalSession) Follows() bool { return s.peer >= followProtocol }

// Withdraw ends a question that is followed. Parts that are under way may still come, and the end of the answer does.
func (s *GlobalSession) Withdraw(id uint64) {
	if _, ok := s.asked[id]; ok {
		s.asks = append(s.asks, &federationpb.Query{Id: id, Withdraw: true})
	}
}

// StatusKept answers StatusArrived: the report and its position are stored.
func (s *GlobalSession) StatusKept(r *federationpb.StatusReport) {
	s.reply(&federationpb.StatusAck{Epoch: r.GetEpoch(), Sequence: r.GetSequence()})
}

// Bye ends the session: one last frame, and nothing is received any more.
func (s *GlobalSession) Bye(code, reason string, retryAfter time.Duration) {
	if !s.ended {
		s.ended, s.said = true, Ended{Code: code, Reason: reason, RetryAfter: retryAfter}
		s.bye = &federationpb.Bye{
			Code: code, Reason: reason,
			RetryAfterMs: uint32(max(0, min(retryAfter, time.Hour)).Milliseconds()), //nolint:gosec // at most an hour
		}
	}
}

func (s *GlobalSession) over() error {
	if s.ended && s.bye == nil {
		return &EndedError{s.said}
	}
	return nil
}

func (s *GlobalSession) giveUp(why error) bool {
	s.Bye(ByeProtocol, bounded(why.Error(), 512), time.Minute)
	return true
}

// Next is the next frame to send; ok is false for none now. Ask again after every event.
func (s *GlobalSession) Next() (frame *federationpb.GlobalFrame, ok bool) {
	if s.ended {
		if s.bye == nil {
			return nil, false
		}
		b := s.bye
		s.bye = nil
		return globalFrame(b), true
	}
	if !s.welcome {
		s.welcome = true
		heads := s.cfg.Heads
		if len(heads) > maxHeads {
			heads = heads[:maxHeads]
		}
		return globalFrame(&federationpb.GlobalWelcome{
			Protocol: Protocol, Incarnation: string(s.cfg.Incarnation), Epoch: s.cfg.Epoch,
			Up: CursorToProto(s.cfg.Up), Heads: heads,
			StatusEpoch: s.cfg.StatusEpoch, StatusSequence: s.cfg.StatusSequence, WantHeads: len(s.digest) > 0,
		}), true
	}
	if m := s.nextCommon(); m != nil {
		return globalFrame(m), true
	}
	if len(s.asks) > 0 {
		q := s.asks[0]
		s.asks = s.asks[1:]
		return globalFrame(q), true
	}
	return nil, false
}

// Receive takes the next frame from the zone, after the hello. An error wraps ErrProtocol and ends the
// stream.
func (s *GlobalSession) Receive(f *federationpb.ZoneFrame) error {
	if s.ended {
		return nil
	}
	switch m := f.GetFrame().(type) {
	case *federationpb.ZoneFrame_Ack:
		return s.out.ack(CursorFromProto(m.Ack.GetCursor()))
	case *federationpb.ZoneFrame_Nack:
		return s.out.nack(m.Nack)
	case *federationpb.ZoneFrame_Changes:
		return s.in.changes(m.Changes)
	case *federationpb.ZoneFrame_SnapshotBegin:
		return s.in.begin(m.SnapshotBegin)
	case *federationpb.ZoneFrame_SnapshotEnd:
		return s.in.end(m.SnapshotEnd)
	case *federationpb.ZoneFrame_Statement:
		mayNot := ""
		if m.Statement.GetZone() != s.cfg.Zone {
			mayNot = "a zone may only speak for itself"
		}
		s.statement(m.Statement, mayNot)
	case *federationpb.ZoneFrame_StatementAck:
		return s.statementAck(m.StatementAck)
	case *federationpb.ZoneFrame_Status:
		if err := checkReport(m.Status); err != nil {
			return err
		}
		s.effect(StatusArrived{m.Status})
	case *federationpb.ZoneFrame_Answer:
		if _, ok := s.asked[m.Answer.GetId()]; !ok {
			return violation("an answer to what was not asked")
		}
		if !m.Answer.GetMore() {
			delete(s.asked, m.Answer.GetId())
		}
		s.effect(Answered{m.Answer})
	case *federationpb.ZoneFrame_Ping:
		s.ping(m.Ping)
	case *federationpb.ZoneFrame_Heads:
		return s.takeHeads(m.Heads)
	case *federationpb.ZoneFrame_Hello:
		return violation("a second hello")
	default: // a frame of a newer protocol: not spoken here, so it must not have been sent
		return violation("a frame of an unknown kind")
	}
	return nil
}

// globalFrame wraps a message that global can send.
func globalFrame(m proto.Message) *federationpb.GlobalFrame {
	f := &federationpb.GlobalFrame{}
	switch m := m.(type) {
	case *federationpb.GlobalWelcome:
		f.Frame = &federationpb.GlobalFrame_Welcome{Welcome: m}
	case *federationpb.Ack:
		f.Frame = &federationpb.GlobalFrame_Ack{Ack: m}
	case *federationpb.Nack:
		f.Frame = &federationpb.GlobalFrame_Nack{Nack: m}
	case *federationpb.Changes:
		f.Frame = &federationpb.GlobalFrame_Changes{Changes: m}
	case *federationpb.SnapshotBegin:
		f.Frame = &federationpb.GlobalFrame_SnapshotBegin{SnapshotBegin: m}
	case *federationpb.SnapshotEnd:
		f.Frame = &federationpb.GlobalFrame_SnapshotEnd{SnapshotEnd: m}
	case *federationpb.Statement:
		f.Frame = &federationpb.GlobalFrame_Statement{Statement: m}
	case *federationpb.StatementAck:
		f.Frame = &federationpb.GlobalFrame_StatementAck{StatementAck: m}
	case *federationpb.StatusAck:
		f.Frame = &federationpb.GlobalFrame_StatusAck{StatusAck: m}
	case *federationpb.Query:
		f.Frame = &federationpb.GlobalFrame_Query{Query: m}
	case *federationpb.Bye:
		f.Frame = &federationpb.GlobalFrame_Bye{Bye: m}
	case *federationpb.Ping:
		f.Frame = &federationpb.GlobalFrame_Ping{Ping: m}
	}
	return f
}
