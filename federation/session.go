package federation

import (
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
)

// core is what both ends have in common.
type core struct {
	out     sender
	in      receiver
	say     speaker
	replies []proto.Message
	effects []Effect
	ended   bool
}

func newCore(concerns func(mesh.Resource) bool, allowed func(mesh.Key) error) *core {
	c := &core{}
	c.out = sender{concerns: concerns, effects: &c.effects}
	c.in = receiver{allowed: allowed, effects: &c.effects, reply: c.reply}
	return c
}

func (c *core) reply(m proto.Message) { c.replies = append(c.replies, m) }

func (c *core) effect(e Effect) { c.effects = append(c.effects, e) }

// Effects returns what is to be done since the last call, in order.
func (c *core) Effects() []Effect {
	e := c.effects
	c.effects = nil
	return e
}

// Congested reports that so many replies wait that nothing more should be received before some are sent.
func (c *core) Congested() bool { return len(c.replies) >= maxReplies }

// LogFrom is where the peer wants the local log to resume; ok is false before the handshake. Feed the
// log by Resume and Commit or, if it can't serve that cursor (zero, compacted, of another incarnation,
// beyond the head), by BeginSnapshot, AddSnapshot and EndSnapshot and then by Commit.
func (c *core) LogFrom() (from mesh.Cursor, ok bool) { return c.out.from, c.out.started }

// WantsLog reports whether more of the log or of the snapshot may be fed now.
func (c *core) WantsLog() bool { return c.out.wants() }

// Resume says that the log serves the cursor of LogFrom.
func (c *core) Resume() { c.out.resume(c.out.from) }

// Commit takes the next commit of the local log. It is accepted even if WantsLog is false.
func (c *core) Commit(commit Commit) { c.out.commit(commit) }

// BeginSnapshot starts sending the whole state as of the cursor (or later; commits after it repeat).
func (c *core) BeginSnapshot(at mesh.Cursor) { c.out.beginSnapshot(at) }

// AddSnapshot takes the next part of the state, in any order.
func (c *core) AddSnapshot(items []mesh.Resource) { c.out.addSnapshot(items) }

// EndSnapshot says that the state was whole.
func (c *core) EndSnapshot() { c.out.endSnapshot() }

// FlushCursor asks that the peer's cursor is moved even if nothing concerns it; otherwise that waits for a
// few hundred revisions.
func (c *core) FlushCursor() { c.out.flush = true }

// Applied answers the oldest Apply: the batch is in the store with its cursor, but for the refusals.
func (c *core) Applied(refusals []Refusal) { c.in.applied(refusals) }

// StatementKept answers StatementArrived; refused is empty when the statement was kept.
func (c *core) StatementKept(s *federationpb.Statement, refused string) {
	c.reply(answerOf(s, refused))
}

// nextCommon is the next message that both ends can send, nil for none. Answers come first: they free
// the peer. Statements overtake configuration, because trust and revocation must.
func (c *core) nextCommon() proto.Message {
	if len(c.replies) > 0 {
		m := c.replies[0]
		c.replies[0] = nil
		c.replies = c.replies[1:]
		return m
	}
	if m := c.say.next(); m != nil {
		return m
	}
	return c.out.next()
}

// statement takes one from the peer.
func (c *core) statement(s *federationpb.Statement, mayNot string) {
	if mayNot == "" {
		mayNot = checkStatement(s)
	}
	if mayNot != "" {
		c.effect(StatementRejected{s, mayNot})
		c.StatementKept(s, mayNot)
		return
	}
	c.effect(StatementArrived{s})
}

func (c *core) statementAck(a *federationpb.StatementAck) error {
	if err := c.say.ack(a); err != nil {
		return err
	}
	c.effect(StatementAnswered{a})
	return nil
}

func (c *core) ping(p *federationpb.Ping) {
	if !p.GetReply() {
		c.reply(&federationpb.Ping{Nonce: p.GetNonce(), Reply: true})
	}
}

// checkProtocol gives what both sides have.
func checkProtocol(peer uint32) (int, error) {
	if peer < MinProtocol {
		return 0, violation("the peer speaks protocol %d; the oldest spoken here is %d", peer, MinProtocol)
	}
	return int(min(peer, Protocol)), nil
}
