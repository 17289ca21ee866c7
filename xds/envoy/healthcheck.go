package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/comity-mesh/comity/xds/ir"
)

// healthChecks spread over the interval, so that proxies that start together don't ask together.
func healthChecks(c ir.Cluster) []*corev3.HealthCheck {
	h := c.HealthCheck
	if h == nil {
		return nil
	}
	m := &corev3.HealthCheck{
		Timeout: duration(h.Timeout), Interval: duration(h.Interval), IntervalJitterPercent: 20,
		NoTrafficInterval: duration(h.IdleInterval), NoTrafficHealthyInterval: duration(h.IdleInterval),
		UnhealthyThreshold: u32(h.Unhealthy), HealthyThreshold: u32(h.Healthy),
	}
	switch {
	case h.HTTP != "":
		check := &corev3.HealthCheck_HttpHealthCheck{Path: h.HTTP, Host: h.Host, ExpectedStatuses: []*typev3.Int64Range{{Start: 200, End: 400}}} // the end is not in it
		if c.Protocol == ir.HTTP2 {
			check.CodecClientType = typev3.CodecClientType_HTTP2
		}
		m.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: check}
	case h.GRPC != nil:
		m.HealthChecker = &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{ServiceName: h.GRPC.Service, Authority: h.Host}}
	case h.TCP:
		m.HealthChecker = &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}}
	}
	return []*corev3.HealthCheck{m}
}
