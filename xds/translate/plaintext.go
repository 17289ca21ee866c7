package translate

import (
	"slices"

	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// plaintextName is `plaintext/<service>.<namespace>:<port>`: what callers reach that are not of the mesh.
func plaintextName(p topology.ServedPort) string {
	return "plaintext/" + plaintextOf(p)
}

// plaintextOf is `<service>.<namespace>:<port>`.
func plaintextOf(p topology.ServedPort) string {
	return clusterName(p.Service.ServiceName, p.Port.Number)
}

// plaintext are the listeners where the workload's ports take callers as they were before the mesh: at its address and the
// application's port, and their routes. They are listeners of their own, so that nothing else is touched when one comes or goes.
func (tr *Translator) plaintext(w *topology.Workload) ([]ir.Listener, []ir.RouteTable) {
	in := &inbound{tr: tr}
	var out []ir.Listener
	for _, at := range tr.t.Plaintext(w) {
		if c, ok := in.plaintextChain(at); ok {
			out = append(out, ir.Listener{
				Name: c.Name, Address: w.Spec.Address, Port: at.Port, Chains: toldBy(w, []ir.Chain{c}), Sources: tr.plaintextSources(at),
			})
		}
	}
	return out, in.routes
}

// plaintextChain is named after the first of the services; what the policies of any of them deny is denied. Of TCP nothing is known but
// that nobody says who it is: where that is not enough, nothing listens.
func (in *inbound) plaintextChain(at topology.PlaintextPort) (ir.Chain, bool) {
	first := at.Of[0]
	name := plaintextName(first)
	c := ir.Chain{Name: name}
	authorization := in.tr.anonymous(at.Of)
	if !first.Port.Protocol.IsHTTP() {
		c.TCP = &ir.TCP{Plaintext: plaintextOf(first), StatPrefix: name, Serves: true, Cluster: appName(at.Port), MaxDuration: tcpMaxDuration, Telemetry: in.serverTelemetry(first.Service, first.Port, topology.Zone{})}
		c.Connections = in.connectionLimit(first.Service, first.Port)
		return c, authorization.Callers[0].Decisions[0].Allow
	}
	c.HTTP = &ir.HTTP{
		Plaintext: plaintextOf(first), StatPrefix: name, Codec: ir.CodecAuto, RouteTable: name,
		// Nobody proved anything: what the caller says of itself is dropped.
		Authorize: true, Explain: in.tr.t.Config.ExplainRefusals, ForwardIdentity: true, Telemetry: in.serverTelemetry(first.Service, first.Port, topology.Zone{}),
	}
	like := ir.VirtualHost{Name: name, Authorization: authorization}
	for _, p := range at.Of {
		like.Filters.Before = slices.Concat(like.Filters.Before, in.tr.tokens(p.Service, p.Port), in.tr.audits(p.Service, p.Port, topology.Zone{}))
	}
	hosts, more := in.hosts(first.Service, first.Port, like)
	in.routes = append(in.routes, ir.RouteTable{Name: name, Hosts: hosts, Sources: unique(slices.Concat(in.tr.plaintextSources(at), more))})
	return c, true
}

// anonymous resolves the policies of service ports for callers who don't say who they are. Only what allows everybody allows
// them.
func (tr *Translator) anonymous(of []topology.ServedPort) *ir.Authorization {
	decide := func(shadow bool) []ir.Caller {
		var deny, allow []verdict
		allows := false
		for _, p := range of {
			policies := p.Service.Policies.OfPort(p.Port.Name)
			if !shadow {
				policies = policies.Enforced()
			}
			for _, a := range policies.Deny {
				deny = append(deny, tr.verdicts(a, p.Port, topology.Zone{})...)
			}
			for _, a := range policies.Allow {
				allow = append(allow, tr.verdicts(a, p.Port, topology.Zone{})...)
			}
			allows = allows || len(policies.Allow) > 0
		}
		return callersOf(slices.Concat(deny, allow), topology.Zone{}, tr.byDefault(allows))
	}
	out := &ir.Authorization{Callers: decide(false)}
	if slices.ContainsFunc(of, func(p topology.ServedPort) bool { return p.Service.Policies.OfPort(p.Port.Name).Shadowed() }) {
		out.Shadow = decide(true)
	}
	return out
}

func (tr *Translator) plaintextSources(at topology.PlaintextPort) ir.Sources {
	var out ir.Sources
	for _, p := range at.Of {
		out = slices.Concat(out, policySources(p.Service, p.Port, tr.t.ConfigSources), tr.authenticationSources(p.Service, p.Port), tr.t.ServerTelemetry(p.Service, p.Port).Sources)
	}
	return unique(out)
}
