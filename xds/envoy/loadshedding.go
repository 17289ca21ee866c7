package envoy

import (
	adaptivev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/adaptive_concurrency/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/xds/ir"
)

const maxConcurrency = 100_000

// loadShedding knows the latency that it should keep to. Left to find it out, Envoy would refuse nearly everything for a moment in
// every minute.
func loadShedding(l ir.LoadShedding) proto.Message {
	return &adaptivev3.AdaptiveConcurrency{
		// Not 503, which callers' sidecars try again elsewhere: of a service that is overloaded as a whole that would be more load.
		ConcurrencyLimitExceededStatus: &typev3.HttpStatus{Code: typev3.StatusCode_TooManyRequests},
		ConcurrencyControllerConfig: &adaptivev3.AdaptiveConcurrency_GradientControllerConfig{GradientControllerConfig: &adaptivev3.GradientControllerConfig{
			SampleAggregatePercentile: percent(50),
			ConcurrencyLimitParams: &adaptivev3.GradientControllerConfig_ConcurrencyLimitCalculationParams{
				MinConcurrencyLimit: u32(l.Always), MaxConcurrencyLimit: u32(maxConcurrency), ConcurrencyUpdateInterval: millis(100),
			},
			MinRttCalcParams: &adaptivev3.GradientControllerConfig_MinimumRTTCalculationParams{
				FixedValue: duration(l.Latency), MinConcurrency: u32(l.Always), Buffer: percent(0),
			},
		}},
	}
}

// shedReply says to who is refused that it was too much at once.
func (b *messages) shedReply() *hcmv3.ResponseMapper {
	return b.replyTo(problem{
		details: []string{"reached_concurrency_limit"},
		code:    "OVERLOADED", title: "The server takes longer than it should and sheds load", detail: "%RESPONSE_CODE_DETAILS%",
		try: "Send less, or later. Requests with the header comity-criticality: low are shed first; the bound is loadShedding in a TrafficPolicy of the service",
	})
}
