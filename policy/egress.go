package policy

import (
	"maps"
	"slices"

	"github.com/comity-mesh/comity/mesh"
)

// Egress is what becomes of traffic that leaves the mesh.
type Egress struct {
	// Undeclared says what becomes of HTTP requests for hosts that are no service's and no ExternalService's. Default Deny.
	Undeclared Undeclared `json:"undeclared,omitempty"`
	// Namespaces says it otherwise for the workloads of some.
	Namespaces map[string]Undeclared `json:"namespaces,omitempty"`
	// PrivateAddresses says whether undeclared hosts may be at private addresses. Default Deny. It never holds for loopback and
	// link-local ones, which are always refused.
	PrivateAddresses Undeclared `json:"privateAddresses,omitempty"`
	// Gateway: ExternalServices that don't say otherwise are reached through the zone's egress proxies. Default false.
	Gateway bool `json:"gateway,omitempty"`
}

// Undeclared is Deny or Allow.
type Undeclared string

// The values of Undeclared.
const (
	UndeclaredDeny  Undeclared = "Deny"
	UndeclaredAllow Undeclared = "Allow"
)

// OfUndeclared is what becomes of undeclared hosts for the workloads of a namespace.
func (c MeshConfig) OfUndeclared(namespace string) Undeclared {
	if c.Egress == nil {
		return UndeclaredDeny
	}
	if u, ok := c.Egress.Namespaces[namespace]; ok {
		return u
	}
	if c.Egress.Undeclared == UndeclaredAllow {
		return UndeclaredAllow
	}
	return UndeclaredDeny
}

// Leaves reports whether an ExternalService is reached through egress proxies.
func (c MeshConfig) Leaves(s ExternalService) (byGateway bool) {
	if s.Exit != nil {
		return s.Exit.Gateway || len(s.Exit.Zones) > 0
	}
	return c.Egress != nil && c.Egress.Gateway
}

func validateEgress(r *report, e Egress) {
	const at = "/spec/egress"
	choices := []string{"", string(UndeclaredDeny), string(UndeclaredAllow)}
	r.oneOf(at+"/undeclared", string(e.Undeclared), choices...)
	r.oneOf(at+"/privateAddresses", string(e.PrivateAddresses), choices...)
	r.atMost(at+"/namespaces", len(e.Namespaces), 1000)
	for _, ns := range slices.Sorted(maps.Keys(e.Namespaces)) {
		r.checked(ptr(at+"/namespaces", ns), ns, mesh.CheckLabel)
		r.oneOf(ptr(at+"/namespaces", ns), string(e.Namespaces[ns]), choices[1:]...)
	}
}
