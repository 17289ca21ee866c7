package dataplane

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"

	"github.com/comity-mesh/comity/internal/telemetry"
)

// agentMetrics are the agent's own; their names begin with comity_agent_.
type agentMetrics struct {
	certExpires, attached, healthy prometheus.Gauge
	renewals                       *prometheus.CounterVec
	unserved                       prometheus.Counter
}

func newAgentMetrics(reg prometheus.Registerer, state func() envoyState) (*agentMetrics, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "comity_agent_" + name, Help: help})
	}
	m := &agentMetrics{
		certExpires: gauge("certificate_expiry_timestamp_seconds", "When the proxy's certificate expires."),
		attached:    gauge("zone_attached", "1 while the proxy holds its lease at the zone."),
		healthy:     gauge("application_healthy", "1 while the application answers its health check, or has none."),
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "comity_agent_certificate_renewals_total", Help: "Certificate renewals by result: ok, failed."}, []string{"result"}),
		unserved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "comity_agent_http_connections_unserved_total", Help: "Connections to the agent's HTTP port that ended without a valid request."}),
	}
	ready := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "comity_agent_envoy_ready", Help: "1 while Envoy has its configuration and serves."},
		func() float64 {
			if state().Ready {
				return 1
			}
			return 0
		})
	starts := prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "comity_agent_envoy_starts_total", Help: "How often Envoy was started."},
		func() float64 { return float64(state().Starts) })
	for _, c := range []prometheus.Collector{m.certExpires, m.attached, m.healthy, m.renewals, m.unserved, ready, starts} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return m, nil
}

// observe serves /healthz, /readyz and /metrics.
func observe(scrape http.Handler, health *telemetry.Health, reg *prometheus.Registry, m *agentMetrics) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("/", telemetry.Handler(health, reg))
	mux.Handle("GET /metrics", scrape)
	s := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 3 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 15 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 8 << 10,
	}
	telemetry.CountUnserved(s, m.unserved)
	return s
}

const maxHTTPConnections = 64

// listenHTTP opens the agent's HTTP port on host, bounded in connections.
func listenHTTP(ctx context.Context, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return netutil.LimitListener(l, maxHTTPConnections), nil
}
