package topology

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// EdgePort is a port on which an ingress takes traffic that is not of the mesh. Either all of its listeners are over TLS
// or none.
type EdgePort struct {
	Number    uint16
	Listeners []EdgeListener // the more specific host first
	// Sources are the Gateways.
	Sources []mesh.Key
}

// TLS reports whether the port is with TLS.
func (p EdgePort) TLS() bool {
	return p.Listeners[0].Protocol == gatewayv1.HTTPSProtocolType || p.Listeners[0].Protocol == gatewayv1.TLSProtocolType
}

// EdgeListener is a listener of a Gateway, with what is attached to it.
type EdgeListener struct {
	Gateway  mesh.Key
	Name     string
	Protocol gatewayv1.ProtocolType
	// Host in lower case, perhaps "*.suffix", or "" for all.
	Host string
	// TrustedHops are the proxies in front that are believed.
	TrustedHops uint32

	// Of what ends TLS: names of secrets that lie on the machines of ingresses.
	Certificates []SecretName
	// Minimum13 refuses TLS 1.2.
	Minimum13 bool
	// Clients, when not nil, must show a certificate under an authority.
	Clients *EdgeClients

	// Passthrough, of protocol TLS, leaves TLS to the services.
	Passthrough bool

	// Hosts of HTTP and HTTPS, the more specific first.
	Hosts []EdgeHost
	// Streams of TLS and TCP, the more specific host first.
	Streams []EdgeStream
}

// HTTP reports whether requests are understood.
func (e EdgeListener) HTTP() bool {
	return e.Protocol == gatewayv1.HTTPProtocolType || e.Protocol == gatewayv1.HTTPSProtocolType
}

// Proven reports whether every client has proven an identity, by a certificate that was verified.
func (e EdgeListener) Proven() bool { return e.Clients != nil && !e.Clients.Optional }

// EdgeStream is where the connections for a host go, of TCP for all of them.
type EdgeStream struct {
	Host     string // as a listener's
	Route    mesh.Key
	Backends []gatewayv1.BackendRef
}

// EdgeClients are the clients that a Gateway believes.
type EdgeClients struct {
	Authorities SecretName
	// Optional lets in those who show none, or one that proves nothing.
	Optional bool
}

// SecretName names a secret on the machine of a proxy.
type SecretName struct{ Namespace, Name string }

// Names of secrets of a proxy's machine begin with these: a certificate with its key, and authorities.
const (
	CertificatePrefix = "secret/"
	AuthorityPrefix   = "authority/"
)

func (n SecretName) String() string { return n.Namespace + "/" + n.Name }

// EdgeHost is a host of a listener with its routes in the order in which to try them.
type EdgeHost struct {
	Host   string // as a listener's
	Routes []policy.RouteMatch
}

// gateway is a Gateway that this zone serves.
type gateway struct {
	res  mesh.Resource
	spec *policy.Gateway
	hops uint32
}

// Edge is what an ingress serves besides its lanes, by port.
func (t *Topology) Edge(ingress string) []EdgePort { return t.edges[ingress] }

// Listeners says how the listeners of each Gateway that could be served here do.
func (t *Topology) Listeners() map[mesh.Key][]mesh.ListenerStatus { return t.listeners }

// Edged are the services to which Gateways of this zone lead, with their ports, and those that their ingresses ask and tell; in the
// order of Services.
func (t *Topology) Edged() []ServicePort { return t.edged }

// attachGateways gives every ingress the Gateways that it serves.
func (b *builder) attachGateways(all []streamRoute) {
	gateways := b.gateways()
	routes, streams := b.gatewayRoutes(gateways), b.streamRoutes(gateways, all)
	served, said := map[mesh.Key]bool{}, map[listenerKey]*listenerWord{}
	leads := map[ServicePort]bool{}
	for _, g := range b.t.Ingresses {
		e := &edge{b: b, ingress: g, routes: routes, streams: streams, said: said}
		for _, gw := range gateways {
			if g.serves(gw) {
				served[gw.res.Key] = true
				e.add(gw)
			}
		}
		b.t.edges[g.Name] = e.finish(leads)
	}
	for _, gw := range gateways {
		switch {
		case served[gw.res.Key]:
		case len(gw.spec.Addresses) > 0 && len(b.t.Ingresses) > 0:
			b.issue(gw.res.Key, "no ingress of the zone has one of its addresses and serves it: nothing is programmed (AddressNotUsable)")
		default:
			b.issue(gw.res.Key, "no ingress of the zone serves it: nothing is programmed (AddressNotAssigned)")
		}
	}
	b.t.listeners = listenerStatuses(gateways, routes, streams, said)
	b.t.edged = slices.SortedFunc(maps.Keys(leads), ServicePort.compare)
}

// serves reports whether the Gateway is one for this ingress.
func (g IngressProxy) serves(gw gateway) bool {
	if len(g.Gateways) > 0 && !slices.Contains(g.Gateways, gw.res.Namespace+"/"+gw.res.Name) {
		return false
	}
	return len(gw.spec.Addresses) == 0 || slices.ContainsFunc(gw.spec.Addresses, func(a gatewayv1.GatewaySpecAddress) bool {
		return a.Value == "" || a.Value == g.BindAddress || strings.EqualFold(a.Value, g.Host)
	})
}

// gateways are those that could be served here, those that win first: a zone's own, the older, namespace and name.
func (b *builder) gateways() []gateway {
	classes := map[string]bool{policy.GatewayClassName: true}
	for _, r := range b.preferred(mesh.KindGatewayClass) {
		classes[r.Name] = true // of another controller none is taken
	}
	var out []gateway
	for _, r := range b.preferred(mesh.KindGateway) {
		spec, ok := b.specs[r.Key].(*policy.Gateway)
		if !ok {
			continue
		}
		hops, err := policy.TrustedHops(r)
		switch {
		case err != nil:
			b.issue(r.Key, "%s: %v", policy.AnnotationTrustedHops, err)
		case !classes[string(spec.GatewayClassName)]:
			b.issue(r.Key, "there is no GatewayClass %s here: nothing is programmed (NotReconciled)", spec.GatewayClassName)
		default:
			out = append(out, gateway{r, spec, hops})
		}
	}
	slices.SortStableFunc(out, func(x, y gateway) int {
		return cmp.Or(
			compareBools(x.res.Origin == mesh.OriginGlobal, y.res.Origin == mesh.OriginGlobal),
			cmp.Compare(x.res.Created, y.res.Created), x.res.Compare(y.res.Key),
		)
	})
	return out
}

// gatewayRoutes are the routes with a Gateway for a parent. Of parents that are not here it says so.
func (b *builder) gatewayRoutes(gateways []gateway) []policy.Route {
	var out []policy.Route
	for _, r := range b.httpRoutes() {
		spec, ok := b.httpSpec(r)
		if !ok {
			continue
		}
		if b.attaches(gateways, r, spec.ParentRefs, spec.Hostnames) {
			out = append(out, policy.Route{Resource: r, Spec: spec})
		}
	}
	return out
}

// attaches reports whether a listener takes a route by one of its parents, and says of those by which none does.
func (b *builder) attaches(gateways []gateway, r mesh.Resource, parents []gatewayv1.ParentReference, hosts []gatewayv1.Hostname) bool {
	attached := false
	for _, p := range parents {
		if p.Kind != nil && *p.Kind != "Gateway" {
			continue
		}
		if reason, why := parentProblem(gateways, r, r.Kind, p, hosts); why != "" {
			b.unaccepted(r.Key, reason, "parent %s: %s", p.Name, why)
		} else {
			attached = true
		}
	}
	return attached
}

// parentProblem says why no listener takes a route by one of its parents, empty if one does. The words in parentheses are
// the reasons of the Gateway API.
func parentProblem(gateways []gateway, route mesh.Resource, kind mesh.Kind, p gatewayv1.ParentReference, hosts []gatewayv1.Hostname) (reason gatewayv1.RouteConditionReason, problem string) {
	reason, problem = gatewayv1.RouteReasonNoMatchingParent, "there is no such Gateway here"
	for _, gw := range gateways {
		for _, l := range gw.spec.Listeners {
			whole := p
			whole.SectionName, whole.Port = nil, nil
			ref := gw.listener(l)
			if !ref.Means(whole, route.Namespace) {
				continue
			}
			if problem == "there is no such Gateway here" {
				problem = "it has no such listener (NoMatchingParent)"
			}
			switch {
			case !ref.Means(p, route.Namespace):
			case !admits(gw, l, route.Namespace, kind):
				reason, problem = gatewayv1.RouteReasonNotAllowedByListeners, "its listeners do not allow it (NotAllowedByListeners)"
			case len(policy.CommonHosts(policy.ListenerHost(l), hosts)) == 0:
				reason, problem = gatewayv1.RouteReasonNoMatchingListenerHostname, "no listener has one of its hostnames (NoMatchingListenerHostname)"
			default:
				return "", ""
			}
		}
	}
	return reason, problem
}

func (g gateway) listener(l gatewayv1.Listener) policy.ListenerRef {
	return policy.ListenerRef{Namespace: g.res.Namespace, Gateway: g.res.Name, Listener: string(l.Name), Port: uint16(l.Port)}
}

// admits reports whether a listener allows routes of a kind and namespace.
func admits(gw gateway, l gatewayv1.Listener, namespace string, kind mesh.Kind) bool {
	if !slices.Contains(supportedKinds(l), string(kind)) {
		return false
	}
	if a := l.AllowedRoutes; a != nil && a.Namespaces != nil && a.Namespaces.From != nil {
		switch *a.Namespaces.From {
		case gatewayv1.NamespacesFromAll:
			return true
		case gatewayv1.NamespacesFromSelector:
			return policy.SelectsNamespace(a.Namespaces.Selector, namespace)
		case gatewayv1.NamespacesFromSame, gatewayv1.NamespacesFromNone:
		}
	}
	return namespace == gw.res.Namespace
}

// supportedKinds are the kinds of routes that a listener takes.
func supportedKinds(l gatewayv1.Listener) []string {
	if l.AllowedRoutes == nil || len(l.AllowedRoutes.Kinds) == 0 {
		return policy.RouteKinds(l)
	}
	var out []string
	for _, k := range l.AllowedRoutes.Kinds {
		out = append(out, string(k.Kind))
	}
	return out
}

// edge collects what one ingress serves.
type edge struct {
	b       *builder
	ingress IngressProxy
	routes  []policy.Route
	streams []streamRoute
	said    map[listenerKey]*listenerWord // of all ingresses
	taken   []taken
}

type taken struct {
	gateway
	l gatewayv1.Listener
}

// add takes the listeners of a Gateway that are free and can be told from those before.
func (e *edge) add(gw gateway) {
	for _, l := range gw.spec.Listeners {
		if slices.Contains(e.ingress.BindPorts, uint16(l.Port)) {
			e.word(gw, l).refuse(gatewayv1.ListenerConditionAccepted, gatewayv1.ListenerReasonPortUnavailable, fmt.Sprintf("port %d is a lane of ingress %s", l.Port, e.ingress.Name))
			e.b.issue(gw.res.Key, "listener %s: port %d is a lane of ingress %s: not programmed (PortUnavailable)", l.Name, l.Port, e.ingress.Name)
			continue
		}
		if other, why := e.conflict(gw, l); why != "" {
			reason := gatewayv1.ListenerReasonHostnameConflict
			if l.Protocol != other.l.Protocol {
				reason = gatewayv1.ListenerReasonProtocolConflict
			}
			e.word(gw, l).refuse(gatewayv1.ListenerConditionConflicted, reason, fmt.Sprintf("listener %s of Gateway %s is first: %s", other.l.Name, other.res.Key, why))
			e.b.issue(gw.res.Key, "listener %s: it can't be told apart from listener %s of Gateway %s, which is first: %s (Conflicted)", l.Name, other.l.Name, other.res.Key, why)
			continue
		}
		names, refused := e.b.t.certificates(gw, l)
		for _, n := range refused {
			e.word(gw, l).refuse(gatewayv1.ListenerConditionResolvedRefs, gatewayv1.ListenerReasonRefNotPermitted, fmt.Sprintf("no ReferenceGrant of namespace %s lets Gateways of namespace %s name Secret %s", n.Namespace, gw.res.Namespace, n.Name))
			e.b.issue(gw.res.Key, "listener %s: no ReferenceGrant of namespace %s lets Gateways of namespace %s name Secret %s (RefNotPermitted)", l.Name, n.Namespace, gw.res.Namespace, n.Name)
		}
		if len(refused) > 0 && len(names) == 0 {
			continue // without a certificate nobody is served
		}
		e.taken = append(e.taken, taken{gw, l})
		e.word(gw, l).served = true
		e.checkSecrets(gw, l)
	}
}

func (e *edge) conflict(gw gateway, l gatewayv1.Listener) (with taken, why string) {
	for _, o := range e.taken {
		why := policy.Indistinct(l, o.l)
		if why == "" && l.Port == o.l.Port && l.Protocol == gatewayv1.HTTPProtocolType && gw.hops != o.hops {
			why = fmt.Sprintf("it believes %d proxies in front of it, not %d", o.hops, gw.hops)
		}
		if why != "" {
			return o, why
		}
	}
	return taken{}, ""
}

// finish makes the ports, and notes where they lead.
func (e *edge) finish(leads map[ServicePort]bool) []EdgePort {
	slices.SortStableFunc(e.taken, func(x, y taken) int {
		return cmp.Or(cmp.Compare(x.l.Port, y.l.Port), policy.CompareHosts(policy.ListenerHost(x.l), policy.ListenerHost(y.l)))
	})
	var out []EdgePort
	for _, x := range e.taken {
		if len(out) == 0 || out[len(out)-1].Number != uint16(x.l.Port) {
			out = append(out, EdgePort{Number: uint16(x.l.Port)})
		}
		p := &out[len(out)-1]
		p.Sources = append(p.Sources, x.res.Key)
		p.Listeners = append(p.Listeners, e.listener(x, leads))
	}
	return out
}

// lead notes to where a route leads.
func (e *edge) lead(leads map[ServicePort]bool, route mesh.Key, ref gatewayv1.BackendObjectReference, find func(mesh.Key, gatewayv1.BackendObjectReference) (Backend, error)) {
	to, err := find(route, ref)
	switch {
	case err != nil: // said where the route is checked
	case to.External:
		e.b.issue(route, "ExternalService %s can't be a backend of a Gateway: its requests are answered 503", to.ServiceName)
	default:
		leads[to.ServicePort] = true
	}
}

func (e *edge) listener(x taken, leads map[ServicePort]bool) EdgeListener {
	l := EdgeListener{
		Gateway: x.res.Key, Name: string(x.l.Name), Protocol: x.l.Protocol, Host: policy.ListenerHost(x.l), TrustedHops: x.hops,
	}
	if t := x.l.TLS; t != nil && len(t.CertificateRefs) > 0 {
		l.Minimum13 = t.Options[policy.TLSMinimum] == "1.3"
		l.Certificates, _ = e.b.t.certificates(x.gateway, x.l)
		l.Clients = x.clients(x.l.Port)
	}
	l.Passthrough = x.l.TLS != nil && x.l.TLS.Mode != nil && *x.l.TLS.Mode == gatewayv1.TLSModePassthrough
	if x.l.Protocol == gatewayv1.HTTPProtocolType || x.l.Protocol == gatewayv1.HTTPSProtocolType {
		l.Hosts = e.hosts(x)
	} else {
		l.Streams = e.streamsOf(x)
	}
	for _, h := range l.Hosts {
		for _, m := range h.Routes {
			for _, ref := range asked(m.Does) {
				e.lead(leads, m.Route, ref.BackendObjectReference, e.b.t.Backend)
			}
		}
	}
	for _, h := range l.Streams {
		for _, ref := range h.Backends {
			e.lead(leads, h.Route, ref.BackendObjectReference, e.b.t.StreamBackend)
		}
	}
	return l
}

// asked are the backends of a rule and those that get copies.
func asked(rule *gatewayv1.HTTPRouteRule) []gatewayv1.HTTPBackendRef {
	out := slices.Clone(rule.BackendRefs)
	for _, ref := range copied(rule) {
		out = append(out, gatewayv1.HTTPBackendRef{BackendRef: gatewayv1.BackendRef{BackendObjectReference: ref}})
	}
	return out
}

// copied are those that get copies of a rule's requests, or of those of one of its backends.
func copied(rule *gatewayv1.HTTPRouteRule) []gatewayv1.BackendObjectReference {
	filters := slices.Clone(rule.Filters)
	for _, b := range rule.BackendRefs {
		filters = append(filters, b.Filters...)
	}
	var out []gatewayv1.BackendObjectReference
	for _, f := range filters {
		if f.RequestMirror != nil {
			out = append(out, f.RequestMirror.BackendRef)
		}
	}
	return out
}

// clients are those that the Gateway believes on a port; nil if it asks for no certificate.
func (g gateway) clients(port gatewayv1.PortNumber) *EdgeClients {
	if g.spec.TLS == nil || g.spec.TLS.Frontend == nil {
		return nil
	}
	v := g.spec.TLS.Frontend.Default.Validation
	for _, p := range g.spec.TLS.Frontend.PerPort {
		if p.Port == port {
			v = p.TLS.Validation
		}
	}
	if v == nil || len(v.CACertificateRefs) == 0 {
		return nil
	}
	return &EdgeClients{SecretName{g.res.Namespace, string(v.CACertificateRefs[0].Name)}, v.Mode == gatewayv1.AllowInsecureFallback}
}

// hosts are those of the routes of a listener. A host that a more specific listener of the port has is that one's alone.
func (e *edge) hosts(x taken) []EdgeHost {
	own := policy.ListenerHost(x.l)
	var routes []policy.Route
	names := map[string]bool{}
	for _, r := range e.routes {
		if !x.takes(r.Resource, r.Spec.ParentRefs) {
			continue
		}
		common := policy.CommonHosts(own, r.Spec.Hostnames)
		for _, h := range common {
			names[h] = true
		}
		if len(common) > 0 {
			routes = append(routes, r)
		}
	}
	var out []EdgeHost
	for _, name := range slices.SortedFunc(maps.Keys(names), policy.CompareHosts) {
		if e.isolated(x, name) {
			continue
		}
		matches, lost := policy.HostMatches(routes, name)
		for _, k := range slices.SortedFunc(maps.Keys(lost), mesh.Key.Compare) {
			e.b.overridden(k, lost[k]...)
		}
		out = append(out, EdgeHost{name, matches})
	}
	return out
}

// takes reports whether the listener takes a route with the parents.
func (x taken) takes(route mesh.Resource, parents []gatewayv1.ParentReference) bool {
	ref := x.listener(x.l)
	means := func(p gatewayv1.ParentReference) bool { return ref.Means(p, route.Namespace) }
	return slices.ContainsFunc(parents, means) && admits(x.gateway, x.l, route.Namespace, route.Kind)
}

// isolated reports whether a host of a listener is that of a more specific one of the port.
func (e *edge) isolated(x taken, host string) bool {
	own := policy.ListenerHost(x.l)
	return slices.ContainsFunc(e.taken, func(o taken) bool {
		other := policy.ListenerHost(o.l)
		return o.l.Port == x.l.Port && other != own && policy.HostCovers(own, other) && policy.HostCovers(other, host)
	})
}
