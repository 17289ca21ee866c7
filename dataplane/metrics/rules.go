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

// rules are the metrics of the rules that the zone's configuration counts. A rule may be of several hosts.
func rules(of families) []*dto.MetricFamily {
	var out []*dto.MetricFamily
	for _, t := range []struct{ name, help, envoy string }{
		{signals.RuleRequests, "Answers of backends to the requests of a named rule.", "envoy_vhost_route_upstream_rq_xx"},
		{signals.RuleRetries, "Attempts after the first, of the requests of a named rule.", "envoy_vhost_route_upstream_rq_retry"},
	} {
		sums := map[ruleSeries]float64{}
		eachOf(of, t.envoy, func(l labelled, m *dto.Metric) {
			sums[ruleSeries{l[labelRule], l[labelClass]}] += m.GetCounter().GetValue()
		})
		f := &dto.MetricFamily{Name: proto.String(t.name), Help: proto.String(t.help), Type: dto.MetricType_COUNTER.Enum()}
		for _, s := range slices.SortedFunc(maps.Keys(sums), func(a, b ruleSeries) int {
			return cmp.Or(cmp.Compare(a.rule, b.rule), cmp.Compare(a.class, b.class))
		}) {
			parts := strings.Split(s.rule, "/")
			if len(parts) != 3 {
				continue
			}
			names, values := []string{signals.RouteNamespace, signals.Route, signals.Rule}, parts
			if s.class != "" {
				names, values = append(names, signals.CodeClass), append(values, s.class+"xx")
			}
			f.Metric = append(f.Metric, &dto.Metric{Label: labelPairs(names, values), Counter: &dto.Counter{Value: proto.Float64(sums[s])}})
		}
		if len(f.Metric) > 0 {
			out = append(out, f)
		}
	}
	return out
}
