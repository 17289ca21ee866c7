package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/dataplane/peerpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/handshake"
	"github.com/comity-mesh/comity/mesh"
)

// Bounds of what others may open here. MaxConnections is for the Envoy in front.
const (
	MaxConnections = 1024
	// maxPending connections have not proven who they are; one more, and the oldest goes. Honest ones take
	// milliseconds, so that a flood of silent ones doesn't keep them out.
	maxPending = 64
	// maxPerZone connections and sessions: a zone can make any number of identities of ingresses.
	maxPerZone = 64
	// provenWithin is how long a handshake may take, with the first bytes of HTTP/2.
	provenWithin = 5 * time.Second
	// idleAfter is how long a connection may be without a session.
	idleAfter = 10 * time.Second
	pingRate  = 100 // a second; the shortest interval makes 50
	pingBurst = 200
)

// server is the sessions that others open.
type server struct {
	peerpb.UnimplementedPeeringServer
	*Peers
}

// serve answers on l until ctx ends; it closes l.
func (p *Peers) serve(ctx context.Context, l net.Listener) error {
	door := &gate{Listener: l, peers: p, zones: map[string]int{}}
	g := grpc.NewServer(
		grpc.Creds(door), grpc.MaxRecvMsgSize(maxFrame), grpc.MaxHeaderListSize(8<<10), grpc.MaxConcurrentStreams(2),
		grpc.ConnectionTimeout(provenWithin),
		grpc.StaticStreamWindowSize(handshake.Window), grpc.StaticConnWindowSize(handshake.Window),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleAfter, Time: 20 * time.Second, Timeout: 10 * time.Second}),
	)
	peerpb.RegisterPeeringServer(g, server{Peers: p})
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(door); err != nil && ctx.Err() == nil {
		return fmt.Errorf("peers' socket: %w", err)
	}
	return nil
}

// Session implements peerpb.PeeringServer.
func (s server) Session(st peerpb.Peering_SessionServer) error {
	pr, _ := grpcpeer.FromContext(st.Context())
	info, ok := pr.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return status.Error(codes.Unauthenticated, "no TLS")
	}
	// Again: the trust may have ended since the handshake.
	chain := info.State.PeerCertificates
	who, err := s.roster.Load().verify(chain, s.conf.now())
	if err != nil {
		return status.Error(codes.PermissionDenied, "not a peer any more")
	}
	ctx, end := context.WithCancelCause(st.Context())
	defer end(nil)
	x := newSession(who, chain, end)
	ctx, cancel := context.WithDeadlineCause(ctx, x.until(), errExpired)
	defer cancel()
	if !s.enter(x) {
		s.metrics.refused.WithLabelValues("limit").Inc()
		return status.Errorf(codes.ResourceExhausted, "zone %s has %d sessions here", who.Zone, maxPerZone)
	}
	defer s.leave(x)
	s.conf.Log.InfoContext(ctx, "an ingress of another zone is in touch", "peer", who.String())
	pings := rate.NewLimiter(pingRate, pingBurst)
	done := make(chan error, 1)
	go func() {
		done <- x.run(ctx, st, func(f *peerpb.PeerFrame) error {
			ping := f.GetPing()
			if ping == nil {
				return errors.New("a frame that only an answering peer sends")
			}
			if !pings.Allow() {
				return fmt.Errorf("%w: pings", errFlood)
			}
			x.post(&peerpb.PeerFrame{Frame: &peerpb.PeerFrame_Pong{Pong: &peerpb.Pong{
				Number: ping.GetNumber(), ClockMs: s.conf.now().UnixMilli(), Attended: s.attended.Load(),
			}}})
			return nil
		}, s.passer(x))
	}()
	// Recv does not end with ctx; the stream does when this returns.
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if errors.Is(err, errFlood) {
		s.metrics.refused.WithLabelValues("flood").Inc()
		s.conf.Log.WarnContext(ctx, "a peer sends too much; its session is ended", "peer", who.String(), "reason", err)
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	s.conf.Log.DebugContext(ctx, "a peer's session ended", "peer", who.String(), "reason", err)
	return status.Error(codes.Aborted, "the session has ended")
}

// gate is the listener and the transport credentials of the server: it ends TLS, and bounds who is in at once. It
// implements net.Listener and credentials.TransportCredentials.
type gate struct {
	net.Listener
	peers *Peers

	mu      sync.Mutex
	pending []net.Conn // oldest first
	zones   map[string]int
}

// tls is the server's configuration. A peer must be an ingress of the very zone whose server name it came with:
// then the chain by which Envoy let it in is that zone's, and ends with the trust in it.
func (g *gate) tls() *tls.Config {
	p := g.peers
	c := identity.ServerTLS(p.conf.Certificate, p, p.authorize, identity.TLSOptions{Now: p.conf.now, NextProtos: []string{"h2"}})
	verify := c.VerifyConnection
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if err := verify(s); err != nil {
			return err
		}
		who, err := p.roster.Load().verify(s.PeerCertificates, p.conf.now())
		if err != nil {
			return err
		}
		if want := mesh.PeerSNI(who.Zone, p.zone); s.ServerName != want {
			return fmt.Errorf("%w: %s asks for %q, not for %q", identity.ErrPeer, who, s.ServerName, want)
		}
		return nil
	}
	return c
}

// ServerHandshake implements credentials.TransportCredentials.
func (g *gate) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c := tls.Server(raw, g.tls())
	err := c.Handshake() //nolint:noctx // gRPC hands over no context; it has set a deadline on the connection
	g.settle(raw)
	var who Name
	if err == nil {
		who, err = g.peers.roster.Load().verify(c.ConnectionState().PeerCertificates, g.peers.conf.now())
	}
	if err != nil {
		_ = raw.Close() // it is refused; nothing more is to be said
		g.peers.metrics.refused.WithLabelValues("handshake").Inc()
		g.peers.conf.Log.Debug("a connection for peers was refused", "reason", err)
		return nil, nil, err
	}
	if !g.count(who.Zone, 1) {
		_ = raw.Close()
		g.peers.metrics.refused.WithLabelValues("limit").Inc()
		return nil, nil, fmt.Errorf("zone %s has %d connections here", who.Zone, maxPerZone)
	}
	info := credentials.TLSInfo{State: c.ConnectionState()}
	info.SecurityLevel = credentials.PrivacyAndIntegrity
	return &counted{Conn: c, leave: sync.OnceFunc(func() { g.count(who.Zone, -1) })}, info, nil
}

// Accept implements net.Listener: it takes a connection in whose peer is not known yet, at the price of the oldest
// such.
func (g *gate) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.pending) >= maxPending {
		_ = g.pending[0].Close() // its handshake fails
		g.pending = g.pending[1:]
	}
	g.pending = append(g.pending, c)
	return c, nil
}

func (g *gate) settle(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, x := range g.pending {
		if x == c {
			g.pending = append(g.pending[:i:i], g.pending[i+1:]...)
			return
		}
	}
}

func (g *gate) count(zone string, n int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n > 0 && g.zones[zone] >= maxPerZone {
		return false
	}
	if g.zones[zone] += n; g.zones[zone] <= 0 {
		delete(g.zones, zone)
	}
	return true
}

// counted leaves its zone's count when it is closed.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}

// ClientHandshake implements credentials.TransportCredentials.
func (g *gate) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

// Info implements credentials.TransportCredentials.
func (g *gate) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials; the bounds are shared.
func (g *gate) Clone() credentials.TransportCredentials { return g }

// OverrideServerName implements credentials.TransportCredentials.
func (g *gate) OverrideServerName(string) error { return nil }
