package peer

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
)

type metrics struct {
	refused *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, p *Peers) (*metrics, error) {
	m := &metrics{refused: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "comity_agent_peer_refused_total",
		Help: "Connections and sessions of peers refused or ended, by reason: handshake (not who it should be, or too slow), limit (too many of its zone), flood.",
	}, []string{"reason"})}
	for _, c := range []prometheus.Collector{m.refused, ways{p}} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of peers: %w", err)
		}
	}
	return m, nil
}

// ways collects the state of every link when it is asked for.
type ways struct{ *Peers }

func description(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("comity_agent_peer_"+name, help, labels, nil)
}

func (w ways) descriptions() (reachable, rtt, sessions *prometheus.Desc) {
	return description("reachable", "1 while the ingress of the other zone answers, 0 while it can't be reached.", "zone", "ingress"),
		description("rtt_seconds", "Smoothed round-trip time to the ingress of the other zone.", "zone", "ingress"),
		description("sessions", "Sessions that ingresses of other zones have opened here.")
}

// Describe implements prometheus.Collector.
func (w ways) Describe(out chan<- *prometheus.Desc) {
	a, b, c := w.descriptions()
	out <- a
	out <- b
	out <- c
}

// Collect implements prometheus.Collector.
func (w ways) Collect(out chan<- prometheus.Metric) {
	reachable, rtt, sessions := w.descriptions()
	list := w.Links()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, l := range list.GetLinks() {
		if s := l.GetState(); s != enrolpb.PeerLink_UNKNOWN {
			up := 0.0
			if s == enrolpb.PeerLink_REACHABLE {
				up = 1
			}
			gauge(reachable, up, l.GetZone(), l.GetIngress())
		}
		if us := l.GetRttUs(); us > 0 {
			gauge(rtt, float64(us)/1e6, l.GetZone(), l.GetIngress())
		}
	}
	gauge(sessions, float64(len(list.GetSessions())))
}
