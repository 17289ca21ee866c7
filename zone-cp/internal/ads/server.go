package ads

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/snapshot"
)

// Config is what a Server is made of.
type Config struct {
	// Authorize says which proxy the peer is. chain is the peer's verified certificate chain, leaf first,
	// empty without TLS; nodeID is what Envoy calls itself. An error refuses the stream with
	// PermissionDenied; the peer is not told why.
	Authorize func(ctx context.Context, chain []*x509.Certificate, nodeID string) (mesh.ProxyID, error)
	Observer  Observer
	Log       *slog.Logger
	Metrics   prometheus.Registerer

	// SendTimeout closes a stream that takes nothing; 0 means 20 s.
	SendTimeout time.Duration
	// CheckCertificates is how often the peers' certificates are looked at; 0 means 30 s.
	CheckCertificates time.Duration
	// MaxStreams bounds the streams of all proxies; 0 means 50,000.
	MaxStreams int
}

// Server is the zone's ADS server: delta for Envoys, state of the world for clients without one.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer

	conf    Config
	views   *snapshot.Store
	metrics *metrics
	events  *events
	pool    *pool

	mu      sync.Mutex
	proxies map[mesh.ProxyID]*proxy
	members map[snapshot.ViewKey]map[*stream]struct{}
	opening int // streams between connection and authorisation
	open    int
}

// proxy is what the server knows of a proxy, connected or not.
type proxy struct {
	id       mesh.ProxyID
	view     snapshot.ViewKey
	assigned bool
	streams  []*stream // of an Envoy one, the newest; of proxyless applications as many as they open
	suspects snapshot.Suspects
}

// Proxy describes a connected proxy.
type Proxy struct {
	ID          mesh.ProxyID
	View        snapshot.ViewKey // empty while none is assigned
	Since       time.Time
	NodeVersion string // Envoy's, as in "1.40.0"
	// Acked is the newest revision that the proxy has acknowledged in full.
	Acked mesh.Revision
	// Settled is when that was published which it has acknowledged in full, zero for nothing yet; Current says that
	// nothing newer is on its way to it.
	Settled     time.Time
	Current     bool
	Nacks       uint64
	LastError   string
	CertExpires time.Time // of the peer's certificate; zero without TLS
}

// NewServer makes a server; Run must be running for its streams to be served.
func NewServer(conf Config) (*Server, error) {
	if conf.SendTimeout == 0 {
		conf.SendTimeout = 20 * time.Second
	}
	if conf.CheckCertificates == 0 {
		conf.CheckCertificates = 30 * time.Second
	}
	if conf.MaxStreams == 0 {
		conf.MaxStreams = 50_000
	}
	m, err := newMetrics(conf.Metrics)
	if err != nil {
		return nil, fmt.Errorf("xDS metrics: %w", err)
	}
	return &Server{
		conf: conf, views: snapshot.NewStore(time.Now), metrics: m, events: newEvents(),
		pool:    newPool(conf.SendTimeout),
		proxies: make(map[mesh.ProxyID]*proxy),
		members: make(map[snapshot.ViewKey]map[*stream]struct{}),
	}, nil
}

// Register adds the service to a gRPC server, which must have been made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	discovery.RegisterAggregatedDiscoveryServiceServer(r, s)
}

// Run delivers events, sends what is published and looks after certificates until ctx ends; then it
// closes all streams.
func (s *Server) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.events.run(ctx) })
	defer s.pool.stop()
	tick := time.NewTicker(s.conf.CheckCertificates)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			for _, st := range s.streams() {
				st.close(status.Error(codes.Unavailable, "the control plane stops"))
			}
			return
		case now := <-tick.C:
			for _, st := range s.streams() {
				if !st.expires.IsZero() && now.After(st.expires) {
					s.metrics.refused.WithLabelValues("certificate_expired").Inc()
					st.close(status.Error(codes.Unauthenticated, "the peer's certificate has expired"))
				}
			}
		}
	}
}

func (s *Server) streams() []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*stream
	for _, p := range s.proxies {
		out = append(out, p.streams...)
	}
	return out
}

// Part makes a part of views of what they have in common; errors are those of Publish.
func (s *Server) Part(resources []envoy.Resource) (*snapshot.Part, error) {
	return s.views.Part(resources)
}

// Publish replaces the whole content of a view, its own resources and parts that others have too, which reflects a revision of
// the zone's store. Only differences by Version are sent. An error (unknown type, empty name or version, a name twice) changes
// nothing.
func (s *Server) Publish(view snapshot.ViewKey, revision mesh.Revision, own []envoy.Resource, parts ...*snapshot.Part) error {
	lifted, err := s.views.Publish(view, revision, own, parts...)
	if err != nil {
		return err
	}
	s.published(view, lifted)
	return nil
}

// Advance says that a view is at a revision with the content that it has.
func (s *Server) Advance(view snapshot.ViewKey, revision mesh.Revision) {
	s.views.Advance(view, revision)
	s.published(view, nil)
}

func (s *Server) published(view snapshot.ViewKey, lifted []snapshot.Lifted) {
	for _, l := range lifted {
		if f := s.conf.Observer.OnLift; f != nil {
			s.events.add(liftKey(l), func() { f(l) })
		}
	}
	s.mu.Lock()
	streams := make([]*stream, 0, len(s.members[view]))
	for st := range s.members[view] {
		streams = append(streams, st)
	}
	s.mu.Unlock()
	s.pool.add(streams)
}

// Assign gives a proxy its view, whether it is connected or not. Until the view is published, a stream
// keeps what it has, and a new one waits.
func (s *Server) Assign(id mesh.ProxyID, view snapshot.ViewKey) {
	s.mu.Lock()
	p := s.proxy(id)
	if p.assigned && p.view == view {
		s.mu.Unlock()
		return
	}
	streams := slices.Clone(p.streams)
	for _, st := range streams {
		s.leave(st, p.view)
		st.view.Store(&view)
		s.join(st, view)
	}
	p.view, p.assigned = view, true
	s.mu.Unlock()
	if len(streams) > 0 {
		s.pool.add(streams)
	}
}

// Unassign forgets a proxy and closes its streams.
func (s *Server) Unassign(id mesh.ProxyID) {
	s.mu.Lock()
	p := s.proxies[id]
	var streams []*stream
	if p != nil {
		streams = slices.Clone(p.streams)
		p.assigned = false
		for _, st := range streams {
			s.leave(st, p.view)
		}
		if len(streams) == 0 {
			delete(s.proxies, id)
		}
	}
	s.mu.Unlock()
	for _, st := range streams {
		s.metrics.refused.WithLabelValues("unassigned").Inc()
		st.close(status.Error(codes.PermissionDenied, "the proxy is no longer known"))
	}
}

// Drop forgets a view to which no proxy is assigned any more.
func (s *Server) Drop(view snapshot.ViewKey) { s.views.Drop(view) }

// Proxies lists the connected proxies by id.
func (s *Server) Proxies() []Proxy {
	streams := s.streams() // those of one proxy are neighbours
	out := make([]Proxy, 0, len(streams))
	for _, st := range streams {
		if p := st.describe(); len(out) > 0 && out[len(out)-1].ID == p.ID {
			out[len(out)-1].join(p)
		} else {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Proxy) int {
		return cmp.Or(cmp.Compare(a.ID.Role, b.ID.Role), cmp.Compare(a.ID.Namespace, b.ID.Namespace), cmp.Compare(a.ID.Name, b.ID.Name))
	})
	return out
}

// proxy finds or makes the record of a proxy. The caller holds s.mu.
func (s *Server) proxy(id mesh.ProxyID) *proxy {
	p := s.proxies[id]
	if p == nil {
		p = &proxy{id: id}
		s.proxies[id] = p
	}
	return p
}

func (s *Server) join(st *stream, view snapshot.ViewKey) {
	m := s.members[view]
	if m == nil {
		m = make(map[*stream]struct{})
		s.members[view] = m
	}
	m[st] = struct{}{}
}

func (s *Server) leave(st *stream, view snapshot.ViewKey) {
	if m := s.members[view]; m != nil {
		if delete(m, st); len(m) == 0 {
			delete(s.members, view)
		}
	}
}
