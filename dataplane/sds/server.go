package sds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/comity-mesh/comity/internal/handshake"
)

const (
	// maxRequest bounds a request: Envoy's node alone is 61 KB, and a load report names every cluster.
	maxRequest = 1 << 20
	// maxFileSecrets bounds the secrets from files; Envoy asks for each on a stream of its own.
	maxFileSecrets = 1000
	// maxConnections bounds the Envoys: one, or two while one replaces another.
	maxConnections = 8
	// firstBytes is how long a connection may take to begin speaking HTTP/2.
	firstBytes = 5 * time.Second
)

// Server serves Secrets to the Envoy of this machine.
type Server struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer
	secrets *Secrets
	files   files
	now     func() time.Time
	log     *slog.Logger
	metrics metrics
}

// files are the secrets that come from files, as far as they were asked for.
type files struct {
	dir string // empty: none but the machine's own authorities
	mu  sync.Mutex
	// failed says why the secret of a name can't be read, empty if it can.
	failed map[string]string
	// changed, of capacity 1, has a signal when failed did.
	changed chan struct{}
}

type metrics struct {
	pushes, nacks prometheus.Counter
	refused       *prometheus.CounterVec
}

// NewServer makes a server of the secrets, and of those in files under dir, which may be empty (see KeepFiles). Its
// metrics are registered with reg, names beginning with comity_agent_sds_.
func NewServer(secrets *Secrets, dir string, log *slog.Logger, reg prometheus.Registerer) (*Server, error) {
	s := &Server{secrets: secrets, files: files{dir: dir, failed: map[string]string{}, changed: make(chan struct{}, 1)}, now: time.Now, log: log, metrics: metrics{
		pushes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "comity_agent_sds_pushes_total", Help: "Secrets responses sent to Envoy."}),
		nacks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "comity_agent_sds_rejections_total", Help: "Secrets that Envoy refused; it keeps the old ones."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "comity_agent_sds_connections_refused_total", Help: "Connections closed unserved, by reason: peer (another user), bytes (not HTTP/2)."}, []string{"reason"}),
	}}
	for _, c := range []prometheus.Collector{s.metrics.pushes, s.metrics.nacks, s.metrics.refused} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("secrets server: %w", err)
		}
	}
	return s, nil
}

// Listen makes the socket at path with mode 0600, replacing one that a dead process left. The folder
// must be the caller's alone.
func Listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	// Between the two calls the folder's mode 0700 keeps others out.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", path, err), l.Close())
	}
	return l, nil
}

// Serve answers on l, which Listen made, until ctx ends; it closes l. What else the agent has for its Envoy is
// registered by more, which may be nil.
func (s *Server) Serve(ctx context.Context, l net.Listener, more func(grpc.ServiceRegistrar), options ...grpc.ServerOption) error {
	g := grpc.NewServer(append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxHeaderListSize(16 << 10), grpc.MaxConcurrentStreams(maxFileSecrets),
		grpc.ConnectionTimeout(firstBytes),
		grpc.StaticStreamWindowSize(handshake.Window), grpc.StaticConnWindowSize(handshake.Window),
		// Envoy's local connection neither pings nor idles out; leave it alone.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}, options...)...)
	secretv3.RegisterSecretDiscoveryServiceServer(g, s)
	if more != nil {
		more(g)
	}
	stop := context.AfterFunc(ctx, g.Stop)
	defer stop()
	if err := g.Serve(netutil.LimitListener(guard{l, s}, maxConnections)); err != nil && ctx.Err() == nil {
		return fmt.Errorf("secrets server: %w", err)
	}
	return nil
}

// guard lets in only the own user and root, whatever the mode of the socket says.
type guard struct {
	net.Listener
	s *Server
}

func (g guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if err := samePeer(c); err != nil {
			g.s.metrics.refused.WithLabelValues("peer").Inc()
			g.s.log.Warn("refused a connection to the secrets socket", "reason", err)
			_ = c.Close() // refused already; nothing was sent
			continue
		}
		return &opening{Conn: c, s: g.s}, nil
	}
}

// samePeer asks the kernel who connected (SO_PEERCRED).
func samePeer(c net.Conn) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("a connection of type %T has no peer", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return fmt.Errorf("peer of a connection: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) //nolint:gosec // a descriptor fits
	}); err != nil {
		return fmt.Errorf("peer of a connection: %w", err)
	}
	if credErr != nil {
		return fmt.Errorf("peer of a connection: %w", credErr)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d (process %d) is neither root nor the agent's user", cred.Uid, cred.Pid)
	}
	return nil
}

// opening is a connection that is closed and counted unless its first bytes are those of HTTP/2.
type opening struct {
	net.Conn
	s    *Server
	seen int
}

var preface = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

var errBytes = errors.New("the peer does not speak HTTP/2")

// Read is called by one goroutine at a time.
func (o *opening) Read(b []byte) (int, error) {
	n, err := o.Conn.Read(b)
	if o.seen == len(preface) || n == 0 {
		return n, err
	}
	k := min(n, len(preface)-o.seen)
	if !bytes.Equal(b[:k], preface[o.seen:o.seen+k]) {
		o.s.metrics.refused.WithLabelValues("bytes").Inc()
		_ = o.Close() // nothing was sent
		return 0, errBytes
	}
	o.seen += k
	return n, err
}
