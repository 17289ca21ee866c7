package envoy

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer answers Envoys' questions for IPv4 addresses over UDP (RFC 1035). Who is not known to it does not exist.
type nameServer struct {
	conn net.PacketConn

	mu     sync.Mutex
	hosts  map[string][]string // name -> addresses
	silent map[string]bool     // names of which it says nothing
	asked  map[string]int
}

func startNameServer(t *testing.T) *nameServer {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nameServer{conn: conn, hosts: map[string][]string{}, silent: map[string]bool{}, asked: map[string]int{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if out := n.answer(buf[:size]); out != nil {
				_, _ = conn.WriteTo(out, from) // who asked may be gone
			}
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-ended })
	return n
}

// resolver is the configuration of an Envoy that asks it and nobody else.
func (n *nameServer) resolver() object {
	return object{"name": "envoy.network.dns_resolver.cares", "typed_config": object{
		"@type":                "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
		"resolvers":            []any{object{"socket_address": object{"address": "127.0.0.1", "port_value": n.conn.LocalAddr().(*net.UDPAddr).Port}}},
		"dns_resolver_options": object{"no_default_search_domain": true},
	}}
}

// set says where a host is; no address: it does not exist.
func (n *nameServer) set(host string, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[host], n.silent[host] = addresses, false
}

// hush makes it say nothing of a host any more.
func (n *nameServer) hush(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.silent[host] = true
}

func (n *nameServer) count(host string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[host]
}

func (n *nameServer) answer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	host := strings.TrimSuffix(q.Name.String(), ".")
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked[host]++
	if n.silent[host] {
		return nil
	}
	m.Header = dnsmessage.Header{ID: m.Header.ID, Response: true, RecursionAvailable: true}
	m.Additionals = nil
	if len(n.hosts[host]) == 0 {
		m.Header.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range n.hosts[host] {
		ip := netip.MustParseAddr(a)
		if q.Type == dnsmessage.TypeA && ip.Is4() {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: ip.As4()},
			})
		}
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}
