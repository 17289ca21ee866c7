package metrics

import (
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/internal/signals"
)

// labelPolicy is who decided about a request, in Envoy's counters of them.
const labelPolicy = "comity_policy"

// decided is what was decided, by whom and whether it counts.
type decided struct{ policy, action, mode string }

// requestDecisions are Envoy's counters of requests that were decided about. Its names for policies are tags; see labels.
func requestDecisions() map[string]decided {
	return map[string]decided{
		"envoy_http_rbac_policy_allowed":                       {action: signals.Allow, mode: signals.Enforce},
		"envoy_http_rbac_policy_denied":                        {action: signals.Deny, mode: signals.Enforce},
		"envoy_http_rbac_policy_shadow_allowed":                {action: signals.Allow, mode: signals.Shadow},
		"envoy_http_rbac_policy_shadow_denied":                 {action: signals.Deny, mode: signals.Shadow},
		"envoy_filter_chain_rbac_audit__policy_shadow_allowed": {action: signals.Audit, mode: signals.Enforce},
	}
}

// connectionDecisions are those of connections, which the zone has noted.
func connectionDecisions() map[string]string {
	return map[string]string{"envoy_comity_authorization": signals.Enforce, "envoy_comity_authorization_shadow": signals.Shadow}
}

// authorization counts requests and connections by what policies decided about them; nil if there were none.
func authorization(of families) *dto.MetricFamily {
	sums := map[decided]float64{}
	add := func(d decided, n float64) {
		if d.policy == "" || d.policy == "-" || n == 0 {
			return
		}
		if _, known := sums[d]; !known && len(sums) >= signals.MaxDecisions {
			d.policy = signals.Other
		}
		sums[d] += n
	}
	for name, d := range requestDecisions() {
		eachOf(of, name, func(l labelled, m *dto.Metric) {
			d.policy = strings.ReplaceAll(l[labelPolicy], "_", ":") // as people know it
			add(d, m.GetCounter().GetValue())
		})
	}
	for name, mode := range connectionDecisions() {
		eachOf(of, name, func(l labelled, m *dto.Metric) {
			action := signals.Deny
			if l["decision"] == "allowed" {
				action = signals.Allow
			}
			add(decided{l["policy"], action, mode}, m.GetCounter().GetValue())
		})
	}
	eachOf(of, "envoy_comity_authorization_audit", func(l labelled, m *dto.Metric) {
		for policy := range strings.SplitSeq(l["policies"], ",") {
			add(decided{policy, signals.Audit, signals.Enforce}, m.GetCounter().GetValue())
		}
	})
	if len(sums) == 0 {
		return nil
	}
	f := &dto.MetricFamily{
		Name: proto.String(signals.Authorization), Help: proto.String("Requests and TCP connections by the policy that decided about them, or would have."),
		Type: dto.MetricType_COUNTER.Enum(),
	}
	for d, n := range sums {
		f.Metric = append(f.Metric, &dto.Metric{
			Label:   labelPairs([]string{signals.Policy, signals.Action, signals.Mode}, []string{d.policy, d.action, d.mode}),
			Counter: &dto.Counter{Value: proto.Float64(n)},
		})
	}
	slices.SortFunc(f.Metric, func(a, b *dto.Metric) int { return slices.CompareFunc(a.GetLabel(), b.GetLabel(), byValue) })
	return f
}

func byValue(a, b *dto.LabelPair) int { return strings.Compare(a.GetValue(), b.GetValue()) }
