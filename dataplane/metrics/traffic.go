package metrics

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/internal/signals"
)

// families are metrics by name.
type families map[string]*dto.MetricFamily

// Traffic makes the metrics of pairs from what Envoy counts. It remembers what Envoy does not: which pairs it tells apart, and to
// whom bytes went. It is safe for concurrent use.
type Traffic struct {
	names names

	mu sync.Mutex
	// apart are the pairs that were seen: whether they have series of their own, or are among the other ones.
	apart map[pair]bool
	// divided is what is known of the bytes of a cluster or chain.
	divided map[stream]*division
	// nowhere is how many answers of a cluster and class had no endpoint.
	nowhere map[answer]float64
}

// NewTraffic makes one that has seen nothing.
func NewTraffic() *Traffic {
	return &Traffic{names: newNames(), apart: map[pair]bool{}, divided: map[stream]*division{}, nowhere: map[answer]float64{}}
}

// answer is a response class of a cluster.
type answer struct{ cluster, class string }

// reading is one look at Envoy.
type reading struct {
	of   families
	self Self
	t    *Traffic
	seen map[pair]bool
	out  map[string]*collected
	// connections of TCP by what carries them.
	open, begun map[stream]map[pair]float64
}

// collected is a metric under way.
type collected struct {
	labels []string // beside those of the pair
	series map[series]*dto.Metric
}

// words are the values of the labels beside those of the pair, "" where there is none.
type words [2]string

type series struct {
	pair
	words
}

// Read makes the metrics of pairs. again gives a second look at the counters of answers alone, if the first leaves a doubt.
func (t *Traffic) Read(self Self, of families, again func() families) []*dto.MetricFamily {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &reading{
		of: of, self: self, t: t, seen: map[pair]bool{}, out: map[string]*collected{},
		open: map[stream]map[pair]float64{}, begun: map[stream]map[pair]float64{},
	}
	r.asked(again)
	r.served()
	r.methods()
	r.connections()
	r.bytes()
	maps.DeleteFunc(t.apart, func(p pair, _ bool) bool { return !r.seen[p] })
	return r.families()
}

// asked are the requests that this proxy made of others, by the zones of who answered.
func (r *reading) asked(again func() families) {
	r.each(zonedAnswers, func(l labelled, m *dto.Metric) {
		if p, ok := r.t.names.asked(r.self, l[labelCluster], l[labelTo], signals.HTTP); ok {
			r.add(signals.Requests, p, l[labelClass]+"xx", m.GetCounter().GetValue(), signals.CodeClass)
		}
	})
	r.each("envoy_cluster_zone_upstream_rq_time", func(l labelled, m *dto.Metric) {
		if p, ok := r.t.names.asked(r.self, l[labelCluster], l[labelTo], signals.HTTP); ok {
			r.observe(p, m.GetHistogram())
		}
	})
	r.each("envoy_cluster_upstream_rq_time", func(l labelled, m *dto.Metric) {
		if p, ok := r.t.names.asked(r.self, l[labelCluster], "", signals.HTTP); ok {
			r.observe(p, m.GetHistogram())
		}
	})
	for a, n := range r.t.unplaced(r.of, again) {
		if p, ok := r.t.names.asked(r.self, a.cluster, "", signals.HTTP); ok {
			r.add(signals.Requests, p, a.class+"xx", n, signals.CodeClass)
		}
	}
	r.each("envoy_comity_"+signals.NotedAnswers, func(l labelled, m *dto.Metric) {
		if p, ok := r.t.names.asked(r.self, l[signals.TagCluster], l[signals.TagZone], signals.HTTP); ok {
			r.add(signals.Requests, p, class(l[signals.TagCode]), m.GetCounter().GetValue(), signals.CodeClass)
		}
	})
	r.each("envoy_comity_"+signals.NotedErrors, func(l labelled, m *dto.Metric) {
		if p, ok := r.noted(l, signals.HTTP); ok {
			r.add(signals.GRPCErrors, p, l[signals.TagStatus], m.GetCounter().GetValue(), signals.GRPCStatus)
		}
	})
}

const (
	allAnswers   = "envoy_cluster_upstream_rq_xx"
	zonedAnswers = "envoy_cluster_zone_upstream_rq_xx"
)

// unplaced counts answers that Envoy gave because no endpoint did: it counts them for the cluster but for no zone. The two counters are
// not read in one moment, so a difference counts only if a second look finds it too; it never goes down but with its cluster.
func (t *Traffic) unplaced(of families, again func() families) map[answer]float64 {
	now := t.difference(of)
	if slices.ContainsFunc(slices.Collect(maps.Keys(now)), func(a answer) bool { return now[a] > t.nowhere[a] }) {
		later := t.difference(again())
		for a := range now {
			now[a] = min(now[a], later[a])
		}
	}
	totals := map[answer]float64{}
	eachOf(of, allAnswers, func(l labelled, m *dto.Metric) {
		totals[answer{l[labelCluster], l[labelClass]}] = m.GetCounter().GetValue()
	})
	maps.DeleteFunc(t.nowhere, func(a answer, n float64) bool { return totals[a] < n })
	for a, n := range now {
		if n > t.nowhere[a] {
			t.nowhere[a] = n
		}
	}
	return t.nowhere
}

// difference is of services alone: applications and control planes have no zones.
func (t *Traffic) difference(of families) map[answer]float64 {
	out := map[answer]float64{}
	eachOf(of, allAnswers, func(l labelled, m *dto.Metric) {
		if !t.names.cluster.MatchString(l[labelCluster]) {
			return
		}
		out[answer{l[labelCluster], l[labelClass]}] += m.GetCounter().GetValue()
	})
	eachOf(of, zonedAnswers, func(l labelled, m *dto.Metric) {
		if !t.names.cluster.MatchString(l[labelCluster]) {
			return
		}
		out[answer{l[labelCluster], l[labelClass]}] -= m.GetCounter().GetValue()
	})
	return out
}

// served are the requests that others made of what this proxy serves. By chains that tell callers apart, Envoy notes them.
func (r *reading) served() {
	r.each("envoy_http_downstream_rq_xx", func(l labelled, m *dto.Metric) {
		if strings.HasPrefix(l[labelManager], "callers/") {
			return
		}
		if p, ok := r.t.names.served(r.self, l[labelManager], "", signals.HTTP); ok {
			r.add(signals.Requests, p, l[labelClass]+"xx", m.GetCounter().GetValue(), signals.CodeClass)
		}
	})
	r.each("envoy_comity_"+signals.NotedCalls, func(l labelled, m *dto.Metric) {
		if p, ok := r.noted(l, signals.HTTP); ok {
			r.add(signals.Requests, p, class(l[signals.TagCode]), m.GetCounter().GetValue(), signals.CodeClass)
		}
	})
	r.each("envoy_http_downstream_rq_time", func(l labelled, m *dto.Metric) {
		if p, ok := r.t.names.served(r.self, l[labelManager], "", signals.HTTP); ok {
			r.observe(p, m.GetHistogram())
		}
	})
}

// connections are those of TCP.
func (r *reading) connections() {
	r.each("envoy_comity_"+signals.NotedConnections, func(l labelled, m *dto.Metric) {
		if p, ok := r.noted(l, signals.TCP); ok {
			n := m.GetCounter().GetValue()
			r.add(signals.TCPConnections, p, "", n, "")
			count(r.begun, streamOf(l), p, n)
		}
	})
	r.each("envoy_comity_"+signals.NotedOpen, func(l labelled, m *dto.Metric) {
		if p, ok := r.noted(l, signals.TCP); ok {
			n := m.GetGauge().GetValue()
			r.add(signals.TCPOpen, p, "", n, "")
			count(r.open, streamOf(l), p, n)
		}
	})
}

// noted is the pair that the tags of a note name.
func (r *reading) noted(l labelled, protocol string) (pair, bool) {
	if chain := l[signals.TagChain]; chain != "" {
		return r.t.names.served(r.self, chain, l[signals.TagCaller], protocol)
	}
	return r.t.names.asked(r.self, l[signals.TagCluster], l[signals.TagZone], protocol)
}

// class is the response class of a code.
func class(code string) string {
	if len(code) == 3 && code[0] >= '1' && code[0] <= '5' {
		return code[:1] + "xx"
	}
	return signals.None
}

// own is the pair under which p is told.
func (r *reading) own(p pair) pair {
	r.seen[p] = true
	apart, seen := r.t.apart[p]
	if !seen {
		n := 0
		for _, a := range r.t.apart {
			if a {
				n++
			}
		}
		apart = n < signals.MaxPairs
		r.t.apart[p] = apart
	}
	if !apart {
		return p.overflow()
	}
	return p
}

// metric is a series, new or not.
func (r *reading) metric(name string, p pair, beside words, labels ...string) *dto.Metric {
	c := r.out[name]
	if c == nil {
		c = &collected{labels: append(signals.Pair(), labels...), series: map[series]*dto.Metric{}}
		r.out[name] = c
	}
	p = r.own(p)
	m := c.series[series{p, beside}]
	if m == nil {
		m = &dto.Metric{Label: labelPairs(c.labels, append(p.values(), beside[:]...))}
		c.series[series{p, beside}] = m
	}
	return m
}

// add counts; several of Envoy's counters may be one of ours. label names what is told beside the pair, with the value more.
func (r *reading) add(name string, p pair, more string, n float64, label string) {
	var labels []string
	if label != "" {
		labels = []string{label}
	}
	m := r.metric(name, p, words{more}, labels...)
	if name == signals.TCPOpen {
		m.Gauge = &dto.Gauge{Value: proto.Float64(m.GetGauge().GetValue() + n)}
		return
	}
	m.Counter = &dto.Counter{Value: proto.Float64(m.GetCounter().GetValue() + n)}
}

// observe adds a histogram of milliseconds.
func (r *reading) observe(p pair, h *dto.Histogram) {
	m := r.metric(signals.RequestDuration, p, words{})
	if m.Histogram == nil {
		m.Histogram = &dto.Histogram{}
	}
	addMillis(m.Histogram, h)
}

// addMillis adds a histogram of milliseconds to one of seconds, which may be empty.
func addMillis(to, h *dto.Histogram) {
	if to.SampleCount == nil {
		to.SampleCount, to.SampleSum = proto.Uint64(0), proto.Float64(0)
		for _, b := range h.GetBucket() {
			to.Bucket = append(to.Bucket, &dto.Bucket{UpperBound: proto.Float64(b.GetUpperBound() / 1000), CumulativeCount: proto.Uint64(0)})
		}
	}
	*to.SampleCount += h.GetSampleCount()
	*to.SampleSum += h.GetSampleSum() / 1000
	for i, b := range h.GetBucket() {
		if i < len(to.Bucket) { // Envoy's buckets are the same for all
			*to.Bucket[i].CumulativeCount += b.GetCumulativeCount()
		}
	}
}

// families are the metrics in the order of their names, their series in that of their labels.
func (r *reading) families() []*dto.MetricFamily {
	var out []*dto.MetricFamily
	for _, name := range slices.Sorted(maps.Keys(r.out)) {
		f := &dto.MetricFamily{Name: proto.String(name), Help: proto.String(help(name)), Type: dto.MetricType_COUNTER.Enum()}
		switch name {
		case signals.TCPOpen:
			f.Type = dto.MetricType_GAUGE.Enum()
		case signals.RequestDuration:
			f.Type = dto.MetricType_HISTOGRAM.Enum()
		}
		keys := slices.SortedFunc(maps.Keys(r.out[name].series), func(a, b series) int {
			return cmp.Or(slices.Compare(a.values(), b.values()), slices.Compare(a.words[:], b.words[:]))
		})
		for _, k := range keys {
			f.Metric = append(f.Metric, r.out[name].series[k])
		}
		out = append(out, f)
	}
	return out
}

func help(name string) string {
	return map[string]string{
		signals.Requests:        "Requests that were answered, each once however often it was tried.",
		signals.MethodRequests:  "Requests that a server answered, by method.",
		signals.RequestDuration: "Seconds from the whole request to the whole answer, of requests that an endpoint answered.",
		signals.GRPCErrors:      "Answers with a gRPC status other than OK; they are among the requests too.",
		signals.TCPConnections:  "TCP connections that reached an endpoint.",
		signals.TCPOpen:         "TCP connections that are open now.",
		signals.TCPBytes:        "Bytes of TCP connections that were passed on, without TLS.",
	}[name]
}

func labelPairs(names, values []string) []*dto.LabelPair {
	out := make([]*dto.LabelPair, len(names))
	for i, n := range names {
		out[i] = &dto.LabelPair{Name: proto.String(n), Value: proto.String(values[i])}
	}
	slices.SortFunc(out, func(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}

// labelled are a series' labels.
type labelled map[string]string

func (r *reading) each(name string, do func(labelled, *dto.Metric)) { eachOf(r.of, name, do) }

func eachOf(of families, name string, do func(labelled, *dto.Metric)) {
	for _, m := range of[name].GetMetric() {
		l := labelled{}
		for _, p := range m.GetLabel() {
			l[p.GetName()] = p.GetValue()
		}
		do(l, m)
	}
}
