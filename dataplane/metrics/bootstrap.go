package metrics

import "github.com/comity-mesh/comity/internal/signals"

// Bootstrap is Envoy's stats_config: which counters it makes, and which parts of their names are labels. The reader of this package
// reads what an Envoy with it says.
func Bootstrap() map[string]any {
	var patterns, tags []any
	for _, re := range golden() {
		patterns = append(patterns, map[string]any{"safe_regex": map[string]any{"regex": re}})
	}
	for _, t := range labels() {
		tags = append(tags, map[string]any{"tag_name": t.name, "regex": t.re})
	}
	return map[string]any{
		"stats_matcher": map[string]any{"inclusion_list": map[string]any{"patterns": patterns}},
		// Not Envoy's own: they cut names at the first dot, and names of services and hosts have dots.
		"use_all_default_tags": false, "stats_tags": tags,
		"histogram_bucket_settings": []any{map[string]any{"match": map[string]any{"suffix": "_rq_time"}, "buckets": buckets()}},
	}
}

// buckets in milliseconds, which is how precisely Envoy measures.
func buckets() []float64 {
	return []float64{1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000}
}

// cluster is what the names of clusters look like to Envoy's statistics, where every ":" is a "_": they end in a port, after which
// may be said more, or are a plain word.
const cluster = `(.+?_[0-9]+(?:/[^.]*)?|[a-z_]+)`

// label is a part of a counter's name: the outer group is taken out of the name, the inner one is the value.
type label struct{ name, re string }

func labels() []label {
	return []label{
		{labelCluster, `^cluster\.(` + cluster + `\.)`},
		{labelFrom, `^cluster\..+\.zone\.(([^.]+)\.)[^.]+\.upstream_rq_`},
		{labelTo, `^cluster\..+\.zone\.[^.]+\.(([^.]+)\.)upstream_rq_`},
		{labelClass, `_rq_(([1-5]))xx$`},
		{labelManager, `^http\.((.+?)\.)(?:downstream_|no_route|no_cluster|rbac\.|rds\.)`},
		{labelTCP, `^tcp\.((.+?)\.)downstream_`},
		{labelHost, `^vhost\.((.+?)\.)route\.`},
		{labelRule, `^vhost\..+?\.route\.((.+)\.)upstream_rq_`},
		{labelPolicy, `\.rbac\.(?:audit_\.)?policy\.((.+)\.)(?:shadow_)?(?:allowed|denied)$`},
		{labelListener, `^listener\.((.+?)\.)(?:downstream_|ssl\.|no_filter_chain_match)`},
	}
}

// Labels that Envoy gives, as they are named in its bootstrap; in its answer "." is "_".
const (
	labelCluster  = "envoy_cluster_name"
	labelFrom     = "comity_from_zone"
	labelTo       = "comity_to_zone"
	labelClass    = "envoy_response_code_class"
	labelManager  = "envoy_http_conn_manager_prefix"
	labelTCP      = "envoy_tcp_prefix"
	labelListener = "envoy_listener"
	labelHost     = "envoy_virtual_host"
	labelRule     = "envoy_route"
)

// golden tells whether traffic flows between services and zones, who is refused and why, and whether configuration and trust arrive.
// Everything else is not even made.
func golden() []string {
	return []string{
		// Answers to requests to each service and zone, how long they take, and who is left to answer. Hosts outside of the mesh have no zone.
		`cluster\.` + cluster + `\.upstream_rq_(total|active|[1-5]xx|timeout|per_try_timeout|retry|retry_success|retry_overflow|rx_reset|pending_overflow)`,
		`cluster\.` + cluster + `\.zone\.[^.]+\.[^.]+\.upstream_rq_([1-5]xx|time)`,
		`cluster\.external/.+\.upstream_rq_time`,
		// The same of rules with a name.
		`vhost\..+\.route\..+\.upstream_rq_([1-5]xx|retry)`,
		`vhost\..+\.route\.` + signals.TimedRules + `.+\.upstream_rq_time`,
		`cluster\.` + cluster + `\.upstream_cx_(total|active|connect_fail|connect_timeout|overflow|rx_bytes_total|tx_bytes_total|http2_total)`,
		`cluster\.` + cluster + `\.(membership_(healthy|total)|lb_healthy_panic|outlier_detection\.ejections_(active|enforced_total)|upstream_cx_none_healthy)`,
		// Failed handshakes, by reason, on both sides.
		`(cluster|listener)\..+\.ssl\.(handshake|connection_error|no_certificate|fail_verify_(no_cert|error|san|cert_hash))`,
		// What listeners took and turned away.
		// Not those by worker.
		`listener\.([^./]+|[^./]+/[^.]+\.[^.]+)\.(downstream_cx_(total|active|overflow)|downstream_global_cx_overflow|downstream_pre_cx_timeout|no_filter_chain_match)`,
		`http\.(inbound|callers|plaintext|egress|outbound|gateway).*\.(downstream_rq_(total|active|[1-5]xx|time|too_large|rx_reset)|downstream_cx_(total|active|protocol_error)|no_route|no_cluster)`,
		`tcp\..+\.downstream_cx_(total|no_route|rx_bytes_total|tx_bytes_total)`,
		`.+\.rbac\..*(allowed|denied)`,
		// Who came too fast, and whose tokens are good.
		`(.+\.)?[a-z_]*local_rate_limit\..*rate_limited`,
		`filter_chain\.jwt_authn\..+`,
		// What the zone's configuration has it note.
		`comity\..+`,
		// Configuration: connection to the zone, and refused updates (refused trust keeps the old trust).
		`control_plane\.connected_state`,
		`.+\.(update_rejected|update_failure|key_rotation_failed|init_fetch_timeout)`,
		`cluster_manager\.(active_clusters|warming_clusters|cluster_(added|modified|removed))`,
		`listener_manager\.(total_listeners_(active|warming|draining)|listener_(create_failure|added|modified|in_place_updated|removed))`,
		// The process.
		`server\.(live|state|uptime|memory_allocated|memory_physical_size|total_connections|days_until_first_cert_expiring)`,
	}
}
