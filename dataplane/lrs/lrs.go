// Package lrs takes the load reports of the Envoy of this machine: how many requests it sent to which
// zone. It speaks the load reporting service of xDS v3 on the agent's own socket.
//
// Envoy can report only on a timer, busy or not, and puts its whole node into every report: 61 KB each time. So its
// reports end here, and the agent tells the zone what is left of them, which is nothing while nothing is sent.
package lrs

import (
	"errors"
	"fmt"
	"io"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadstatsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Interval is how often Envoy reports while it sends anything, and IdleInterval how often after
// some reports of nothing: a report costs the two of them some 1.5 ms of CPU.
const (
	Interval     = 2 * time.Second
	IdleInterval = 10 * time.Second
	idleAfter    = 5
)

// Load is what Envoy sent to the endpoints of one zone in one cluster. Endpoints without a zone, as the
// application beside a sidecar, are none of it.
type Load struct {
	Cluster string
	Zone    string
	// Requests were begun with an endpoint; of TCP they are connections.
	Requests uint64
	// Failures had a 5xx or no answer, or found no connection; only the former are among Requests. Envoy doesn't
	// count them for TCP.
	Failures uint64
	Active   uint64 // at the end of the window
}

// Report is one report of Envoy, without clusters that nothing was sent to.
type Report struct {
	Window time.Duration
	Loads  []Load
}

// Server gives the reports to a function, one after the other.
type Server struct {
	loadstatsv3.UnimplementedLoadReportingServiceServer
	take func(Report)
}

// NewServer makes a server whose reports go to take.
func NewServer(take func(Report)) *Server { return &Server{take: take} }

// Register adds the service to a gRPC server, which must have been made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	loadstatsv3.RegisterLoadReportingServiceServer(r, s)
}

// ServerOptions has the codec that reads reports without their node; other services are not affected by it.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(grpcproto.Name)})}
}

// StreamLoadStats serves one Envoy. The counts begin with the stream, and of a cluster with the first report
// after it came.
func (s *Server) StreamLoadStats(g loadstatsv3.LoadReportingService_StreamLoadStatsServer) error {
	// The first request only says who asks, and on this socket that is known.
	if err := g.RecvMsg(new(Report)); err != nil {
		return ended(err)
	}
	for interval, silent := time.Duration(0), 0; ; {
		wanted := Interval
		if silent >= idleAfter {
			wanted = IdleInterval
		}
		if wanted != interval { // what is counted already stays
			interval = wanted
			if err := g.Send(&loadstatsv3.LoadStatsResponse{SendAllClusters: true, LoadReportingInterval: durationpb.New(interval)}); err != nil {
				return err
			}
		}
		var r Report
		if err := g.RecvMsg(&r); err != nil {
			return ended(err)
		}
		if silent++; len(r.Loads) > 0 {
			silent = 0
		}
		s.take(r)
	}
}

func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// codec reads into a Report and leaves everything else to protobuf.
type codec struct{ encoding.CodecV2 }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*Report)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return r.unmarshal(buf.ReadOnlyData())
}

// unmarshal reads an envoy.service.load_stats.v3.LoadStatsRequest.
func (r *Report) unmarshal(b []byte) error {
	const clusterStats = 2
	for len(b) > 0 {
		field, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("load report: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if field != clusterStats || typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(field, typ, b); n < 0 {
				return fmt.Errorf("load report: %w", protowire.ParseError(n))
			}
			b = b[n:]
			continue
		}
		body, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return fmt.Errorf("load report: %w", protowire.ParseError(n))
		}
		b = b[n:]
		var c endpointv3.ClusterStats
		if err := proto.Unmarshal(body, &c); err != nil {
			return fmt.Errorf("load report: %w", err)
		}
		r.add(&c)
	}
	return nil
}

// add sums up a cluster by zone, which is the sub-zone of an endpoint's locality.
func (r *Report) add(c *endpointv3.ClusterStats) {
	r.Window = max(r.Window, c.GetLoadReportInterval().AsDuration())
	first := len(r.Loads)
	for _, l := range c.GetUpstreamLocalityStats() {
		zone := l.GetLocality().GetSubZone()
		if zone == "" {
			continue
		}
		i := first
		for i < len(r.Loads) && r.Loads[i].Zone != zone {
			i++
		}
		if i == len(r.Loads) {
			r.Loads = append(r.Loads, Load{Cluster: c.GetClusterName(), Zone: zone})
		}
		r.Loads[i].Requests += l.GetTotalIssuedRequests()
		r.Loads[i].Failures += l.GetTotalErrorRequests()
		r.Loads[i].Active += l.GetTotalRequestsInProgress()
	}
}
