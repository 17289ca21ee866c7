package main

import "maps"

// wants is what a pair written by hand does with requests. The lean pair passes them on. The pair that is called `same` is asked for what
// ours does without being asked, and for nothing else: who calls is proven and decided about for each request, the application is told,
// what failed is tried again as by default, and requests are counted by service and class of status, with how long they took.
type wants struct {
	client, server func(cluster string) envoy   // HTTP connection managers
	tunnel         func(cluster string) []envoy // the server's filters where bytes are passed on
	stats          envoy
}

func lean() wants {
	return wants{
		client: func(cluster string) envoy { return manager(plainRoute(cluster)) }, server: func(cluster string) envoy { return manager(plainRoute(cluster)) },
		tunnel: func(cluster string) []envoy { return []envoy{tunnel(cluster)} },
		stats:  envoy{"stats_matcher": envoy{"reject_all": true}},
	}
}

// same is for a caller, by its SPIFFE ID.
func same(caller string) wants {
	rules := envoy{"action": "ALLOW", "policies": envoy{"callers": envoy{
		"permissions": []envoy{{"any": true}}, "principals": []envoy{{"authenticated": envoy{"principal_name": envoy{"exact": caller}}}},
	}}}
	return wants{
		client: func(cluster string) envoy {
			m := manager(triedAgain(cluster)...)
			delete(routerOf(m), "dynamic_stats") // by default it counts, and only so by service
			return m
		},
		server: func(cluster string) envoy {
			m := manager(plainRoute(cluster))
			config := m["typed_config"].(envoy)
			config["forward_client_cert_details"], config["set_current_client_cert_details"] = "SANITIZE_SET", envoy{"uri": true}
			config["http_filters"] = append([]envoy{{"name": "rbac", "typed_config": envoy{"@type": envoyTypes + "filters.http.rbac.v3.RBAC", "rules": rules}}}, config["http_filters"].([]envoy)...)
			return m
		},
		tunnel: func(cluster string) []envoy {
			return []envoy{{"name": "rbac", "typed_config": envoy{"@type": envoyTypes + "filters.network.rbac.v3.RBAC", "stat_prefix": "tcp", "rules": rules}}, tunnel(cluster)}
		},
		stats: envoy{"stats_matcher": envoy{"inclusion_list": envoy{"patterns": []envoy{
			{"safe_regex": envoy{"regex": `cluster\.[^.]+\.upstream_rq_(total|[1-5]xx|time)`}}, {"safe_regex": envoy{"regex": `http\.http\.downstream_rq_(total|[1-5]xx|time)`}},
		}}}},
	}
}

// routerOf is the configuration of a manager's last filter.
func routerOf(m envoy) envoy {
	filters := m["typed_config"].(envoy)["http_filters"].([]envoy)
	return filters[len(filters)-1]["typed_config"].(envoy)
}

// triedAgain are two routes: one for requests that may be done twice, one for the others. The reasons and numbers are those of
// docs/policies/trafficpolicy.md.
func triedAgain(cluster string) []envoy {
	again := func(reasons string, more envoy) envoy {
		p := envoy{
			"retry_on": "connect-failure,refused-stream,reset-before-request" + reasons, "num_retries": 3,
			"retry_host_predicate": []envoy{{"name": "previous_hosts", "typed_config": envoy{
				"@type": envoyTypes + "retry.host.previous_hosts.v3.PreviousHostsPredicate",
			}}},
			"host_selection_retry_max_attempts": 5, "retry_back_off": envoy{"base_interval": "0.005s", "max_interval": "0.05s"},
		}
		maps.Copy(p, more)
		return p
	}
	twice, once := plainRoute(cluster), plainRoute(cluster)
	twice["match"].(envoy)["headers"] = []envoy{{"name": ":method", "string_match": envoy{"safe_regex": envoy{"regex": "DELETE|GET|HEAD|OPTIONS|PUT|TRACE"}}}}
	twice["route"].(envoy)["retry_policy"] = again(",reset,retriable-status-codes", envoy{"retriable_status_codes": []int{503, 504}})
	once["route"].(envoy)["retry_policy"] = again("", nil)
	return []envoy{twice, once}
}
