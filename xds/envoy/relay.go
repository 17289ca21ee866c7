package envoy

import (
	"fmt"

	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	networkinputsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	internalv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/internal_upstream/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/comity-mesh/comity/xds/ir"
)

// sourceState is the client's address for a listener inside of the Envoy, whose filter takes it for the connection's.
const sourceState = "envoy.filters.listener.original_dst.remote_ip"

// insideCluster leads to a listener of this Envoy, with what is noted of a connection.
func (b *messages) insideCluster(m *clusterv3.Cluster, listener string) {
	m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	m.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: m.GetName(), Endpoints: []*endpointv3.LocalityLbEndpoints{{
		LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: &corev3.Address{Address: &corev3.Address_EnvoyInternalAddress{EnvoyInternalAddress: &corev3.EnvoyInternalAddress{
				AddressNameSpecifier: &corev3.EnvoyInternalAddress_ServerListenerName{ServerListenerName: listener},
			}}},
		}}}},
	}}}
	m.TransportSocket = &corev3.TransportSocket{Name: "envoy.transport_sockets.internal_upstream", ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: b.any(&internalv3.InternalUpstreamTransport{TransportSocket: &corev3.TransportSocket{
			Name: "envoy.transport_sockets.raw_buffer", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: b.any(&rawbufferv3.RawBuffer{})},
		}}),
	}}
}

// inside makes a listener take connections of this Envoy alone, and choose between its two chains by what an admission noted.
func (b *messages) inside(m *listenerv3.Listener, l ir.Listener) error {
	if len(l.Chains) != 2 {
		return fmt.Errorf("listener %s: one that is inside has a chain for who is let in and one for who is not", l.Name)
	}
	m.Address = nil
	m.ListenerSpecifier = &listenerv3.Listener_InternalListener{InternalListener: &listenerv3.Listener_InternalListenerConfig{}}
	m.TrafficDirection = corev3.TrafficDirection_INBOUND
	m.AccessLog = nil // the listener that took the connection tells of it
	m.ListenerFilters = []*listenerv3.ListenerFilter{{
		Name:       "envoy.filters.listener.original_dst",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: b.any(&originaldstv3.OriginalDst{})},
	}}
	to := func(chain string) *xdsmatcherv3.Matcher_OnMatch {
		return &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{Action: b.input(chain, wrapperspb.String(chain))}}
	}
	m.FilterChainMatcher = &xdsmatcherv3.Matcher{
		MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
			Input: b.input("envoy.matching.inputs.filter_state", &networkinputsv3.FilterStateInput{Key: decisionState}),
			TreeType: &xdsmatcherv3.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{
				Map: map[string]*xdsmatcherv3.Matcher_OnMatch{allowed: to(l.Chains[0].Name)},
			}},
		}},
		OnNoMatch: to(l.Chains[1].Name),
	}
	return nil
}
