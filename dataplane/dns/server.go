package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
)

const (
	// ttl of the mesh's answers in seconds. An address stays with its name; what may end is that the name is there.
	ttl = 30
	// negativeTTL is how long a name may count as missing.
	negativeTTL = 5
	// largestUDP is what fits in one packet on any way (DNS flag day 2020), whatever the asker says that it takes.
	largestUDP = 1232
	// maxQuestions that are being answered at once; more are refused.
	maxQuestions = 512
	// maxConnections over TCP at once, and how long one may be silent.
	maxConnections = 64
	idle           = 10 * time.Second
)

// Config is a server.
type Config struct {
	// Address is the host:port of applications' questions, on loopback; port 0 is any free one.
	Address string
	// Upstreams answer for all that is not of the mesh; none means those of ResolvConf.
	Upstreams []netip.AddrPort
	// ResolvConf is the machine's resolv.conf(5); empty means /etc/resolv.conf.
	ResolvConf string
	Log        *slog.Logger
}

// Server answers. Listen makes one.
type Server struct {
	log      *slog.Logger
	table    atomic.Pointer[table] // nil until the zone has said what there is
	upstream *upstream
	slots    chan struct{}
	// apps is for applications, plain for this machine's Envoy, which must not get virtual addresses: it would connect to itself.
	apps, plain endpoint
}

// endpoint is one address over UDP and TCP.
type endpoint struct {
	udp net.PacketConn
	tcp net.Listener
}

// CheckAddress reports why a server can't have an address. One that others could reach would be an open resolver.
func CheckAddress(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%q is not an IP address and a port", address)
	}
	if !at.Addr().IsLoopback() {
		return fmt.Errorf("%q is not a loopback address: names are answered to this machine alone", address)
	}
	return nil
}

// Listen opens the server's ports; Serve answers on them.
func Listen(ctx context.Context, c Config) (*Server, error) {
	if err := CheckAddress(c.Address); err != nil {
		return nil, err
	}
	apps, err := open(ctx, c.Address)
	if err != nil {
		return nil, err
	}
	plain, err := open(ctx, "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, apps.close())
	}
	s := &Server{log: c.Log, slots: make(chan struct{}, maxQuestions), apps: apps, plain: plain}
	s.upstream = newUpstream(c.Upstreams, cmp.Or(c.ResolvConf, "/etc/resolv.conf"), s.itself)
	return s, nil
}

// open listens on the same port over both; where any will do, UDP takes the one that TCP got.
func open(ctx context.Context, address string) (endpoint, error) {
	var l net.ListenConfig
	var errs error
	for range 10 {
		tcp, err := l.Listen(ctx, "tcp", address)
		if err != nil {
			return endpoint{}, err
		}
		udp, err := l.ListenPacket(ctx, "udp", tcp.Addr().String())
		if err == nil {
			return endpoint{udp, netutil.LimitListener(tcp, maxConnections)}, nil
		}
		errs = errors.Join(err, tcp.Close())
		if !strings.HasSuffix(address, ":0") {
			break
		}
	}
	return endpoint{}, errs
}

func (e endpoint) close() error { return errors.Join(e.udp.Close(), e.tcp.Close()) }

func (e endpoint) address() netip.AddrPort {
	at, _ := netip.ParseAddrPort(e.tcp.Addr().String()) // which came from a socket
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// Address is where applications ask, Plain where nothing is answered by a virtual address.
func (s *Server) Address() netip.AddrPort { return s.apps.address() }

// Plain is the address for whoever must reach what names really mean.
func (s *Server) Plain() netip.AddrPort { return s.plain.address() }

func (s *Server) itself(a netip.AddrPort) bool { return a == s.Address() || a == s.Plain() }

// Set replaces the names of the mesh.
func (s *Server) Set(names []Name) { s.table.Store(newTable(names)) }

// Close closes the ports of a server that is not served.
func (s *Server) Close() error { return errors.Join(s.apps.close(), s.plain.close()) }

// Serve answers until ctx ends. An error is of a port that can't be read any more.
func (s *Server) Serve(ctx context.Context) error {
	ended := make(chan error, 4) // one slot each
	var serving sync.WaitGroup
	var servers []*dns.Server
	start := func(e endpoint, handle dns.HandlerFunc) {
		for _, d := range []*dns.Server{{PacketConn: e.udp}, {Listener: e.tcp}} {
			d.Handler, d.UDPSize = handle, dns.DefaultMsgSize
			d.ReadTimeout, d.WriteTimeout, d.IdleTimeout = idle, idle, func() time.Duration { return idle }
			servers = append(servers, d)
			serving.Go(func() { ended <- d.ActivateAndServe() })
		}
	}
	bounded := func(answer func(context.Context, dns.ResponseWriter, *dns.Msg)) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			select {
			case s.slots <- struct{}{}:
				defer func() { <-s.slots }()
				answer(ctx, w, q)
			default:
				reply(w, q, failure(q, dns.RcodeRefused))
			}
		}
	}
	start(s.apps, bounded(s.answer))
	start(s.plain, bounded(s.forward))
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	_ = s.Close() // which is how those that still serve end
	for _, d := range servers {
		_ = d.ShutdownContext(ctx) // one that has ended already
	}
	serving.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// answer answers what is the mesh's, and passes the rest on.
func (s *Server) answer(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 {
		reply(w, q, failure(q, dns.RcodeFormatError)) // RFC 9619
		return
	}
	asked := q.Question[0]
	host := strings.ToLower(strings.TrimSuffix(asked.Name, "."))
	t := s.table.Load()
	var address netip.Addr
	var known bool
	if t != nil {
		address, known = t.addresses[host]
	}
	switch {
	case !known && !own(host):
		s.forward(ctx, w, q)
	case t == nil:
		reply(w, q, failure(q, dns.RcodeServerFailure)) // the zone has said nothing yet, so that nobody shall remember it
	case asked.Qclass != dns.ClassINET && asked.Qclass != dns.ClassANY:
		reply(w, q, failure(q, dns.RcodeRefused))
	default:
		reply(w, q, s.meshAnswer(q, host, address, known || t.above[host]))
	}
}

// meshAnswer has the address, where that was asked for; of a name that is there, any other question has no answer.
func (s *Server) meshAnswer(q *dns.Msg, host string, address netip.Addr, there bool) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	asked := q.Question[0]
	if address.IsValid() && (asked.Qtype == dns.TypeA || asked.Qtype == dns.TypeANY) {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: asked.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: address.AsSlice()}}
		return m
	}
	if !there {
		m.Rcode = dns.RcodeNameError
	}
	if own(host) {
		domain := "svc.clusterset.local."
		if host == "mesh" || strings.HasSuffix(host, ".mesh") {
			domain = "mesh."
		}
		// How long the answer may be remembered (RFC 2308).
		m.Ns = []dns.RR{&dns.SOA{
			Hdr: dns.RR_Header{Name: domain, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: negativeTTL},
			Ns:  "agent." + domain, Mbox: "nobody." + domain, Serial: 1, Refresh: ttl, Retry: ttl, Expire: ttl, Minttl: negativeTTL,
		}}
	}
	return m
}

// forward passes a question on.
func (s *Server) forward(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 {
		reply(w, q, failure(q, dns.RcodeFormatError))
		return
	}
	m, err := s.upstream.ask(ctx, q)
	if err != nil {
		s.log.Debug("a question could not be passed on", "reason", err)
		reply(w, q, failure(q, dns.RcodeServerFailure))
		return
	}
	reply(w, q, m)
}

func failure(q *dns.Msg, code int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, code)
	m.RecursionAvailable = true
	return m
}

// reply sends what fits.
func reply(w dns.ResponseWriter, q, m *dns.Msg) {
	size := dns.MaxMsgSize
	if w.LocalAddr().Network() == "udp" {
		size = dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = min(max(int(o.UDPSize()), dns.MinMsgSize), largestUDP)
		}
	}
	// The size and flags of a resolver's own OPT are for us (RFC 6891, 6.1.1).
	m.Extra = slices.DeleteFunc(m.Extra, func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeOPT })
	if o := q.IsEdns0(); o != nil {
		m.SetEdns0(largestUDP, o.Do())
	}
	m.Truncate(size)
	_ = w.WriteMsg(m) // who asked may be gone
}
