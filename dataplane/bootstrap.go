package dataplane

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/comity-mesh/comity/dataplane/metrics"
	"github.com/comity-mesh/comity/dataplane/peer"
	"github.com/comity-mesh/comity/dataplane/sds"
	"github.com/comity-mesh/comity/mesh"
)

// Names that the bootstrap shares with the zone's configuration.
const (
	// ClusterZone is the static cluster of the zone's control plane, which serves ADS.
	ClusterZone = "zone_cp"
	// ClusterSDS is the static cluster of the agent's socket, for secrets and load reports.
	ClusterSDS = "local_sds"
	// ClusterPeers is the static cluster of an ingress agent's socket for other zones' ingresses.
	ClusterPeers = "local_peers"
)

// bootstrap is what Envoy must know before it can ask its zone for the rest.
type bootstrap struct {
	Proxy       mesh.ProxyID
	Zone        string
	TrustDomain mesh.TrustDomain
	Locality    mesh.Locality
	// ZoneAddresses are the host:port of the zone's ADS, at least one.
	ZoneAddresses []string
	// AdminSocket and SDSSocket are paths as Envoy sees them: it runs in the run directory.
	AdminSocket, SDSSocket string
	// Resolver is who Envoy asks for names; the zero value leaves that to the machine.
	Resolver netip.AddrPort
	// ReportLoad has Envoy tell the agent where it sends requests.
	ReportLoad bool
	// PeersSocket, of an ingress, takes what other zones' ingresses say to the agent; empty for none.
	PeersSocket string
	// MaxConnections that Envoy accepts in all, over which it closes new ones.
	MaxConnections int
}

type object = map[string]any

const (
	typeTLS              = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
	typeHTTP             = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	typeResolver         = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"
	typeInternalListener = "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
	typeMaxConns         = "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
)

// JSON is the bootstrap as Envoy reads it. It holds no secret.
func (b bootstrap) JSON() ([]byte, error) {
	zone, err := b.zoneCluster()
	if err != nil {
		return nil, err
	}
	manager := object{}
	if b.ReportLoad {
		// To the agent, not to the zone: every report has the whole node in it.
		manager["load_stats_config"] = object{
			"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": []any{grpcService(ClusterSDS)},
		}
	}
	clusters := []any{zone, b.sdsCluster()}
	if b.PeersSocket != "" {
		clusters = append(clusters, b.peersCluster())
	}
	boot := object{
		"cluster_manager": manager,
		"node": object{
			"id": b.Proxy.String(), "cluster": b.Zone,
			// As in endpoints: Envoy counts from zone to zone by it.
			"locality": object{"region": joinLocality(b.Locality.Cloud, b.Locality.Region), "zone": b.Zone, "sub_zone": b.Zone},
		},
		// The admin interface can stop Envoy and shows its whole configuration: a socket that only
		// the agent's user may open, never a port. Its scrapes don't count as traffic.
		"admin": object{
			"address":                  object{"pipe": object{"path": b.AdminSocket, "mode": 0o600}},
			"ignore_global_conn_limit": true,
		},
		// What the agent sets while it runs: of how many requests it is told (package tap).
		"layered_runtime": object{"layers": []any{object{"name": "agent", "admin_layer": object{}}}},
		"dynamic_resources": object{
			"ads_config": object{
				"api_type": "DELTA_GRPC", "transport_api_version": "V3",
				// The node is 61 KB; once per stream is enough, an ACK is then 72 bytes.
				"set_node_on_first_message_only": true,
				"grpc_services":                  []any{grpcService(ClusterZone)},
			},
			"cds_config": ads(), "lds_config": ads(),
		},
		"static_resources":     object{"clusters": clusters},
		"inline_headers":       InlineHeaders(),
		"bootstrap_extensions": BootstrapExtensions(),
		// Metrics of clusters that carry no traffic are not made: 1,000 idle clusters cost 98 MB
		// instead of 128, and a cold start of them 0.2 s instead of 0.8.
		"deferred_stat_options": object{"enable_deferred_creation_stats": true},
		"stats_config":          metrics.Bootstrap(),
		// Nobody is sent metrics, they are fetched: don't wake up to aggregate them.
		"stats_flush_on_admin": true,
		"watchdogs":            object{"main_thread_watchdog": watchdog(), "worker_watchdog": watchdog()},
		"overload_manager": object{
			// Without a limit Envoy accepts until it has no descriptors left, and then can reach nobody.
			"resource_monitors": []any{object{
				"name":         "envoy.resource_monitors.global_downstream_max_connections",
				"typed_config": object{"@type": typeMaxConns, "max_active_downstream_connections": b.MaxConnections},
			}},
		},
	}
	if b.Resolver.IsValid() {
		boot["typed_dns_resolver_config"] = object{"name": "envoy.network.dns_resolver.cares", "typed_config": object{
			"@type": typeResolver, "resolvers": []any{object{"socket_address": object{"address": b.Resolver.Addr().String(), "port_value": b.Resolver.Port()}}},
		}}
	}
	out, err := json.MarshalIndent(boot, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("envoy bootstrap: %w", err)
	}
	return out, nil
}

// BootstrapExtensions let a listener lead to another one of the same Envoy, which is how it is decided about connections that have
// more than one destination.
func BootstrapExtensions() []any {
	return []any{object{"name": "envoy.bootstrap.internal_listener", "typed_config": object{"@type": typeInternalListener}}}
}

// InlineHeaders are the headers for which Envoy has a place in every request besides those that it knows itself.
func InlineHeaders() []any {
	var out []any
	for _, name := range mesh.CallerLookAlikes() {
		out = append(out, object{"inline_header_name": name, "inline_header_type": "REQUEST_HEADER"})
	}
	return out
}

// watchdog counts threads that are stuck, in server.watchdog_miss and watchdog_mega_miss. Envoy's default of 200 ms wakes every
// thread ten times a second to say that it is not, which is most of what an idle Envoy does.
func watchdog() object { return object{"miss_timeout": "2s", "megamiss_timeout": "10s"} }

// ads waits without limit for the first answer: an Envoy that counted as ready without configuration,
// because its zone is away, would refuse everything.
func ads() object {
	return object{"ads": object{}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
}

// grpcService is a gRPC service in a static cluster, reconnected to within 50 to 200 ms instead of
// Envoy's default back-off, which grows to 25 s.
func grpcService(cluster string) object {
	return object{"envoy_grpc": object{
		"cluster_name": cluster,
		"retry_policy": object{"retry_back_off": object{"base_interval": "0.05s", "max_interval": "0.2s"}},
	}}
}

// zoneCluster reaches the zone's control plane over mTLS: it must prove to be just that, and is
// shown the proxy's own certificate.
func (b bootstrap) zoneCluster() (object, error) {
	endpoints, kind, err := endpointsOf(b.ZoneAddresses)
	if err != nil {
		return nil, fmt.Errorf("envoy bootstrap: address of the zone: %w", err)
	}
	return object{
		"name": ClusterZone, "type": kind,
		"connect_timeout": "1s",
		// Addresses of both families, tried as in RFC 8305.
		"dns_lookup_family": "ALL",
		"load_assignment":   object{"cluster_name": ClusterZone, "endpoints": []any{object{"lb_endpoints": endpoints}}},
		// A zone that vanished without closing is noticed by the kernel, in 25 s when idle and in 10 s
		// with an ACK under way. HTTP/2 pings would wake Envoy, and count as abuse at a gRPC server that
		// does not expect them.
		"upstream_connection_options": object{"tcp_keepalive": object{"keepalive_time": 10, "keepalive_interval": 5, "keepalive_probes": 3}},
		"upstream_bind_config": object{"socket_options": []any{object{
			"description": "TCP_USER_TIMEOUT", "level": unix.IPPROTO_TCP, "name": unix.TCP_USER_TIMEOUT, "int_value": silence.Milliseconds(), "state": "STATE_PREBIND",
		}}},
		"typed_extension_protocol_options": http2(
			object{},
			// A connection shows the certificate it began with; so that a stream that the zone refuses
			// for it comes back with the newer one, each has a connection of its own.
			object{"max_requests_per_connection": 1},
		),
		// Configuration may be many megabytes: let it come without stopping for windows.
		"per_connection_buffer_limit_bytes": 1 << 20,
		"transport_socket": object{"name": "envoy.transport_sockets.tls", "typed_config": object{
			"@type": typeTLS,
			// Sessions are not resumed: a resumed one would skip validation.
			"max_session_keys": 0,
			"common_tls_context": object{
				// The upstream default maximum is 1.2, so that a minimum alone refuses everything.
				"tls_params":                         object{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
				"alpn_protocols":                     []any{"h2"},
				"tls_certificate_sds_secret_configs": []any{localSecret(sds.Identity)},
				"combined_validation_context": object{
					// Any workload of the zone has a certificate under the same roots; only this name is the zone's.
					"default_validation_context": object{"match_typed_subject_alt_names": []any{
						object{"san_type": "URI", "matcher": object{"exact": b.TrustDomain.ZoneCPID()}},
					}},
					"validation_context_sds_secret_config": localSecret(sds.ZoneRoots),
				},
			},
		}},
	}, nil
}

// sdsCluster reaches the agent on the same machine, by a socket whose permissions are its security.
func (b bootstrap) sdsCluster() object {
	c := socketCluster(ClusterSDS, b.SDSSocket)
	c["typed_extension_protocol_options"] = http2(object{}, object{})
	return c
}

// peersCluster passes on the bytes of other zones' ingresses. Whoever knows the server name gets this far,
// so the number of connections is bounded here, where it costs the agent nothing.
func (b bootstrap) peersCluster() object {
	c := socketCluster(ClusterPeers, b.PeersSocket)
	c["circuit_breakers"] = object{"thresholds": []any{object{"max_connections": peer.MaxConnections, "max_pending_requests": peer.MaxConnections}}}
	return c
}

func socketCluster(name, path string) object {
	return object{
		"name": name, "type": "STATIC", "connect_timeout": "1s",
		"load_assignment": object{"cluster_name": name, "endpoints": []any{object{"lb_endpoints": []any{
			object{"endpoint": object{"address": object{"pipe": object{"path": path}}}},
		}}}},
	}
}

func http2(options, common object) object {
	return object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": object{
		"@type": typeHTTP, "explicit_http_config": object{"http2_protocol_options": options}, "common_http_protocol_options": common,
	}}
}

// localSecret is a secret of the agent: delta, so that a renewal sends one secret and its reconnects
// nothing.
func localSecret(name string) object {
	return object{"name": name, "sds_config": object{
		"resource_api_version": "V3",
		"api_config_source": object{
			"api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
			"grpc_services": []any{grpcService(ClusterSDS)},
		},
	}}
}

// endpointsOf makes Envoy's endpoints of host:port, and the type of cluster that they need.
func endpointsOf(addresses []string) ([]any, string, error) {
	if len(addresses) == 0 {
		return nil, "", fmt.Errorf("there is none")
	}
	kind := "STATIC"
	var out []any
	for _, a := range addresses {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			return nil, "", err
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || host == "" {
			return nil, "", fmt.Errorf("%q is not host:port", a)
		}
		if _, err := netip.ParseAddr(host); err != nil {
			kind = "STRICT_DNS"
		}
		out = append(out, object{"endpoint": object{"address": object{"socket_address": object{"address": host, "port_value": n}}}})
	}
	return out, kind, nil
}

// joinLocality is Envoy's region, as the zone writes it into endpoints.
func joinLocality(cloud, region string) string {
	if cloud == "" || region == "" {
		return cloud + region
	}
	return cloud + "-" + region
}
