package federation

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
)

// ZoneConfig is what a zone knows when it begins a session.
type ZoneConfig struct {
	Zone        string
	Incarnation mesh.Incarnation // of the zone
	Version     string           // of the software
	Down        mesh.Cursor      // of global's log: the newest batch applied
	UpHead      mesh.Cursor      // head of the zone's own store
	// Heads are the statements of other zones that the zone holds.
	Heads []*federationpb.StatementHead
	// Statuses is what the zone reports; it outlives the session.
	Statuses *StatusBook
}

// ZoneSession is the zone's end of one stream. Not safe for concurrent use; Link guards it.
type ZoneSession struct {
	*core
	cfg     ZoneConfig
	hello   bool // sent
	welcome bool // received
	status  reporter
	answers []*federationpb.Answer
	parts   []*federationpb.Answer
	asked   map[uint64]struct{}
}

// NewZoneSession begins a session; its first frame is the hello.
func NewZoneSession(cfg ZoneConfig) *ZoneSession {
	s := &ZoneSession{cfg: cfg, status: reporter{book: cfg.Statuses}, asked: map[uint64]struct{}{}}
	own := mesh.Origin(cfg.Zone)
	s.core = newCore(
		func(r mesh.Resource) bool { return r.Origin == own },
		func(k mesh.Key) error {
			if k.Origin != mesh.OriginGlobal {
				return fmt.Errorf("origin %q is not %q", bounded(string(k.Origin), 64), mesh.OriginGlobal)
			}
			return nil
		})
	return s
}

// Offer hands in one of the zone's own statements. It is sent unless global holds it or a newer one.
func (s *ZoneSession) Offer(st *federationpb.Statement) { s.say.offer(st) }

// Answer answers a question, in as many frames as it needs; problem is for people, empty for none.
func (s *ZoneSession) Answer(id uint64, data []byte, problem string) {
	if _, ok := s.asked[id]; !ok {
		return
	}
	delete(s.asked, id)
	for len(data) > MaxFrameResources {
		s.answers = append(s.answers, &federationpb.Answer{Id: id, Data: data[:MaxFrameResources], More: true})
		data = data[MaxFrameResources:]
	}
	s.answers = append(s.answers, &federationpb.Answer{Id: id, Data: data, Error: bounded(problem, 1024)})
}

// Part adds to the answer of a question that is followed. It reports false if so much waits to be sent that the part is not taken;
// ended says that no more is wanted. The data are at most MaxFrameResources.
func (s *ZoneSession) Part(id uint64, data []byte) (taken, ended bool) {
	if _, ok := s.asked[id]; !ok {
		return false, true
	}
	if len(s.parts) >= maxParts {
		return false, false
	}
	s.parts = append(s.parts, &federationpb.Answer{Id: id, Data: data, More: true})
	return true, false
}

// Next is the next frame to send; ok is false for none now. Ask again after every event.
func (s *ZoneSession) Next() (frame *federationpb.ZoneFrame, ok bool) {
	if !s.hello {
		s.hello = true
		return zoneFrame(&federationpb.ZoneHello{
			Protocol: Protocol, Zone: s.cfg.Zone, Incarnation: string(s.cfg.Incarnation), Version: s.cfg.Version,
			Down: CursorToProto(s.cfg.Down), UpHead: CursorToProto(s.cfg.UpHead), HeadsDigest: DigestHeads(s.heads()),
		}), true
	}
	if !s.welcome || s.ended {
		return nil, false
	}
	if m := s.nextCommon(); m != nil {
		return zoneFrame(m), true
	}
	if r := s.status.next(); r != nil {
		return zoneFrame(r), true
	}
	// Parts first: the end of their answer comes after them.
	for _, queue := range []*[]*federationpb.Answer{&s.parts, &s.answers} {
		if len(*queue) > 0 {
			a := (*queue)[0]
			*queue = (*queue)[1:]
			return zoneFrame(a), true
		}
	}
	return nil, false
}

// heads are those that fit into a frame.
func (s *ZoneSession) heads() []*federationpb.StatementHead {
	return s.cfg.Heads[:min(len(s.cfg.Heads), maxHeads)]
}

func (s *ZoneSession) over() error { return nil }

func (s *ZoneSession) giveUp(error) bool {
	s.ended = true
	return false
}

// Receive takes the next frame from global. An error wraps ErrProtocol and ends the stream.
func (s *ZoneSession) Receive(f *federationpb.GlobalFrame) error {
	if bye := f.GetBye(); bye != nil {
		s.ended = true
		s.effect(Ended{
			Code: bounded(bye.GetCode(), 64), Reason: bounded(bye.GetReason(), 1024),
			RetryAfter: time.Duration(bye.GetRetryAfterMs()) * time.Millisecond,
		})
		return nil
	}
	if !s.welcome {
		return s.takeWelcome(f.GetWelcome())
	}
	switch m := f.GetFrame().(type) {
	case *federationpb.GlobalFrame_Ack:
		return s.out.ack(CursorFromProto(m.Ack.GetCursor()))
	case *federationpb.GlobalFrame_Nack:
		return s.out.nack(m.Nack)
	case *federationpb.GlobalFrame_Changes:
		return s.in.changes(m.Changes)
	case *federationpb.GlobalFrame_SnapshotBegin:
		return s.in.begin(m.SnapshotBegin)
	case *federationpb.GlobalFrame_SnapshotEnd:
		return s.in.end(m.SnapshotEnd)
	case *federationpb.GlobalFrame_Statement:
		mayNot := ""
		if m.Statement.GetZone() == s.cfg.Zone {
			mayNot = "a zone is not told its own statements"
		}
		s.statement(m.Statement, mayNot)
	case *federationpb.GlobalFrame_StatementAck:
		return s.statementAck(m.StatementAck)
	case *federationpb.GlobalFrame_StatusAck:
		return s.status.ack(m.StatusAck)
	case *federationpb.GlobalFrame_Query:
		if m.Query.GetWithdraw() {
			s.effect(Withdrawn{m.Query.GetId()})
			return nil
		}
		if len(s.asked) >= maxAsked || len(s.answers) > 0 && len(s.asked) > 0 {
			s.answers = append(s.answers, &federationpb.Answer{Id: m.Query.GetId(), Error: "too many questions at once"})
			return nil
		}
		s.asked[m.Query.GetId()] = struct{}{}
		s.effect(Asked{m.Query})
	case *federationpb.GlobalFrame_Ping:
		s.ping(m.Ping)
	case *federationpb.GlobalFrame_Welcome:
		return violation("a second welcome")
	default: // a frame of a newer protocol: not spoken here, so it must not have been sent
		return violation("a frame of an unknown kind")
	}
	return nil
}

func (s *ZoneSession) takeWelcome(w *federationpb.GlobalWelcome) error {
	if w == nil || !s.hello {
		return violation("the first frame is not a welcome")
	}
	p, err := checkProtocol(w.GetProtocol())
	if err != nil {
		return err
	}
	if w.GetIncarnation() == "" || len(w.GetIncarnation()) > 64 {
		return violation("a welcome without incarnation")
	}
	s.welcome = true
	if w.GetWantHeads() {
		s.reply(&federationpb.StatementHeads{Heads: s.heads()})
	}
	s.in.start(s.cfg.Down, mesh.Incarnation(w.GetIncarnation()))
	s.out.start(CursorFromProto(w.GetUp()))
	s.say.start(w.GetHeads())
	s.status.start(w.GetStatusEpoch(), w.GetStatusSequence())
	s.effect(Started{Protocol: p, Epoch: w.GetEpoch(), Peer: mesh.Incarnation(w.GetIncarnation())})
	return nil
}

// zoneFrame wraps a message that a zone can send.
func zoneFrame(m proto.Message) *federationpb.ZoneFrame {
	f := &federationpb.ZoneFrame{}
	switch m := m.(type) {
	case *federationpb.ZoneHello:
		f.Frame = &federationpb.ZoneFrame_Hello{Hello: m}
	case *federationpb.Ack:
		f.Frame = &federationpb.ZoneFrame_Ack{Ack: m}
	case *federationpb.Nack:
		f.Frame = &federationpb.ZoneFrame_Nack{Nack: m}
	case *federationpb.Changes:
		f.Frame = &federationpb.ZoneFrame_Changes{Changes: m}
	case *federationpb.SnapshotBegin:
		f.Frame = &federationpb.ZoneFrame_SnapshotBegin{SnapshotBegin: m}
	case *federationpb.SnapshotEnd:
		f.Frame = &federationpb.ZoneFrame_SnapshotEnd{SnapshotEnd: m}
	case *federationpb.Statement:
		f.Frame = &federationpb.ZoneFrame_Statement{Statement: m}
	case *federationpb.StatementAck:
		f.Frame = &federationpb.ZoneFrame_StatementAck{StatementAck: m}
	case *federationpb.StatementHeads:
		f.Frame = &federationpb.ZoneFrame_Heads{Heads: m}
	case *federationpb.StatusReport:
		f.Frame = &federationpb.ZoneFrame_Status{Status: m}
	case *federationpb.Answer:
		f.Frame = &federationpb.ZoneFrame_Answer{Answer: m}
	case *federationpb.Ping:
		f.Frame = &federationpb.ZoneFrame_Ping{Ping: m}
	}
	return f
}
