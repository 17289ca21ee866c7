package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/test/bench/datapath/internal/load"
	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

// peer is a pair of proxies that somebody wrote by hand.
type peer struct {
	name  string
	procs []*process
	// ways by mode: where to ask, and the processes that a request passes and that are measured.
	ways map[string]way
}

// way is how requests of a mode go through a pair.
type way struct {
	load.Order
	hops []int // processes that are measured, in the order in which a request meets them
}

func (p *peer) stop() {
	for _, q := range p.procs {
		q.stop()
	}
}

// process is a program that is not ours.
type process struct {
	cmd  *exec.Cmd
	said bytes.Buffer
	done chan struct{}
}

func startProcess(program string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = []string{}, &p.said, &p.said
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // it is killed
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) stop() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// envoy is a part of Envoy's configuration, written as its documentation has it.
type envoy = map[string]any

const (
	envoyTypes     = "type.googleapis.com/envoy.extensions."
	leanName       = "server.lean.example"
	lanesOfIngress = 4
)

// manager understands HTTP and does nothing but pass it on by routes.
func manager(routes ...envoy) envoy {
	return envoy{"name": "http", "typed_config": envoy{
		"@type":       envoyTypes + "filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "http", "codec_type": "AUTO",
		"generate_request_id": false, "skip_xff_append": true, "server_header_transformation": "PASS_THROUGH",
		"route_config": envoy{"virtual_hosts": []envoy{{"name": "all", "domains": []string{"*"}, "routes": routes}}},
		"http_filters": []envoy{{"name": "router", "typed_config": envoy{
			"@type": envoyTypes + "filters.http.router.v3.Router", "dynamic_stats": false, "suppress_envoy_headers": true,
		}}},
	}}
}

// plainRoute leads everything to a cluster.
func plainRoute(cluster string) envoy {
	return envoy{"match": envoy{"prefix": "/"}, "route": envoy{"cluster": cluster, "timeout": "0s"}}
}

// tunnel passes bytes on.
func tunnel(cluster string) envoy {
	return envoy{"name": "tcp", "typed_config": envoy{"@type": envoyTypes + "filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "tcp", "cluster": cluster}}
}

func socket(port int) envoy {
	return envoy{"socket_address": envoy{"address": "127.0.0.1", "port_value": port}}
}

// mtls is one end of a session: TLS 1.3, with the other end's name.
func (k keyFiles) mtls(alpn []string) envoy {
	return envoy{
		"tls_params":       envoy{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
		"alpn_protocols":   alpn,
		"tls_certificates": []envoy{{"certificate_chain": envoy{"filename": k.certificate}, "private_key": envoy{"filename": k.key}}},
		"validation_context": envoy{
			"trusted_ca": envoy{"filename": k.roots}, "match_typed_subject_alt_names": []envoy{{"san_type": "URI", "matcher": envoy{"exact": k.peer}}},
		},
	}
}

// plainListener takes what an application sends.
func plainListener(port int, filter envoy) envoy {
	return envoy{"name": strconv.Itoa(port), "address": socket(port), "filter_chains": []envoy{{"filters": []envoy{filter}}}}
}

// serverListener ends mTLS.
func serverListener(port int, k keyFiles, alpn []string, filters ...envoy) envoy {
	return envoy{"name": strconv.Itoa(port), "address": socket(port), "filter_chains": []envoy{{"filters": filters, "transport_socket": envoy{
		"name": "tls", "typed_config": envoy{
			"@type": envoyTypes + "transport_sockets.tls.v3.DownstreamTlsContext", "require_client_certificate": true, "common_tls_context": k.mtls(alpn),
		},
	}}}}
}

// laneListener passes TLS on by its server name, without opening it, to clusters; "" is any other name.
func laneListener(port int, clusters map[string]string) envoy {
	var chains []envoy
	for _, name := range sortedKeys(clusters) {
		match := envoy{"transport_protocol": "tls"}
		if name != "" {
			match["server_names"] = []string{name}
		}
		chains = append(chains, envoy{"filter_chain_match": match, "filters": []envoy{tunnel(clusters[name])}})
	}
	return envoy{
		"name": strconv.Itoa(port), "address": socket(port), "filter_chains": chains,
		"listener_filters": []envoy{{"name": "tls", "typed_config": envoy{"@type": envoyTypes + "filters.listener.tls_inspector.v3.TlsInspector"}}},
	}
}

// cluster leads to ports of this machine; k is nil for plaintext.
func cluster(name string, http2 bool, k *keyFiles, ports ...int) envoy {
	var ends []envoy
	for _, p := range ports {
		ends = append(ends, envoy{"endpoint": envoy{"address": socket(p)}})
	}
	c := envoy{"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": envoy{"cluster_name": name, "endpoints": []envoy{{"lb_endpoints": ends}}}}
	var alpn []string
	if http2 {
		alpn = []string{"h2"}
		c["typed_extension_protocol_options"] = envoy{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": envoy{
			"@type": envoyTypes + "upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": envoy{"http2_protocol_options": envoy{}},
		}}
	}
	if k != nil {
		c["transport_socket"] = envoy{"name": "tls", "typed_config": envoy{
			"@type": envoyTypes + "transport_sockets.tls.v3.UpstreamTlsContext", "sni": leanName, "common_tls_context": k.mtls(alpn),
		}}
	}
	return c
}

// startPair starts a pair, and returns when each way is open.
func startPair(ctx context.Context, dir, name string, app load.App, client, server keyFiles, do wants) (*peer, error) {
	p := &peer{name: name, ways: map[string]way{}}
	ports, err := freePorts(9)
	if err != nil {
		return nil, err
	}
	h2 := []string{"h2"}
	serverHTTP1, serverHTTP2, serverGRPC, serverBytes := ports[5], ports[6], ports[7], ports[8]
	started := []struct {
		part      string
		listeners []envoy
		clusters  []envoy
	}{
		{"client", []envoy{
			plainListener(ports[0], do.client("http1")), plainListener(ports[1], do.client("http2")), plainListener(ports[2], do.client("grpc")),
			plainListener(ports[3], do.client("bytes")), plainListener(ports[4], tunnel("bytes")),
		}, []envoy{
			cluster("http1", true, &client, serverHTTP1), cluster("http2", true, &client, serverHTTP2), cluster("grpc", true, &client, serverGRPC),
			cluster("bytes", false, &client, serverBytes),
		}},
		{"server", []envoy{
			serverListener(serverHTTP1, server, h2, do.server("http1")), serverListener(serverHTTP2, server, h2, do.server("http2")),
			serverListener(serverGRPC, server, h2, do.server("grpc")), serverListener(serverBytes, server, nil, do.tunnel("http1")...),
		}, []envoy{
			cluster("http1", false, nil, int(app.HTTP1)), cluster("http2", true, nil, int(app.HTTP2)), cluster("grpc", true, nil, int(app.GRPC)),
		}},
	}
	for _, s := range started {
		q, err := startEnvoy(filepath.Join(dir, name+"-"+s.part+".json"), do.stats, s.listeners, s.clusters)
		if err != nil {
			p.stop()
			return nil, err
		}
		p.procs = append(p.procs, q)
	}
	pair := []int{p.procs[0].pid(), p.procs[1].pid()}
	for i, mode := range modes {
		if !mode.middle {
			p.ways[mode.name] = way{Order: mode.order(net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i])), "lean.example"), hops: pair}
		}
	}
	for _, port := range []int{ports[0], ports[3]} {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if err := rig.Poll(ctx, name+" answers", func() error { return getOK(ctx, address, "lean.example") }); err != nil {
			p.stop()
			for _, q := range p.procs {
				err = fmt.Errorf("%w\n%s", err, q.said.String())
			}
			return nil, err
		}
	}
	return p, nil
}

// startMiddle starts what stands between zones, written by hand: it passes TLS for a server name on to a port of this machine, and all
// other TLS to where an ingress really listens.
func startMiddle(dir string, ports []int, name, address string, to int, ingress []int) (*process, error) {
	server := cluster("server", false, nil, to)
	server["load_assignment"] = envoy{"cluster_name": "server", "endpoints": []envoy{{"lb_endpoints": []envoy{{"endpoint": envoy{
		"address": envoy{"socket_address": envoy{"address": address, "port_value": to}},
	}}}}}}
	var listeners []envoy
	for _, p := range ports {
		listeners = append(listeners, laneListener(p, map[string]string{name: "server", "": "ingress"}))
	}
	return startEnvoy(filepath.Join(dir, "middle.json"), lean().stats, listeners, []envoy{server, cluster("ingress", false, nil, ingress...)})
}

// startEnvoy runs one with one worker by a configuration, as agents do.
func startEnvoy(file string, stats envoy, listeners, clusters []envoy) (*process, error) {
	program, err := envoybin.Path()
	if err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(envoy{
		"stats_config":     stats,
		"static_resources": envoy{"listeners": listeners, "clusters": clusters},
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	return startProcess(program, "-c", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
}

func freePorts(n int) ([]int, error) {
	var out []int
	for len(out) < n {
		p, err := freePort()
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out, nil
}

func freePort() (int, error) {
	address, err := rig.FreeAddress()
	if err != nil {
		return 0, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}

// getOK asks an address once, as for a host.
func getOK(ctx context.Context, address, host string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
	if err != nil {
		return err
	}
	req.Host, req.Close = host, true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s for %s: %s", address, host, res.Status)
	}
	return nil
}
