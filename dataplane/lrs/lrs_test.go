package lrs

import (
	"net"
	"slices"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	loadstatsv3 "github.com/envoyproxy/go-control-plane/envoy/service/load_stats/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// request is what Envoy sends: its node, every cluster, and counts by locality and priority.
func request(requests uint64) *loadstatsv3.LoadStatsRequest {
	west := &corev3.Locality{Region: "a-r1", SubZone: "west"}
	pay := &endpointv3.ClusterStats{ClusterName: "pay.shop:80", LoadReportInterval: durationpb.New(2 * time.Second)}
	if requests > 0 {
		pay.UpstreamLocalityStats = []*endpointv3.UpstreamLocalityStats{
			{Locality: west, TotalIssuedRequests: requests, TotalSuccessfulRequests: requests - 1, TotalErrorRequests: 1},
			{Locality: west, Priority: 1, TotalIssuedRequests: 1, TotalRequestsInProgress: 2},
			{Locality: &corev3.Locality{SubZone: "north"}, TotalErrorRequests: 4},
			{Locality: &corev3.Locality{}, TotalIssuedRequests: 9}, // no zone of a mesh
		}
	}
	return &loadstatsv3.LoadStatsRequest{
		Node:         &corev3.Node{Id: "sidecar~shop~web", Extensions: []*corev3.Extension{{Name: "envoy.filters.http.router"}}},
		ClusterStats: []*endpointv3.ClusterStats{{ClusterName: "app:80", LoadReportInterval: durationpb.New(time.Second)}, pay},
	}
}

func TestReports(t *testing.T) {
	reports := make(chan Report, 1)
	g := grpc.NewServer(ServerOptions()...)
	NewServer(func(r Report) { reports <- r }).Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(l) }() // ends with Stop
	t.Cleanup(g.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	envoy, err := loadstatsv3.NewLoadReportingServiceClient(conn).StreamLoadStats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(r *loadstatsv3.LoadStatsRequest) {
		t.Helper()
		if err := envoy.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	told := func(want time.Duration) {
		t.Helper()
		r, err := envoy.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if !r.GetSendAllClusters() || r.GetLoadReportingInterval().AsDuration() != want {
			t.Errorf("told %v, want %s", r, want)
		}
	}
	send(&loadstatsv3.LoadStatsRequest{Node: &corev3.Node{Id: "x"}})
	told(Interval)
	send(request(10))
	got := <-reports
	want := []Load{{Cluster: "pay.shop:80", Zone: "west", Requests: 11, Failures: 1, Active: 2}, {Cluster: "pay.shop:80", Zone: "north", Failures: 4}}
	if got.Window != 2*time.Second || !slices.Equal(got.Loads, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for range idleAfter {
		send(request(0))
		if r := <-reports; len(r.Loads) > 0 {
			t.Errorf("got %+v of nothing", r)
		}
	}
	told(IdleInterval)
	send(request(1))
	<-reports
	told(Interval)
}

func FuzzReport(f *testing.F) {
	raw, err := proto.Marshal(request(3))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte{0x12, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		var ours Report
		var theirs loadstatsv3.LoadStatsRequest
		// What protobuf reads, this reads too; it cares less about the node.
		if proto.Unmarshal(b, &theirs) == nil && ours.unmarshal(b) != nil {
			t.Errorf("refused: %v", &theirs)
		}
	})
}
