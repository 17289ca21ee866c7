package envoy

import (
	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	forwardclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	commonforwardv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/dynamic_forward_proxy/v3"
	forwardv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_forward_proxy/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/xds/ir"
)

// forwardCluster connects to what the filter resolved.
func (b *messages) forwardCluster(m *clusterv3.Cluster, f ir.Forward) {
	m.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
	m.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
		Name: "envoy.clusters.dynamic_forward_proxy",
		TypedConfig: b.any(&forwardclusterv3.ClusterConfig{
			ClusterImplementationSpecifier: &forwardclusterv3.ClusterConfig_DnsCacheConfig{DnsCacheConfig: namesCache(f)},
		}),
	}}
}

// namesCache leaves refused addresses out of every answer, whenever it comes: whoever rules over a name can't move it there
// after a request was looked at. Hosts that are addresses pass it as well.
func namesCache(f ir.Forward) *commonforwardv3.DnsCacheConfig {
	filter := &matcherv3.AddressMatcher{}
	for _, r := range f.Refused {
		bits := uint32(r.Bits()) //nolint:gosec // at most 128
		filter.Ranges = append(filter.Ranges, &xdscorev3.CidrRange{AddressPrefix: r.Addr().String(), PrefixLen: u32(bits)})
	}
	return &commonforwardv3.DnsCacheConfig{
		Name: "undeclared", DnsLookupFamily: clusterv3.Cluster_V4_PREFERRED,
		MaxHosts:              u32(4096),
		DnsFailureRefreshRate: &clusterv3.Cluster_RefreshRate{BaseInterval: seconds(1), MaxInterval: seconds(10)},
		ResolvedAddressFilter: filter,
	}
}

func (b *messages) resolve(f ir.Forward) proto.Message {
	return &forwardv3.FilterConfig{
		ImplementationSpecifier: &forwardv3.FilterConfig_DnsCacheConfig{DnsCacheConfig: namesCache(f)},
	}
}

// count is a policy that never decides, and counts what it would.
func (b *messages) count(c ir.Count) proto.Message {
	return &rbacv3.RBAC{
		ShadowRules: &rbacconfigv3.RBAC{Action: rbacconfigv3.RBAC_DENY, Policies: map[string]*rbacconfigv3.Policy{c.Name: {
			Permissions: []*rbacconfigv3.Permission{{Rule: &rbacconfigv3.Permission_Any{Any: true}}},
			Principals:  []*rbacconfigv3.Principal{{Identifier: &rbacconfigv3.Principal_Any{Any: true}}},
		}}},
		ShadowRulesStatPrefix: c.Name,
	}
}
