package peering

import (
	"slices"
	"sync"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
)

// What may wait for an agent of one session: a few windows of statements, as many answers, and a Resume. What more
// is said ends the session: its peer makes us talk faster than the agent reads.
const (
	maxUnread      = 128 // words
	maxUnreadBytes = 2 << 20
)

// unread is how much of a session waits.
type unread struct{ words, bytes int }

// Agent is one ingress that attends, for as long as its stream.
type Agent struct {
	hub   *Hub
	proxy mesh.ProxyID
	wake  chan struct{} // capacity 1

	mu      sync.Mutex
	notices []*enrolpb.ZoneNotice
	unread  map[uint64]unread // by session

	links    *enrolpb.PeerLinks // as last reported; nil: nothing yet. hub.mu
	sessions map[uint64]string  // by number: the zone at the other end. hub.mu
}

// Open begins the stream of an ingress whose agent understands peers.
func (h *Hub) Open(proxy mesh.ProxyID) *Agent {
	a := &Agent{hub: h, proxy: proxy, wake: make(chan struct{}, 1), unread: map[uint64]unread{}, sessions: map[uint64]string{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.agents[a] = struct{}{}
	a.know(h.peers)
	return a
}

// Wake signals (coalesced, capacity 1) that there are notices.
func (a *Agent) Wake() <-chan struct{} { return a.wake }

// Notices takes what is to be sent to the agent now, in order.
func (a *Agent) Notices() []*enrolpb.ZoneNotice {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.notices
	a.notices = nil
	clear(a.unread)
	return out
}

// know tells the agent who its peers are; of this only the newest counts.
func (a *Agent) know(peers *enrolpb.Peers) {
	n := &enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Peers{Peers: peers}}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, old := range a.notices {
		if old.GetPeers() != nil {
			a.notices[i] = n
			return
		}
	}
	a.notices = append(a.notices, n)
	signal(a.wake)
}

// say queues a word for a session; false if too much of the session waits. One session takes nothing from another.
func (a *Agent) say(session uint64, word []byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.unread[session]
	if u.words == maxUnread || u.bytes+len(word) > maxUnreadBytes {
		return false
	}
	a.unread[session] = unread{u.words + 1, u.bytes + len(word)}
	a.notices = append(a.notices, peerWord(&enrolpb.PeerWord{Session: session, Word: word}))
	signal(a.wake)
	return true
}

// end has the agent end a session, in place of what waits for it.
func (a *Agent) end(session uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.unread, session)
	a.notices = slices.DeleteFunc(a.notices, func(n *enrolpb.ZoneNotice) bool { w := n.GetPeerWord(); return w != nil && w.GetSession() == session })
	a.notices = append(a.notices, peerWord(&enrolpb.PeerWord{Session: session, End: true}))
	signal(a.wake)
}

func peerWord(w *enrolpb.PeerWord) *enrolpb.ZoneNotice {
	return &enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_PeerWord{PeerWord: w}}
}

// Links takes the agent's report of how it stands to its peers.
func (a *Agent) Links(links *enrolpb.PeerLinks) {
	h := a.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	before, first := h.unreachable(), a.links == nil
	a.links = links
	clear(a.sessions)
	for _, l := range links.GetLinks() {
		if l.GetSession() != 0 {
			a.sessions[l.GetSession()] = l.GetZone()
		}
	}
	for _, s := range links.GetSessions() {
		a.sessions[s.GetSession()] = s.GetZone()
	}
	h.openTalks(a)
	if first {
		for _, s := range links.GetSessions() {
			h.say(route{a, s.GetSession()}, ready())
		}
	}
	h.settle(before)
}

// Word takes a word from a peer.
func (a *Agent) Word(w *enrolpb.PeerWord) {
	a.hub.word(route{a, w.GetSession()}, w.GetWord())
}

// Close ends the agent's stream. Its last word on who can't be reached holds for a while: it may be back in a
// moment, and what it found does not change by its going.
func (a *Agent) Close() {
	h := a.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.unreachable()
	h.keepWords(a)
	delete(h.agents, a)
	clear(a.sessions)
	h.settle(before)
}
