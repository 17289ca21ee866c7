package ads

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/xds/snapshot"
)

type metrics struct {
	connections prometheus.Gauge
	opened      prometheus.Counter
	refused     *prometheus.CounterVec // by reason
	responses   [len(typeNames)]prometheus.Counter
	bytes       prometheus.Counter
	nacks       [len(typeNames)]prometheus.Counter
	acks        prometheus.Counter
	settle      prometheus.Histogram
}

var typeNames = [6]snapshot.Type{
	snapshot.Secret, snapshot.Cluster, snapshot.Endpoint, snapshot.Listener, snapshot.Route, snapshot.Extension,
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	responses := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "comity_xds_responses_total", Help: "Responses sent to proxies, by resource type.",
	}, []string{"type"})
	nacks := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "comity_xds_nacks_total", Help: "Responses that proxies refused, by resource type.",
	}, []string{"type"})
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "comity_xds_connections", Help: "Proxies with an open stream.",
		}),
		opened: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "comity_xds_connections_opened_total", Help: "Streams that were authorised.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "comity_xds_streams_closed_total", Help: "Streams that the server closed or refused, by reason.",
		}, []string{"reason"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "comity_xds_sent_bytes_total", Help: "Bytes of responses sent to proxies.",
		}),
		acks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "comity_xds_acks_total", Help: "Generations that proxies acknowledged in full.",
		}),
		settle: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "comity_xds_publish_to_ack_seconds", Help: "From publication of a generation to its acknowledgement in full, per connected proxy.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 10),
		}),
	}
	for i, t := range typeNames {
		m.responses[i] = responses.WithLabelValues(t.String())
		m.nacks[i] = nacks.WithLabelValues(t.String())
	}
	for _, c := range []prometheus.Collector{m.connections, m.opened, m.refused, responses, m.bytes, nacks, m.acks, m.settle} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
