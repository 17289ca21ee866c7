package envoy

import (
	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	bandwidthv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/bandwidth_limit/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/comity-mesh/comity/xds/ir"
)

func (b *messages) fault(f ir.Fault) proto.Message {
	m := &faultv3.HTTPFault{DisableDownstreamClusterStats: true}
	if f.DelayPerMillion > 0 {
		m.Delay = &commonfaultv3.FaultDelay{
			FaultDelaySecifier: &commonfaultv3.FaultDelay_FixedDelay{FixedDelay: duration(f.Delay)}, Percentage: perMillion(f.DelayPerMillion),
		}
	}
	if f.AbortPerMillion > 0 {
		m.Abort = &faultv3.FaultAbort{ErrorType: &faultv3.FaultAbort_HttpStatus{HttpStatus: f.Abort}, Percentage: perMillion(f.AbortPerMillion)}
		if f.AbortGRPC > 0 {
			m.Abort.ErrorType = &faultv3.FaultAbort_GrpcStatus{GrpcStatus: f.AbortGRPC}
		}
	}
	if f.SlowPerMillion > 0 {
		m.ResponseRateLimit = &commonfaultv3.FaultRateLimit{
			LimitType:  &commonfaultv3.FaultRateLimit_FixedLimit_{FixedLimit: &commonfaultv3.FaultRateLimit_FixedLimit{LimitKbps: f.Slow}},
			Percentage: perMillion(f.SlowPerMillion),
		}
	}
	if f.Match != nil {
		m.Headers = b.requestHeaders(*f.Match)
	}
	return m
}

// slowRequests does not say what it did: that would go to the application.
func slowRequests(s ir.SlowRequests) proto.Message {
	return &bandwidthv3.BandwidthLimit{StatPrefix: "slow_requests", EnableMode: bandwidthv3.BandwidthLimit_REQUEST, LimitKbps: wrapperspb.UInt64(s.Rate)}
}

func perMillion(n uint32) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: n, Denominator: typev3.FractionalPercent_MILLION}
}
