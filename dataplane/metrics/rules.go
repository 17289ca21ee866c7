package metrics

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/internal/signals"
)

// ruleSeries is a rule, `<namespace>/<route>/<rule>`, and a class of answers, if they are told apart.
type ruleSeries struct{ rule, class string }

// ruleLabels are those of a rule, as Envoy calls it; ok is false for a name that is no rule's.
func ruleLabels(rule string) (names, values []string, ok bool) {
	values = strings.Split(strings.TrimPrefix(rule, signals.TimedRules), "/")
	return []string{signals.RouteNamespace, signals.Route, signals.Rule}, values, len(values) == 3
}

// ruleDurations are the histograms of the rules whose durations a policy wants.
func ruleDurations(of families) *dto.MetricFamily {
	sums := map[string]*dto.Histogram{}
	eachOf(of, "envoy_vhost_route_upstream_rq_time", func(l labelled, m *dto.Metric) {
		if sums[l[labelRule]] == nil {
			sums[l[labelRule]] = &dto.Histogram{}
		}
		addMillis(sums[l[labelRule]], m.GetHistogram())
	})
	f := &dto.MetricFamily{
		Name: proto.String(signals.RuleDuration), Help: proto.String("Seconds of the answers of backends to the requests of a named rule."), Type: dto.MetricType_HISTOGRAM.Enum(),
	}
	for _, rule := range slices.Sorted(maps.Keys(sums)) {
		if names, values, ok := ruleLabels(rule); ok {
			f.Metric = append(f.Metric, &dto.Metric{Label: labelPairs(names, values), Histogram: sums[rule]})
		}
	}
	return f
}

// rules are the metrics of the rules that the zone's configuration counts. A rule may be of several hosts.
func rules(of families) []*dto.MetricFamily {
	var out []*dto.MetricFamily
	for _, t := range []struct{ name, help, envoy string }{
		{signals.RuleRequests, "Answers of backends to the requests of a named rule.", "envoy_vhost_route_upstream_rq_xx"},
		{signals.RuleRetries, "Attempts after the first, of the requests of a named rule.", "envoy_vhost_route_upstream_rq_retry"},
	} {
		sums := map[ruleSeries]float64{}
		eachOf(of, t.envoy, func(l labelled, m *dto.Metric) {
			sums[ruleSeries{strings.TrimPrefix(l[labelRule], signals.TimedRules), l[labelClass]}] += m.GetCounter().GetValue()
		})
		f := &dto.MetricFamily{Name: proto.String(t.name), Help: proto.String(t.help), Type: dto.MetricType_COUNTER.Enum()}
		for _, s := range slices.SortedFunc(maps.Keys(sums), func(a, b ruleSeries) int {
			return cmp.Or(cmp.Compare(a.rule, b.rule), cmp.Compare(a.class, b.class))
		}) {
			names, values, ok := ruleLabels(s.rule)
			if !ok {
				continue
			}
			if s.class != "" {
				names, values = append(names, signals.CodeClass), append(values, s.class+"xx")
			}
			f.Metric = append(f.Metric, &dto.Metric{Label: labelPairs(names, values), Counter: &dto.Counter{Value: proto.Float64(sums[s])}})
		}
		if len(f.Metric) > 0 {
			out = append(out, f)
		}
	}
	if f := ruleDurations(of); len(f.Metric) > 0 {
		out = append(out, f)
	}
	return out
}
