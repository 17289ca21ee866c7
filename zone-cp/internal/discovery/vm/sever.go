package vm

import (
	"net/netip"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
)

// severed is to what no agent's Envoy may be connected any more.
type severed struct {
	addresses []netip.AddrPort
	replaced  chan struct{} // closed when something else is said
}

// Sever has every agent end its Envoy's connections to the addresses, those that attend now and those that come
// later, until something else is said.
func (t *Table) Sever(addresses []netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.severed.replaced)
	t.severed = severed{addresses, make(chan struct{})}
}

// tellSevered tells one agent, unless there is nothing to tell; the channel is closed when there is something else.
// It is nil if the stream is gone.
func (t *Table) tellSevered(stream Stream) <-chan struct{} {
	t.mu.Lock()
	now := t.severed
	t.mu.Unlock()
	if len(now.addresses) == 0 {
		return now.replaced
	}
	n := &enrolpb.Sever{}
	for _, a := range now.addresses {
		n.Addresses = append(n.Addresses, &enrolpb.Address{Ip: a.Addr().String(), Port: uint32(a.Port())})
	}
	if stream.Send(&enrolpb.ZoneNotice{Notice: &enrolpb.ZoneNotice_Sever{Sever: n}}) != nil {
		return nil
	}
	return now.replaced
}
