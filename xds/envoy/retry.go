package envoy

import (
	"slices"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	previousprioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"

	"github.com/comity-mesh/comity/xds/ir"
)

// retry goes to another endpoint each time, and away from a priority that failed, unless told otherwise: against the
// same endpoints alone every retry of a failover is lost.
func (b *messages) retry(r *ir.Retry) *routev3.RetryPolicy {
	if r == nil {
		return nil
	}
	m := &routev3.RetryPolicy{
		NumRetries:    u32(r.Attempts),
		RetryBackOff:  &routev3.RetryPolicy_RetryBackOff{BaseInterval: duration(r.BackOff), MaxInterval: duration(r.MaxBackOff)},
		PerTryTimeout: duration(r.PerTry),
	}
	if r.OtherHost {
		m.RetryHostPredicate = []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: b.any(&previoushostsv3.PreviousHostsPredicate{})},
		}}
		m.HostSelectionRetryMaxAttempts = 5
	}
	if r.OtherZoneAfter > 0 {
		m.RetryPriority = &routev3.RetryPolicy_RetryPriority{
			Name: "envoy.retry_priorities.previous_priorities",
			ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{
				TypedConfig: b.any(&previousprioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: int32(min(r.OtherZoneAfter, 1000))}),
			},
		}
	}
	var on []string
	for _, reason := range r.On {
		status, err := strconv.ParseUint(string(reason), 10, 16)
		switch {
		case err == nil:
			m.RetriableStatusCodes = append(m.RetriableStatusCodes, uint32(status))
		case reason == ir.RetryNoAnswer:
			on = append(on, string(ir.RetryReset), "retriable-headers")
			m.RetriableHeaders = []*routev3.HeaderMatcher{{Name: noAnswerHeader, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}}
		default:
			on = append(on, string(reason))
		}
	}
	if len(m.RetriableStatusCodes) > 0 {
		on = append(on, "retriable-status-codes")
	}
	slices.Sort(on)
	m.RetryOn = strings.Join(on, ",")
	return m
}
