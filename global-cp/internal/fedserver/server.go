package fedserver

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/global-cp/internal/trust"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/handshake"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// Config is what a Server needs.
type Config struct {
	Store store.Store
	// Shared: other replicas may serve the same store.
	Shared bool
	Trust  *trust.Authority
	// Advertise is where zones reach the server, host:port, at least one; it goes into join tokens.
	Advertise []string
	Log       *slog.Logger
	Metrics   prometheus.Registerer
	Now       func() time.Time // nil means time.Now
}

// Server is global's federation service. Run it, and serve GRPC meanwhile.
type Server struct {
	federationpb.UnimplementedFederationServer
	cfg     Config
	id      string // of this replica, for its life
	metrics *metrics
	grpc    *grpc.Server
	late    *laggard

	mu       sync.Mutex
	sessions map[string]*session // by zone
	closing  bool
	joining  sync.Mutex // one join at a time decides about names and trust domains

	leaving chan struct{} // capacity 1: a zone is to leave
}

const (
	checkEvery = time.Minute
	helloLimit = 10 * time.Second
	retryAfter = 5 * time.Second
)

// New makes a server. It serves nothing yet.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, id: rand.Text(), metrics: newMetrics(cfg.Metrics), sessions: map[string]*session{}, leaving: make(chan struct{}, 1)}
	s.late = newLaggard(s)
	own := cfg.Trust.TrustDomain()
	onlyZones := func(id identity.ID) error {
		_, err := identity.ZoneOf(own, id)
		return err
	}
	// Who joins has no certificate yet and who renews late has one that ended: Session demands it itself.
	config := identity.ServerTLS(cfg.Trust.ServerCertificate, cfg.Trust.Bundle(), onlyZones,
		identity.TLSOptions{Now: cfg.Now, ClientCertOptional: true})
	s.grpc = grpc.NewServer(
		grpc.Creds(handshake.Counted(credentials.NewTLS(config), s.metrics.refusedHandshakes)),
		grpc.MaxRecvMsgSize(federation.MaxMessage),
		grpc.MaxConcurrentStreams(16), // one session, and room for a renewal
		grpc.ConnectionTimeout(helloLimit),
		grpc.StaticStreamWindowSize(handshake.Window), grpc.StaticConnWindowSize(handshake.Window),
		grpc.MaxHeaderListSize(16<<10),
		// A zone that vanished is shown as away within 15 s.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	)
	federationpb.RegisterFederationServer(s.grpc, s)
	return s
}

// Run serves the listener and does the chores until ctx ends, then says goodbye to the zones.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- s.grpc.Serve(listener) }()
	var wg sync.WaitGroup
	chores, stop := context.WithCancel(ctx)
	wg.Go(func() { s.retried(chores, "removals of zones", s.followZones) })
	wg.Go(func() { s.checkAll(chores) })
	wg.Go(func() { s.late.run(chores, s.cfg.Log) })
	wg.Go(func() { s.keepLeaving(chores) })
	if s.cfg.Shared {
		wg.Go(func() { s.retried(chores, "newer sessions elsewhere", s.fenceOlder) })
		wg.Go(func() { s.retried(chores, "statements from elsewhere", s.relayOthers) })
		wg.Go(func() { s.retried(chores, "silent replicas", s.keepAlive) })
		wg.Go(func() {
			s.retried(chores, "bundles from elsewhere", func(ctx context.Context) error { return s.cfg.Trust.FollowBook(ctx, s.cfg.Store) })
		})
	}
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	stop()
	s.goodbye()
	s.grpc.Stop()
	wg.Wait()
	if s.cfg.Shared {
		s.leave(ctx)
	}
	return err
}

// prepare reads what is known of the zones and makes what is shown of them true. It waits for a store that is away.
func (s *Server) prepare(ctx context.Context) error {
	for {
		err := s.cfg.Trust.LoadBook(ctx, s.cfg.Store)
		switch {
		case err != nil:
		case s.cfg.Shared:
			err = s.beat(ctx)
		default:
			err = s.disconnectAll(ctx)
		}
		if !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		s.cfg.Log.ErrorContext(ctx, "zones are not served yet: the store is away; trying again", "error", err)
		again := time.NewTimer(retryAfter)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return ctx.Err()
		}
	}
}

// goodbye ends every session; zones come back soon.
func (s *Server) goodbye() {
	s.mu.Lock()
	s.closing = true
	open := slices.Collect(maps.Values(s.sessions))
	s.mu.Unlock()
	for _, x := range open {
		x.end(federation.ByeShutdown, "global is shutting down", time.Second)
	}
	limit := time.NewTimer(3 * time.Second)
	defer limit.Stop()
	for _, x := range open {
		select {
		case <-x.done:
		case <-limit.C:
			return
		}
	}
}

// checkAll looks each minute whether the sessions may go on, and does the small chores.
func (s *Server) checkAll(ctx context.Context) {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		open := slices.Collect(maps.Values(s.sessions))
		s.mu.Unlock()
		for _, x := range open {
			s.recheck(ctx, x)
		}
		if err := s.pruneTokens(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.WarnContext(ctx, "join tokens not pruned", "error", err)
		}
	}
}

func (s *Server) recheck(ctx context.Context, x *session) {
	id, _, found, err := getJSON[zoneIdentity](ctx, s.cfg.Store, bucketIDs, x.zone)
	if err != nil {
		return // the store is away; the session is no less allowed for that
	}
	rec, _, _, err := getJSON[sessionRecord](ctx, s.cfg.Store, bucketSessions, x.zone)
	switch {
	case err != nil:
	case !found || id.ended() || id.Incarnation != x.identity.Incarnation:
		x.end(federation.ByeRevoked, "the zone is not accepted any more", time.Hour)
	case rec.Epoch > x.epoch:
		x.end(federation.ByeFenced, "a newer session of the zone took over", 0)
	case s.cfg.Now().After(x.expires):
		x.end(federation.ByeShutdown, "the certificate has ended; come back with the renewed one", 0)
	default:
		if err := s.setZone(ctx, x.zone, func(z *mesh.ZoneStatus) {
			z.Connected, z.LastSeen = true, s.cfg.Now().UTC() // connected: another replica may have taken this one for dead
		}); err != nil {
			s.cfg.Log.WarnContext(ctx, "zone status not kept", "zone", x.zone, "error", err)
		}
	}
}

// connection is the TLS state of a call.
func connection(ctx context.Context) (tls.ConnectionState, string, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return tls.ConnectionState{}, "", status.Error(codes.Internal, "no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return tls.ConnectionState{}, "", status.Error(codes.Unauthenticated, "not over TLS")
	}
	return info.State, p.Addr.String(), nil
}

// zoneResource is a Zone made at global.
type zoneResource struct {
	policy.Zone
	resource mesh.Resource
}

// lapsed reports whether an identity is of the past: removed, or about to be because its Zone was deleted
// and made anew.
func (z zoneResource) lapsed(id zoneIdentity) bool {
	return id.Removed || id.JoinedAt.Before(z.resource.CreatedAt)
}

// zone reads the Zone made at global, or ErrNoZone.
func (s *Server) zone(ctx context.Context, name string) (zoneResource, error) {
	if err := mesh.CheckZoneName(name); err != nil {
		return zoneResource{}, fmt.Errorf("%w: %w", ErrNoZone, err)
	}
	r, err := s.cfg.Store.Get(ctx, zoneKey(name))
	if errors.Is(err, store.ErrNotFound) {
		return zoneResource{}, fmt.Errorf("%w: %s", ErrNoZone, name)
	}
	if err != nil {
		return zoneResource{}, fmt.Errorf("read zone %s: %w", name, err)
	}
	return readZone(r)
}

func readZone(r mesh.Resource) (zoneResource, error) {
	z := zoneResource{resource: r}
	if err := json.Unmarshal(r.Spec, &z.Zone); err != nil {
		return zoneResource{}, fmt.Errorf("read zone %s: %w", r.Name, err)
	}
	return z, nil
}

// setZone changes a zone's status record.
func (s *Server) setZone(ctx context.Context, zone string, change func(*mesh.ZoneStatus)) error {
	_, err := update(ctx, s.cfg.Store, BucketZones, zone, func(z *mesh.ZoneStatus, _ bool) error {
		change(z)
		return nil
	})
	return err
}
