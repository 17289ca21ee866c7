package peer

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/dataplane/peerpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/handshake"
	"github.com/comity-mesh/comity/mesh"
)

// errExpired ends sessions.
var errExpired = errors.New("the peer's certificate has expired")

// Config is what Peers is made of.
type Config struct {
	Certificate identity.CertSource
	Log         *slog.Logger
	// Metrics gets what is counted, names beginning with comity_agent_peer_.
	Metrics prometheus.Registerer
	// Now is the clock of certificates; nil means time.Now.
	Now func() time.Time
}

func (c Config) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// Peers is everything between this ingress and those of the other zones. It knows nobody until Set. Safe for
// concurrent use.
type Peers struct {
	conf     Config
	metrics  *metrics
	roster   atomic.Pointer[roster]
	attended atomic.Bool
	reset    chan struct{} // capacity 1: the roster is another
	changed  chan struct{} // capacity 1: Links is another
	words    chan Heard
	zone     string // the ingress's own; set when Run begins

	mu       sync.Mutex
	links    map[Name]*link
	sessions map[uint64]*session // of both directions
	inbound  map[uint64]bool
	next     uint64
}

// Heard is a word from a peer.
type Heard struct {
	Session uint64
	Word    []byte
}

// New makes Peers; Run runs it.
func New(c Config) (*Peers, error) {
	p := &Peers{
		conf: c, reset: make(chan struct{}, 1), changed: make(chan struct{}, 1), words: make(chan Heard),
		links: map[Name]*link{}, sessions: map[uint64]*session{}, inbound: map[uint64]bool{},
	}
	p.roster.Store(emptyRoster())
	var err error
	p.metrics, err = newMetrics(c.Metrics, p)
	return p, err
}

// BundleFor implements identity.BundleSource with the roots of the zones that are known now.
func (p *Peers) BundleFor(td mesh.TrustDomain) (identity.Bundle, bool) {
	return p.roster.Load().BundleFor(td)
}

// Set replaces who is known. Sessions with peers that these roots don't prove end before it returns. An error
// names the zones that can't be used; the others are.
func (p *Peers) Set(peers *enrolpb.Peers) error {
	r, err := newRoster(peers)
	p.roster.Store(r)
	now := p.conf.now()
	p.mu.Lock()
	for _, s := range p.sessions {
		if who, verr := r.verify(s.chain, now); verr != nil {
			s.end(fmt.Errorf("it is not trusted any more: %w", verr))
		} else if who.Zone != s.peer.Zone {
			s.end(fmt.Errorf("its trust domain is that of zone %s now", who.Zone))
		}
	}
	p.mu.Unlock()
	signal(p.reset)
	return err
}

// Attended says whether the zone's control plane holds this ingress's lease now. While it doesn't, words from
// peers go nowhere.
func (p *Peers) Attended(yes bool) { p.attended.Store(yes) }

// Changed signals (coalesced, capacity 1) after Links became another.
func (p *Peers) Changed() <-chan struct{} { return p.changed }

// Words delivers what peers say, in order for each session.
func (p *Peers) Words() <-chan Heard { return p.words }

// Links is how this ingress stands to all peers now, sorted.
func (p *Peers) Links() *enrolpb.PeerLinks {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := &enrolpb.PeerLinks{}
	for _, n := range slices.SortedFunc(maps.Keys(p.links), compareNames) {
		out.Links = append(out.Links, p.links[n].current())
	}
	for _, n := range slices.Sorted(maps.Keys(p.inbound)) {
		s := p.sessions[n]
		out.Sessions = append(out.Sessions, &enrolpb.PeerSession{Session: n, Zone: s.peer.Zone, Ingress: s.peer.Ingress})
	}
	return out
}

func compareNames(a, b Name) int {
	return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.Ingress, b.Ingress))
}

// Say sends a word over a session. One that has ended, or whose peer takes too little, loses it, and ends: the
// control planes begin anew on the next.
func (p *Peers) Say(number uint64, word []byte) {
	p.mu.Lock()
	s := p.sessions[number]
	p.mu.Unlock()
	if s != nil && !s.say.put(word) {
		s.end(errors.New("the peer takes less than it is told"))
	}
}

// End ends a session at the word of the zone's control plane; the peer may begin another.
func (p *Peers) End(number uint64) {
	p.mu.Lock()
	s := p.sessions[number]
	p.mu.Unlock()
	if s != nil {
		s.end(errors.New("the zone's control plane ended it: its peer sends more than it may, or takes less than it is told"))
	}
}

// Run probes the ingresses that are known and answers peers on l, as an ingress of the zone, until ctx ends; it
// closes l.
func (p *Peers) Run(ctx context.Context, zone string, l net.Listener) error {
	p.zone = zone
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	wg.Go(func() { served <- p.serve(ctx, l) })
	stops := map[Name]context.CancelFunc{}
	for {
		p.follow(ctx, &wg, stops)
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			if ctx.Err() == nil {
				return err
			}
		case <-p.reset:
		}
	}
}

// follow begins and ends links so that there is one for every target. One that stays keeps its state, wherever its
// ingress is now.
func (p *Peers) follow(ctx context.Context, wg *sync.WaitGroup, stops map[Name]context.CancelFunc) {
	r := p.roster.Load()
	p.mu.Lock()
	for n, stop := range stops {
		if _, wanted := r.targets[n]; !wanted {
			stop()
			delete(stops, n)
			delete(p.links, n)
		}
	}
	for n := range r.targets {
		if p.links[n] != nil {
			continue
		}
		l := p.newLink(n)
		own, stop := context.WithCancel(ctx)
		p.links[n], stops[n] = l, stop
		wg.Go(func() { l.run(own) })
	}
	p.mu.Unlock()
	signal(p.changed)
}

func (p *Peers) newLink(n Name) *link {
	last := target{zone: zone{name: n.Zone}}
	return &link{
		name: n, log: p.conf.Log, changed: func() { signal(p.changed) }, open: p.openSession,
		status: &enrolpb.PeerLink{Zone: n.Zone, Ingress: n.Ingress},
		settings: func() (target, probe) {
			r := p.roster.Load()
			if t, ok := r.targets[n]; ok {
				last = t // a link outlives its target by moments
			}
			return last, r.probe
		},
		dial: func(ctx context.Context, addresses []string, t target) (*tls.Conn, error) {
			return dialAny(ctx, addresses, func() *tls.Config { return p.clientTLS(t) })
		},
	}
}

// clientTLS accepts any ingress of the one zone: several may share an address.
func (p *Peers) clientTLS(t target) *tls.Config {
	c := identity.ClientTLS(p.conf.Certificate, identity.SingleTrustDomain(p, t.trustDomain), p.authorize, identity.TLSOptions{Now: p.conf.now, NextProtos: []string{"h2"}})
	c.ServerName = mesh.PeerSNI(p.zone, t.name)
	return c
}

// authorize is the identity.Authorizer of both directions.
func (p *Peers) authorize(id identity.ID) error {
	_, err := p.roster.Load().nameOf(id)
	return err
}

// openSession makes a session of a link's fresh connection, and serves it until it ends. It does not wait for the
// peer.
func (p *Peers) openSession(ctx context.Context, c *tls.Conn, l *link) *session {
	ctx, end := context.WithCancelCause(ctx)
	s := newSession(l.name, c.ConnectionState().PeerCertificates, end)
	p.mu.Lock()
	p.number(s)
	p.mu.Unlock()
	go func() {
		err := p.serveLink(ctx, c, s, l)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		end(nil)
		p.leave(s)
		l.over <- ending{s, err}
	}()
	return s
}

func (p *Peers) serveLink(ctx context.Context, c *tls.Conn, s *session, l *link) error {
	defer func() { _ = c.Close() }() // the session's alone; gRPC may have closed it
	ctx, cancel := context.WithDeadlineCause(ctx, s.until(), errExpired)
	defer cancel()
	cc, err := handshake.Once(c, grpc.WithStaticStreamWindowSize(handshake.Window), grpc.WithStaticConnWindowSize(handshake.Window))
	if err != nil {
		return err
	}
	defer func() { _ = cc.Close() }() // fails only when closed already
	st, err := peerpb.NewPeeringClient(cc).Session(ctx, grpc.MaxCallRecvMsgSize(maxFrame))
	if err != nil {
		return err
	}
	return s.run(ctx, st, func(f *peerpb.PeerFrame) error {
		pong := f.GetPong()
		if pong == nil {
			return errors.New("it sent a frame that only an asking peer sends")
		}
		select {
		case l.pongs <- pong:
		default: // the one before has not been read yet
		}
		return nil
	}, p.passer(s))
}

// passer passes words of a session on while somebody attends, and else drops them.
func (p *Peers) passer(s *session) func(context.Context, []byte) error {
	return func(ctx context.Context, word []byte) error {
		if !p.attended.Load() {
			s.dropped.Add(1)
			return nil
		}
		select {
		case p.words <- Heard{s.number, word}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// enter registers a session that a peer has opened, and ends an older one of the same; false if its zone has too
// many.
func (p *Peers) enter(s *session) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for number := range p.inbound {
		o := p.sessions[number]
		if o.peer == s.peer {
			o.end(errors.New("a newer session of the same peer took over"))
			continue
		}
		if o.peer.Zone == s.peer.Zone {
			n++
		}
	}
	if n >= maxPerZone {
		return false
	}
	p.number(s)
	p.inbound[s.number] = true
	signal(p.changed)
	return true
}

// number gives a session its number; p.mu is held.
func (p *Peers) number(s *session) {
	p.next++
	s.number = p.next
	p.sessions[s.number] = s
}

func (p *Peers) leave(s *session) {
	p.mu.Lock()
	delete(p.sessions, s.number)
	delete(p.inbound, s.number)
	p.mu.Unlock()
	signal(p.changed)
}
