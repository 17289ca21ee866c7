package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/freeport/freeporttest"
	"github.com/comity-mesh/comity/mesh"
)

// world is a zone with its authority and one ingress: Peers behind a relay that stands for the Envoy and the
// network in front of it.
type world struct {
	patient bool // waits longer than any busy machine takes before it gives others up
	t       *testing.T
	name    string
	td      mesh.TrustDomain
	root    *identity.Authority
	*Peers
	relay *relay
	stop  func()
}

func newWorld(t *testing.T, name string) *world {
	t.Helper()
	td := mesh.TrustDomain(name + ".example")
	root, err := identity.NewRoot(td, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, name: name, td: td, root: root}
}

// issue signs a certificate of the zone for a path.
func (w *world) issue(path string, ttl time.Duration, now time.Time) *tls.Certificate {
	w.t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		w.t.Fatal(err)
	}
	id, err := identity.NewID(w.td, path)
	if err != nil {
		w.t.Fatal(err)
	}
	issued, err := w.root.Sign(key.Public(), id, ttl, now)
	if err != nil {
		w.t.Fatal(err)
	}
	return identity.TLSCertificate(issued.Chain, key)
}

// run runs the zone's ingress behind its relay.
func (w *world) run() *world {
	w.t.Helper()
	cert := w.issue("/fed/zone-ingress/gate", time.Hour, time.Now())
	p, err := New(Config{
		Certificate: func() (*tls.Certificate, error) { return cert, nil }, Metrics: prometheus.NewRegistry(),
		Log: slog.New(slog.NewTextHandler(testLog{w.t}, &slog.HandlerOptions{Level: slog.LevelDebug})).With("zone", w.name),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Peers = p
	p.Attended(true)
	l, err := net.Listen("unix", filepath.Join(w.t.TempDir(), "s"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.relay = newRelay(w.t, l.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, w.name, l) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(w.stop)
	return w
}

// as describes the zone to another.
func (w *world) as() *enrolpb.PeerZone {
	z := &enrolpb.PeerZone{Zone: w.name, TrustDomain: string(w.td), Roots: [][]byte{w.root.Root().Raw}}
	if w.relay != nil {
		z.Ingresses = []*enrolpb.PeerIngress{{Id: "gate", Addresses: []string{"127.0.0.1"}, Ports: []uint32{uint32(w.relay.port)}}}
	}
	return z
}

func (w *world) knows(others ...*world) {
	w.t.Helper()
	p := &enrolpb.Peers{}
	if w.patient {
		p.TimeoutMs = 20_000
	}
	for _, o := range others {
		p.Zones = append(p.Zones, o.as())
	}
	if err := w.Set(p); err != nil {
		w.t.Fatal(err)
	}
}

// link is how the zone's ingress stands to the other's.
func (w *world) link(to *world) *enrolpb.PeerLink {
	for _, l := range w.Links().GetLinks() {
		if l.GetZone() == to.name {
			return l
		}
	}
	return &enrolpb.PeerLink{}
}

// becomes waits for a state and returns how long that took.
func (w *world) becomes(to *world, s enrolpb.PeerLink_State) time.Duration {
	w.t.Helper()
	began := time.Now()
	eventually(w.t, w.name+" finds "+to.name+" "+s.String(), func() bool { return w.link(to).GetState() == s })
	return time.Since(began)
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		case <-again.C:
		}
	}
}

type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

// relay passes connections on to a Unix socket, until it is told otherwise.
type relay struct {
	t    *testing.T
	to   string
	port int

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	hole     bool
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	r := &relay{t: t, to: to, conns: map[net.Conn]bool{}}
	r.listen(net.JoinHostPort("127.0.0.1", strconv.Itoa(int(freeporttest.Port(t))))) // its own, as it comes back there
	t.Cleanup(r.kill)
	return r
}

func (r *relay) listen(at string) {
	r.t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		r.t.Fatal(err)
	}
	r.port = l.Addr().(*net.TCPAddr).Port
	r.mu.Lock()
	r.listener = l
	r.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go r.pass(c)
		}
	}()
}

func (r *relay) pass(c net.Conn) {
	inner, err := net.Dial("unix", r.to)
	if err != nil {
		_ = c.Close()
		return
	}
	r.mu.Lock()
	if r.listener == nil { // killed meanwhile
		r.mu.Unlock()
		_, _ = c.Close(), inner.Close()
		return
	}
	r.conns[c], r.conns[inner] = true, true
	r.mu.Unlock()
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{c, inner}, {inner, c}} {
		wg.Go(func() {
			_, _ = io.Copy(holed{way[1], r}, way[0])
			_, _ = c.Close(), inner.Close()
		})
	}
	wg.Wait()
	r.mu.Lock()
	delete(r.conns, c)
	delete(r.conns, inner)
	r.mu.Unlock()
}

// holed swallows what is written while there is a hole.
type holed struct {
	net.Conn
	r *relay
}

func (h holed) Write(b []byte) (int, error) {
	h.r.mu.Lock()
	hole := h.r.hole
	h.r.mu.Unlock()
	if hole {
		return len(b), nil
	}
	return h.Conn.Write(b)
}

func (r *relay) swallow(yes bool) {
	r.mu.Lock()
	r.hole = yes
	r.mu.Unlock()
}

// kill ends everything as the end of a process does.
func (r *relay) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != nil {
		_ = r.listener.Close()
		r.listener = nil
	}
	for c := range r.conns {
		_ = c.Close()
	}
}
