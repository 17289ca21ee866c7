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

// severer ends Envoy's connections to what the zone names. It looks for a while after each word, not for ever.
type severer struct {
	pid  func() int // of Envoy; 0 while it does not run
	log  *slog.Logger
	wake chan struct{} // one slot

	mu sync.Mutex
	to map[netip.AddrPort]struct{}
}

func newSeverer(pid func() int, log *slog.Logger) *severer {
	return &severer{pid: pid, log: log, wake: make(chan struct{}, 1)}
}

// set replaces what Envoy must not be connected to. What is no address is passed over.
func (s *severer) set(list []*enrolpb.Address) {
	to := map[netip.AddrPort]struct{}{}
	for _, a := range list {
		if ip, err := netip.ParseAddr(a.GetIp()); err == nil && a.GetPort() <= 65535 {
			to[netip.AddrPortFrom(ip.Unmap(), uint16(a.GetPort()))] = struct{}{}
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
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			until, failed = time.Now().Add(severFor), false
			look.Reset(severEvery)
		case now := <-look.C:
			if now.After(until) {
				look.Stop()
			}
		}
		s.mu.Lock()
		to := s.to
		s.mu.Unlock()
		pid := s.pid()
		if pid == 0 || len(to) == 0 {
			continue
		}
		n, err := sever.Connections(pid, to)
		if n > 0 {
			s.log.WarnContext(ctx, "ended connections to a zone that is revoked", "connections", n)
		}
		if err != nil && !failed {
			failed = true // once is enough
			s.log.ErrorContext(ctx, "connections to a zone that is revoked can't be ended from here; they go on until they end by themselves", "error", err)
		}
	}
}
