package dataplane

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/dataplane/sever"
)

const (
	// severEvery is how often Envoy's connections are looked through, and severFor how long after the zone's word:
	// until Envoy has its new endpoints it may connect again.
	severEvery = 200 * time.Millisecond
	severFor   = 10 * time.Second
)

// severer ends Envoy's connections to what the zone names. It looks for a while after each word, not for ever, unless it
// is forbidden to end what it finds: then until nothing is left.
type severer struct {
	pid     func() int // of Envoy; 0 while it does not run
	changed func()     // unsevered says something else
	log     *slog.Logger
	wake    chan struct{} // one slot
	// never are the zone's own addresses, whatever its word is: Envoy gets its configuration there.
	never func() []string // host:port

	mu      sync.Mutex
	to      map[netip.AddrPort]struct{}
	trouble string
}

func newSeverer(pid func() int, changed func(), log *slog.Logger) *severer {
	return &severer{pid: pid, changed: changed, log: log, wake: make(chan struct{}, 1)}
}

// unsevered says why connections that should have been ended are still there; empty if none are.
func (s *severer) unsevered() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trouble
}

// set replaces what Envoy must not be connected to. What is no address is passed over, and so are the zone's own.
func (s *severer) set(list []*enrolpb.Address) {
	to := map[netip.AddrPort]struct{}{}
	for _, a := range list {
		if ip, err := netip.ParseAddr(a.GetIp()); err == nil && a.GetPort() <= 65535 {
			to[netip.AddrPortFrom(ip.Unmap(), uint16(a.GetPort()))] = struct{}{}
		}
	}
	if s.never != nil {
		for _, text := range s.never() {
			if own, err := netip.ParseAddrPort(text); err == nil {
				delete(to, netip.AddrPortFrom(own.Addr().Unmap(), own.Port()))
			}
		}
	}
	s.mu.Lock()
	s.to = to
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *severer) run(ctx context.Context) error {
	look := time.NewTicker(severEvery)
	defer look.Stop()
	look.Stop()
	var until time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			until = time.Now().Add(severFor)
			look.Reset(severEvery)
		case now := <-look.C:
			if now.After(until) && s.unsevered() == "" {
				look.Stop()
			}
		}
		s.look(ctx)
	}
}

// look ends what there is to end, and notes whether that was possible.
func (s *severer) look(ctx context.Context) {
	s.mu.Lock()
	to, before := s.to, s.trouble
	s.mu.Unlock()
	trouble := ""
	if pid := s.pid(); pid != 0 && len(to) > 0 {
		n, err := sever.Connections(pid, to)
		if n > 0 {
			s.log.WarnContext(ctx, "ended connections to a zone that is revoked", "connections", n)
		}
		if err != nil {
			trouble = err.Error()
		}
		if err != nil && before == "" { // once is enough
			s.log.ErrorContext(ctx, "connections to a zone that is revoked can't be ended from here; they go on until they end by themselves", "error", err)
		}
	}
	// How it fails differs from look to look; that it does is what matters.
	if (trouble == "") == (before == "") {
		return
	}
	s.mu.Lock()
	s.trouble = trouble
	s.mu.Unlock()
	s.changed()
}
