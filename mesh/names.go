package mesh

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var (
	dnsLabel     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	dnsSubdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$`)
)

// CheckLabel reports why s is no DNS label (RFC 1123: at most 63 of a-z, 0-9 and inner hyphens).
func CheckLabel(s string) error {
	if !dnsLabel.MatchString(s) {
		return fmt.Errorf("%q must be a DNS label: 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit", s)
	}
	return nil
}

// CheckSubdomain reports why s is no DNS subdomain (RFC 1123: labels joined by dots, at most 253).
func CheckSubdomain(s string) error {
	if len(s) > 253 || !dnsSubdomain.MatchString(s) {
		return fmt.Errorf("%q must be a DNS name: labels of a-z, 0-9 and '-' joined by dots, at most 253 characters", s)
	}
	return nil
}

// CheckZoneName reports why s can't be the name of a zone: one DNS label, and none of the reserved
// words that would be mistaken for an origin or a part of a host name.
func CheckZoneName(s string) error {
	if err := CheckLabel(s); err != nil {
		return err
	}
	switch s {
	case string(OriginGlobal), "mesh", "svc", "local":
		return fmt.Errorf("%q is reserved and can't name a zone", s)
	}
	return nil
}

// TrustDomain is the identity namespace of one zone, a SPIFFE trust domain name (SPIFFE-ID 2.1).
type TrustDomain string

// CheckTrustDomain reports why s is no usable trust domain. It is stricter than SPIFFE-ID 2.1: only
// DNS subdomains, because the name also appears in X.509 URI name constraints and in SNI.
func CheckTrustDomain(s string) error {
	if err := CheckSubdomain(s); err != nil {
		return fmt.Errorf("trust domain %w", err)
	}
	return nil
}

// ID returns the SPIFFE ID of a path in the trust domain; path begins with "/".
func (t TrustDomain) ID(path string) string { return "spiffe://" + string(t) + path }

// WorkloadID is the SPIFFE ID of every workload of a service account:
// spiffe://<trust domain>/ns/<namespace>/sa/<service account>.
func (t TrustDomain) WorkloadID(namespace, serviceAccount string) string {
	return t.ID("/ns/" + namespace + "/sa/" + serviceAccount)
}

// ZoneCPID is the SPIFFE ID under which a zone's control plane serves its proxies and signs its
// statements.
func (t TrustDomain) ZoneCPID() string { return t.ID("/fed/zone-cp") }

// IngressID is the SPIFFE ID of a zone ingress.
func (t TrustDomain) IngressID(name string) string { return t.ID("/fed/zone-ingress/" + name) }

// EgressID is the SPIFFE ID of a zone egress.
func (t TrustDomain) EgressID(name string) string { return t.ID("/fed/zone-egress/" + name) }

// ServicePort names one port of one service of one zone.
type ServicePort struct {
	Zone      string
	Namespace string
	Service   string
	Port      uint16
	// Instance is a workload that serves it, where the port of that one alone is meant; empty for whichever.
	Instance string
	// L4 is the way on which the server's sidecar passes bytes on, of a port whose requests it understands otherwise.
	L4 bool
}

// Layer is how much the server's sidecar understands of what comes to a port.
type Layer string

// The layers: requests, or bytes of a caller.
const (
	LayerL7 Layer = "l7"
	LayerL4 Layer = "l4"
)

// SNI is the server name that a client of zone `source` presents to reach the port:
// <source zone>.<port>.<service>.<namespace>.<zone>.mesh, for L4 with the label l4 before the zone, and of one instance
// <source zone>.<port>.<instance>.<service>.<namespace>.instance.<zone>.mesh. The first label only selects the filter
// chain that trusts that zone; it proves nothing.
func (p ServicePort) SNI(source string) string { return source + "." + p.SNISuffix() }

// SNISuffix is what every source zone's server name for the port ends with.
func (p ServicePort) SNISuffix() string {
	labels := []string{strconv.Itoa(int(p.Port)), p.Service, p.Namespace}
	if p.Instance != "" {
		labels = []string{labels[0], p.Instance, p.Service, p.Namespace, "instance"}
	}
	if p.L4 {
		labels = append(labels, string(LayerL4))
	}
	return strings.Join(append(labels, p.Zone, "mesh"), ".")
}

// EgressSNI is the server name by which a client of zone `source` reaches the port of an ExternalService through an egress of
// the port's zone: <source zone>.<port>.<service>.<namespace>.egress.<zone>.mesh. It never meets that of a service's, which has a
// label less.
func (p ServicePort) EgressSNI(source string) string { return source + "." + p.EgressSNISuffix() }

// EgressSNISuffix is what every source zone's server name for the port of an ExternalService ends with.
func (p ServicePort) EgressSNISuffix() string {
	return strings.Join([]string{strconv.Itoa(int(p.Port)), p.Service, p.Namespace, "egress", p.Zone, "mesh"}, ".")
}

// PeerSNI is the server name by which an ingress of zone `source` reaches the agent beside an ingress of
// `zone`: <source zone>.peer.<zone>.mesh. Like SNI's, the first label only selects the filter chain. It
// never meets a service's server name, which has two labels more.
func PeerSNI(source, zone string) string { return source + ".peer." + zone + ".mesh" }

// Host names of services, for applications.
//
//	<service>.<namespace>.svc.clusterset.local   wherever the service is (MCS)
//	<service>.<namespace>.<zone>.mesh            pinned to one zone
//	<instance>.<service>.<namespace>.<zone>.mesh one workload of a headless service

// ClusterSetHost is the host name of a service wherever it is.
func ClusterSetHost(service, namespace string) string {
	return service + "." + namespace + ".svc.clusterset.local"
}

// ZoneHost is the host name of a service pinned to one zone.
func ZoneHost(service, namespace, zone string) string {
	return service + "." + namespace + "." + zone + ".mesh"
}

// InstanceHost is the host name of one workload of a headless service, in its zone.
func InstanceHost(instance, service, namespace, zone string) string {
	return instance + "." + ZoneHost(service, namespace, zone)
}

// ClusterSetInstanceHost is the same as KEP-1645 has it: <instance>.<zone>.<service>.<namespace>.svc.clusterset.local.
func ClusterSetInstanceHost(instance, service, namespace, zone string) string {
	return instance + "." + zone + "." + ClusterSetHost(service, namespace)
}

// Role is what a proxy is for.
type Role string

// The roles of a proxy.
const (
	RoleSidecar Role = "sidecar"
	RoleIngress Role = "ingress"
	RoleEgress  Role = "egress"
)

// ProxyID names a proxy within its zone. String is `role~namespace~name`; it is Envoy's node id.
// Namespace is empty for gateways. For a sidecar, Name is the name of its Workload.
type ProxyID struct {
	Role      Role   `json:"role"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

func (p ProxyID) String() string { return string(p.Role) + "~" + p.Namespace + "~" + p.Name }

// ParseProxyID reads what ProxyID.String wrote.
func ParseProxyID(s string) (ProxyID, error) {
	p := strings.Split(s, "~")
	if len(p) != 3 || p[2] == "" {
		return ProxyID{}, fmt.Errorf("proxy id %q is not role~namespace~name", s)
	}
	switch Role(p[0]) {
	case RoleSidecar, RoleIngress, RoleEgress:
	default:
		return ProxyID{}, fmt.Errorf("proxy id %q has no known role", s)
	}
	return ProxyID{Role: Role(p[0]), Namespace: p[1], Name: p[2]}, nil
}

// Locality says where something runs, coarse to fine. Envoy's region, zone and sub_zone are Cloud
// joined with Region, Zone, and nothing.
type Locality struct {
	Cloud  string `json:"cloud,omitempty"`
	Region string `json:"region,omitempty"`
	Zone   string `json:"zone,omitempty"`
}
