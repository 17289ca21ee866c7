package mesh

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// DefaultVirtualBlock is where a sidecar's virtual addresses lie unless its configuration says another place.
const DefaultVirtualBlock = "127.128.0.0/16"

// VirtualAddresses say that a sidecar has an address for every service, and listens there on the service's own ports. A name
// has the same number in all sidecars of a zone; its address is the number within the sidecar's block.
type VirtualAddresses struct {
	// Block is a /16 of 127.0.0.0/8 that nothing else on the machine uses, other sidecars' blocks included.
	Block string `json:"block"`
	// LowestPort is the lowest on which the sidecar may listen; 0: any. Ports below are reached by OutboundPort or an upstream.
	LowestPort uint16 `json:"lowestPort,omitempty"`
}

// CheckVirtualBlock reports why s can't be a sidecar's block: all of it must be this machine's alone, and 127.0.0.0/16 is what
// others listen on.
func CheckVirtualBlock(s string) error {
	p, err := netip.ParsePrefix(s)
	if err != nil || p != p.Masked() || p.Bits() != 16 || !p.Addr().IsLoopback() || p.Addr() == netip.AddrFrom4([4]byte{127}) {
		return fmt.Errorf("%q must be a /16 of 127.0.0.0/8 and not the first, as %s", s, DefaultVirtualBlock)
	}
	return nil
}

// VirtualAddress is the address of a number in a block that CheckVirtualBlock accepts; the zero address of another.
func VirtualAddress(block string, number uint16) netip.Addr {
	p, err := netip.ParsePrefix(block)
	if err != nil || !p.Addr().Is4() {
		return netip.Addr{}
	}
	a := p.Masked().Addr().As4()
	binary.BigEndian.PutUint16(a[2:], number)
	return netip.AddrFrom4(a)
}
