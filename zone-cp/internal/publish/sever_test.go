package publish

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
)

// TestSeverSparesOthers: what a revoked zone had stated as its own is cut, unless it is this zone's or a believed one's.
func TestSeverSparesOthers(t *testing.T) {
	var told []netip.AddrPort
	service := mesh.Resource{Key: mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindService, Namespace: "shop", Name: "pay"}, Spec: []byte(`{"selector":{"app":"pay"},"ports":[{"port":80,"targetPort":8080}]}`)}
	p := &Publisher{resources: resources{}}
	p.resources.put(service)
	p.cfg.Sever = func(a []netip.AddrPort) { told = a }
	p.picture = discovery.Picture{
		Workloads: []topology.Workload{{Spec: policy.Workload{
			Address: "10.0.0.5", InboundPort: 15006, OutboundPort: 15001, HealthCheck: &mesh.HealthCheck{Port: 8081},
			Upstreams: []mesh.Upstream{{LocalPort: 5432}},
		}}},
		Ingresses: []discovery.Ingress{{
			IngressProxy: topology.IngressProxy{BindAddress: "10.0.0.9", BindPorts: []uint16{15443}},
			Advertised:   mesh.Ingress{Host: "198.51.100.1", Ports: []uint16{443}},
		}},
	}
	believed := []topology.Remote{{Zone: "north", Ingresses: []topology.RemoteIngress{{Ingress: mesh.Ingress{Ports: []uint16{15443}}, Addresses: []string{"192.0.2.1"}}}}}
	var condemned []netip.AddrPort
	doomed := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:15443"), netip.MustParseAddrPort("192.0.2.7:15443")}
	for _, a := range []string{
		"10.0.0.5:15006", "127.0.0.1:15001", "127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:5432", "10.0.0.9:15443", "198.51.100.1:443", "192.0.2.1:15443",
	} {
		condemned = append(condemned, netip.MustParseAddrPort(a))
	}
	p.sever(append(condemned, doomed...), believed)
	if !slices.Equal(told, doomed) {
		t.Errorf("severed %v, want %v", told, doomed)
	}
}
