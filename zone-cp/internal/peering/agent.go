package peering

import (
	"sync"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
)

// maxNotices is how many notices may wait for an agent; its windows keep it far below.
const maxNotices = 4096

// Agent is one ingress that attends, for as long as its stream.
type Agent struct {
	hub   *Hub
	proxy mesh.ProxyID
	wake  chan struct{} // capacity 1

	mu      sync.Mutex
	notices []*enrolpb.ZoneNotice

	links    *enrolpb.PeerLinks // as last reported; nil: nothing yet. hub.mu
	sessions map[uint64]string  // by number: the zone at the other end. hub.mu
}

// Open begins the stream of an ingress whose agent understands peers.
func (h *Hub) Open(proxy mesh.ProxyID) *Agent {
	a := &Agent{hub: h, proxy: proxy, wake: make(chan struct{}, 1), sessions: map[uint64]string{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.agents[a] = struct{}{}
	a.tell(&enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Peers{Peers: h.peers}})
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
	return out
}

// tell queues a notice; of Peers only the newest counts. An agent that reads nothing misses words: what was said is said
// again on its next session.
func (a *Agent) tell(n *enrolpb.ZoneNotice) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n.GetPeers() != nil {
		for i, old := range a.notices {
			if old.GetPeers() != nil {
				a.notices[i] = n
				return
			}
		}
	}
	if len(a.notices) < maxNotices {
		a.notices = append(a.notices, n)
	}
	signal(a.wake)
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
		if first {
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
