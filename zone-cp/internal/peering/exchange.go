package peering

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/dataplane/peerpb"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
	"github.com/comity-mesh/comity/zone-cp/internal/statements"
)

// Bounds of what is said over one session.
const (
	// Statements under way: few and small enough that pings pass between them on a slow way.
	maxUnanswered      = 32
	maxUnansweredBytes = 256 << 10
	// maxHeadsBytes bounds a Resume; what is not named in it is sent again.
	maxHeadsBytes = 512 << 10
	// maxArrived is how many statements may wait to be verified; peers send no more than their windows.
	maxArrived = 4096
	// keepRetry is how soon a statement is tried again that the store could not keep.
	keepRetry = time.Second
)

// route is one session between ingresses, as the control plane knows it.
type route struct {
	agent  *Agent
	number uint64
}

// reply is another zone that has asked for our statements over a session.
type reply struct {
	zone    string
	speaker *federation.Speaker
	sizes   map[federation.Subject]int // of the unanswered
	bytes   int
}

// arrival is a statement that waits to be verified.
type arrival struct {
	from      route
	zone      string
	statement *federationpb.Statement
}

// way is a session over which a zone can be asked.
type way struct {
	route
	attended bool // a control plane is behind it
	present  bool // it is the one over which the zone is asked now
	name     string
}

// choose keeps one session to each zone over which we ask for its statements. h.mu is held.
func (h *Hub) choose() {
	best := map[string]way{}
	for a := range h.agents {
		for _, l := range a.links.GetLinks() {
			if l.GetSession() == 0 || l.GetState() != enrolpb.PeerLink_REACHABLE {
				continue
			}
			at := route{a, l.GetSession()}
			w := way{at, l.GetAttended(), h.asks[l.GetZone()] == at, a.proxy.String() + "/" + l.GetIngress()}
			if old, ok := best[l.GetZone()]; !ok || w.better(old) {
				best[l.GetZone()] = w
			}
		}
	}
	for zone, at := range h.asks {
		if best[zone].route != at {
			delete(h.asks, zone)
			h.say(at, &peerpb.Word{Word: &peerpb.Word_Stop{Stop: &peerpb.Stop{}}})
		}
	}
	for zone, w := range best {
		if !w.present {
			h.asks[zone] = w.route
			h.ask(zone)
		}
	}
}

// better prefers where somebody answers, then what is, then names, so that every order of reports ends the same.
func (w way) better(than way) bool {
	if w.attended != than.attended {
		return w.attended
	}
	if w.present != than.present {
		return w.present
	}
	return w.name < than.name
}

// ask asks a zone for its statements, from what is held of it. h.mu is held.
func (h *Hub) ask(zone string) {
	resume, size := &peerpb.Resume{}, 0
	for _, s := range h.cfg.Book.Held() {
		if s.Zone != zone {
			continue
		}
		head := &peerpb.Head{Kind: s.Kind, Subject: s.Subject, Incarnation: string(s.Incarnation), Sequence: s.Sequence}
		if size += proto.Size(head) + 4; size > maxHeadsBytes {
			break
		}
		resume.Heads = append(resume.Heads, head)
	}
	h.say(h.asks[zone], &peerpb.Word{Word: &peerpb.Word_Resume{Resume: resume}})
}

// dropSessions forgets who asked over sessions that are gone, and over which of them we asked. h.mu is held.
func (h *Hub) dropSessions() {
	for at, r := range h.replies {
		if at.agent.sessions[at.number] != r.zone {
			delete(h.replies, at)
		}
	}
	for zone, at := range h.asks {
		if at.agent.sessions[at.number] != zone {
			delete(h.asks, zone)
		}
	}
}

func ready() *peerpb.Word { return &peerpb.Word{Word: &peerpb.Word_Ready{Ready: &peerpb.Ready{}}} }

// say sends a word over a session. h.mu is held.
func (h *Hub) say(to route, w *peerpb.Word) {
	raw, err := proto.Marshal(w)
	if err != nil {
		h.cfg.Log.Error("a word to another zone can't be encoded", "error", err)
		return
	}
	to.agent.tell(&enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_PeerWord{PeerWord: &enrolpb.PeerWord{Session: to.number, Word: raw}}})
}

// word takes what another zone says. It came over a session that the ingress has verified to be with an ingress of that
// zone; what it claims is verified by its own signature.
func (h *Hub) word(from route, raw []byte) {
	w := &peerpb.Word{}
	if err := proto.Unmarshal(raw, w); err != nil {
		return // what a later release says differently
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	zone := from.agent.sessions[from.number]
	if _, believed := h.zones[zone]; !believed {
		return
	}
	switch w := w.GetWord().(type) {
	case *peerpb.Word_Ready:
		if h.asks[zone] == from {
			h.ask(zone)
		}
	case *peerpb.Word_Resume:
		h.answer(from, zone, w.Resume)
	case *peerpb.Word_Stop:
		delete(h.replies, from)
	case *peerpb.Word_Taken:
		h.taken(from, zone, w.Taken)
	case *peerpb.Word_Statement:
		s := &federationpb.Statement{}
		if h.asks[zone] != from || len(h.arrived) >= maxArrived || proto.Unmarshal(w.Statement, s) != nil {
			return
		}
		h.arrived = append(h.arrived, arrival{from, zone, s})
		signal(h.inbox)
	}
}

// answer begins to tell a zone our statements. h.mu is held.
func (h *Hub) answer(to route, zone string, r *peerpb.Resume) {
	heads := make([]*federationpb.StatementHead, 0, len(r.GetHeads()))
	for _, x := range r.GetHeads() {
		heads = append(heads, &federationpb.StatementHead{
			Zone: h.cfg.Zone, Kind: x.GetKind(), Subject: x.GetSubject(), Incarnation: x.GetIncarnation(), Sequence: x.GetSequence(),
		})
	}
	y := &reply{zone: zone, speaker: federation.NewSpeaker(heads), sizes: map[federation.Subject]int{}}
	h.replies[to] = y // first: what is made from here on is offered, what was made before is in the list
	for _, s := range h.cfg.Statements() {
		y.speaker.Offer(statements.ToProto(s))
	}
	h.pump(to, y)
}

// Offer hands new statements of the zone to all zones that have asked for them.
func (h *Hub) Offer(list []identity.Statement) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for to, y := range h.replies {
		for _, s := range list {
			y.speaker.Offer(statements.ToProto(s))
		}
		h.pump(to, y)
	}
}

// pump sends what may be sent. h.mu is held.
func (h *Hub) pump(to route, y *reply) {
	for y.speaker.Unanswered() < maxUnanswered && (y.bytes < maxUnansweredBytes || y.speaker.Unanswered() == 0) {
		s := y.speaker.Next()
		if s == nil {
			return
		}
		raw, err := proto.Marshal(s)
		if err != nil {
			h.cfg.Log.Error("a statement can't be encoded", "error", err)
			return
		}
		y.sizes[federation.SubjectOf(s)] = len(raw)
		y.bytes += len(raw)
		h.say(to, &peerpb.Word{Word: &peerpb.Word_Statement{Statement: raw}})
	}
}

// taken takes a zone's answer to one of our statements. h.mu is held.
func (h *Hub) taken(from route, zone string, t *peerpb.Taken) {
	y, ok := h.replies[from]
	if !ok {
		return
	}
	head := t.GetHead()
	at := federation.Subject{Zone: h.cfg.Zone, Kind: head.GetKind(), Subject: head.GetSubject()}
	err := y.speaker.Ack(&federationpb.StatementAck{
		Zone: at.Zone, Kind: at.Kind, Subject: at.Subject, Incarnation: head.GetIncarnation(), Sequence: head.GetSequence(), Refused: t.GetRefused(),
	})
	if err != nil {
		return // of something that was said before it asked again
	}
	if why := t.GetRefused(); why != "" {
		h.cfg.Log.Warn("another zone refused a statement of this zone", "other", zone, "kind", at.Kind, "subject", at.Subject, "reason", why)
	}
	y.bytes -= y.sizes[at]
	delete(y.sizes, at)
	h.pump(from, y)
}

// receive verifies statements in the order in which they came, until ctx ends. A store that can't keep them now is asked
// again; meanwhile their senders wait.
func (h *Hub) receive(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.inbox:
		}
		h.mu.Lock()
		list := h.arrived
		h.arrived = nil
		h.mu.Unlock()
		for _, a := range list {
			why, err := h.take(ctx, a)
			for ; err != nil; why, err = h.take(ctx, a) {
				h.cfg.Log.WarnContext(ctx, "a statement of another zone could not be kept; trying again", "other", a.zone, "error", err)
				select {
				case <-ctx.Done():
					return
				case <-time.After(keepRetry):
				}
			}
			h.mu.Lock()
			h.say(a.from, &peerpb.Word{Word: &peerpb.Word_Taken{Taken: &peerpb.Taken{Refused: why, Head: &peerpb.Head{
				Kind: a.statement.GetKind(), Subject: a.statement.GetSubject(), Incarnation: a.statement.GetIncarnation(), Sequence: a.statement.GetSequence(),
			}}}})
			h.mu.Unlock()
			signal(h.dirty)
		}
	}
}

// take gives a statement to the book; refused says why it is not believed, err that it could not be kept.
func (h *Hub) take(ctx context.Context, a arrival) (refused string, err error) {
	if a.statement.GetZone() != a.zone {
		return "it is not the word of zone " + a.zone, nil
	}
	if why := federation.CheckStatement(a.statement); why != "" {
		return why, nil
	}
	switch err := h.cfg.Book.Receive(ctx, statements.FromProto(a.statement), imports.ByPeer, time.Now()); {
	case err == nil, errors.Is(err, imports.ErrUnverified):
		return "", nil
	case errors.Is(err, store.ErrUnavailable), ctx.Err() != nil:
		return "", err
	default:
		h.cfg.Log.WarnContext(ctx, "statement refused", "zone", a.zone, "kind", a.statement.GetKind(), "subject", a.statement.GetSubject(), "error", err)
		return err.Error(), nil
	}
}
