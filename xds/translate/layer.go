package translate

import (
	"slices"

	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// passRequests is the second way to a port of which a layer is said: nobody looks at the requests. It is decided about as for a
// TCP port, and where something must look at each request before it is let in, it lets nobody in.
func (in *inbound) passRequests(s *topology.Service, p topology.Port, from topology.Zone, hosts []ir.VirtualHost) {
	name := servicePort(in.tr.t.Zone, s.ServiceName, p.Number)
	name.L4 = true
	c := ir.Chain{
		Name: l4Name(inboundName(s.ServiceName, p.Number, from.Name)), ServerNames: in.serverNames(name, s, from),
		// Who speaks HTTP/2 to the application announces it.
		TLS: &ir.ServerTLS{HTTP2: p.Protocol != topology.HTTP},
	}
	p.Protocol = topology.TCP
	authorization := *in.tr.authorization(s, p, from)
	if slices.ContainsFunc(hosts, guarded) {
		authorization = nobody(from, GuardedName)
	}
	in.pass(c, s, p, from, authorization)
}

// guarded reports whether a filter may refuse requests of a host for what they are, and not for how many there are.
func guarded(h ir.VirtualHost) bool {
	guards := func(f ir.Filters) bool {
		return slices.ContainsFunc(f.Before, func(f ir.Filter) bool { return f.Audit == nil }) ||
			slices.ContainsFunc(f.After, func(f ir.Filter) bool { return f.ExternalAuthorization != nil || f.Lua != nil })
	}
	return guards(h.Filters) || slices.ContainsFunc(h.Routes, func(r ir.Route) bool { return guards(r.Filters) })
}

// l4Lane is the chain of an ingress for the second way, beside the first, so that neither changes with the other.
func (tr *Translator) l4Lane(like ir.Chain, e reach) ir.Chain {
	name := e.at(tr.t.Zone)
	name.L4 = true
	like.Name, like.ServerNames = l4Name(like.Name), []string{"*." + name.SNISuffix()}
	return like
}

// speakToApps adapts a client to zones whose sidecars pass bytes on: it speaks to the application itself, which closes idle
// connections as it likes, and may take pings of HTTP/2 for abuse.
func speakToApps(c *ir.Cluster, p topology.Protocol) {
	l4 := 0
	for _, peer := range c.Peers {
		if peer.L4 {
			l4++
		}
	}
	switch {
	case l4 == 0:
	case p != topology.HTTP:
		c.Detection.KeepAlive, c.Detection.KeepAliveTimeout = 0, 0
	case l4 == len(c.Peers):
		c.Protocol, c.IdleTimeout = ir.HTTP1, appIdle
	default:
		c.Protocol, c.IdleTimeout = ir.Negotiated, appIdle
	}
}
