package ads

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/snapshot"
)

// stream is one open stream of one proxy. The state machine is driven by whoever has news for it,
// under mu; responses leave in order because one goroutine at a time empties the outbox.
type stream struct {
	srv     *Server
	id      mesh.ProxyID
	send    func(any) error
	since   time.Time
	expires time.Time
	version string

	done   chan struct{}
	err    error // set before done is closed
	once   sync.Once
	queued atomic.Bool

	// view is what the proxy is assigned to, nil before; it changes under the server's lock.
	view atomic.Pointer[snapshot.ViewKey]

	// plain streams are state of the world, and don't fence each other.
	plain bool
	// settled is, of a plain stream, the newest generation that it has acknowledged in full.
	settled atomic.Pointer[snapshot.Generation]

	mu        sync.Mutex
	machine   machine
	outbox    []snapshot.Response
	sending   bool
	reported  *snapshot.Generation
	nacks     uint64
	lastError string
}

// machine decides what a stream is sent: a snapshot.Stream or a snapshot.State.
type machine interface {
	Advance(*snapshot.Generation) error
	Request(*snapshot.Request) error
	Take() []snapshot.Response
	Verdicts() []snapshot.Verdict
	Settled() *snapshot.Generation
	Generation() *snapshot.Generation
	Revision() mesh.Revision
	Suspects() snapshot.Suspects
	Distrust(snapshot.Type, map[string]struct{})
}

// DeltaAggregatedResources serves one proxy.
func (s *Server) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	st := &stream{srv: s, send: g.SendMsg, since: time.Now(), done: make(chan struct{})}
	return s.serve(g.Context(), st, func(r *snapshot.Request) error { return g.RecvMsg(r) })
}

// serve is one stream from its beginning to its end.
func (s *Server) serve(ctx context.Context, st *stream, recv func(*snapshot.Request) error) error {
	s.mu.Lock()
	full := s.open+s.opening >= s.conf.MaxStreams
	if !full {
		s.opening++
	}
	s.mu.Unlock()
	if full {
		s.metrics.refused.WithLabelValues("too_many").Inc()
		return status.Error(codes.ResourceExhausted, "too many streams")
	}
	// Receiving is a goroutine of its own because only the handler's return ends a stream on which both
	// directions are stuck.
	go st.receive(ctx, recv)
	<-st.done
	s.closed(st)
	return st.err
}

// close ends the stream with an error for the client; only the first one counts.
func (st *stream) close(err error) {
	st.once.Do(func() {
		st.err = err
		close(st.done)
	})
}

func (st *stream) tooSlow() {
	st.srv.metrics.refused.WithLabelValues("send_timeout").Inc()
	st.srv.conf.Log.Warn("closing the stream of a proxy that takes nothing", "proxy", st.id.String())
	st.close(status.Error(codes.DeadlineExceeded, "responses were not taken in time"))
}

func (st *stream) receive(ctx context.Context, recv func(*snapshot.Request) error) {
	r := new(snapshot.Request)
	if err := recv(r); err != nil {
		st.srv.opened()
		st.close(received(err))
		return
	}
	if err := st.authorize(ctx, r); err != nil {
		st.srv.opened()
		st.close(err)
		return
	}
	for {
		if err := st.take(r); err != nil {
			st.srv.metrics.refused.WithLabelValues("misbehaved").Inc()
			st.close(status.Error(codes.ResourceExhausted, err.Error()))
			return
		}
		if err := recv(r); err != nil {
			st.close(received(err))
			return
		}
	}
}

// received is the end of a stream as its handler returns it.
func received(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// opened ends the state between connection and authorisation.
func (s *Server) opened() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opening--
}

// authorize finds out whose stream it is and takes the place of an older one of the same proxy.
func (st *stream) authorize(ctx context.Context, r *snapshot.Request) error {
	s := st.srv
	var chain []*x509.Certificate
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.VerifiedChains) > 0 {
			chain = info.State.VerifiedChains[0]
			st.expires = chain[0].NotAfter
		} else if ok && len(info.State.PeerCertificates) > 0 {
			// A caller who verifies SPIFFE chains by itself leaves VerifiedChains empty.
			chain = info.State.PeerCertificates
			st.expires = chain[0].NotAfter
		}
	}
	id, err := s.conf.Authorize(ctx, chain, r.NodeID)
	if err != nil {
		s.metrics.refused.WithLabelValues("denied").Inc()
		s.conf.Log.Warn("refusing an xDS stream", "node", bounded(r.NodeID), "error", err)
		return status.Error(codes.PermissionDenied, "this peer may not have the configuration of this node")
	}
	st.id, st.version = id, r.NodeVersion
	s.mu.Lock()
	p := s.proxy(id)
	var older []*stream
	for _, o := range p.streams {
		if !st.plain || !o.plain {
			s.leave(o, p.view)
			older = append(older, o)
		}
	}
	p.streams = slices.DeleteFunc(p.streams, func(o *stream) bool { return slices.Contains(older, o) })
	alone := len(p.streams) == 0
	p.streams = append(p.streams, st)
	if st.plain {
		st.machine = snapshot.NewState()
	} else {
		st.machine = snapshot.NewStream(p.suspects)
	}
	p.suspects = nil
	if p.assigned {
		view := p.view
		st.view.Store(&view)
		s.join(st, p.view)
	}
	s.opening--
	s.open++
	s.mu.Unlock()
	for _, o := range older {
		o.mu.Lock()
		for t, names := range o.machine.Suspects() {
			st.distrust(t, names)
		}
		o.mu.Unlock()
		s.metrics.refused.WithLabelValues("fenced").Inc()
		o.close(status.Error(codes.Aborted, "a newer stream of the same proxy is open"))
	}
	s.metrics.opened.Inc()
	s.metrics.connections.Inc()
	if f := s.conf.Observer.OnConnect; f != nil && alone {
		d := st.describe()
		s.events.add(connectionKey{id, st.since, true}, func() { f(d) })
	}
	return nil
}

func (st *stream) distrust(t snapshot.Type, names map[string]struct{}) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.machine.Distrust(t, names)
}

func bounded(s string) string { return s[:min(len(s), 200)] }

// closed takes a stream out of the books.
func (s *Server) closed(st *stream) {
	st.mu.Lock()
	var suspects snapshot.Suspects
	if st.machine != nil {
		suspects = st.machine.Suspects()
	}
	authorized := st.machine != nil
	st.mu.Unlock()
	if !authorized {
		return
	}
	s.mu.Lock()
	s.open--
	others := 0
	if p := s.proxies[st.id]; p != nil {
		if i := slices.Index(p.streams, st); i >= 0 {
			p.streams = slices.Delete(p.streams, i, i+1)
			if p.assigned {
				s.leave(st, p.view)
				p.suspects = suspects
			} else if len(p.streams) == 0 {
				delete(s.proxies, st.id)
			}
		}
		if st.plain {
			others = len(p.streams)
		}
	}
	s.mu.Unlock()
	s.metrics.connections.Dec()
	if others > 0 { // the proxy is still there, and may be further without this stream
		st.tellSettled()
		return
	}
	if f := s.conf.Observer.OnDisconnect; f != nil {
		d := st.describe()
		s.events.add(connectionKey{st.id, st.since, false}, func() { f(d) })
	}
}

// viewKey is the view that the proxy is assigned to, empty while there is none.
func (st *stream) viewKey() snapshot.ViewKey {
	if v := st.view.Load(); v != nil {
		return *v
	}
	return ""
}

// refresh brings the newest generation of the view to the stream.
func (st *stream) refresh() {
	st.mu.Lock()
	err := st.advance()
	if err == nil {
		err = st.judge()
	}
	if err != nil {
		st.mu.Unlock()
		st.close(status.Error(codes.ResourceExhausted, err.Error()))
		return
	}
	st.flush()
}

// take feeds a request and sends what follows from it.
func (st *stream) take(r *snapshot.Request) error {
	st.mu.Lock()
	if r.Refused {
		st.nacks++
		st.lastError = r.Error
		if t, ok := snapshot.ParseType(r.TypeURL); ok {
			st.srv.metrics.nacks[t].Inc()
		}
		if st.plain {
			st.tellRefusal(r)
		}
	}
	err := st.advance()
	if err == nil {
		err = st.machine.Request(r)
	}
	if err == nil {
		err = st.judge()
	}
	if err != nil {
		st.mu.Unlock()
		return err
	}
	st.flush()
	return nil
}

// advance gives the machine the newest generation. The caller holds st.mu.
func (st *stream) advance() error {
	view := st.viewKey()
	g := st.srv.views.Current(view)
	if g == nil {
		return nil
	}
	if last := st.machine.Generation(); last != nil && g.View != last.View && g.Before(last) {
		g = st.srv.views.Renew(view)
	}
	return st.machine.Advance(g)
}

// judge puts what the proxy refuses into quarantine. The caller holds st.mu.
func (st *stream) judge() error {
	verdicts := st.machine.Verdicts()
	if len(verdicts) == 0 {
		return nil
	}
	s, view := st.srv, st.viewKey()
	for _, v := range verdicts {
		e := v.Entry
		if len(s.views.Quarantine(view, []*snapshot.Entry{e})) == 0 {
			continue
		}
		s.conf.Log.Warn("a proxy refuses a resource; the last good one stays in force",
			"proxy", st.id.String(), "view", string(view), "resource", e.Type.String()+" "+e.Name, "version", e.Version, "error", v.Error)
		if f := s.conf.Observer.OnReject; f != nil {
			r := Rejection{
				Proxy: st.id, View: view, Type: e.Type, Name: e.Name, Version: e.Version, Error: v.Error, Sources: e.Sources,
			}
			s.events.add(rejectKey{view, e.Type, e.Name, e.Version}, func() { f(r) })
		}
	}
	s.published(view, nil)
	if err := st.advance(); err != nil {
		return err
	}
	return st.judge()
}

// flush sends what is ready and unlocks st.mu. If somebody is sending already, they will send this too.
func (st *stream) flush() {
	st.outbox = append(st.outbox, st.machine.Take()...)
	st.report()
	if st.sending || len(st.outbox) == 0 {
		st.mu.Unlock()
		return
	}
	st.sending = true
	m := st.srv.metrics
	st.srv.pool.begin(st)
	for len(st.outbox) > 0 {
		out := st.outbox
		st.outbox = nil
		st.mu.Unlock()
		for i := range out {
			if err := st.send(&out[i]); err != nil {
				st.close(err)
				st.srv.pool.end(st)
				return // sending stays set: nothing more is to be sent
			}
			m.responses[out[i].Type].Inc()
			m.bytes.Add(float64(out[i].Size()))
		}
		st.mu.Lock()
	}
	st.sending = false
	st.mu.Unlock()
	st.srv.pool.end(st)
}

// report tells the observer of a newly settled generation. The caller holds st.mu.
func (st *stream) report() {
	g := st.machine.Settled()
	if g == nil || g == st.reported {
		return
	}
	s := st.srv
	if st.reported != nil || g.Made.After(st.since) {
		s.metrics.settle.Observe(time.Since(g.Made).Seconds())
	}
	st.reported = g
	s.metrics.acks.Inc()
	if st.plain {
		st.settled.Store(g)
		st.tellSettled()
		return
	}
	if f := s.conf.Observer.OnAck; f != nil {
		id := st.id
		s.events.add(ackKey{id, st.since}, func() { f(id, g.View, g.Revision) })
	}
}

func (st *stream) describe() Proxy {
	st.mu.Lock()
	defer st.mu.Unlock()
	p := Proxy{
		ID: st.id, View: st.viewKey(), Since: st.since, NodeVersion: st.version, Acked: st.machine.Revision(),
		Nacks: st.nacks, LastError: st.lastError, CertExpires: st.expires,
	}
	if g := st.machine.Settled(); g != nil {
		p.Settled, p.Current = g.Made, g == st.srv.views.Current(p.View)
	}
	return p
}
