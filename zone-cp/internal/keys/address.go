package keys

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// Who may write AuthenticationPolicies has the zone's control plane ask a URL. What only the machine itself or its neighbours on the wire should
// reach is not asked for anybody: services on loopback or at its own addresses, and those of clouds that tell a machine its credentials. Private addresses are: issuers of
// a company's own are there. Config.Allow names exceptions.

// special are single addresses at which clouds tell machines about themselves, outside the link-local range.
var special = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),   // AWS over IPv6
	netip.MustParseAddr("fd20:ce::254"),    // Google Cloud over IPv6
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("168.63.129.16"),   // Azure's wire server
	netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud
}

// translated are IPv6 addresses in which an IPv4 address is, from the byte on.
var translated = map[netip.Prefix]int{
	netip.MustParsePrefix("64:ff9b::/96"):    12, // NAT64, RFC 6052
	netip.MustParsePrefix("64:ff9b:1::/48"):  12, // the same of one's own, where it takes the last 4 bytes, RFC 8215
	netip.MustParsePrefix("::ffff:0:0:0/96"): 12, // IPv4-translated, RFC 2765
	netip.MustParsePrefix("2002::/16"):       2,  // 6to4, RFC 3056
	netip.MustParsePrefix("::/96"):           12, // IPv4-compatible, RFC 4291
}

// askable reports why an address is not asked, and nil if it is. own are those of the zone's machine.
func askable(a netip.Addr, own []netip.Addr, allow []netip.Prefix) error {
	a = a.Unmap().WithZone("")
	if slices.ContainsFunc(allow, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return nil
	}
	for within, at := range translated {
		if raw := a.As16(); a.Is6() && within.Contains(a) && !a.IsUnspecified() && !a.IsLoopback() {
			return askable(netip.AddrFrom4([4]byte(raw[at:at+4])), own, allow)
		}
	}
	var what string
	switch {
	case a.IsLoopback(), slices.Contains(own, a):
		what = "the zone's own machine"
	case a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || netip.PrefixFrom(netip.AddrFrom4([4]byte{}), 8).Contains(a):
		what = "no machine's"
	case a.IsMulticast():
		what = "many machines'"
	case a.IsLinkLocalUnicast(), slices.Contains(special, a):
		what = "where machines are told about themselves, or of the same wire"
	default:
		return nil
	}
	return fmt.Errorf("the zone does not ask %s, which is %s: name it in issuers.allow of the zone's control plane if it is meant", a, what)
}

// dialer connects to addresses that may be asked. It looks at the address that is connected to, after the name was resolved, so that a name
// that means another one next time helps nobody.
func dialer(allow []netip.Prefix) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: fetchLimit, KeepAlive: 30 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		own, err := ownAddresses()
		if err != nil {
			return err
		}
		return askable(a.Addr(), own, allow)
	}}
	return d.DialContext
}

// ownAddresses are those that the machine has now: what listens on all of them is reached by each as by loopback.
func ownAddresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("the machine's own addresses: %w", err)
	}
	var out []netip.Addr
	for _, at := range list {
		if p, err := netip.ParsePrefix(at.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out, nil
}

// proxied reports whether the operator has requests to a URL go through a proxy: that resolves and decides, and may be anywhere.
func proxied(url string) bool {
	req, err := http.NewRequest(http.MethodGet, url, nil) //nolint:noctx // it is not sent
	if err != nil {
		return false
	}
	p, err := http.ProxyFromEnvironment(req)
	return err != nil || p != nil
}
