// Package topology joins what a zone wants with what it found: services with their workloads, the
// other zones' exports, routes and policies, as one immutable picture that translate reads. It is
// pure. One bad resource never breaks the rest: it is left out, and an Issue says why.
package topology

import (
	"cmp"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Topology is one zone at one moment. Nothing in it may be changed, its slices and maps included.
type Topology struct {
	Zone        string
	TrustDomain mesh.TrustDomain
	Revision    mesh.Revision

	// Zones are those whose callers can be authenticated here: this one and every remote with usable
	// roots, sorted by name.
	Zones []Zone
	// Services of this zone and imported ones, sorted by namespace and name.
	Services []*Service
	// Externals are the ExternalServices, sorted by namespace and name.
	Externals []*External
	// Workloads that can be reached, sorted by namespace and name.
	Workloads []*Workload
	// Ingresses of this zone, sorted by name.
	Ingresses []IngressProxy
	// Egresses of this zone, sorted by name.
	Egresses []EgressProxy
	// Roots are PEM per trust domain, one byte form for one set of certificates.
	Roots map[mesh.TrustDomain][]byte
	// Config is the effective MeshConfig, and ConfigSources where it comes from.
	Config        policy.MeshConfig
	ConfigSources []mesh.Key

	services       map[ServiceName]*Service
	workloads      map[mesh.ProxyID]*Workload
	serves         map[mesh.ProxyID][]*Service
	traffic        *attachments[policy.TrafficPolicy]
	telemetry      *attachments[policy.TelemetryPolicy]
	authentication *attachments[policy.AuthenticationPolicy]
	keys           map[string]Keys
	dependencies   map[mesh.ProxyID]Dependencies     // of workloads of which a policy says them
	visitors       map[string][]policy.Authorization // of Gateways, by namespace
	extensions     map[policy.Side][]policy.Attached[policy.Extension]
	patches        []policy.Attached[policy.Extension]
	scopes         map[policy.Clients]bool // whose sidecars know other hosts or routes than the rest
	consumes       map[policy.Clients]bool // those of them that have routes of their own
	consumed       map[consumer][]policy.RouteMatch
	edges          map[string][]EdgePort // by ingress
	edged          []ServicePort
	listeners      map[mesh.Key][]mesh.ListenerStatus
	streams        map[clients][]EdgeStream
	grants         map[string][]*policy.ReferenceGrant // by namespace
	numbers        map[string]uint16                   // of host names with virtual addresses
	// trustDomains knows every zone's trust domain, of zones that are away too.
	trustDomains map[string]mesh.TrustDomain
}

// ServiceName names a service within the mesh; the same name means the same service in every zone
// (namespace sameness, KEP-1645).
type ServiceName struct {
	Namespace string
	Name      string
}

func (n ServiceName) String() string { return n.Name + "." + n.Namespace }

func (n ServiceName) compare(o ServiceName) int {
	return cmp.Or(cmp.Compare(n.Namespace, o.Namespace), cmp.Compare(n.Name, o.Name))
}

// Zone is a zone whose identities can be verified.
type Zone struct {
	Name        string
	TrustDomain mesh.TrustDomain
	Place       mesh.Locality // cloud and region
	Local       bool
	// Ingresses are how to reach it, sorted by ID; none for this zone.
	Ingresses []RemoteIngress
	// Egresses of another zone, sorted by name; this zone's are those of the Topology.
	Egresses []mesh.Egress
	// Drain is what global asks for it, nil for nothing.
	Drain   *policy.Drain
	Sources []mesh.Key
}

// Service is a service as this zone sees it.
type Service struct {
	ServiceName
	// Ports by number. Where zones disagree on a port, this zone's word counts, then the first zone's
	// by name.
	Ports []Port
	// Local is what this zone has of it, nil for nothing.
	Local *LocalService
	// Remotes are the other zones that offer it, sorted by zone.
	Remotes []RemoteService
	// Policies that apply to it.
	Policies policy.Policies
	// Failover divides its traffic among the zones above.
	Failover Failover
	// Sources: Service, ServiceExport, Zones.
	Sources []mesh.Key
}

// Port is one port of a service.
type Port struct {
	Name     string
	Number   uint16
	Protocol Protocol
	// Routes of its own namespace, in the order in which to try them; none for the plain service. RoutesTo has those of consumers.
	Routes []policy.RouteMatch
}

// Protocol is what the mesh understands of a port's traffic.
type Protocol string

// The protocols. HTTP is spoken to the application as HTTP/1.1, HTTP2 and GRPC as HTTP/2 with prior
// knowledge.
const (
	HTTP  Protocol = "http"
	HTTP2 Protocol = "http2"
	GRPC  Protocol = "grpc"
	TCP   Protocol = "tcp"
)

// IsHTTP reports whether requests are understood.
func (p Protocol) IsHTTP() bool { return p != TCP }

func protocolOf(appProtocol string) (Protocol, bool) {
	switch appProtocol {
	case "http", "kubernetes.io/ws":
		return HTTP, true
	case "http2", "kubernetes.io/h2c":
		return HTTP2, true
	case "grpc":
		return GRPC, true
	case "", "tcp":
		return TCP, true
	}
	return "", false
}

// LocalService is a service's part in this zone.
type LocalService struct {
	// Targets are the workloads' ports by service port.
	Targets map[uint16]uint16
	// Workloads sorted by name.
	Workloads []*Workload
	// Identities of the workloads, sorted.
	Identities []string
	// Exported to the other zones.
	Exported bool
	// Headless: each workload can be called by itself.
	Headless bool
	// Layers are of the ports of which a policy says one; they are served on both.
	Layers map[uint16]mesh.Layer
}

// RemoteService is a service's part in another zone.
type RemoteService struct {
	Zone          string
	Ports         []uint16 // sorted
	Layers        map[uint16]mesh.Layer
	Identities    []string // sorted, of the zone's trust domain
	Instances     []string // sorted; none of a service that is not headless there
	Ready, Total  int
	Capacity      float64
	ReadyCapacity float64
}

// Service finds a service.
func (t *Topology) Service(n ServiceName) (*Service, bool) {
	s, ok := t.services[n]
	return s, ok
}

// Workload finds the workload of a sidecar.
func (t *Topology) Workload(id mesh.ProxyID) (*Workload, bool) {
	w, ok := t.workloads[id]
	return w, ok
}

// ZoneNamed finds a zone whose identities can be verified.
func (t *Topology) ZoneNamed(name string) (Zone, bool) {
	i := slices.IndexFunc(t.Zones, func(z Zone) bool { return z.Name == name })
	if i < 0 {
		return Zone{}, false
	}
	return t.Zones[i], true
}

// ServedBy lists the services that a workload serves, in the order of Services.
func (t *Topology) ServedBy(w *Workload) []*Service {
	return t.serves[w.ProxyID()]
}

// Port finds a port by its number.
func (s *Service) Port(number uint16) (Port, bool) {
	i := slices.IndexFunc(s.Ports, func(p Port) bool { return p.Number == number })
	if i < 0 {
		return Port{}, false
	}
	return s.Ports[i], true
}

// Exports is what this zone offers to the others, sorted by namespace and service.
func (t *Topology) Exports() []mesh.Export {
	var out []mesh.Export
	for _, s := range t.Services {
		if s.Local == nil || !s.Local.Exported || len(s.Local.Workloads) == 0 {
			continue
		}
		e := mesh.Export{Namespace: s.Namespace, Service: s.Name, Identities: slices.Clone(s.Local.Identities)}
		for _, p := range s.Ports {
			if _, ok := s.Local.Targets[p.Number]; ok {
				e.Ports = append(e.Ports, mesh.ExportPort{Name: p.Name, Port: p.Number, AppProtocol: string(p.Protocol), Layer: s.Local.Layers[p.Number]})
			}
		}
		e.Instances = s.Instances(t.Zone, t.Zone)
		c := s.Local.Capacity()
		e.Ready, e.Total, e.Capacity, e.ReadyCapacity = c.Ready, c.Total, c.Capacity, c.ReadyCapacity
		out = append(out, e)
	}
	return out
}

// Issue is what is wrong with one resource here, for its status.
type Issue struct {
	Key     mesh.Key
	Message string
	// OverriddenBy are the resources that win over it, if that is what the issue is.
	OverriddenBy []mesh.Key
	// Condition of a route that is False for it, with the Gateway API's Reason; empty if none is.
	Condition gatewayv1.RouteConditionType
	Reason    gatewayv1.RouteConditionReason
}
