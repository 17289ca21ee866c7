package envoy

import (
	"errors"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/xds/ir"
)

func listenerMessage(b *messages, l ir.Listener) (proto.Message, error) {
	m := &listenerv3.Listener{
		Name:             l.Name,
		Address:          address(l.Address, l.Port),
		StatPrefix:       l.Name, // by default the address, which differs from proxy to proxy
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		AccessLog:        []*accesslogv3.AccessLog{b.tellBytes(TapConnections)},
	}
	if l.Inspect {
		if !l.Application {
			m.TrafficDirection = corev3.TrafficDirection_INBOUND
		}
		m.ListenerFilters = []*listenerv3.ListenerFilter{{
			Name:       "envoy.filters.listener.tls_inspector",
			ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: b.any(&inspectorv3.TlsInspector{})},
		}}
		// Who connects and is silent is gone after this; nobody honest needs it.
		m.ListenerFiltersTimeout = seconds(5)
	}
	if l.Public {
		guardListener(m)
	}
	if l.Exclusive {
		m.EnableReusePort = no()
	}
	if l.Inside {
		if err := b.inside(m, l); err != nil {
			return nil, err
		}
	}
	for _, c := range l.Chains {
		fc, err := b.chain(c, l.Inspect)
		if err != nil {
			return nil, err
		}
		m.FilterChains = append(m.FilterChains, fc)
	}
	return b.patched(m, l.Patches), b.err
}

func (b *messages) chain(c ir.Chain, inspect bool) (*listenerv3.FilterChain, error) {
	fc := &listenerv3.FilterChain{Name: c.Name}
	switch {
	case inspect:
		// What is not TLS matches no chain and is closed.
		fc.FilterChainMatch = &listenerv3.FilterChainMatch{TransportProtocol: "tls", ServerNames: c.ServerNames}
	case len(c.ServerNames) > 0:
		return nil, errors.New("chain " + c.Name + " chooses by server name on a listener that does not look at it")
	}
	switch {
	case c.TLS != nil:
		fc.TransportSocket = b.tlsSocket(b.serverTLS(*c.TLS))
	case c.PublicTLS != nil:
		fc.TransportSocket = b.tlsSocket(b.publicTLS(*c.PublicTLS))
	}
	if fc.TransportSocket != nil {
		// Who begins a handshake must end it.
		fc.TransportSocketConnectTimeout = seconds(5)
	}
	if l := c.Connections; l != nil {
		fc.Filters = append(fc.Filters, b.filter("envoy.filters.network.local_ratelimit", connectionLimit(*l)))
	}
	switch {
	case c.HTTP != nil && c.TCP == nil:
		fc.Filters = append(fc.Filters, b.filter("envoy.filters.network.http_connection_manager", b.httpManager(*c.HTTP)))
	case c.TCP != nil && c.HTTP == nil:
		m := b.tcpProxy(*c.TCP)
		if c.TCP.Admission != "" {
			fc.Filters = append(fc.Filters, b.admit(m, c.TCP.Admission))
		}
		fc.Filters = append(fc.Filters, b.filter("envoy.filters.network.tcp_proxy", m))
	default:
		return nil, errors.New("chain " + c.Name + " must be either HTTP or TCP")
	}
	return fc, nil
}

func (b *messages) filter(name string, m proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: b.any(m)}}
}

func (b *messages) tcpProxy(t ir.TCP) *tcpproxyv3.TcpProxy {
	m := &tcpproxyv3.TcpProxy{
		StatPrefix:                      t.StatPrefix,
		ClusterSpecifier:                &tcpproxyv3.TcpProxy_Cluster{Cluster: t.Cluster},
		MaxDownstreamConnectionDuration: duration(t.MaxDuration),
	}
	if t.Relays {
		return m // it is told of where it goes on
	}
	m.AccessLog = b.tcpLogs(t)
	m.AccessLogOptions = &tcpproxyv3.TcpProxy_TcpAccessLogOptions{FlushAccessLogOnConnected: true} // for the notes
	m.AccessLog = append(m.AccessLog, b.countPlaintext(t.Plaintext, connected(false))...)
	if t.Admission != "" || t.Relayed {
		m.AccessLog = append(m.AccessLog, b.countDecisions())
	}
	if len(t.Backends) > 0 {
		w := &tcpproxyv3.TcpProxy_WeightedCluster{}
		for _, c := range t.Backends {
			w.Clusters = append(w.Clusters, &tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight{Name: c.Cluster, Weight: c.Weight})
		}
		m.ClusterSpecifier = &tcpproxyv3.TcpProxy_WeightedClusters{WeightedClusters: w}
	}
	if t.Serves {
		// The application is left alone until the caller has proven who it is, and the notes know it.
		m.UpstreamConnectMode, m.MaxEarlyDataBytes = tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_TLS_HANDSHAKE, u32(0)
	}
	if t.MaxDuration > 0 {
		// Connections that began together must not all begin anew together.
		m.MaxDownstreamConnectionDurationJitterPercentage = percent(10)
	}
	if t.Attempts > 0 {
		m.MaxConnectAttempts = u32(t.Attempts)
	}
	return m
}
