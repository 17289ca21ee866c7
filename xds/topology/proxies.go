package topology

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Proxy is one proxy to configure. Proxies with the same ViewKey need the same configuration.
type Proxy struct {
	ID      mesh.ProxyID
	ViewKey string
	// Proxyless is an application that reads its configuration itself.
	Proxyless bool
}

// viewBits is everything by which the configuration of two proxies of a zone can differ.
type viewBits struct {
	Role      mesh.Role
	Serves    []ServiceName          `json:",omitempty"`
	Namespace string                 `json:",omitempty"` // only where an upstream depends on it
	Bind      string                 `json:",omitempty"`
	Ports     []uint16               `json:",omitempty"`
	App       string                 `json:",omitempty"`
	Outbound  uint16                 `json:",omitempty"`
	Upstreams []policy.Upstream      `json:",omitempty"`
	Proxyless bool                   `json:",omitempty"`
	Scope     policy.Clients         `json:",omitzero"`
	Gateways  []mesh.Key             `json:",omitempty"`
	Calls     *[]ServiceName         `json:",omitempty"` // nil for everything
	Instance  string                 `json:",omitempty"` // only where it has a name of its own
	Virtual   *mesh.VirtualAddresses `json:",omitempty"`
}

func (v viewBits) key() string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%+v", v) // can't be: the type holds only strings and numbers
	}
	sum := sha256.Sum256(b)
	return string(v.Role) + "-" + hex.EncodeToString(sum[:12])
}

// Proxies lists every proxy of the zone that holds a lease: sidecars, ingresses, egresses, each by name.
func (t *Topology) Proxies() []Proxy {
	out := make([]Proxy, 0, len(t.Workloads)+len(t.Ingresses))
	for _, w := range t.Workloads {
		if w.Spec.Proxyless {
			bits := viewBits{Role: mesh.RoleSidecar, Proxyless: true, Scope: t.ConsumersOf(w)} // that is all by which they differ
			out = append(out, Proxy{ID: w.ProxyID(), ViewKey: bits.key(), Proxyless: true})
			continue
		}
		bits := viewBits{
			Role: mesh.RoleSidecar, Outbound: w.Spec.OutboundPort,
			Bind: w.Spec.Address, Ports: []uint16{w.Spec.InboundPort}, App: w.Spec.AppAddress, Upstreams: w.Spec.Upstreams,
		}
		for _, s := range t.ServedBy(w) {
			bits.Serves = append(bits.Serves, s.ServiceName)
			if s.Local.Headless {
				bits.Instance = w.Name
			}
		}
		bits.Virtual = w.Spec.VirtualAddresses
		if bits.Outbound != 0 || bits.Virtual != nil {
			bits.Scope = t.Scope(w)
		}
		if d, ok := t.Dependencies(w); ok {
			bits.Calls = &d.Services
		}
		if len(bits.Upstreams) > 0 || bits.Virtual != nil {
			bits.Namespace = w.Namespace
		}
		out = append(out, Proxy{ID: w.ProxyID(), ViewKey: bits.key()})
	}
	for _, g := range t.Ingresses {
		bits := viewBits{Role: mesh.RoleIngress, Bind: g.BindAddress, Ports: g.BindPorts}
		for _, p := range t.edges[g.Name] {
			bits.Gateways = append(bits.Gateways, p.Sources...)
		}
		out = append(out, Proxy{ID: mesh.ProxyID{Role: mesh.RoleIngress, Name: g.Name}, ViewKey: bits.key()})
	}
	for _, g := range t.Egresses {
		bits := viewBits{Role: mesh.RoleEgress, Bind: g.BindAddress, Ports: g.BindPorts}
		out = append(out, Proxy{ID: mesh.ProxyID{Role: mesh.RoleEgress, Name: g.Name}, ViewKey: bits.key()})
	}
	return out
}

// Ingress finds an ingress of this zone.
func (t *Topology) Ingress(id mesh.ProxyID) (IngressProxy, bool) {
	i := slices.IndexFunc(t.Ingresses, func(g IngressProxy) bool { return g.Name == id.Name })
	if i < 0 || id.Role != mesh.RoleIngress {
		return IngressProxy{}, false
	}
	return t.Ingresses[i], true
}

// ServicePort is a port of a service.
type ServicePort struct {
	ServiceName
	Port uint16
}

func (p ServicePort) compare(o ServicePort) int {
	return cmp.Or(p.ServiceName.compare(o.ServiceName), cmp.Compare(p.Port, o.Port))
}

// Upstream resolves a TCP upstream that a workload declares; false where it can't be served.
func (t *Topology) Upstream(w *Workload, u policy.Upstream) (ServicePort, bool) {
	if u.Kind == mesh.KindExternalService {
		return ServicePort{}, false
	}
	n := ServiceName{cmp.Or(u.Namespace, w.Namespace), u.Service}
	s, ok := t.services[n]
	if !ok {
		return ServicePort{}, false
	}
	p, ok := s.Port(u.Port)
	return ServicePort{n, u.Port}, ok && (!p.Protocol.IsHTTP() || t.l4Everywhere(s, p.Number))
}
