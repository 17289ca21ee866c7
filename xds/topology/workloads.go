package topology

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"

	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
)

// Capacity in endpoint-equivalents, at least 0.01 and at most a million.
func (w *Workload) Capacity() float64 {
	c := w.Spec.Capacity
	if c == 0 || math.IsNaN(c) {
		return 1
	}
	return min(max(c, 0.01), 1e6)
}

// ProxyID is the workload's sidecar.
func (w *Workload) ProxyID() mesh.ProxyID {
	return mesh.ProxyID{Role: mesh.RoleSidecar, Namespace: w.Namespace, Name: w.Name}
}

// Key is the workload's resource.
func (w *Workload) key(zone string) mesh.Key {
	return mesh.Key{Origin: mesh.Origin(zone), Kind: mesh.KindWorkload, Namespace: w.Namespace, Name: w.Name}
}

// findWorkloads keeps the workloads that Envoy can be told of.
func (b *builder) findWorkloads() {
	list := slices.Clone(b.in.Workloads)
	slices.SortStableFunc(list, func(x, y Workload) int {
		// What was lost comes last: its address may be another's by now.
		if c := cmp.Or(compareBools(x.Lost, y.Lost), cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name)); c != 0 {
			return c
		}
		return tie(0, x, y)
	})
	taken := map[string]*Workload{}
	for i := range list {
		w := &list[i]
		if err := b.checkWorkload(w); err != nil {
			b.issue(w.key(b.in.Zone), "the workload is left out: %v", err)
			continue
		}
		at := w.Spec.Address + " " + strconv.Itoa(int(w.Spec.InboundPort))
		if w.Spec.Proxyless {
			at = w.Namespace + "/" + w.Name // nobody connects to it
		}
		other := taken[at]
		if other != nil && w.Lost {
			continue // the other one took its place
		}
		if other != nil {
			// Envoy keeps one of two endpoints with the same address and port and does not say which.
			b.issue(w.key(b.in.Zone), "the workload is left out: %s port %d is the address of %s/%s", w.Spec.Address, w.Spec.InboundPort, other.Namespace, other.Name)
			continue
		}
		taken[at] = w
		if _, twice := b.t.workloads[w.ProxyID()]; twice {
			b.issue(w.key(b.in.Zone), "the workload is there twice")
			continue
		}
		b.t.workloads[w.ProxyID()] = w
		b.t.Workloads = append(b.t.Workloads, w)
	}
	slices.SortFunc(b.t.Workloads, func(x, y *Workload) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
}

// compareBools orders false before true.
func compareBools(x, y bool) int {
	switch {
	case x == y:
		return 0
	case y:
		return -1
	}
	return 1
}

func (b *builder) checkWorkload(w *Workload) error {
	ip, err := netip.ParseAddr(w.Spec.Address)
	if err != nil || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("address %q is no usable IP address", w.Spec.Address)
	}
	w.Spec.Address = ip.Unmap().String()
	if w.Spec.InboundPort == 0 && !w.Spec.Proxyless {
		return errors.New("it has no inboundPort")
	}
	app := cmp.Or(w.Spec.AppAddress, "127.0.0.1")
	if ip, err = netip.ParseAddr(app); err != nil || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("appAddress %q is no usable IP address", app)
	}
	w.Spec.AppAddress = ip.Unmap().String()
	id, err := identity.ParseID(w.Identity)
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	if id.TrustDomain() != b.in.TrustDomain {
		return fmt.Errorf("identity %q is not of trust domain %s", w.Identity, b.in.TrustDomain)
	}
	return nil
}

func (b *builder) findIngresses() {
	for _, g := range b.in.Ingresses {
		ip, err := netip.ParseAddr(g.BindAddress)
		if err != nil || ip.Zone() != "" {
			continue // the agent that sent it is told by the zone
		}
		ports := slices.DeleteFunc(slices.Clone(g.BindPorts), func(p uint16) bool { return p == 0 })
		slices.Sort(ports)
		b.t.Ingresses = append(b.t.Ingresses, IngressProxy{
			Name: g.Name, BindAddress: ip.String(), BindPorts: slices.Compact(ports), Host: g.Host, Gateways: g.Gateways, Secrets: g.Secrets,
		})
	}
	slices.SortStableFunc(b.t.Ingresses, func(x, y IngressProxy) int {
		return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.BindAddress, y.BindAddress), slices.Compare(x.BindPorts, y.BindPorts))
	})
	b.t.Ingresses = slices.CompactFunc(b.t.Ingresses, func(x, y IngressProxy) bool { return x.Name == y.Name })
}

// checkUpstreams says where a workload wants a local port for what is not there.
func (b *builder) checkUpstreams() {
	for _, w := range b.t.Workloads {
		for _, u := range w.Spec.Upstreams {
			if u.Kind == mesh.KindExternalService {
				b.checkExternalUpstream(w, u)
				continue
			}
			n := ServiceName{cmp.Or(u.Namespace, w.Namespace), u.Service}
			s, ok := b.t.services[n]
			if !ok {
				b.issue(w.key(b.in.Zone), "upstream %s: there is no such service here, so nothing listens on port %d", n, u.LocalPort)
				continue
			}
			p, ok := s.Port(u.Port)
			switch {
			case !ok:
				b.issue(w.key(b.in.Zone), "upstream %s: the service has no port %d, so nothing listens on port %d", n, u.Port, u.LocalPort)
			case p.Protocol.IsHTTP() && !b.t.l4Everywhere(s, p.Number):
				b.issue(w.key(b.in.Zone), "upstream %s: port %d is %s, which is reached by host name on outboundPort; nothing listens on port %d", n, u.Port, p.Protocol, u.LocalPort)
			}
		}
	}
}
