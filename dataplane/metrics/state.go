package metrics

import (
	"strings"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
)

// translation makes one metric of the proxy from one or several of Envoy's. Its labels are of whatever Envoy's are.
type translation struct {
	name, help string
	of         map[string]string // Envoy's name to the value of the label what; that is empty where there is one only
	what       string
	gauge      bool
	// label is that of Envoy's labels that is kept, under the name as.
	label, as string
}

// stateOf lists what is told of the proxy itself.
func stateOf() []translation {
	return []translation{
		{name: "comity_proxy_retries_total", help: "Attempts after the first, by who was asked.", label: labelCluster, as: "cluster", of: map[string]string{"envoy_cluster_upstream_rq_retry": ""}},
		{name: "comity_proxy_timeouts_total", help: "Requests and attempts that nobody answered in time.", label: labelCluster, as: "cluster", what: "of",
			of: map[string]string{"envoy_cluster_upstream_rq_timeout": "request", "envoy_cluster_upstream_rq_per_try_timeout": "attempt"}},
		{name: "comity_proxy_connect_failures_total", help: "Connections to endpoints that could not be made.", label: labelCluster, as: "cluster", what: "reason",
			of: map[string]string{"envoy_cluster_upstream_cx_connect_fail": "refused", "envoy_cluster_upstream_cx_connect_timeout": "timeout"}},
		{name: "comity_proxy_endpoints", help: "Endpoints that the proxy knows of, and those of them that it would ask.", label: labelCluster, as: "cluster", what: "state", gauge: true,
			of: map[string]string{"envoy_cluster_membership_total": "known", "envoy_cluster_membership_healthy": "healthy"}},
		{name: "comity_proxy_endpoints_ejected", help: "Endpoints that are left out because they failed.", label: labelCluster, as: "cluster", gauge: true,
			of: map[string]string{"envoy_cluster_outlier_detection_ejections_active": ""}},
		{name: "comity_proxy_connections_total", help: "Connections that were accepted.", label: labelListener, as: "listener", of: map[string]string{"envoy_listener_downstream_cx_total": ""}},
		{name: "comity_proxy_connections_open", help: "Connections that are open now.", label: labelListener, as: "listener", gauge: true, of: map[string]string{"envoy_listener_downstream_cx_active": ""}},
		{name: "comity_proxy_connections_refused_total", help: "Connections that were turned away.", label: labelListener, as: "listener", what: "reason",
			of: map[string]string{
				"envoy_listener_no_filter_chain_match": "no such service", "envoy_listener_downstream_cx_overflow": "limit of the listener",
				"envoy_listener_downstream_global_cx_overflow": "limit of the proxy", "envoy_listener_downstream_pre_cx_timeout": "silent",
			}},
		{name: "comity_proxy_tls_failures_total", help: "Handshakes that failed, with peers that this proxy called (client) or that called it (server).", what: "side",
			of: map[string]string{"envoy_cluster_ssl_connection_error": "client", "envoy_listener_ssl_connection_error": "server"}},
		{name: "comity_proxy_zone_connected", help: "1 while Envoy is connected to its zone.", gauge: true, of: map[string]string{"envoy_control_plane_connected_state": ""}},
		{name: "comity_proxy_memory_bytes", help: "Memory that Envoy has allocated.", gauge: true, of: map[string]string{"envoy_server_memory_allocated": ""}},
		{name: "comity_proxy_uptime_seconds", help: "How long Envoy has run.", gauge: true, of: map[string]string{"envoy_server_uptime": ""}},
	}
}

// state is what is told of the proxy itself.
func (n names) state(of families) []*dto.MetricFamily {
	if len(of) == 0 {
		return nil
	}
	var out []*dto.MetricFamily
	for _, t := range stateOf() {
		if f := n.translate(t, of); f != nil {
			out = append(out, f)
		}
	}
	return append(out, rejected(of))
}

func (n names) translate(t translation, of families) *dto.MetricFamily {
	sums := map[[2]string]float64{}
	for name, what := range t.of {
		eachOf(of, name, func(l labelled, m *dto.Metric) {
			v := l[t.label]
			if t.label == labelCluster {
				if !n.cluster.MatchString(v) {
					return // the zone, the application
				}
				v = strings.ReplaceAll(v, "_", ":") // as people write it
			}
			sums[[2]string{v, what}] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		})
	}
	if len(sums) == 0 {
		return nil
	}
	f := &dto.MetricFamily{Name: proto.String(t.name), Help: proto.String(t.help), Type: dto.MetricType_COUNTER.Enum()}
	if t.gauge {
		f.Type = dto.MetricType_GAUGE.Enum()
	}
	for k, v := range sums {
		m := &dto.Metric{}
		var names, values []string
		for i, n := range []string{t.as, t.what} {
			if n != "" {
				names, values = append(names, n), append(values, k[i])
			}
		}
		m.Label = labelPairs(names, values)
		if t.gauge {
			m.Gauge = &dto.Gauge{Value: proto.Float64(v)}
		} else {
			m.Counter = &dto.Counter{Value: proto.Float64(v)}
		}
		f.Metric = append(f.Metric, m)
	}
	return f
}

// rejected counts what Envoy did not take of its configuration and secrets, which it then has in the old version.
func rejected(of families) *dto.MetricFamily {
	var n float64
	for name, f := range of {
		if strings.HasSuffix(name, "_update_rejected") {
			for _, m := range f.GetMetric() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return &dto.MetricFamily{
		Name: proto.String("comity_proxy_config_rejected_total"), Help: proto.String("Updates of configuration and secrets that Envoy refused."),
		Type: dto.MetricType_COUNTER.Enum(), Metric: []*dto.Metric{{Counter: &dto.Counter{Value: proto.Float64(n)}}},
	}
}
