package vm

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
)

// word is what agents are told besides answers to what they say.
type word struct {
	// severed is to what no agent's Envoy may be connected any more.
	severed []netip.AddrPort
	changed chan struct{} // closed when something else is to be told, to whomever
}

// Sever has every agent end its Envoy's connections to the addresses, those that attend now and those that come
// later, until something else is said.
func (t *Table) Sever(addresses []netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.word.severed = addresses
	t.spread()
}

// Ask has the agent of a proxy asked; an error says why that can't be.
func (t *Table) Ask(id mesh.ProxyID, ask *enrolpb.Ask) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[id]
	switch {
	case e == nil || e.session == 0:
		return errors.New("it is not connected to its zone")
	case !e.answers:
		return errors.New("its agent is of a release that does not answer")
	}
	e.asks = append(e.asks, ask)
	t.spread()
	return nil
}

// spread has every stream look whether there is something to tell; t.mu is held.
func (t *Table) spread() {
	close(t.word.changed)
	t.word.changed = make(chan struct{})
}

// tell tells the agent what is new to it: questions, what to sever, and that its proxy is drained, or is not any more. The
// channel is closed when there may be more; it is nil if the stream is gone.
func (s *Session) tell(stream Stream) <-chan struct{} {
	s.table.mu.Lock()
	word := s.table.word
	e := s.table.entries[s.id]
	draining := e != nil && e.Draining
	var asks []*enrolpb.Ask
	if e != nil && e.session == s.n {
		asks, e.asks = e.asks, nil
	}
	s.table.mu.Unlock()
	var notices []*enrolpb.ZoneNotice
	for _, a := range asks {
		notices = append(notices, &enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Ask{Ask: a}})
	}
	if !slices.Equal(word.severed, s.severed) {
		s.severed = word.severed
		n := &enrolpb.Sever{}
		for _, a := range word.severed {
			n.Addresses = append(n.Addresses, &enrolpb.Address{Ip: a.Addr().String(), Port: uint32(a.Port())})
		}
		notices = append(notices, &enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Sever{Sever: n}})
	}
	if draining != s.drained {
		s.drained = draining
		notices = append(notices, &enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Drain{Drain: draining}})
	}
	for _, n := range notices {
		if stream.Send(n) != nil {
			return nil
		}
	}
	return word.changed
}
