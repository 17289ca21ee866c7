package main

import (
	"context"
	"maps"
	"slices"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
)

const typePrefix = "type.googleapis.com/"

// The types that Envoy asks for, in the order in which it does when it comes back.
const (
	clusterType   = typePrefix + "envoy.config.cluster.v3.Cluster"
	endpointType  = typePrefix + "envoy.config.endpoint.v3.ClusterLoadAssignment"
	secretType    = typePrefix + "envoy.extensions.transport_sockets.tls.v3.Secret"
	listenerType  = typePrefix + "envoy.config.listener.v3.Listener"
	routeType     = typePrefix + "envoy.config.route.v3.RouteConfiguration"
	extensionType = typePrefix + "envoy.config.core.v3.TypedExtensionConfig"
)

var typeOrder = []string{clusterType, endpointType, secretType, listenerType, routeType, extensionType}

// holding is what a proxy has: of each type the versions by name, and the names that it asks for.
type holding struct {
	versions map[string]map[string]string
	wanted   map[string]map[string]bool
}

func newHolding() *holding {
	h := &holding{versions: map[string]map[string]string{}, wanted: map[string]map[string]bool{}}
	for _, t := range typeOrder {
		h.versions[t], h.wanted[t] = map[string]string{}, map[string]bool{}
	}
	return h
}

// stream is one ADS stream as Envoy holds it: clusters first; their acknowledgement when their endpoints are there;
// listeners after it; routes and secrets as others name them.
type stream struct {
	p         *proxy
	conn      *grpc.ClientConn
	adsStream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	withheld  []string // nonces of clusters that wait for their endpoints
	listening bool
}

// connect opens a stream that lasts as long as ctx, and asks for everything, with the versions of an earlier one if
// there are any.
func (p *proxy) connect(ctx context.Context) (*stream, error) {
	conn, _, err := p.dial(ctx, p.mutual())
	if err != nil {
		return nil, err
	}
	s := &stream{p: p, conn: conn}
	if s.adsStream, err = discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	s.listening = len(p.have.versions[listenerType]) > 0
	for i, t := range typeOrder {
		r := &discovery.DeltaDiscoveryRequest{
			TypeUrl: t, InitialResourceVersions: p.have.versions[t], ResourceNamesSubscribe: slices.Sorted(maps.Keys(p.have.wanted[t])),
		}
		if i == 0 {
			r.Node = &corev3.Node{Id: p.id.String(), UserAgentName: "envoy"}
		} else if len(r.GetResourceNamesSubscribe()) == 0 && (t != listenerType || !s.listening) {
			continue
		}
		if err := s.adsStream.Send(r); err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	p.open.Store(true)
	return s, nil
}

// run acknowledges what comes until the stream ends.
func (s *stream) run() error {
	defer s.conn.Close()
	for {
		r, err := s.adsStream.Recv()
		if err != nil {
			return err
		}
		if err := s.take(r); err != nil {
			return err
		}
	}
}

func (s *stream) take(r *discovery.DeltaDiscoveryResponse) error {
	t, have := r.GetTypeUrl(), s.p.have
	for _, name := range r.GetRemovedResources() {
		delete(have.versions[t], name)
	}
	for _, e := range r.GetResources() {
		have.versions[t][e.GetName()] = e.GetVersion()
		for _, ref := range s.p.names.of(t, e) {
			if !have.wanted[ref.typ][ref.name] {
				have.wanted[ref.typ][ref.name] = true
				if err := s.adsStream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: ref.typ, ResourceNamesSubscribe: []string{ref.name}}); err != nil {
					return err
				}
			}
		}
	}
	if t == clusterType && len(r.GetResources()) > 0 {
		s.withheld = append(s.withheld, r.GetNonce())
		return nil
	}
	if err := s.acknowledge(t, r.GetNonce()); err != nil {
		return err
	}
	if t != endpointType && t != clusterType {
		return nil
	}
	for _, nonce := range s.withheld {
		if err := s.acknowledge(clusterType, nonce); err != nil {
			return err
		}
	}
	s.withheld = nil
	if s.listening {
		return nil
	}
	s.listening = true
	return s.adsStream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: listenerType})
}

func (s *stream) acknowledge(t, nonce string) error {
	return s.adsStream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: t, ResponseNonce: nonce})
}
