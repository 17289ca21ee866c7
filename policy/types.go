package policy

import (
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// Group is the API group of Comity's own kinds.
const Group = "mesh.comity.dev"

// API versions of the kinds.
const (
	APIVersion           = Group + "/v1alpha1"
	APIVersionCore       = "v1"
	APIVersionGatewayAPI = "gateway.networking.k8s.io/v1"
	APIVersionMCS        = "multicluster.x-k8s.io/v1beta1"
)

// Zone is a failure domain with its own control plane and trust domain. Made at global, cluster-wide.
type Zone struct {
	DisplayName string `json:"displayName,omitempty"`
	// Cloud and Region place the zone for failover tiers.
	Cloud  string `json:"cloud,omitempty"`
	Region string `json:"region,omitempty"`
	// Namespaces for which the zone may speak: export services and be believed. "*" alone means all;
	// empty means none.
	Namespaces []string `json:"namespaces,omitempty"`
	// TrustDomain, when set, is the only one that may join under the name. Which one joined is in the status.
	TrustDomain mesh.TrustDomain `json:"trustDomain,omitempty"`
	// Drain moves traffic away from the zone: every zone lowers its share, evenly over the given time, to
	// nothing. Taken away, the share comes back over the same time.
	Drain *Drain `json:"drain,omitempty"`
	// Revoked ends all trust in the zone, wherever this is read, for good: it can only be removed with the Zone.
	Revoked *Revocation `json:"revoked,omitempty"`
}

// Drain takes a zone out of use without a failed request.
type Drain struct {
	// Over is how long the share falls to nothing; default 0s, at once.
	Over gatewayv1.Duration `json:"over,omitempty"`
	// Reason is for people.
	Reason string `json:"reason,omitempty"`
	// Leave removes the zone from the mesh when nothing goes to it any more.
	Leave bool `json:"leave,omitempty"`
	// Force, with Leave, does not wait for zones that are away from global.
	Force bool `json:"force,omitempty"`
}

// Revocation says why a zone is not trusted any more.
type Revocation struct {
	Reason string `json:"reason,omitempty"`
}

// MeshConfig holds the defaults of the whole mesh. Only the one named "default" counts.
type MeshConfig struct {
	// DefaultAuthorization decides requests to which no AuthorizationPolicy applies. Default Deny.
	DefaultAuthorization DefaultAuthorization `json:"defaultAuthorization,omitempty"`
	// ExplainRefusals answers who is refused with the policy that refused it, and with who it is taken for. Default false:
	// callers learn that they are refused, and access logs say by what.
	ExplainRefusals bool `json:"explainRefusals,omitempty"`
	// AccessLog, when set, makes every proxy log requests as JSON lines to the named target.
	AccessLog *AccessLog `json:"accessLog,omitempty"`
	// Detection is how proxies find out that somebody does not answer.
	Detection *Detection `json:"detection,omitempty"`
	// Trust is how long zones believe each other when global is away.
	Trust *Trust `json:"trust,omitempty"`
	// Egress is what becomes of traffic that leaves the mesh.
	Egress *Egress `json:"egress,omitempty"`
}

// DefaultAuthorization is Allow or Deny.
type DefaultAuthorization string

// The values of DefaultAuthorization.
const (
	DefaultAllow DefaultAuthorization = "Allow"
	DefaultDeny  DefaultAuthorization = "Deny"
)

// AccessLog says where requests are logged.
type AccessLog struct {
	// Path is a file on the proxy's machine; "/dev/stdout" for its standard output.
	Path string `json:"path"`
}

// Service is the core Kubernetes Service, of which the fields below are honoured; the rest is refused.
type Service struct {
	// Selector chooses the Workloads of the namespace that serve it, by labels.
	Selector map[string]string `json:"selector"`
	Ports    []ServicePort     `json:"ports"`
	// ClusterIP is empty, or "None": a headless service, of which each workload also has a name of its own, in this zone and,
	// if it is exported, in the others.
	ClusterIP string `json:"clusterIP,omitempty"`
}

// ClusterIPNone makes a service headless.
const ClusterIPNone = "None"

// ServicePort is one port of a Service.
type ServicePort struct {
	Name string `json:"name,omitempty"`
	Port uint16 `json:"port"`
	// TargetPort is the workload's port; the same as Port when 0.
	TargetPort uint16 `json:"targetPort,omitempty"`
	// Protocol is TCP (the only one now).
	Protocol string `json:"protocol,omitempty"`
	// AppProtocol chooses what the mesh understands of the traffic: "http" or "kubernetes.io/ws" (HTTP/1.1
	// and HTTP/2, WebSockets included), "kubernetes.io/h2c" or "http2", "grpc", "tcp". Default "tcp" as nothing is known.
	AppProtocol string `json:"appProtocol,omitempty"`
}

// The spec of a Workload lies on the ground floor: the sidecar that registers it links no policy.
type (
	// Workload is one process on a VM with its sidecar.
	Workload = mesh.Workload
	// Upstream binds a local port to a TCP port of a service.
	Upstream = mesh.Upstream
	// HealthCheck is made by the sidecar of its application.
	HealthCheck = mesh.HealthCheck
)

// ServiceExport offers the Service of the same namespace and name to other zones (MCS API, KEP-1645).
type ServiceExport struct{}

// HTTPRoute is the Gateway API's, service-parented as in GAMMA: parentRefs name Services. What is not
// built yet is refused at apply time, not ignored.
type HTTPRoute = gatewayv1.HTTPRouteSpec

// TargetRef names what a policy applies to, as Gateway API policies do.
type TargetRef struct {
	Group string `json:"group,omitempty"`
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	// SectionName narrows the target where the policy's kind can be for less than all of it: the name of a Service's port, or of
	// a rule of a route.
	SectionName string `json:"sectionName,omitempty"`
}

// SystemNamespace holds policies that target the whole mesh.
const SystemNamespace = "comity-system"
