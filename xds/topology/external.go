package topology

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// External is an ExternalService: something outside of the mesh that workloads of this zone call.
type External struct {
	ServiceName
	Spec *policy.ExternalService
	// Ports that can be served, by number.
	Ports []ExternalPort
	// Gateway: it is reached through egress proxies alone, those of Exits.
	Gateway bool
	// Exits are the zones through whose egress proxies it is reached, in the order in which to use them.
	Exits []Exit
	// Policies say who may, where this zone's egress proxies decide it.
	Policies policy.Policies
	Source   mesh.Resource
}

// ExternalPort is one port of an ExternalService.
type ExternalPort struct {
	policy.ExternalPort
	// Protocol as the mesh understands it: TLS that applications speak themselves is TCP.
	Protocol Protocol
}

// ExternalHost is a port of an ExternalService with the domains (host, or host:port) by which requests for it are known.
type ExternalHost struct {
	*External
	Port    ExternalPort
	Domains []string
}

// External finds an ExternalService.
func (t *Topology) External(n ServiceName) (*External, bool) {
	i := slices.IndexFunc(t.Externals, func(e *External) bool { return e.ServiceName == n })
	if i < 0 {
		return nil, false
	}
	return t.Externals[i], true
}

// Port finds a port by its number.
func (e *External) Port(number uint16) (ExternalPort, bool) {
	i := slices.IndexFunc(e.Ports, func(p ExternalPort) bool { return p.Port == number })
	if i < 0 {
		return ExternalPort{}, false
	}
	return e.Ports[i], true
}

// ExternalHosts lists what the sidecars of a namespace know of ExternalServices. A domain belongs to one of them: the
// namespace's own before those that are exported to the mesh, this zone's before global's, the older, the name.
func (t *Topology) ExternalHosts(namespace string) []ExternalHost {
	return t.claim(namespace, func(*External, *External) {})
}

// claim is ExternalHosts, and tells of every host and port that one does not get because of another.
func (t *Topology) claim(namespace string, lost func(loser, winner *External)) []ExternalHost {
	known := slices.Clone(t.Externals)
	known = slices.DeleteFunc(known, func(e *External) bool { return !e.exported() && e.Namespace != namespace })
	slices.SortStableFunc(known, func(a, b *External) int {
		return cmp.Or(
			compareBools(a.Namespace != namespace, b.Namespace != namespace),
			compareBools(a.Source.Origin == mesh.OriginGlobal, b.Source.Origin == mesh.OriginGlobal),
			cmp.Compare(a.Source.Created, b.Source.Created),
			a.compare(b.ServiceName),
		)
	})
	var out []ExternalHost
	taken := map[string]*External{}
	for _, e := range known {
		byDefault := true
		for _, p := range e.Ports {
			h := ExternalHost{External: e, Port: p}
			for _, host := range e.Spec.Hosts {
				if t.ownHost(host) {
					continue
				}
				full := hostPort(host, p.Port)
				if by := taken[full]; by != nil {
					lost(e, by)
					continue
				}
				taken[full] = e
				// The first HTTP port is the one meant without a port.
				if p.Protocol.IsHTTP() && byDefault && taken[host] == nil {
					taken[host] = e
					h.Domains = append(h.Domains, host)
				}
				h.Domains = append(h.Domains, full)
			}
			byDefault = byDefault && !p.Protocol.IsHTTP()
			if len(h.Domains) > 0 {
				out = append(out, h)
			}
		}
	}
	return out
}

func hostPort(host string, port uint16) string { return host + ":" + strconv.Itoa(int(port)) }

func (e *External) exported() bool { return e.Spec.ExportTo == policy.ExportMesh }

// ownHost reports whether a host is that of a service of the mesh.
func (t *Topology) ownHost(host string) bool {
	if strings.HasSuffix(host, ".mesh") || strings.HasSuffix(host, ".svc.clusterset.local") {
		return true
	}
	name, namespace, _ := strings.Cut(host, ".")
	return t.services[ServiceName{namespace, name}] != nil
}

// findExternals reads the ExternalServices, and says which of their hosts are somebody else's.
func (b *builder) findExternals() {
	b.t.scopes = map[policy.Clients]bool{}
	for _, r := range b.preferred(mesh.KindExternalService) {
		spec, ok := b.specs[r.Key].(*policy.ExternalService)
		if !ok {
			continue
		}
		e := &External{ServiceName: ServiceName{r.Namespace, r.Name}, Spec: spec, Source: r, Gateway: b.t.Config.Leaves(*spec)}
		for _, p := range spec.Ports {
			protocol, ok := externalProtocol(p.Protocol)
			if _, twice := e.Port(p.Port); !ok || twice || p.Port == 0 {
				b.issue(r.Key, "port %d (%s) is left out: it is there twice or of an unknown protocol", p.Port, p.Protocol)
				continue
			}
			p.TargetPort = cmp.Or(p.TargetPort, p.Port)
			e.Ports = append(e.Ports, ExternalPort{p, protocol})
		}
		slices.SortFunc(e.Ports, func(x, y ExternalPort) int { return cmp.Compare(x.Port, y.Port) })
		e.Exits = b.exits(e)
		b.t.Externals = append(b.t.Externals, e)
		if !e.exported() {
			b.t.scopes[policy.Clients{Namespace: e.Namespace}] = true
		}
		for _, h := range spec.Hosts {
			if b.t.ownHost(h) {
				b.issue(r.Key, "host %s is the name of a service of the mesh: it stays that", h)
			}
		}
	}
	if b.t.Config.Egress != nil {
		for ns := range b.t.Config.Egress.Namespaces {
			b.t.scopes[policy.Clients{Namespace: ns}] = true
		}
	}
	slices.SortFunc(b.t.Externals, func(x, y *External) int { return x.compare(y.ServiceName) })
	b.contested()
}

// contested says who loses a host to another one that is known to the same sidecars. That a namespace's own wins
// over the mesh's is meant.
func (b *builder) contested() {
	lost, namespaces := map[mesh.Key][]mesh.Key{}, []string{""}
	for scope := range b.t.scopes {
		namespaces = append(namespaces, scope.Namespace)
	}
	slices.Sort(namespaces)
	for _, namespace := range namespaces {
		b.t.claim(namespace, func(loser, winner *External) {
			if loser.exported() == winner.exported() && loser != winner {
				lost[loser.Source.Key] = append(lost[loser.Source.Key], winner.Source.Key)
			}
		})
	}
	for _, k := range slices.SortedFunc(maps.Keys(lost), mesh.Key.Compare) {
		slices.SortFunc(lost[k], mesh.Key.Compare)
		b.overridden(k, slices.Compact(lost[k])...)
	}
}

func externalProtocol(p policy.ExternalProtocol) (Protocol, bool) {
	switch p {
	case policy.ExternalTLS, policy.ExternalTCP:
		return TCP, true
	case policy.ExternalHTTP, policy.ExternalHTTP2, policy.ExternalGRPC:
		return protocolOf(string(p))
	}
	return "", false
}

// ExternalUpstream resolves an upstream that a workload declares of an ExternalService; false where it can't be served.
func (t *Topology) ExternalUpstream(w *Workload, u policy.Upstream) (*External, ExternalPort, bool) {
	e, ok := t.External(ServiceName{cmp.Or(u.Namespace, w.Namespace), u.Service})
	if u.Kind != mesh.KindExternalService || !ok || !e.exported() && e.Namespace != w.Namespace {
		return nil, ExternalPort{}, false
	}
	p, ok := e.Port(u.Port)
	return e, p, ok && !p.Protocol.IsHTTP()
}

func (b *builder) checkExternalUpstream(w *Workload, u policy.Upstream) {
	n := ServiceName{cmp.Or(u.Namespace, w.Namespace), u.Service}
	e, ok := b.t.External(n)
	if !ok || !e.exported() && e.Namespace != w.Namespace {
		b.issue(w.key(b.in.Zone), "upstream %s: there is no ExternalService of this name that namespace %s knows, so nothing listens on port %d", n, w.Namespace, u.LocalPort)
		return
	}
	p, ok := e.Port(u.Port)
	switch {
	case !ok:
		b.issue(w.key(b.in.Zone), "upstream %s: the ExternalService has no port %d, so nothing listens on port %d", n, u.Port, u.LocalPort)
	case p.Protocol.IsHTTP():
		b.issue(w.key(b.in.Zone), "upstream %s: port %d is %s, which is reached by host name on outboundPort; nothing listens on port %d", n, u.Port, p.Protocol, u.LocalPort)
	}
}
