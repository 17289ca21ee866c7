package tap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	"github.com/comity-mesh/comity/mesh"
)

const (
	// all is the value with which Envoy tells of everything: millionths.
	all = 1_000_000
	// mostLooked is how many entries a second are looked at. More would cost the machine more than a look is worth: an entry takes
	// Envoy and the agent some 30 us together.
	mostLooked = 2000
	period     = time.Second
	offTimeout = 2 * time.Second
)

// Self is the proxy whose Envoy tells.
type Self struct {
	Proxy    mesh.ProxyID
	Zone     string
	Identity string // SPIFFE ID
}

// Server takes what Envoy tells and gives it to those who watch. It is safe for concurrent use.
type Server struct {
	accesslogv3.UnimplementedAccessLogServiceServer
	set func(ctx context.Context, share uint32) error

	control sync.Mutex // guards what follows, while Envoy is told
	share   uint32
	told    time.Time

	mu      sync.Mutex
	self    Self
	seen    int
	watches map[*watch]struct{}
}

// NewServer makes a server; set has Envoy tell of a share, in millionths, of what passes through it (xds/envoy.TapKey).
func NewServer(set func(ctx context.Context, share uint32) error) *Server {
	return &Server{set: set, watches: map[*watch]struct{}{}}
}

// Register adds the service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) { accesslogv3.RegisterAccessLogServiceServer(r, s) }

// watch is one person's look.
type watch struct {
	match   matcher
	limit   *rate.Limiter
	found   chan mesh.TapRequest // what does not fit is left out
	matched uint64               // since it was last said; guarded by Server.mu, as is left
	left    uint64
}

// Watch shows what matches until its time is over or ctx ends, with nil, or emit fails. The first event is empty: from then on
// Envoy tells. What was not shown is said once a second.
func (s *Server) Watch(ctx context.Context, self Self, t mesh.Tap, emit func(mesh.TapEvent) error) error {
	if err := t.Check(); err != nil {
		return err
	}
	most, length := t.Limits()
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	w := &watch{match: newMatcher(t), limit: rate.NewLimiter(rate.Limit(most), most), found: make(chan mesh.TapRequest, most)}
	defer s.leave(ctx, w)
	if err := s.enter(ctx, self, w); err != nil {
		return fmt.Errorf("its Envoy can't be tapped: %w", err)
	}
	if err := emit(mesh.TapEvent{}); err != nil {
		return err
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case r := <-w.found:
			if err := emit(mesh.TapEvent{Request: &r}); err != nil {
				return err
			}
		case <-tick.C:
			if left := s.leftOut(ctx, w); left != nil {
				if err := emit(mesh.TapEvent{Left: left}); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// enter adds a watch; with the first, Envoy begins to tell.
func (s *Server) enter(ctx context.Context, self Self, w *watch) error {
	s.control.Lock()
	defer s.control.Unlock()
	s.mu.Lock()
	s.self = self
	s.watches[w] = struct{}{}
	first := len(s.watches) == 1
	s.mu.Unlock()
	if !first {
		return nil
	}
	s.share, s.told = all, time.Now()
	return s.set(ctx, all)
}

// leave takes a watch out; with the last, Envoy is silent again, even if the watch ended because its time was over.
func (s *Server) leave(ctx context.Context, w *watch) {
	s.control.Lock()
	defer s.control.Unlock()
	s.mu.Lock()
	delete(s.watches, w)
	last := len(s.watches) == 0
	s.mu.Unlock()
	if last {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), offTimeout)
		defer cancel()
		s.share = 0
		_ = s.set(ctx, 0) // an Envoy that does not hear it has ended, or says it to the next watch
	}
}

// leftOut is what a watch was not shown since it was last said, nil for nothing.
func (s *Server) leftOut(ctx context.Context, w *watch) *mesh.TapLeft {
	share := s.adjust(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	left := &mesh.TapLeft{Zone: s.self.Zone, Count: w.left}
	if share > 0 && share < all {
		left.Share = float64(share) / all
		left.Count += uint64(float64(w.matched) * (1/left.Share - 1))
	}
	w.left, w.matched = 0, 0
	if left.Count == 0 {
		return nil
	}
	return left
}

// adjust has Envoy tell of as much as can be looked at, once in a period whoever asks. It says it also if nothing has changed: an
// Envoy that was started anew does not know. The share is that of the period that has ended.
func (s *Server) adjust(ctx context.Context) (share uint32) {
	s.control.Lock()
	defer s.control.Unlock()
	share = s.share
	took := time.Since(s.told)
	if took < period/2 || share == 0 {
		return share
	}
	s.mu.Lock()
	seen := s.seen
	s.seen = 0
	s.mu.Unlock()
	whole := float64(seen) / took.Seconds() * all / float64(share)
	next := uint32(all)
	if whole > mostLooked {
		next = uint32(mostLooked / whole * all)
	}
	s.share, s.told = max(next, 1), time.Now()
	_ = s.set(ctx, s.share) // it is said again in a second
	return share
}

// StreamAccessLogs takes one of Envoy's streams: of one log and one of its threads.
func (s *Server) StreamAccessLogs(g accesslogv3.AccessLogService_StreamAccessLogsServer) error {
	log := ""
	for {
		m, err := g.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if id := m.GetIdentifier(); id != nil {
			log = id.GetLogName()
		}
		for _, e := range m.GetHttpLogs().GetLogEntry() {
			s.take(func(self Self) (mesh.TapRequest, map[string]string, bool) { return self.request(log, e) })
		}
		for _, e := range m.GetTcpLogs().GetLogEntry() {
			s.take(func(self Self) (mesh.TapRequest, map[string]string, bool) { return self.connection(log, e) })
		}
	}
}

// take shows an entry to all whom it matches.
func (s *Server) take(read func(Self) (r mesh.TapRequest, headers map[string]string, ok bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.watches) == 0 {
		return
	}
	s.seen++
	r, headers, ok := read(s.self)
	if !ok {
		return
	}
	for w := range s.watches {
		if !w.match.matches(r, headers) {
			continue
		}
		w.matched++
		if !w.limit.Allow() {
			w.left++
			continue
		}
		select {
		case w.found <- r:
		default: // whoever watches does not keep up
			w.left++
		}
	}
}
