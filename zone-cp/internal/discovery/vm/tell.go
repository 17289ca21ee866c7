package vm

import (
	"net/netip"
	"slices"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
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

// spread has every stream look whether there is something to tell; t.mu is held.
func (t *Table) spread() {
	close(t.word.changed)
	t.word.changed = make(chan struct{})
}

// tell tells the agent what is new to it: what to sever, and that its proxy is drained, or is not any more. The
// channel is closed when there may be more; it is nil if the stream is gone.
func (s *Session) tell(stream Stream) <-chan struct{} {
	s.table.mu.Lock()
	word := s.table.word
	e := s.table.entries[s.id]
	draining := e != nil && e.Draining
	s.table.mu.Unlock()
	var notices []*enrolpb.ZoneNotice
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
