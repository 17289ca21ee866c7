package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/comity-mesh/comity/xds/ir"
)

func endpointsMessage(_ *messages, e ir.Endpoints) (proto.Message, error) {
	m := &endpointv3.ClusterLoadAssignment{ClusterName: e.Cluster}
	if e.Threshold > 0 {
		// A priority carries all of it while alive% x factor/100 is at least 100.
		factor := (10_000 + e.Threshold - 1) / e.Threshold
		m.Policy = &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: u32(factor)}
	}
	for _, g := range e.Groups {
		meta := &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{matchNamespace: zoneMetadata(g.Zone)}}
		l := &endpointv3.LocalityLbEndpoints{
			Locality:            locality(g),
			Priority:            g.Priority,
			LoadBalancingWeight: u32(g.Weight),
		}
		var check *endpointv3.Endpoint_HealthCheckConfig
		if g.Unchecked {
			check = &endpointv3.Endpoint_HealthCheckConfig{DisableActiveHealthCheck: true}
		}
		for _, ep := range g.Endpoints {
			l.LbEndpoints = append(l.LbEndpoints, &endpointv3.LbEndpoint{
				HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(ep.Address, ep.Port), HealthCheckConfig: check}},
				Metadata:            meta,
				LoadBalancingWeight: u32(ep.Weight),
			})
		}
		m.Endpoints = append(m.Endpoints, l)
	}
	return m, nil
}

// locality has the zone of the mesh as Envoy's zone, by which it counts, and as its sub-zone, by which agents know where load goes. So two
// zones may be in one place, although Envoy keeps only one weight for each locality of a priority.
func locality(g ir.Group) *corev3.Locality {
	l := &corev3.Locality{Region: g.Region, Zone: g.Zone, SubZone: g.Zone}
	if g.Place != "" {
		l.Region += "/" + g.Place
	}
	return l
}

func fixedEndpoint(cluster string, at ir.HostPort) *endpointv3.ClusterLoadAssignment {
	return &endpointv3.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
		LbEndpoints: []*endpointv3.LbEndpoint{{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(at.Address, at.Port)}},
		}},
	}}}
}
