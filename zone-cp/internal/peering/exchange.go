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
	// maxHeadsBytes and maxHeads bound a Resume; what is not named in it is sent again. A zone states no more
	// subjects than that (package imports).
	maxHeadsBytes = 512 << 10
	maxHeads      = 10_000
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
	speaker *federation.Speaker        // nil while it is being made
	late    []*federationpb.Statement  // offered meanwhile
	sizes   map[federation.Subject]int // of the unanswered
	bytes   int
}

// arrival is a statement that waits to be verified.
type arrival struct {
	from      route
	zone      string
	statement []byte
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
			if h.talks[at].over {
				continue
			}
			w := way{at, l.GetAttended(), h.asks[l.GetZone()] == at, a.proxy.String() + "/" + l.GetIngress()}
			if old, ok := best[l.GetZone()]; !ok || w.better(old) {
				best[l.GetZone()] = w
			}
		}
	}
	for zone, at := range h.asks {
		if best[zone].route != at {
			delete(h.asks, zone)
			h.talks[at].hush() // what waits is said again where we ask next
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

// ask has a zone asked for its statements, soon. h.mu is held.
func (h *Hub) ask(zone string) {
	h.talks[h.asks[zone]].ask = true
	signal(h.wanted)
}

// askNow asks a zone for its statements, from what is held of it.
func (h *Hub) askNow(at route, zone string) {
	resume, size := &peerpb.Resume{}, 0
	for _, s := range h.cfg.Book.Held() {
		if s.Zone != zone {
			continue
		}
		head := &peerpb.Head{Kind: s.Kind, Subject: s.Subject, Incarnation: string(s.Incarnation), Sequence: s.Sequence}
		if size += proto.Size(head) + 4; size > maxHeadsBytes || len(resume.Heads) == maxHeads {
			break
		}
		resume.Heads = append(resume.Heads, head)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asks[zone] == at {
		h.say(at, &peerpb.Word{Word: &peerpb.Word_Resume{Resume: resume}})
	}
}

// dropSessions forgets who asked over sessions that are gone, and over which of them we asked. h.mu is held.
func (h *Hub) dropSessions() {
	for at, t := range h.talks {
		if at.agent.sessions[at.number] != t.zone {
			delete(h.talks, at)
		}
	}
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

// say sends a word over a session, or ends it: no word is lost while the session goes on. h.mu is held.
func (h *Hub) say(to route, w *peerpb.Word) {
	if t := h.talks[to]; t == nil || t.over {
		return
	}
	raw, err := proto.Marshal(w)
	if err != nil {
		h.cfg.Log.Error("a word to another zone can't be encoded", "error", err)
		return
	}
	if !to.agent.say(to.number, raw) {
		h.end(to, "it has us say more than is read")
	}
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
	t := h.talks[from]
	if _, believed := h.zones[zone]; !believed || t == nil || t.over {
		return
	}
	switch w := w.GetWord().(type) {
	case *peerpb.Word_Ready:
		if h.asks[zone] == from {
			h.ask(zone)
		}
	case *peerpb.Word_Resume:
		if !t.wants(w.Resume) {
			h.end(from, "it asks again and again")
		}
		signal(h.wanted)
	case *peerpb.Word_Stop:
		t.resume = nil
		delete(h.replies, from)
	case *peerpb.Word_Taken:
		h.taken(from, zone, w.Taken)
	case *peerpb.Word_Statement:
		if h.asks[zone] != from {
			return // we ask elsewhere now, and are told there
		}
		if !t.arrive(w.Statement) {
			h.end(from, "it sent more statements than may be unanswered")
		}
		signal(h.inbox)
	}
}

// answer begins to tell a zone our statements. What is made from now on is offered, what was made before is in the
// list; the list is gone through without h.mu, which reports of what can be reached need.
func (h *Hub) answer(to route, y *reply, r *peerpb.Resume) {
	list := r.GetHeads()
	heads := make([]*federationpb.StatementHead, 0, min(len(list), maxHeads))
	for _, x := range list[:cap(heads)] {
		heads = append(heads, &federationpb.StatementHead{
			Zone: h.cfg.Zone, Kind: x.GetKind(), Subject: x.GetSubject(), Incarnation: x.GetIncarnation(), Sequence: x.GetSequence(),
		})
	}
	speaker := federation.NewSpeaker(heads)
	for _, s := range h.cfg.Statements() {
		speaker.Offer(statements.ToProto(s))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.replies[to] != y {
		return // it was taken back
	}
	for _, s := range y.late {
		speaker.Offer(s)
	}
	y.speaker, y.late = speaker, nil
	h.pump(to, y)
}

// Offer hands new statements of the zone to all zones that have asked for them.
func (h *Hub) Offer(list []identity.Statement) {
	fresh := make([]*federationpb.Statement, len(list))
	for i, s := range list {
		fresh[i] = statements.ToProto(s)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for to, y := range h.replies {
		if y.speaker == nil {
			y.late = append(y.late, fresh...)
			continue
		}
		for _, s := range fresh {
			y.speaker.Offer(s)
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
	if !ok || y.speaker == nil {
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
	if why := t.GetRefused(); why != "" && h.mayLog(zone) {
		h.cfg.Log.Warn("another zone refused a statement of this zone", "other", zone, "kind", at.Kind, "subject", at.Subject, "reason", printable(why))
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
		for round := h.round(); len(round) > 0; round = h.round() {
			for _, a := range round {
				if !h.keep(ctx, a) {
					return
				}
			}
		}
	}
}

// round takes the statement that waits longest from each session: one that sends many doesn't hold up the others.
func (h *Hub) round() []arrival {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []arrival
	for at, t := range h.talks {
		if len(t.arrived) > 0 {
			out = append(out, arrival{at, t.zone, t.next()})
		}
		if t.ask && len(t.arrived) == 0 {
			signal(h.wanted)
		}
	}
	return out
}

// keep takes one statement and answers it; false when ctx ended before it could be kept.
func (h *Hub) keep(ctx context.Context, a arrival) bool {
	s := &federationpb.Statement{}
	if proto.Unmarshal(a.statement, s) != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.end(a.from, "what it sent as a statement is none")
		return true
	}
	why, err := h.take(ctx, a.zone, s)
	for ; err != nil; why, err = h.take(ctx, a.zone, s) {
		h.cfg.Log.WarnContext(ctx, "a statement of another zone could not be kept; trying again", "other", a.zone, "error", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(keepRetry):
		}
	}
	h.mu.Lock()
	h.say(a.from, &peerpb.Word{Word: &peerpb.Word_Taken{Taken: &peerpb.Taken{Refused: why, Head: &peerpb.Head{
		Kind: s.GetKind(), Subject: s.GetSubject(), Incarnation: s.GetIncarnation(), Sequence: s.GetSequence(),
	}}}})
	h.mu.Unlock()
	signal(h.dirty)
	return true
}

// take gives a statement to the book; refused says why it is not believed, err that it could not be kept.
func (h *Hub) take(ctx context.Context, zone string, s *federationpb.Statement) (refused string, err error) {
	if s.GetZone() != zone {
		return "it is not the word of zone " + zone, nil
	}
	if why := federation.CheckStatement(s); why != "" {
		return why, nil
	}
	switch err := h.cfg.Book.Receive(ctx, statements.FromProto(s), imports.ByPeer, time.Now()); {
	case err == nil, errors.Is(err, imports.ErrUnverified):
		return "", nil
	case errors.Is(err, store.ErrUnavailable), ctx.Err() != nil:
		return "", err
	default:
		why := printable(err.Error())
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.mayLog(zone) {
			h.cfg.Log.WarnContext(ctx, "statement refused", "zone", zone, "kind", s.GetKind(), "subject", s.GetSubject(), "error", why)
		}
		return why, nil
	}
}
