package fedserver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

// session is one zone's stream.
type session struct {
	server   *Server
	zone     string
	identity zoneIdentity
	expires  time.Time // of the certificate on the connection
	epoch    uint64
	link     *federation.GlobalLink
	cancel   context.CancelFunc
	done     chan struct{}
	ending   sync.Once

	applier   fedstore.Applier
	sentBytes atomic.Uint64 // configuration, in this session
	wanted    atomic.Uint64 // newest revision of the log read so far that concerns the zone
	proxies   map[string]bool
	full      *inventory
	// sound are resources of which it is known that the zone has not refused them, so that their acks need no look
	// into the store; forgotten when they are many.
	sound map[mesh.Key]struct{}
	// shelves are how full the zone's buckets are, as far as they were written in this session.
	shelves map[string]*shelf
	// complaints are about statuses and statements, the zone's own and others' that it did not take.
	complaints complaints
	questions  questions
}

// end says goodbye and makes sure that the session ends even if nobody listens.
func (x *session) end(code, reason string, retry time.Duration) {
	x.ending.Do(func() {
		x.link.Do(func(s *federation.GlobalSession) { s.Bye(code, reason, retry) })
		go func() {
			limit := time.NewTimer(2 * time.Second)
			defer limit.Stop()
			select {
			case <-x.done:
			case <-limit.C:
				x.cancel()
			}
		}()
	})
}

// Session implements the service.
func (s *Server) Session(stream grpc.BidiStreamingServer[federationpb.ZoneFrame, federationpb.GlobalFrame]) error {
	ctx := stream.Context()
	state, from, err := connection(ctx)
	if err != nil {
		return err
	}
	who, err := identity.PeerID(state)
	if err != nil {
		return s.answered(ctx, "session", "", from, refuse(codes.Unauthenticated, "certificate", "a federation certificate is required"))
	}
	zone, err := identity.ZoneOf(s.cfg.Trust.TrustDomain(), who)
	if err != nil {
		return s.answered(ctx, "session", "", from, refuse(codes.Unauthenticated, "certificate", "%s is no zone", who))
	}
	leaf := state.PeerCertificates[0]
	hello, err := firstFrame(stream)
	if err != nil {
		return s.answered(ctx, "session", zone, from, err)
	}
	id, err := s.authenticate(ctx, zone, identity.SerialOf(leaf), hello)
	if err != nil {
		return s.answered(ctx, "session", zone, from, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := &session{server: s, zone: zone, identity: id, expires: leaf.NotAfter, cancel: cancel, done: make(chan struct{}), sound: map[mesh.Key]struct{}{}, shelves: map[string]*shelf{}, complaints: complaints{}}
	if err := s.open(ctx, x, hello); err != nil {
		return s.answered(ctx, "session", zone, from, err)
	}
	defer s.close(context.WithoutCancel(ctx), x)
	s.metrics.received.WithLabelValues(zone, "other").Add(float64(proto.Size(hello)))
	s.cfg.Log.InfoContext(ctx, "session opened", "zone", zone, "epoch", x.epoch, "from", from, "version", printableText(hello.GetVersion()))
	err = x.link.Run(ctx, &countedStream{stream, x})
	cancel()
	s.cfg.Log.InfoContext(ctx, "session closed", "zone", zone, "epoch", x.epoch, "cause", err)
	switch {
	case errors.Is(err, federation.ErrEnded):
		return nil
	case errors.Is(err, federation.ErrProtocol):
		s.metrics.refused.WithLabelValues("session", "protocol").Inc()
		return status.Error(codes.InvalidArgument, err.Error())
	case stream.Context().Err() != nil:
		return status.FromContextError(stream.Context().Err()).Err()
	}
	return status.Error(codes.Unavailable, "the session was interrupted; come back")
}

// firstFrame waits for the hello, not for ever.
func firstFrame(stream grpc.BidiStreamingServer[federationpb.ZoneFrame, federationpb.GlobalFrame]) (*federationpb.ZoneHello, error) {
	type result struct {
		frame *federationpb.ZoneFrame
		err   error
	}
	got := make(chan result, 1)
	go func() {
		f, err := stream.Recv()
		got <- result{f, err}
	}()
	limit := time.NewTimer(helloLimit)
	defer limit.Stop()
	select {
	case r := <-got:
		if r.err != nil {
			return nil, refuse(codes.InvalidArgument, "hello", "the stream ended before a hello")
		}
		if r.frame.GetHello() == nil {
			return nil, refuse(codes.InvalidArgument, "hello", "the first frame is not a hello")
		}
		return r.frame.GetHello(), nil
	case <-limit.C:
		return nil, refuse(codes.DeadlineExceeded, "hello", "no hello within %s", helloLimit)
	}
}

// authenticate decides whether the holder of the certificate is the zone as it is now.
func (s *Server) authenticate(ctx context.Context, zone, serial string, hello *federationpb.ZoneHello) (zoneIdentity, error) {
	spec, err := s.zone(ctx, zone)
	if errors.Is(err, ErrNoZone) {
		return zoneIdentity{}, refuse(codes.PermissionDenied, "revoked", "zone %s was removed", zone)
	}
	if err != nil {
		return zoneIdentity{}, err
	}
	return update(ctx, s.cfg.Store, bucketIDs, zone, func(id *zoneIdentity, found bool) error {
		switch {
		case !found || spec.lapsed(*id) || hello.GetIncarnation() != string(id.Incarnation):
			return refuse(codes.PermissionDenied, "revoked", "this life of zone %s was removed", zone)
		case spec.Revoked != nil || id.Revoked != nil:
			return refuse(codes.PermissionDenied, "revoked", "zone %s was revoked", zone)
		case serial == id.Serial:
			id.Previous = "" // the newest is in use: the one before it is not needed any more
		case serial != id.Previous || serial == "":
			return refuse(codes.PermissionDenied, "serial", "the certificate is not the zone's newest; renew it")
		}
		return nil
	})
}

// open takes the epoch, ends the session before it and puts the new one together.
func (s *Server) open(ctx context.Context, x *session, hello *federationpb.ZoneHello) error {
	s.mu.Lock()
	before := s.sessions[x.zone]
	s.mu.Unlock()
	if before != nil {
		before.end(federation.ByeFenced, "a newer session of the zone took over", 0)
		select {
		case <-before.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	rec, err := update(ctx, s.cfg.Store, bucketSessions, x.zone, func(r *sessionRecord, _ bool) error {
		r.Epoch++
		r.Replica = s.id
		return nil
	})
	if err != nil {
		return err
	}
	x.epoch = rec.Epoch
	// The zone's bundle may have come by another replica a moment ago.
	if s.cfg.Shared {
		if err := s.cfg.Trust.LoadBook(ctx, s.cfg.Store); err != nil {
			return err
		}
	}
	cfg, err := s.sessionConfig(ctx, x)
	if err != nil {
		return err
	}
	gs, err := federation.NewGlobalSession(cfg, hello)
	if err != nil {
		return refuse(codes.InvalidArgument, "hello", "%v", err)
	}
	x.applier = fedstore.Applier{
		Store: s.cfg.Store, Origin: mesh.Origin(x.zone), Peer: x.zone, Actor: "zone:" + x.zone, Check: s.checkUp(ctx, x.zone),
	}
	x.link = federation.NewGlobalLink(gs, x)
	if err := x.loadProxies(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	if s.closing || s.sessions[x.zone] != nil {
		s.mu.Unlock()
		return refuse(codes.Unavailable, "busy", "another session of the zone is opening, or global is shutting down; come back")
	}
	s.sessions[x.zone] = x
	s.mu.Unlock()
	// After the session is listed: what is said from now on reaches it by relay, what was before by this.
	if err := s.relayAll(ctx, x); err != nil {
		s.close(context.WithoutCancel(ctx), x)
		return err
	}
	s.metrics.sessions.WithLabelValues(x.zone).Set(1)
	now := s.cfg.Now().UTC()
	err = s.setZone(ctx, x.zone, func(z *mesh.ZoneStatus) {
		z.Joined, z.Connected, z.ConnectedSince, z.LastSeen = true, true, now, now
		z.Incarnation, z.TrustDomain, z.Version = x.identity.Incarnation, x.identity.TrustDomain, printableText(hello.GetVersion())
		z.Protocol, z.CertificateExpires, z.SentBytes, z.Message = min(int(hello.GetProtocol()), federation.Protocol), x.expires, 0, ""
		// What a crash of global lost of the zone's line: nothing that is applied is acknowledged again.
		if down := federation.CursorFromProto(hello.GetDown()); down.Incarnation == cfg.Incarnation {
			z.Acked = max(z.Acked, down.Revision)
		}
	})
	if err != nil {
		s.close(context.WithoutCancel(ctx), x)
	}
	return err
}

func (s *Server) sessionConfig(ctx context.Context, x *session) (federation.GlobalConfig, error) {
	head, err := s.cfg.Store.Head(ctx)
	if err != nil {
		return federation.GlobalConfig{}, fmt.Errorf("head of the store: %w", err)
	}
	up, err := fedstore.Cursor(ctx, s.cfg.Store, x.zone)
	if err != nil {
		return federation.GlobalConfig{}, err
	}
	own, err := fedstore.Statements(ctx, s.cfg.Store, x.zone)
	if err != nil {
		return federation.GlobalConfig{}, err
	}
	heads := make([]*federationpb.StatementHead, 0, len(own))
	for _, st := range own {
		heads = append(heads, federation.HeadOf(st))
	}
	at, _, _, err := getJSON[statusPosition](ctx, s.cfg.Store, bucketStatusAt, x.zone)
	if err != nil {
		return federation.GlobalConfig{}, err
	}
	return federation.GlobalConfig{
		Zone: x.zone, Incarnation: head.Incarnation, Epoch: x.epoch, Up: up, Heads: heads,
		StatusEpoch: at.Epoch, StatusSequence: at.Sequence,
	}, nil
}

// close takes the session off the list and shows the zone as gone, unless a newer session took over.
func (s *Server) close(ctx context.Context, x *session) {
	s.mu.Lock()
	current := s.sessions[x.zone] == x
	if current {
		delete(s.sessions, x.zone)
	}
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// A newer session begins here only after this one is done, but at another replica when it will.
	overtaken, err := x.overtaken(ctx)
	switch {
	case err == nil && overtaken:
		s.late.drop(x.zone)
	case err == nil:
		err = s.late.flushZone(ctx, x.zone)
	}
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "zone status not kept", "zone", x.zone, "error", err)
	}
	if current {
		s.metrics.sessions.WithLabelValues(x.zone).Set(0)
	}
	if current && !overtaken {
		// A removed zone's status is gone and must not come back by this.
		if _, _, found, err := getJSON[mesh.ZoneStatus](ctx, s.cfg.Store, BucketZones, x.zone); err == nil && found {
			err = s.setZone(ctx, x.zone, func(z *mesh.ZoneStatus) {
				z.Connected, z.LastSeen, z.SentBytes = false, s.cfg.Now().UTC(), x.sentBytes.Load()
			})
			if err != nil {
				s.cfg.Log.WarnContext(ctx, "zone status not kept", "zone", x.zone, "error", err)
			}
		}
	}
	close(x.done)
}

// countedStream counts frames by kind.
type countedStream struct {
	grpc.BidiStreamingServer[federationpb.ZoneFrame, federationpb.GlobalFrame]
	x *session
}

func (c *countedStream) Send(f *federationpb.GlobalFrame) error {
	n := float64(proto.Size(f))
	kind := "other"
	switch f.GetFrame().(type) {
	case *federationpb.GlobalFrame_Changes, *federationpb.GlobalFrame_SnapshotBegin, *federationpb.GlobalFrame_SnapshotEnd:
		kind = "config"
		c.x.sentBytes.Add(uint64(n))
	case *federationpb.GlobalFrame_Statement:
		kind = "statement"
	}
	c.x.server.metrics.sent.WithLabelValues(c.x.zone, kind).Add(n)
	return c.BidiStreamingServer.Send(f)
}

func (c *countedStream) Recv() (*federationpb.ZoneFrame, error) {
	f, err := c.BidiStreamingServer.Recv()
	if err != nil {
		return nil, err
	}
	kind := "other"
	switch f.GetFrame().(type) {
	case *federationpb.ZoneFrame_Changes, *federationpb.ZoneFrame_SnapshotBegin, *federationpb.ZoneFrame_SnapshotEnd:
		kind = "config"
	case *federationpb.ZoneFrame_Statement:
		kind = "statement"
	case *federationpb.ZoneFrame_Status:
		kind = "status"
	}
	c.x.server.metrics.received.WithLabelValues(c.x.zone, kind).Add(float64(proto.Size(f)))
	return f, nil
}

// Follow implements federation.Host: global's log, as it concerns the zone.
func (x *session) Follow(ctx context.Context, from mesh.Cursor) (federation.Log, error) {
	l, err := fedstore.Follow(ctx, x.server.cfg.Store, from, true)
	if err != nil {
		return nil, err
	}
	return &watchedLog{l, x}, nil
}

type watchedLog struct {
	federation.Log
	x *session
}

func (l *watchedLog) Next(ctx context.Context) (federation.Commit, error) {
	c, err := l.Log.Next(ctx)
	for _, ch := range c.Changes {
		if ch.Resource.Origin == mesh.OriginGlobal && ch.Resource.InScope(l.x.zone) {
			l.x.wanted.Store(uint64(c.Cursor.Revision))
		}
	}
	return c, err
}

// Snapshot implements federation.Host.
func (x *session) Snapshot(ctx context.Context, begin func(mesh.Cursor), add func([]mesh.Resource) error) error {
	return fedstore.Snapshot(ctx, x.server.cfg.Store, mesh.OriginGlobal, func(c mesh.Cursor) {
		x.wanted.Store(uint64(c.Revision))
		begin(c)
	}, add)
}

// Apply implements federation.Host: the zone's resources become copies at global.
func (x *session) Apply(ctx context.Context, b federation.Batch) ([]federation.Refusal, error) {
	// What a newer session has applied must not be undone by what this one still holds.
	if overtaken, err := x.overtaken(ctx); overtaken || err != nil {
		return nil, errors.Join(err, errFenced)
	}
	return x.applier.Apply(ctx, b)
}

// Handle implements federation.Host.
func (x *session) Handle(ctx context.Context, e federation.Effect) error {
	switch e := e.(type) {
	case federation.Acked:
		return x.acked(ctx, e)
	case federation.Refused:
		return x.refused(ctx, e.Refusal)
	case federation.Answered:
		x.questions.take(e.Answer)
	case federation.StatementRejected:
		x.server.metrics.statements.WithLabelValues(x.zone, "other", "refused").Inc()
		x.server.cfg.Log.WarnContext(ctx, "statement refused", "zone", x.zone, "says_zone", printable(e.Statement.GetZone()), "reason", e.Reason)
		x.settle(about(e.Statement.GetKind(), e.Statement.GetSubject()), e.Reason)
	case federation.StatementAnswered:
		r := e.Ack.GetRefused()
		x.settle(about(e.Ack.GetKind(), e.Ack.GetSubject())+" of "+printable(e.Ack.GetZone()), r)
		if r != "" {
			x.server.cfg.Log.WarnContext(ctx, "zone refused another zone's statement", "zone", x.zone,
				"of", e.Ack.GetZone(), "kind", e.Ack.GetKind(), "subject", e.Ack.GetSubject(), "reason", r)
		}
	}
	return nil
}

// checkUp decides which of a zone's own resources global takes. A kind that global does not know is kept
// for display.
func (s *Server) checkUp(ctx context.Context, zone string) func(mesh.Resource) *federation.Refusal {
	return func(r mesh.Resource) *federation.Refusal {
		switch r.Kind {
		case mesh.KindZone, mesh.KindMeshConfig:
			return &federation.Refusal{Key: r.Key, Revision: r.Changed, Code: federation.CodeNotAllowed, Reason: "only global makes resources of kind " + string(r.Kind)}
		case mesh.KindServiceExport:
			spec, err := s.zone(ctx, zone)
			if err != nil || !mayspeak(spec.Namespaces, r.Namespace) {
				return &federation.Refusal{
					Key: r.Key, Revision: r.Changed, Code: federation.CodeNotAllowed,
					Reason: "zone " + zone + " may not speak for namespace " + r.Namespace + " (spec.namespaces of the Zone)",
				}
			}
		}
		return nil
	}
}

func printableText(s string) string {
	out := make([]rune, 0, 64)
	for _, r := range s {
		if r > ' ' && r < 0x7f && len(out) < 64 {
			out = append(out, r)
		}
	}
	return string(out)
}
