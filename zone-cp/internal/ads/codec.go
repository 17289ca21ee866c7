package ads

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"

	"github.com/comity-mesh/comity/internal/handshake"
	"github.com/comity-mesh/comity/xds/snapshot"
)

// maxRequestBytes bounds one request: a node with all its metadata is some 60 KB, 1,000 names with
// their versions about 100 KB.
const maxRequestBytes = 4 << 20

// ServerOptions are the options without which a gRPC server can't carry this package's streams: the codec
// that sends encoded responses as they are, bounds, and keep-alive that finds dead proxies. Other
// services on the same server are not affected by the codec.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(grpcproto.Name)}),
		grpc.MaxRecvMsgSize(maxRequestBytes),
		grpc.MaxConcurrentStreams(100),
		grpc.StaticStreamWindowSize(handshake.Window), grpc.StaticConnWindowSize(handshake.Window),
		grpc.ReadBufferSize(0), // TLS has a whole record in its own
		grpc.ConnectionTimeout(20 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

// codec hands frames through and leaves everything else to protobuf.
type codec struct{ encoding.CodecV2 }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if r, ok := v.(*snapshot.Response); ok {
		return r.Buffers(), nil
	}
	return c.CodecV2.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch r := v.(type) {
	case *snapshot.Request:
		if len(data) == 1 {
			return snapshot.UnmarshalRequest(data[0].ReadOnlyData(), r)
		}
		buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
		defer buf.Free()
		return snapshot.UnmarshalRequest(buf.ReadOnlyData(), r)
	case *snapshot.StateRequest:
		return snapshot.UnmarshalStateRequest(data.Materialize(), r)
	}
	return c.CodecV2.Unmarshal(data, v)
}
