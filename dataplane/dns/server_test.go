package dns

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// resolver is who answers for the rest of the world: what it is asked it passes to handle.
func resolver(t *testing.T, handle dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	e, err := open(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{PacketConn: e.udp, Handler: handle}, {Listener: e.tcp, Handler: handle}} {
		go func() { _ = s.ActivateAndServe() }() // ends with its port
	}
	t.Cleanup(func() { _ = e.close() })
	return e.address()
}

// world answers every A question with 192.0.2.1, nothing.example with NXDOMAIN and big.example with more than fits.
func world(asked *atomic.Int64) dns.HandlerFunc {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		m := new(dns.Msg)
		m.SetReply(q)
		name := strings.ToLower(q.Question[0].Name)
		n := 1
		switch name {
		case "nothing.example.":
			m.Rcode, n = dns.RcodeNameError, 0
		case "big.example.":
			n = 200
		}
		for i := range n {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 77}, A: net.IPv4(192, 0, 2, byte(i+1))})
		}
		if w.LocalAddr().Network() == "udp" {
			m.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(m)
	}
}

func start(t *testing.T, c Config) *Server {
	t.Helper()
	c.Address, c.Log = "127.0.0.1:0", slog.New(slog.DiscardHandler)
	s, err := Listen(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

func shop(t *testing.T, s *Server) {
	t.Helper()
	s.Set([]Name{
		{"cart.shop.svc.clusterset.local", netip.MustParseAddr("127.128.0.7")}, {"cart.shop", netip.MustParseAddr("127.128.0.7")},
		{"pay.shop.two.mesh", netip.MustParseAddr("127.128.0.8")}, {"db-0.db.shop.two.mesh", netip.MustParseAddr("127.128.0.9")},
	})
}

func ask(t *testing.T, at netip.AddrPort, network, name string, kind uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), kind)
	c := &dns.Client{Net: network, Timeout: 10 * time.Second}
	m, _, err := c.ExchangeContext(t.Context(), q, at.String())
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

func TestAnswers(t *testing.T) {
	var asked atomic.Int64
	s := start(t, Config{Upstreams: []netip.AddrPort{resolver(t, world(&asked))}})
	if m := ask(t, s.Address(), "udp", "cart.shop.svc.clusterset.local", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("before the zone has said anything: %v", m)
	}
	shop(t, s)
	for _, network := range []string{"udp", "tcp"} {
		for _, c := range []struct {
			name  string
			kind  uint16
			code  int
			want  string // the address
			mesh  bool   // it is nobody else's to answer
			plain string // what the machine's own resolvers say
		}{
			{"cart.shop.svc.clusterset.local", dns.TypeA, dns.RcodeSuccess, "127.128.0.7", true, "192.0.2.1"},
			{"CART.shop", dns.TypeA, dns.RcodeSuccess, "127.128.0.7", true, "192.0.2.1"},
			{"pay.shop.TWO.mesh", dns.TypeA, dns.RcodeSuccess, "127.128.0.8", true, "192.0.2.1"},
			{"db-0.db.shop.two.mesh", dns.TypeANY, dns.RcodeSuccess, "127.128.0.9", true, ""},
			{"cart.shop.svc.clusterset.local", dns.TypeAAAA, dns.RcodeSuccess, "", true, ""},
			{"cart.shop", dns.TypeHTTPS, dns.RcodeSuccess, "", true, ""},
			{"shop.two.mesh", dns.TypeA, dns.RcodeSuccess, "", true, ""}, // it has names below it
			{"mesh", dns.TypeA, dns.RcodeSuccess, "", true, ""},
			{"cat.shop.svc.clusterset.local", dns.TypeA, dns.RcodeNameError, "", true, ""},
			{"a.b.mesh", dns.TypeAAAA, dns.RcodeNameError, "", true, ""},
			{"cat.shop", dns.TypeA, dns.RcodeSuccess, "192.0.2.1", false, "192.0.2.1"}, // .shop is a domain of the world too
			{"www.example.org", dns.TypeA, dns.RcodeSuccess, "192.0.2.1", false, "192.0.2.1"},
			{"nothing.example", dns.TypeA, dns.RcodeNameError, "", false, ""},
		} {
			before := asked.Load()
			m := ask(t, s.Address(), network, c.name, c.kind)
			got := ""
			if len(m.Answer) == 1 {
				got = m.Answer[0].(*dns.A).A.String()
			}
			if m.Rcode != c.code || got != c.want || len(m.Answer) > 1 {
				t.Errorf("%s %s over %s: %v", c.name, dns.TypeToString[c.kind], network, m)
			}
			if passed := asked.Load() != before; passed == c.mesh {
				t.Errorf("%s: passed on: %v", c.name, passed)
			}
			if c.mesh && got == "" && own(strings.ToLower(c.name)) && (len(m.Ns) != 1 || m.Ns[0].(*dns.SOA).Minttl != negativeTTL) {
				t.Errorf("%s: nobody knows how long it may be remembered: %v", c.name, m)
			}
			if c.plain != "" {
				if m := ask(t, s.Plain(), network, c.name, dns.TypeA); len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != c.plain {
					t.Errorf("%s, for Envoy: %v", c.name, m)
				}
			}
		}
	}
}

// TestLarge: what is too large for a packet says so, and comes whole over TCP with the resolver's own lifetime.
func TestLarge(t *testing.T) {
	var asked atomic.Int64
	s := start(t, Config{Upstreams: []netip.AddrPort{resolver(t, world(&asked))}})
	m := ask(t, s.Address(), "udp", "big.example", dns.TypeA)
	if m.Compress = true; !m.Truncated || m.Len() > dns.MinMsgSize || m.IsEdns0() != nil {
		t.Errorf("%d bytes, truncated: %v", m.Len(), m.Truncated)
	}
	if m := ask(t, s.Address(), "tcp", "big.example", dns.TypeA); m.Truncated || len(m.Answer) != 200 || m.Answer[0].Header().Ttl != 77 {
		t.Errorf("over TCP: %d answers, truncated: %v", len(m.Answer), m.Truncated)
	}
	q := new(dns.Msg)
	q.SetQuestion("big.example.", dns.TypeA)
	q.SetEdns0(65000, false)
	m, err := dns.ExchangeContext(t.Context(), q, s.Address().String())
	if err != nil {
		t.Fatal(err)
	}
	if m.Compress = true; !m.Truncated || m.Len() > largestUDP {
		t.Errorf("whatever an asker claims to take: %d bytes, truncated: %v", m.Len(), m.Truncated)
	}
}

// TestUpstreams: one that is dead is passed over, this server itself is none, and without any the mesh's names are answered all the same.
func TestUpstreams(t *testing.T) {
	var asked atomic.Int64
	dead, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	deadAt := netip.MustParseAddrPort(dead.LocalAddr().String())
	_ = dead.Close()
	failing := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(failure(q, dns.RcodeServerFailure)) })
	s := start(t, Config{Upstreams: []netip.AddrPort{deadAt, failing, resolver(t, world(&asked))}})
	if m := ask(t, s.Address(), "udp", "www.example.org", dns.TypeA); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}

	conf := filepath.Join(t.TempDir(), "resolv.conf")
	s = start(t, Config{ResolvConf: conf})
	shop(t, s)
	if m := ask(t, s.Address(), "udp", "www.example.org", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("without resolv.conf: %v", m)
	}
	if m := ask(t, s.Address(), "udp", "cart.shop", dns.TypeA); len(m.Answer) != 1 {
		t.Errorf("the mesh's own: %v", m)
	}
	if err := os.WriteFile(conf, []byte("nameserver 192.0.2.53\nnameserver 192.0.2.54\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.upstream.servers(); err != nil || len(got) != 2 || got[0] != netip.MustParseAddrPort("192.0.2.53:53") {
		t.Errorf("%v, %v", got, err)
	}
	u := newUpstream([]netip.AddrPort{s.Address(), deadAt}, "", s.itself)
	if got, _ := u.servers(); len(got) != 1 || got[0] != deadAt {
		t.Errorf("it would ask itself: %v", got)
	}
}

// TestLoop: a resolver that passes questions on to this server gets no storm going.
func TestLoop(t *testing.T) {
	var asked atomic.Int64
	var itself atomic.Pointer[Server]
	back := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		m, _, err := (&dns.Client{Timeout: 10 * time.Second}).Exchange(q, itself.Load().Address().String())
		if err != nil {
			m = failure(q, dns.RcodeServerFailure)
		}
		m.Id = q.Id
		_ = w.WriteMsg(m)
	})
	s := start(t, Config{Upstreams: []netip.AddrPort{back}})
	itself.Store(s)
	if m := ask(t, s.Address(), "udp", "round.example", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("%v", m)
	}
	if n := asked.Load(); n > 4 {
		t.Errorf("passed on %d times", n)
	}
}

func TestOnlyThisMachine(t *testing.T) {
	for address, fine := range map[string]bool{"127.0.0.53:53": true, "[::1]:53": true, "0.0.0.0:53": false, "192.0.2.1:53": false, "localhost:53": false, "127.0.0.1": false} {
		if err := CheckAddress(address); (err == nil) != fine {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// TestHostile: packets that are no questions are answered with an error or not at all, and the next is answered.
func TestHostile(t *testing.T) {
	var asked atomic.Int64
	s := start(t, Config{Upstreams: []netip.AddrPort{resolver(t, world(&asked))}})
	shop(t, s)
	good := new(dns.Msg)
	good.SetQuestion("cart.shop.", dns.TypeA)
	raw, err := good.Pack()
	if err != nil {
		t.Fatal(err)
	}
	two := good.Copy()
	two.Question = append(two.Question, two.Question[0])
	rawTwo, _ := two.Pack()
	answer := good.Copy()
	answer.Response = true
	rawAnswer, _ := answer.Pack()
	update := good.Copy()
	update.Opcode = dns.OpcodeUpdate
	rawUpdate, _ := update.Pack()
	loop := append(append([]byte{}, raw[:12]...), 0xc0, 0x0c, 0, 1, 0, 1) // a name that points at itself
	for i, packet := range [][]byte{{}, {0}, raw[:11], raw[:14], rawTwo, rawAnswer, rawUpdate, loop, []byte(strings.Repeat("\xff", 4096))} {
		c, err := net.Dial("udp", s.Address().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(packet); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if m := ask(t, s.Address(), "udp", "cart.shop", dns.TypeA); len(m.Answer) != 1 {
			t.Errorf("after packet %d: %v", i, m)
		}
	}
	chaos := new(dns.Msg)
	chaos.SetQuestion("cart.shop.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	if m, err := dns.ExchangeContext(t.Context(), chaos, s.Address().String()); err != nil || m.Rcode != dns.RcodeRefused {
		t.Errorf("%v, %v", m, err)
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d of them were passed on", n)
	}
}

// FuzzQuestion: whatever is asked, the answer is for the question and never anybody's else.
func FuzzQuestion(f *testing.F) {
	for _, name := range []string{"cart.shop.", "x.mesh.", "\\000.shop.", ".", "CART.SHOP.SVC.CLUSTERSET.LOCAL."} {
		f.Add(name, uint16(1), uint16(1))
	}
	s := &Server{log: slog.New(slog.DiscardHandler), upstream: newUpstream(nil, "/nonexistent", func(netip.AddrPort) bool { return false })}
	s.Set([]Name{{"cart.shop", netip.MustParseAddr("127.128.0.7")}, {"cart.shop.svc.clusterset.local", netip.MustParseAddr("127.128.0.7")}})
	f.Fuzz(func(t *testing.T, name string, kind, class uint16) {
		q := &dns.Msg{MsgHdr: dns.MsgHdr{Id: 1}, Question: []dns.Question{{Name: name, Qtype: kind, Qclass: class}}}
		raw, err := q.Pack()
		if err != nil || q.Unpack(raw) != nil {
			return
		}
		w := &recorder{}
		s.answer(t.Context(), w, q)
		if w.got == nil || !w.got.Response || w.got.Id != q.Id || len(w.got.Question) != 1 || w.got.Question[0] != q.Question[0] {
			t.Fatalf("%v is answered by %v", q, w.got)
		}
		if raw, err := w.got.Pack(); err != nil || len(raw) > dns.MinMsgSize {
			t.Fatalf("%d bytes, %v", len(raw), err)
		}
		if n := len(w.got.Answer); n > 0 && !strings.HasPrefix(strings.ToLower(name), "cart.shop") {
			t.Fatalf("%q has %d answers", name, n)
		}
	})
}

// recorder keeps what is written to it, as over UDP.
type recorder struct {
	dns.ResponseWriter
	got *dns.Msg
}

func (r *recorder) LocalAddr() net.Addr       { return &net.UDPAddr{} }
func (r *recorder) WriteMsg(m *dns.Msg) error { r.got = m; return nil }

func BenchmarkTable(b *testing.B) {
	names := make([]Name, 2000)
	for i := range names {
		names[i] = Name{fmt.Sprintf("service-%d.shop.svc.clusterset.local", i), netip.MustParseAddr("127.128.0.7")}
	}
	b.ReportAllocs()
	for b.Loop() {
		newTable(names)
	}
}
