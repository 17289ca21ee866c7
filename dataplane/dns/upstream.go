package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

const (
	// each upstream has this long to answer, and all of them together the whole: less than applications wait (resolv.conf(5): 5 s).
	perUpstream  = 2 * time.Second
	whole        = 4500 * time.Millisecond
	maxUpstreams = 3 // as the C library
	rereadEvery  = 5 * time.Second
)

// upstream asks the machine's own resolvers.
type upstream struct {
	fixed  []netip.AddrPort
	path   string // of resolv.conf
	itself func(netip.AddrPort) bool
	// Who asks the same at the same time waits for one answer. That also ends a question that comes round to us again: it waits
	// for itself, and fails with it.
	flights singleflight.Group

	mu     sync.Mutex
	read   []netip.AddrPort
	readAt time.Time
}

func newUpstream(fixed []netip.AddrPort, path string, itself func(netip.AddrPort) bool) *upstream {
	return &upstream{fixed: fixed, path: path, itself: itself}
}

// servers are who is asked, in order. This server itself is none of them, whatever resolv.conf says.
func (u *upstream) servers() ([]netip.AddrPort, error) {
	if len(u.fixed) > 0 {
		return u.without(u.fixed), nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if now := time.Now(); now.Sub(u.readAt) > rereadEvery {
		c, err := dns.ClientConfigFromFile(u.path)
		if err != nil && (u.read == nil || errors.Is(err, os.ErrPermission)) {
			return nil, fmt.Errorf("the resolvers of %s: %w", u.path, err)
		}
		if err == nil {
			u.read, u.readAt = nil, now
			for _, s := range c.Servers {
				if a, err := netip.ParseAddr(s); err == nil {
					u.read = append(u.read, netip.AddrPortFrom(a.Unmap(), 53))
				}
			}
		}
	}
	return u.without(u.read), nil
}

func (u *upstream) without(list []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range list {
		if !u.itself(a) && len(out) < maxUpstreams {
			out = append(out, a)
		}
	}
	return out
}

// ask passes a question on and returns the answer for it. The answer is a copy of its own.
func (u *upstream) ask(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	got, err, shared := u.flights.Do(key(q), func() (any, error) { return u.exchange(ctx, q) })
	if err != nil {
		return nil, err
	}
	m, ok := got.(*dns.Msg)
	if !ok {
		return nil, errors.New("no answer")
	}
	if shared {
		m = m.Copy()
	}
	m.Id = q.Id
	m.Question = q.Question // as it was written: askers may look at upper and lower case
	return m, nil
}

// key is all of a question by which answers differ.
func key(q *dns.Msg) string {
	a := q.Question[0]
	out := a.Name + " " + strconv.Itoa(int(a.Qtype)) + " " + strconv.Itoa(int(a.Qclass))
	if q.CheckingDisabled {
		out += " cd"
	}
	if o := q.IsEdns0(); o != nil && o.Do() {
		out += " do"
	}
	return out
}

func (u *upstream) exchange(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, whole)
	defer cancel()
	servers, err := u.servers()
	if err != nil {
		return nil, err
	}
	errs := errors.New("no resolver answers")
	out := new(dns.Msg)
	out.Id, out.RecursionDesired, out.CheckingDisabled = dns.Id(), true, q.CheckingDisabled
	out.Question = q.Question
	o := q.IsEdns0()
	out.SetEdns0(largestUDP, o != nil && o.Do())
	for _, at := range servers {
		for _, network := range []string{"udp", "tcp"} {
			c := &dns.Client{Net: network, Timeout: perUpstream, UDPSize: largestUDP}
			m, _, err := c.ExchangeContext(ctx, out, at.String())
			if err != nil {
				errs = errors.Join(errs, fmt.Errorf("%s: %w", at, err))
				break
			}
			if m.Truncated && network == "udp" {
				continue // all of it, over TCP
			}
			if m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused {
				errs = errors.Join(errs, fmt.Errorf("%s: %s", at, dns.RcodeToString[m.Rcode]))
				break
			}
			return m, nil
		}
	}
	return nil, errs
}
