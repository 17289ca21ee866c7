package translate

import (
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
)

// boundConnect bounds how long a connection to an endpoint takes to make.
func boundConnect(c *ir.Cluster, t *policy.Timeouts) {
	if _, _, _, connect := orNone(t).Lengths(); connect > 0 {
		c.ConnectTimeout = millis(connect)
	}
}

// breakCircuit bounds what is under way at a time, and how much of that may be retries.
func breakCircuit(c *ir.Cluster, b *policy.CircuitBreaker, retry *policy.Retry) {
	budget := orNone(retry).Budget
	if b == nil && budget == nil {
		return
	}
	limits := orNone(b)
	c.Breaker = &ir.Breaker{
		Connections: orNone(limits.MaxConnections), Pending: orNone(limits.MaxPendingRequests),
		Requests: orNone(limits.MaxRequests), Retries: orNone(limits.MaxRetries),
	}
	if budget != nil {
		c.Breaker.RetryPercent, c.Breaker.RetryMinimum = budget.Bounds()
	}
}

// poolConnections says how long connections are used; those of TCP are their callers'.
func poolConnections(c *ir.Cluster, p *policy.ConnectionPool) {
	if p == nil || c.Protocol == ir.Bytes {
		return
	}
	age, idle := p.Lengths()
	if age > 0 {
		c.MaxAge = millis(age)
	}
	if idle > 0 {
		c.IdleTimeout = millis(idle)
	}
	c.MaxRequests = orNone(p.MaxRequestsPerConnection)
}
