package envoy

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/snapshot"
)

// control serves the Envoys of a test as a zone does: delta ADS from views, each proxy a view of its own.
type control struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	addr  string
	views *snapshot.Store

	mu       sync.Mutex
	streams  map[string]*controlStream // by node id
	revision mesh.Revision
	moved    chan struct{} // closed when a stream has news
}

type controlStream struct {
	mu      sync.Mutex
	send    func(any) error
	machine *snapshot.Stream
	refused []string // what the Envoy said of what it did not take, since the last publish
}

func newControl(t *testing.T) *control {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &control{addr: l.Addr().String(), views: snapshot.NewStore(time.Now), streams: map[string]*controlStream{}, moved: make(chan struct{})}
	s := grpc.NewServer(grpc.ForceServerCodecV2(frames{encoding.GetCodecV2(grpcproto.Name)}))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, c)
	go func() { _ = s.Serve(l) }() // ends with Stop
	t.Cleanup(s.Stop)
	return c
}

// frames passes on what is encoded already.
type frames struct{ encoding.CodecV2 }

func (f frames) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*snapshot.Response); ok {
		return r.Buffers(), nil
	}
	return f.CodecV2.Marshal(v)
}

func (f frames) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*snapshot.Request); ok {
		return snapshot.UnmarshalRequest(data.Materialize(), r)
	}
	return f.CodecV2.Unmarshal(data, v)
}

// DeltaAggregatedResources serves one Envoy.
func (c *control) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	st := &controlStream{send: g.SendMsg, machine: snapshot.NewStream(nil)}
	node := ""
	for {
		r := new(snapshot.Request)
		if err := g.RecvMsg(r); err != nil {
			return err
		}
		if node == "" {
			node = r.NodeID
			c.mu.Lock()
			c.streams[node] = st
			c.mu.Unlock()
		}
		if err := c.step(st, node, r); err != nil {
			return err
		}
	}
}

// step feeds a request, or news of the view if r is nil, and sends what follows.
func (c *control) step(st *controlStream, node string, r *snapshot.Request) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	defer c.wake()
	if g := c.views.Current(snapshot.ViewKey(node)); g != nil {
		if err := st.machine.Advance(g); err != nil {
			return err
		}
	}
	if r != nil {
		if r.Refused {
			st.refused = append(st.refused, r.Error)
		}
		if err := st.machine.Request(r); err != nil {
			return err
		}
	}
	for _, v := range st.machine.Verdicts() {
		c.views.Quarantine(snapshot.ViewKey(node), []*snapshot.Entry{v.Entry})
		st.refused = append(st.refused, fmt.Sprintf("%s %s: %s", v.Entry.Type, v.Entry.Name, v.Error))
		if err := st.machine.Advance(c.views.Current(snapshot.ViewKey(node))); err != nil {
			return err
		}
	}
	for _, out := range st.machine.Take() {
		if err := st.send(&out); err != nil {
			return err
		}
	}
	return nil
}

func (c *control) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.moved)
	c.moved = make(chan struct{})
}

// publish gives a proxy its configuration.
func (c *control) publish(t *testing.T, node string, resources []envoy.Resource) {
	t.Helper()
	c.mu.Lock()
	c.revision++
	st, revision := c.streams[node], c.revision
	c.mu.Unlock()
	if _, err := c.views.Publish(snapshot.ViewKey(node), revision, resources); err != nil {
		t.Fatal(err)
	}
	if st == nil {
		return
	}
	st.mu.Lock()
	st.refused = nil
	st.mu.Unlock()
	if err := c.step(st, node, nil); err != nil {
		t.Logf("%s: %v", node, err) // it comes back and is sent what it lacks
	}
}

// settled waits until a proxy has acknowledged all of its configuration, and returns what it refused of it.
func (c *control) settled(t *testing.T, node string) []string {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		c.mu.Lock()
		st, moved := c.streams[node], c.moved
		c.mu.Unlock()
		if st != nil {
			st.mu.Lock()
			s, refused := st.machine.Settled(), st.refused
			st.mu.Unlock()
			if s != nil && s == c.views.Current(snapshot.ViewKey(node)) {
				return refused
			}
		}
		select {
		case <-moved:
		case <-limit.C:
			t.Fatalf("%s did not acknowledge its configuration", node)
		}
	}
}
