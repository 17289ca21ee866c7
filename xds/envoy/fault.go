package envoy

import (
	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

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
	}
	return m
}

func perMillion(n uint32) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: n, Denominator: typev3.FractionalPercent_MILLION}
}
