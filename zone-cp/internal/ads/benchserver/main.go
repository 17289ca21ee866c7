// Command benchserver is the server side of test/bench/xds: a delta-ADS server with generated resources,
// either the zone's own or, for comparison, go-control-plane's LinearCache behind its MuxCache. It takes
// orders on stdin, one a line, and answers each with one line of JSON.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	xds "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/snapshot"
	"github.com/comity-mesh/comity/zone-cp/internal/ads"
)

func main() {
	kind := flag.String("kind", "comity", "comity or linear")
	clusters := flag.Int("clusters", 100, "clusters of the view")
	flag.Parse()
	if err := run(*kind, *clusters); err != nil {
		fmt.Fprintln(os.Stderr, "benchserver:", err)
		os.Exit(1)
	}
}

// subject is a server under test.
type subject interface {
	register(g *grpc.Server)
	// change takes edited resources.
	change(edited []res) error
}

func run(kind string, clusters int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	world := generate(clusters)
	// The buffers and bounds are the same for both; the codec is not.
	options := append(ads.ServerOptions(), grpc.ReadBufferSize(2<<10)) // without TLS nobody else reads ahead
	var s subject
	var err error
	switch kind {
	case "comity":
		s, err = newComity(ctx, world)
	case "linear":
		s = newLinear(ctx, world)
		options = append(options, grpc.ForceServerCodecV2(encoding.GetCodecV2(grpcproto.Name)))
	default:
		err = fmt.Errorf("unknown kind %q", kind)
	}
	if err != nil {
		return err
	}
	var received atomic.Int64
	options = append(options, grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		return next(srv, counted{ss, &received})
	}))
	g := grpc.NewServer(options...)
	s.register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { _ = g.Serve(l) }()
	defer g.Stop()
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(map[string]any{"address": l.Addr().String()}); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		order, arg, _ := strings.Cut(in.Text(), " ")
		switch order {
		case "change":
			var edited []res
			for typ := range strings.SplitSeq(arg, "+") {
				i, err := world.edit(typ)
				if err != nil {
					return err
				}
				edited = append(edited, world.list[i])
			}
			if err := s.change(edited); err != nil {
				return err
			}
		case "collect":
			debug.FreeOSMemory()
		}
		if err := out.Encode(measure(received.Load())); err != nil {
			return err
		}
	}
	return in.Err()
}

// counted counts the requests of a stream.
type counted struct {
	grpc.ServerStream
	n *atomic.Int64
}

func (c counted) RecvMsg(m any) error {
	err := c.ServerStream.RecvMsg(m)
	if err == nil {
		c.n.Add(1)
	}
	return err
}

func measure(received int64) map[string]any {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	rss := 0
	if b, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
				rss, _ = strconv.Atoi(f[1])
			}
		}
	}
	return map[string]any{
		"cpuMicros": (u.Utime.Nano() + u.Stime.Nano()) / 1000, "rssKiB": rss, "heapKiB": m.HeapAlloc / 1024,
		"goroutines": runtime.NumGoroutine(), "received": received,
	}
}

// res is one generated resource.
type res struct {
	typ  snapshot.Type
	name string
	edit int
}

type generated struct {
	list []res
}

func generate(clusters int) *generated {
	g := new(generated)
	for i := range clusters {
		name := fmt.Sprintf("outbound|8080||service-%04d.shop.svc.clusterset.local", i)
		g.list = append(g.list, res{snapshot.Cluster, name, 0}, res{snapshot.Endpoint, name, 0})
	}
	g.list = append(g.list, res{snapshot.Listener, "inbound", 0}, res{snapshot.Listener, "outbound", 0})
	for i := range 4 {
		g.list = append(g.list, res{snapshot.Route, "routes-" + strconv.Itoa(i), 0})
	}
	return g
}

// edit changes the first resource of a type and returns its place.
func (g *generated) edit(typ string) (int, error) {
	for i := range g.list {
		if g.list[i].typ.String() == typ {
			g.list[i].edit++
			return i, nil
		}
	}
	return 0, fmt.Errorf("nothing of type %q", typ)
}

func (r res) message() proto.Message {
	switch r.typ {
	case snapshot.Cluster:
		return &clusterv3.Cluster{
			Name: r.name, AltStatName: strings.Repeat("s", 300),
			ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: &corev3.ConfigSource{
				ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
			}},
			ConnectTimeout: durationpb.New(250e6), PerConnectionBufferLimitBytes: wrapperspb.UInt32(uint32(1<<20 + r.edit)),
			OutlierDetection: &clusterv3.OutlierDetection{Consecutive_5Xx: wrapperspb.UInt32(5), Interval: durationpb.New(250e6)},
		}
	case snapshot.Endpoint:
		cla := &endpointv3.ClusterLoadAssignment{ClusterName: r.name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			Locality: &corev3.Locality{Region: "aws/us-east-1", Zone: "a"},
		}}}
		for i := range 4 {
			cla.Endpoints[0].LbEndpoints = append(cla.Endpoints[0].LbEndpoints, &endpointv3.LbEndpoint{
				LoadBalancingWeight: wrapperspb.UInt32(uint32(1 + r.edit)),
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
					Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
						Address: "10.1.2." + strconv.Itoa(i), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 8080},
					}},
				}}},
			})
		}
		return cla
	case snapshot.Listener:
		return &listenerv3.Listener{Name: r.name, StatPrefix: strings.Repeat("l", 1300) + strconv.Itoa(r.edit)}
	default:
		rc := &routev3.RouteConfiguration{Name: r.name, InternalOnlyHeaders: []string{strconv.Itoa(r.edit)}}
		for i := range 10 {
			rc.VirtualHosts = append(rc.VirtualHosts, &routev3.VirtualHost{
				Name: "host-" + strconv.Itoa(i), Domains: []string{strings.Repeat("d", 200) + strconv.Itoa(i)},
			})
		}
		return rc
	}
}

// comity is the zone's server.
type comity struct {
	srv   *ads.Server
	world *generated
	rev   mesh.Revision
}

func newComity(ctx context.Context, world *generated) (*comity, error) {
	const view = "view"
	var srv *ads.Server
	srv, err := ads.NewServer(ads.Config{
		Authorize: func(_ context.Context, _ []*x509.Certificate, node string) (mesh.ProxyID, error) {
			return mesh.ParseProxyID(node)
		},
		Observer: ads.Observer{
			OnAck:     func(mesh.ProxyID, snapshot.ViewKey, mesh.Revision) {},
			OnConnect: func(p ads.Proxy) { srv.Assign(p.ID, view) },
		},
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		return nil, err
	}
	c := &comity{srv: srv, world: world}
	go srv.Run(ctx)
	return c, c.change(nil)
}

func (c *comity) register(g *grpc.Server) { c.srv.Register(g) }

func (c *comity) change([]res) error {
	c.rev++
	list := make([]envoy.Resource, 0, len(c.world.list))
	for _, r := range c.world.list {
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(r.message())
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		list = append(list, envoy.Resource{Type: r.typ.URL(), Name: r.name, Version: hex.EncodeToString(sum[:16]), Body: body})
	}
	return c.srv.Publish("view", c.rev, list)
}

// linear is go-control-plane's server.
type linear struct {
	srv    xds.Server
	caches map[string]*cache.LinearCache
}

func newLinear(ctx context.Context, world *generated) *linear {
	l := &linear{caches: make(map[string]*cache.LinearCache)}
	mux := &cache.MuxCache{
		Classify:      func(r *cache.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() },
		Caches:        make(map[string]cache.Cache),
	}
	for _, t := range snapshot.Types() {
		initial := make(map[string]types.Resource)
		for _, r := range world.list {
			if r.typ == t {
				initial[r.name] = r.message()
			}
		}
		c := cache.NewLinearCache(t.URL(), cache.WithInitialResources(initial))
		l.caches[t.URL()], mux.Caches[t.URL()] = c, c
	}
	l.srv = xds.NewServer(ctx, mux, nil)
	return l
}

func (l *linear) register(g *grpc.Server) {
	discovery.RegisterAggregatedDiscoveryServiceServer(g, l.srv)
}

func (l *linear) change(edited []res) error {
	for _, r := range edited {
		if err := l.caches[r.typ.URL()].UpdateResource(r.name, r.message()); err != nil {
			return err
		}
	}
	return nil
}
