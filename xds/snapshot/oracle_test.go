package snapshot

import (
	"context"
	"fmt"
	"io"
	"maps"
	"testing"
	"testing/synctest"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	xds "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"pgregory.net/rapid"
)

// event is one step of a history that both servers live through; nil items mean a reconnect.
type event struct{ items []item }

// TestSameEndAsLinearCache gives the same publications and reconnects to a Stream and to go-control-plane's
// delta server over LinearCaches, with the same model of Envoy behind each: after every event both Envoys
// have the same. (The model takes a changed cluster into service with the endpoints it has, because
// LinearCache does not send them again.)
func TestSameEndAsLinearCache(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		var events []event
		for range rapid.IntRange(1, 15).Draw(rt, "events") {
			if rapid.IntRange(0, 4).Draw(rt, "kind") == 0 {
				events = append(events, event{})
				continue
			}
			for range rapid.IntRange(1, 4).Draw(rt, "changes") {
				w.mutate(rt, false, false)
			}
			events = append(events, event{items: w.items()})
		}
		ours := liveThroughStream(rt, events)
		var theirs []string
		synctest.Test(t, func(t *testing.T) { theirs = liveThroughLinear(t, events) })
		for i := range events {
			if ours[i] != theirs[i] {
				rt.Fatalf("after event %d of %v:\nours   %s\ntheirs %s", i, events, ours[i], theirs[i])
			}
		}
	})
}

// state is what an Envoy has that it asks for.
func (m *envoyModel) state() string {
	out := ""
	for _, t := range Types() {
		have := map[string]string{}
		for n, c := range m.have[t] {
			if t.wildcard() || m.wanted[t][n] {
				have[n] = c.bytes
			}
		}
		out += fmt.Sprintf("%s %q; ", t, have)
	}
	return out
}

func liveThroughStream(t *rapid.T, events []event) []string {
	s := newSystem(t)
	s.envoy.cached = true
	s.publish(newWorld())
	var states []string
	for _, e := range events {
		if e.items == nil {
			s.reconnect(false)
		} else {
			s.rev++
			w := make([]item, len(e.items))
			copy(w, e.items)
			s.publishItems(w)
		}
		s.drain()
		states = append(states, s.envoy.state())
	}
	return states
}

func (s *system) publishItems(items []item) {
	w := newWorld().resources()[:0]
	for _, it := range items {
		w = append(w, it.resource())
	}
	if _, err := s.store.Publish(s.view, s.rev, w); err != nil {
		s.t.Fatal(err)
	}
	s.advance()
}

// pipe is the server's side of a stream in memory.
type pipe struct {
	grpc.ServerStream
	ctx  context.Context
	up   chan *discovery.DeltaDiscoveryRequest
	down chan *discovery.DeltaDiscoveryResponse
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Send(r *discovery.DeltaDiscoveryResponse) error {
	p.down <- r
	return nil
}

func (p *pipe) Recv() (*discovery.DeltaDiscoveryRequest, error) {
	select {
	case r := <-p.up:
		return r, nil
	case <-p.ctx.Done():
		return nil, io.EOF
	}
}

func liveThroughLinear(t *testing.T, events []event) []string {
	mux := &cache.MuxCache{
		Classify:      func(r *cache.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() },
		Caches:        map[string]cache.Cache{},
	}
	caches := map[Type]*cache.LinearCache{}
	for _, typ := range Types() {
		caches[typ] = cache.NewLinearCache(typ.URL())
		mux.Caches[typ.URL()] = caches[typ]
	}
	server := delta.NewServer(t.Context(), mux, xds.CallbackFuncs{})
	envoy := newEnvoyModel()
	envoy.cached = true
	var p *pipe
	var cancel context.CancelFunc
	var ended chan struct{}
	open := func() {
		var ctx context.Context
		ctx, cancel = context.WithCancel(t.Context())
		p = &pipe{ctx: ctx, up: make(chan *discovery.DeltaDiscoveryRequest, 1000), down: make(chan *discovery.DeltaDiscoveryResponse, 1000)}
		ended = make(chan struct{})
		go func(p *pipe, ended chan struct{}) {
			_ = server.DeltaStreamHandler(p, "")
			close(ended)
		}(p, ended)
	}
	shut := func() { cancel(); <-ended }
	settle := func() {
		for {
			for _, r := range envoy.out {
				p.up <- r
			}
			envoy.out = nil
			synctest.Wait()
			if len(p.down) == 0 {
				return
			}
			envoy.receive(<-p.down)
		}
	}
	have := map[Type]map[string]types.Resource{}
	publish := func(items []item) {
		next := map[Type]map[string]types.Resource{}
		for _, typ := range Types() {
			next[typ] = map[string]types.Resource{}
		}
		for _, it := range items {
			next[it.typ][it.name] = it.message()
		}
		for _, typ := range Types() {
			var gone []string
			for n := range have[typ] {
				if _, ok := next[typ][n]; !ok {
					gone = append(gone, n)
				}
			}
			if err := caches[typ].UpdateResources(maps.Clone(next[typ]), gone); err != nil {
				t.Fatal(err)
			}
		}
		have = next
	}
	publish(newWorld().items())
	open()
	defer func() { shut() }()
	settle()
	var states []string
	for _, e := range events {
		if e.items == nil {
			shut()
			envoy.connect()
			open()
		} else {
			publish(e.items)
		}
		settle()
		states = append(states, envoy.state())
	}
	return states
}
