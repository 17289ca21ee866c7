package ads

import (
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/comity-mesh/comity/xds/snapshot"
)

// StreamAggregatedResources serves an application without a proxy, or the agent beside it. An application has a stream
// for every target that it dials (gRFC A71), so they don't take each other's place.
func (s *Server) StreamAggregatedResources(g discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	st := &stream{srv: s, send: g.SendMsg, since: time.Now(), done: make(chan struct{}), plain: true}
	return s.serve(g.Context(), st, func(r *snapshot.Request) error { return g.RecvMsg((*snapshot.StateRequest)(r)) })
}

// tellSettled tells the observer what all streams of the proxy have acknowledged; nothing while one of them has not
// acknowledged anything.
func (st *stream) tellSettled() {
	s := st.srv
	f := s.conf.Observer.OnAck
	if f == nil {
		return
	}
	s.mu.Lock()
	var oldest *snapshot.Generation
	if p := s.proxies[st.id]; p != nil {
		for _, o := range p.streams {
			g := o.settled.Load()
			if g == nil {
				oldest = nil
				break
			}
			if oldest == nil || g.Before(oldest) {
				oldest = g
			}
		}
	}
	s.mu.Unlock()
	if oldest != nil {
		id := st.id
		s.events.add(ackKey{id, st.since}, func() { f(id, oldest.View, oldest.Revision) })
	}
}

// tellRefusal says what a client does not take. The caller holds st.mu.
func (st *stream) tellRefusal(r *snapshot.Request) {
	st.srv.conf.Log.Warn("a proxyless client refuses a part of its configuration and keeps what it had",
		"proxy", st.id.String(), "view", string(st.viewKey()), "type", r.TypeURL, "error", r.Error)
	if f := st.srv.conf.Observer.OnRefuse; f != nil {
		said := Proxy{ID: st.id, View: st.viewKey(), LastError: r.Error}
		st.srv.events.add(refuseKey(st.id), func() { f(said) })
	}
}

// join adds what another stream of the same proxy says.
func (p *Proxy) join(o Proxy) {
	if o.Since.Before(p.Since) {
		p.Since = o.Since
	}
	p.Acked = min(p.Acked, o.Acked)
	if o.Settled.Before(p.Settled) {
		p.Settled = o.Settled
	}
	p.Current = p.Current && o.Current
	p.Nacks += o.Nacks
	if o.LastError != "" {
		p.LastError = o.LastError
	}
}
