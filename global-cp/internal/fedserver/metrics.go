package fedserver

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	sessions          *prometheus.GaugeVec
	sent              *prometheus.CounterVec
	received          *prometheus.CounterVec
	refusedHandshakes prometheus.Counter
	refused           *prometheus.CounterVec
	nacks             *prometheus.CounterVec
	statements        *prometheus.CounterVec
	refusedStatuses   *prometheus.CounterVec
	joins             *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		sessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "comity_federation_session", Help: "1 while the zone is connected.",
		}, []string{"zone"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "comity_federation_sent_bytes_total", Help: "Bytes of frames sent to the zone, by kind of frame.",
		}, []string{"zone", "frame"}),
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "comity_federation_received_bytes_total", Help: "Bytes of frames received from the zone, by kind of frame.",
		}, []string{"zone", "frame"}),
		refusedHandshakes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "comity_federation_refused_connections_total", Help: "Connections that were no TLS, or were not let in.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "comity_federation_refused_calls_total", Help: "Calls refused, by method and reason.",
		}, []string{"method", "reason"}),
		nacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "comity_federation_nacks_total", Help: "Resources that the zone did not take, by code.",
		}, []string{"zone", "code"}),
		statements: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "comity_federation_statements_total", Help: "Statements of the zone, by kind and outcome (kept, refused).",
		}, []string{"zone", "kind", "outcome"}),
		refusedStatuses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "comity_federation_refused_statuses_total", Help: "Statuses of the zone that were not kept, by bucket: not well-formed, out of bounds, or too many.",
		}, []string{"zone", "bucket"}),
		joins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "comity_federation_joins_total", Help: "Joins, by outcome (joined, resumed, refused).",
		}, []string{"outcome"}),
	}
	r.MustRegister(m.sessions, m.sent, m.received, m.refusedHandshakes, m.refused, m.nacks, m.statements, m.refusedStatuses, m.joins)
	return m
}

// forget drops the series of a removed zone.
func (m *metrics) forget(zone string) {
	l := prometheus.Labels{"zone": zone}
	for _, v := range []interface {
		DeletePartialMatch(prometheus.Labels) int
	}{m.sessions, m.sent, m.received, m.nacks, m.statements, m.refusedStatuses} {
		v.DeletePartialMatch(l)
	}
}
