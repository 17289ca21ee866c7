package dns

import (
	"net/netip"
	"strings"
)

// Name is one name of the mesh with its virtual address.
type Name struct {
	Host    string // lower case, without the last dot
	Address netip.Addr
}

// own are the domains that the mesh answers alone: what is not there does not exist, and nobody else is asked.
func own(host string) bool {
	for _, domain := range []string{"mesh", "svc.clusterset.local"} {
		if host == domain || strings.HasSuffix(host, "."+domain) {
			return true
		}
	}
	return false
}

// table is what is known of the mesh; it is never changed.
type table struct {
	addresses map[string]netip.Addr
	// above are names that have others below them, and so exist (RFC 8020).
	above map[string]bool
}

func newTable(names []Name) *table {
	t := &table{addresses: make(map[string]netip.Addr, len(names)), above: map[string]bool{}}
	for _, n := range names {
		host := strings.ToLower(strings.TrimSuffix(n.Host, "."))
		t.addresses[host] = n.Address
		for _, up, more := strings.Cut(host, "."); more && own(up) && !t.above[up]; _, up, more = strings.Cut(up, ".") {
			t.above[up] = true
		}
	}
	return t
}
