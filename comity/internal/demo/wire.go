package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// link is the way between two zones, both directions; the zones are in alphabetical order.
type link struct{ a, b string }

func linkOf(a, b string) link {
	if b < a {
		a, b = b, a
	}
	return link{a, b}
}

func (l link) String() string { return l.a + ":" + l.b }

// wire is the network between the zones. On loopback every zone has the same address as a client, so nothing can
// cut the way between two of them; therefore each ingress is advertised behind a relay of bytes, which knows the
// calling zone by the first label of the server name (ADR 0004). A cut link is a black hole: connections stay
// open, nothing passes either way, and new ones get no answer.
type wire struct {
	mu    sync.Mutex
	cut   map[link]chan struct{} // closed when it is mended
	sites map[string]*site       // by zone
}

// site is where a zone is reached.
type site struct {
	zone      string
	stop      context.CancelFunc
	listeners []net.Listener
	carried   map[net.Conn]bool
}

func newWire() *wire { return &wire{cut: map[link]chan struct{}{}, sites: map[string]*site{}} }

// lane is one port of an ingress: the address that other zones dial, and the ingress's own.
type lane struct{ advertised, behind string }

// open takes connections for a zone until close.
func (w *wire) open(ctx context.Context, zone string, lanes []lane) error {
	// It outlives the request that asked for it.
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &site{zone: zone, stop: stop, carried: map[net.Conn]bool{}}
	w.mu.Lock()
	w.sites[zone] = s
	w.mu.Unlock()
	for _, l := range lanes {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", l.advertised)
		if err != nil {
			w.close(zone)
			return fmt.Errorf("network between zones: %w", err)
		}
		w.mu.Lock()
		s.listeners = append(s.listeners, listener)
		w.mu.Unlock()
		go w.accept(ctx, s, listener, l.behind)
	}
	return nil
}

// close resets what is carried to a zone and refuses more, as a host does whose processes were killed.
func (w *wire) close(zone string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sites[zone]
	if s == nil {
		return
	}
	delete(w.sites, zone)
	s.stop()
	for _, l := range s.listeners {
		_ = l.Close() // it takes no more either way
	}
	for c := range s.carried {
		reset(c)
	}
}

func (w *wire) closeAll() {
	w.mu.Lock()
	open := slices.Collect(maps.Keys(w.sites))
	w.mu.Unlock()
	for _, zone := range open {
		w.close(zone)
	}
}

// sever cuts a link, mend undoes it; what was under way then arrives late, as after any outage of a network.
func (w *wire) sever(l link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut[l] == nil {
		w.cut[l] = make(chan struct{})
	}
}

func (w *wire) mend(l link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if mended := w.cut[l]; mended != nil {
		close(mended)
		delete(w.cut, l)
	}
}

// pass waits while the link is cut; it reports false if ctx ended first.
func (w *wire) pass(ctx context.Context, l link) bool {
	for {
		w.mu.Lock()
		mended := w.cut[l]
		w.mu.Unlock()
		if mended == nil {
			return ctx.Err() == nil
		}
		select {
		case <-mended:
		case <-ctx.Done():
			return false
		}
	}
}

func (w *wire) accept(ctx context.Context, s *site, listener net.Listener, behind string) {
	for {
		c, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go w.carry(ctx, s, c, behind)
		}
	}
}

// hold notes a connection so that close finds it, and returns what forgets it again.
func (w *wire) hold(ctx context.Context, s *site, c net.Conn) (release func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		reset(c) // close came first
	}
	s.carried[c] = true
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(s.carried, c)
		_ = c.Close()
	}
}

// helloTimeout is how long a caller may take to say whom it wants.
const helloTimeout = 10 * time.Second

// carry relays one connection until both directions have ended.
func (w *wire) carry(ctx context.Context, s *site, caller net.Conn, behind string) {
	defer w.hold(ctx, s, caller)()
	_ = caller.SetReadDeadline(time.Now().Add(helloTimeout))
	name, hello := serverName(ctx, caller)
	_ = caller.SetReadDeadline(time.Time{})
	source, _, _ := strings.Cut(name, ".")
	way := linkOf(source, s.zone)
	if !w.pass(ctx, way) {
		return
	}
	ingress, err := new(net.Dialer).DialContext(ctx, "tcp", behind)
	if err != nil {
		reset(caller)
		return
	}
	defer w.hold(ctx, s, ingress)()
	if _, err := ingress.Write(hello); err != nil {
		reset(caller)
		return
	}
	var both sync.WaitGroup
	both.Go(func() { w.copy(ctx, way, ingress, caller) })
	both.Go(func() { w.copy(ctx, way, caller, ingress) })
	both.Wait()
}

// copy passes bytes on while the link is whole, then the end of the connection, as it was: in order or by reset.
func (w *wire) copy(ctx context.Context, way link, to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if !w.pass(ctx, way) {
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				reset(from)
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if half, ok := to.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite() // an error means that it has ended already
			}
			return
		case err != nil:
			reset(to)
			return
		}
	}
}

// reset ends a connection without the niceties.
func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// serverName reads a TLS client's first words and returns the name in them, if there is one, and all that was read.
func serverName(ctx context.Context, c net.Conn) (name string, read []byte) {
	var seen bytes.Buffer
	// The handshake ends before it answers anything: what answers is behind the wire.
	_ = tls.Server(listenOnly{Conn: c, in: io.TeeReader(c, &seen)}, &tls.Config{ //nolint:gosec // no session comes of it
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name = h.ServerName
			return nil, errors.New("heard enough")
		},
	}).HandshakeContext(ctx)
	return name, seen.Bytes()
}

// listenOnly lets nothing out.
type listenOnly struct {
	net.Conn
	in io.Reader
}

func (l listenOnly) Read(p []byte) (int, error)  { return l.in.Read(p) }
func (l listenOnly) Write(p []byte) (int, error) { return len(p), nil }
func (l listenOnly) Close() error                { return nil }
