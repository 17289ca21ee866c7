package translate

import (
	"cmp"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// ejectOutliers narrows what MeshConfig says of endpoints that fail.
func ejectOutliers(c *ir.Cluster, o *policy.Outlier, mesh policy.OutlierSettings) {
	if o == nil || c.Detection == nil {
		return
	}
	s := mesh.Narrow(o.OutlierDetection)
	d := *c.Detection
	d.LocalFailures, d.GatewayFailures, d.MaxEjectionPercent = s.LocalFailures, s.GatewayFailures, s.MaxEjectionPercent
	d.Interval, d.Ejection = millis(s.Interval), millis(s.Ejection)
	switch o.Answers {
	case policy.CountGatewayErrors:
		d.Answers = ir.GatewayErrors
	case policy.CountServerErrors:
		d.Answers = ir.ServerErrors
	case policy.CountNoAnswer:
	}
	if f := o.FailurePercentage; f != nil {
		d.FailurePercent = f.Threshold
		d.FailureRequests, d.FailureEndpoints = f.Bounds()
	}
	c.Detection = &d
}

// checkEndpoints checks those of a port that understands the check.
func checkEndpoints(c *ir.Cluster, p topology.Port, h *policy.EndpointCheck) {
	if h == nil || !topology.Checkable(p, *h) {
		return
	}
	s := h.Settings()
	c.HealthCheck = &ir.HealthCheck{
		TCP: h.TCP != nil, Interval: millis(s.Interval), IdleInterval: millis(s.IdleInterval), Timeout: millis(s.Timeout),
		Unhealthy: s.Unhealthy, Healthy: s.Healthy,
	}
	if h.HTTP != nil {
		c.HealthCheck.HTTP = cmp.Or(h.HTTP.Path, "/")
	}
	if h.GRPC != nil {
		c.HealthCheck.GRPC = &ir.GRPCCheck{Service: h.GRPC.Service}
	}
}
