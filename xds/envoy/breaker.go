package envoy

import (
	"cmp"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"github.com/comity-mesh/comity/xds/ir"
)

// circuitBreakers are limits against running out of memory unless a policy says otherwise: Envoy's own (1024, and 3
// retries at a time) fail requests of a healthy service under load and in every failover.
func circuitBreakers(b *ir.Breaker) *clusterv3.CircuitBreakers {
	if b == nil {
		b = &ir.Breaker{}
	}
	const plenty = 65536
	t := &clusterv3.CircuitBreakers_Thresholds{
		MaxConnections: u32(cmp.Or(b.Connections, plenty)), MaxPendingRequests: u32(cmp.Or(b.Pending, plenty)),
		MaxRequests: u32(cmp.Or(b.Requests, plenty)), MaxRetries: u32(cmp.Or(b.Retries, 1000)),
	}
	if b.RetryPercent > 0 {
		t.RetryBudget = &clusterv3.CircuitBreakers_Thresholds_RetryBudget{BudgetPercent: percent(b.RetryPercent), MinRetryConcurrency: u32(b.RetryMinimum)}
	}
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{t}}
}
