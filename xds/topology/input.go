package topology

import (
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Input is everything one zone knows at one moment. Build reads it and keeps no reference to its
// slices.
type Input struct {
	Zone        string
	TrustDomain mesh.TrustDomain
	// Revision of the zone's store that Resources reflect.
	Revision mesh.Revision
	// Resources of every origin in the zone's store: Service, ServiceExport, HTTPRoute,
	// AuthorizationPolicy, FailoverPolicy, MeshConfig, Zone. Kinds it does not need are passed over.
	Resources []mesh.Resource
	// Workloads that hold a lease, in any order.
	Workloads []Workload
	// Ingresses of this zone that hold a lease.
	Ingresses []IngressProxy
	// Egresses of this zone that hold a lease.
	Egresses []EgressProxy
	// Remotes are the other zones whose statements were verified and whose lease has not ended.
	Remotes []Remote
	// Roots are the trusted X.509 roots per trust domain, PEM, this zone's own among them.
	Roots map[mesh.TrustDomain][]byte
	// Keys of issuers of tokens that were fetched, by policy.JWKS.Source. Those that are not there are fetched by the proxies.
	Keys map[string]Keys
	// Decode reads the spec of a resource as policy.Decode does; a caller that remembers what it has read
	// before sets it. Nil means policy.Decode. The specs are not changed.
	Decode func(mesh.Resource) (any, error)
	// Number gives host names the numbers of their virtual addresses; a caller that remembers what names had before sets it.
	// Nil means Numbers that remember nothing. It is asked only where a workload has virtual addresses.
	Number func(hosts []string) map[string]uint16
}

// Keys are what is known of an issuer's.
type Keys struct {
	// JWKS that were fetched last; empty if they never were.
	JWKS string
	// Problem with fetching newer ones, for people.
	Problem string
}

// Workload is one attested process with its sidecar.
type Workload struct {
	Namespace string
	Name      string
	Labels    map[string]string
	Spec      policy.Workload
	Healthy   bool // it may be sent requests
	// Lost: it ended without leaving. It is not healthy, and still part of what there should be.
	Lost bool
	// Draining takes it out of use: its connections end as their callers wish, and it gets no new ones.
	Draining bool
	// Identity that its sidecar was issued: <trust domain>/ns/<namespace>/sa/<service account>.
	Identity string
}

// IngressProxy is a zone ingress of this zone.
type IngressProxy struct {
	Name        string
	BindAddress string
	BindPorts   []uint16 // lanes
	// Host is how it is reached from elsewhere: an address or a name.
	Host string `json:",omitempty"`
	// Gateways that it serves, as namespace/name; none means all.
	Gateways []string `json:",omitempty"`
	// Secrets of its machine that its Envoy wants and that are not as they should be, by name, with the reason.
	Secrets map[string]string `json:",omitempty"`
}

// EgressProxy is a zone egress of this zone.
type EgressProxy struct {
	Name        string
	BindAddress string
	BindPorts   []uint16
	// Address and Ports are how the zone's sidecars reach it: an IP address.
	Address string
	Ports   []uint16
	// Ready: it may be sent requests.
	Ready bool
}

// Remote is another zone as it describes itself.
type Remote struct {
	Zone        string
	TrustDomain mesh.TrustDomain
	Ingresses   []RemoteIngress
	Egresses    []mesh.Egress
	Exports     []mesh.Export
}

// RemoteIngress is an ingress of another zone with its name resolved to addresses.
type RemoteIngress struct {
	mesh.Ingress
	Addresses []string // IP addresses; the last good answer of the resolver
	// Unreachable: every ingress of this zone that probes it finds nobody there. No word is none against it.
	Unreachable bool
}
