package envoy

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/comity-mesh/comity/xds/ir"
)

// messages wraps messages in Anys and keeps the first error, so that what builds them reads in one go. It
// notes which rules of their own the wrapped messages break: a message's validation does not look into Anys.
type messages struct {
	err     error
	invalid []error
}

func (b *messages) any(m proto.Message) *anypb.Any {
	a := &anypb.Any{}
	b.validate(m)
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil && b.err == nil {
		b.err = err
	}
	return a
}

func (b *messages) validate(m proto.Message) {
	if err := ownRules(m); err != nil {
		b.invalid = append(b.invalid, err)
	}
}

func (b *messages) extension(name string, m proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: b.any(m)}
}

func address(host string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

// fromADS is where everything comes from but the proxy's own certificate.
func fromADS() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

// fromAgent is the agent's SDS on the same machine: the zone never sees a key.
func fromAgent() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType: corev3.ApiConfigSource_DELTA_GRPC, TransportApiVersion: corev3.ApiVersion_V3,
			SetNodeOnFirstMessageOnly: true,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
					ClusterName: LocalSDSCluster,
					// By default the gaps grow to 25 s, in which a renewed certificate does not arrive.
					RetryPolicy: &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{BaseInterval: millis(50), MaxInterval: millis(200)}},
				},
			}}},
		}},
		ResourceApiVersion: corev3.ApiVersion_V3,
	}
}

func duration(m ir.Millis) *durationpb.Duration {
	if m == 0 {
		return nil
	}
	return durationpb.New(time.Duration(m) * time.Millisecond)
}

func millis(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }

func seconds(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }

func u32(n uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(n) }

// someU32 is nil for 0, which stands for no bound.
func someU32(n uint32) *wrapperspb.UInt32Value {
	if n == 0 {
		return nil
	}
	return u32(n)
}

func yes() *wrapperspb.BoolValue { return wrapperspb.Bool(true) }

func no() *wrapperspb.BoolValue { return wrapperspb.Bool(false) }

func percent(p float64) *typev3.Percent { return &typev3.Percent{Value: p} }
