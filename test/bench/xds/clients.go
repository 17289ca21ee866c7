package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// The types that the clients ask for, in Envoy's order.
var typeURLs = [...]string{
	"type.googleapis.com/envoy.config.cluster.v3.Cluster",
	"type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
	"type.googleapis.com/envoy.config.listener.v3.Listener",
	"type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
}

var words = map[string]int{"cluster": 0, "endpoints": 1, "listener": 2, "route": 3}

const routes = 4

// raw sends and receives messages as they are on the wire.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no message", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no buffer", v)
	}
	*b = data.Materialize()
	return nil
}

// fleet is all clients.
type fleet struct {
	conf     config
	bytes    atomic.Int64
	got      [len(typeURLs)]atomic.Int64 // responses by type
	requests atomic.Int64

	mu       sync.Mutex
	versions [len(typeURLs)]map[string]string // what every client has
	cancel   context.CancelFunc
	group    *errgroup.Group
	failed   atomic.Pointer[error]
}

func runClients(c config, in io.Reader, out io.Writer) error {
	f := &fleet{conf: c}
	for t := range f.versions {
		f.versions[t] = map[string]string{}
	}
	enc := json.NewEncoder(out)
	scan := bufio.NewScanner(in)
	var base int64
	for scan.Scan() {
		var typ string
		_, _ = fmt.Sscanf(scan.Text(), "expect %s", &typ)
		var err error
		switch {
		case scan.Text() == "mark":
			base = f.bytes.Load()
			for t := range f.got {
				f.got[t].Store(0)
			}
		case scan.Text() == "bytes":
		case scan.Text() == "connect":
			err = f.connect(false)
		case scan.Text() == "reconnect":
			f.disconnect()
			err = f.connect(true)
		default:
			err = f.expect(words[typ])
		}
		tr := traffic{Bytes: f.bytes.Load() - base}
		if err != nil {
			tr.Error = err.Error()
		}
		if err := enc.Encode(tr); err != nil {
			return err
		}
	}
	f.disconnect()
	return scan.Err()
}

// expect waits until every client has had a response of a type since the mark.
func (f *fleet) expect(t int) error {
	return f.until(func() bool { return f.got[t].Load() >= int64(f.conf.clients) })
}

func (f *fleet) until(ok func() bool) error {
	deadline := time.Now().Add(2 * time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if err := f.failed.Load(); err != nil {
			return *err
		}
		if time.Now().After(deadline) {
			return errors.New("the clients' responses did not arrive within two minutes")
		}
		<-tick.C
	}
	return nil
}

func (f *fleet) disconnect() {
	if f.cancel != nil {
		f.cancel()
		_ = f.group.Wait()
	}
}

// connect opens all clients, and waits until each has what it needs.
func (f *fleet) connect(again bool) error {
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel, f.group = cancel, new(errgroup.Group)
	for t := range f.got {
		f.got[t].Store(0)
	}
	f.requests.Store(0)
	gate := make(chan struct{}, 64) // a fleet does not open in one instant
	var opened atomic.Int64
	for i := range f.conf.clients {
		gate <- struct{}{}
		f.group.Go(func() error {
			err := f.client(ctx, i, again, func() { opened.Add(1); <-gate })
			if err != nil && ctx.Err() == nil {
				f.failed.CompareAndSwap(nil, &err)
			}
			return nil
		})
	}
	n := int64(f.conf.clients)
	defer func() {
		for t := range f.got {
			f.got[t].Store(0)
		}
	}()
	return f.until(func() bool {
		if again {
			return opened.Load() == n // what comes is up to the server
		}
		for t := range f.got {
			if f.got[t].Load() < n {
				return false
			}
		}
		return true
	})
}

func (f *fleet) client(ctx context.Context, i int, again bool, ready func()) error {
	var once sync.Once
	defer once.Do(ready)
	conn, err := grpc.NewClient(f.conf.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(256<<10), grpc.WithStaticConnWindowSize(256<<10), // Envoy's don't change either
		grpc.WithReadBufferSize(2<<10), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true},
		"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources")
	if err != nil {
		return err
	}
	node := fmt.Sprintf("sidecar~bench~client-%d", i)
	if again {
		for t := range typeURLs {
			if err := stream.SendMsg(f.subscription(t, node, true, nil)); err != nil {
				return err
			}
			node = ""
		}
		once.Do(ready)
	} else if err := stream.SendMsg(f.subscription(0, node, false, nil)); err != nil {
		return err
	}
	asked := again
	for {
		var b []byte
		if err := stream.RecvMsg(&b); err != nil {
			return err
		}
		f.bytes.Add(int64(len(b)))
		r, err := f.parse(b)
		if err != nil {
			return err
		}
		if !asked && r.typ == 0 {
			asked = true
			for t := 1; t < len(typeURLs); t++ {
				if err := stream.SendMsg(f.subscription(t, "", false, r.names)); err != nil {
					return err
				}
			}
		}
		ack := field(nil, 2, typeURLs[r.typ])
		if err := stream.SendMsg(field(ack, 6, r.nonce)); err != nil {
			return err
		}
		f.got[r.typ].Add(1)
		once.Do(ready)
	}
}

// subscription is the first request of a type, with what the fleet has of it.
func (f *fleet) subscription(t int, node string, again bool, clusters []string) []byte {
	var b []byte
	if node != "" {
		b = field(b, 1, string(field(nil, 1, node)))
	}
	b = field(b, 2, typeURLs[t])
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case t == 1 && again:
		for name := range f.versions[t] {
			b = field(b, 3, name)
		}
	case t == 1:
		for _, name := range clusters {
			b = field(b, 3, name)
		}
	case t == 3:
		for i := range routes {
			b = field(b, 3, fmt.Sprintf("routes-%d", i))
		}
	}
	if again {
		for name, version := range f.versions[t] {
			b = field(b, 5, string(field(field(nil, 1, name), 2, version)))
		}
	}
	return b
}

func field(b []byte, num protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

type response struct {
	typ   int
	nonce string
	names []string
}

// parse reads a DeltaDiscoveryResponse and notes its versions for the fleet.
func (f *fleet) parse(b []byte) (response, error) {
	r := response{typ: -1}
	type named struct{ name, version string }
	var have []named
	for len(b) > 0 {
		num, _, n := protowire.ConsumeTag(b)
		if n < 0 {
			return r, protowire.ParseError(n)
		}
		v, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return r, protowire.ParseError(m)
		}
		b = b[n+m:]
		switch num {
		case 2:
			var e named
			for len(v) > 0 {
				num, _, n := protowire.ConsumeTag(v)
				s, m := protowire.ConsumeBytes(v[max(n, 0):])
				if n < 0 || m < 0 {
					return r, errors.New("resource without sense")
				}
				v = v[n+m:]
				switch num {
				case 1:
					e.version = string(s)
				case 3:
					e.name = string(s)
				}
			}
			have = append(have, e)
			r.names = append(r.names, e.name)
		case 4:
			for t, url := range typeURLs {
				if url == string(v) {
					r.typ = t
				}
			}
		case 5:
			r.nonce = string(v)
		}
	}
	if r.typ < 0 {
		return r, errors.New("response of an unknown type")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range have {
		f.versions[r.typ][e.name] = e.version
	}
	return r, nil
}
