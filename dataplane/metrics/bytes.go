package metrics

import (
	"cmp"
	"maps"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"github.com/comity-mesh/comity/internal/signals"
)

// stream carries connections of TCP: a cluster, or a chain.
type stream struct {
	name      string
	direction string // of bytes; empty for connections
}

func streamOf(l labelled) stream {
	return stream{name: sanitized(cmp.Or(l[signals.TagChain], l[signals.TagCluster]))}
}

// sanitized is a name as it is in the names of Envoy's own counters.
func sanitized(name string) string { return strings.ReplaceAll(name, ":", "_") }

// division says whose the bytes of a stream were. Envoy counts bytes live for the whole stream alone, so what came since the last look is
// divided by the connections of each pair: exact where one pair has them all, which is all but the time of a failover.
type division struct {
	total uint64
	of    map[pair]uint64
	begun map[pair]float64
}

func (r *reading) bytes() {
	sources := []struct{ metric, label, direction string }{
		{"envoy_cluster_upstream_cx_tx_bytes_total", labelCluster, signals.Sent},
		{"envoy_cluster_upstream_cx_rx_bytes_total", labelCluster, signals.Received},
		{"envoy_tcp_downstream_cx_rx_bytes_total", labelTCP, signals.Sent},
		{"envoy_tcp_downstream_cx_tx_bytes_total", labelTCP, signals.Received},
	}
	alive := map[stream]bool{}
	for _, s := range sources {
		r.each(s.metric, func(l labelled, m *dto.Metric) {
			at := stream{name: l[s.label]}
			begun, open := r.begun[at], r.open[at]
			if len(begun) == 0 {
				return // it carries requests, or nothing yet
			}
			at.direction = s.direction
			alive[at] = true
			for p, n := range r.t.division(at).take(uint64(m.GetCounter().GetValue()), begun, open) {
				r.add(signals.TCPBytes, p, s.direction, float64(n), signals.Direction)
			}
		})
	}
	maps.DeleteFunc(r.t.divided, func(s stream, _ *division) bool { return !alive[s] })
}

func (t *Traffic) division(s stream) *division {
	d := t.divided[s]
	if d == nil {
		d = &division{of: map[pair]uint64{}}
		t.divided[s] = d
	}
	return d
}

// take divides what is new of a total, and returns the whole of each pair. Connections that are open or began since the last look
// share it.
func (d *division) take(total uint64, begun, open map[pair]float64) map[pair]uint64 {
	if total < d.total { // Envoy began anew
		d.total, d.begun = 0, nil
		clear(d.of)
	}
	weights := map[pair]float64{}
	var sum float64
	for p, n := range begun {
		// One that both began and is open counts twice, which is nothing where it is alone.
		w := max(n-d.begun[p], 0) + open[p]
		weights[p] = w
		sum += w
	}
	if sum == 0 { // the last bytes of what has ended
		weights = begun
		for _, n := range begun {
			sum += n
		}
	}
	if sum == 0 {
		return d.of // nobody yet; whoever comes has them
	}
	rest := total - d.total
	var most pair
	for p, w := range weights {
		share := min(uint64(float64(total-d.total)*w/sum), rest)
		d.of[p] += share
		rest -= share
		if w > weights[most] {
			most = p
		}
	}
	d.of[most] += rest // what rounding left
	d.total, d.begun = total, maps.Clone(begun)
	return d.of
}

func count(in map[stream]map[pair]float64, s stream, p pair, n float64) {
	if in[s] == nil {
		in[s] = map[pair]float64{}
	}
	in[s][p] += n
}
