package topology

import (
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// Visitors are the policies that decide about who comes by a listener of a Gateway, ordered by key.
func (t *Topology) Visitors(gateway mesh.Key, listener string) policy.Policies {
	var mine []policy.Authorization
	for _, p := range t.visitors[gateway.Namespace] {
		if r := p.Spec.TargetRef; r.Name == gateway.Name && (r.SectionName == "" || r.SectionName == listener) {
			mine = append(mine, p)
		}
	}
	return policy.Sorted(mine)
}

// checkVisitors says of a policy for a Gateway what of that is not here, and what of it some listeners can't know of their visitors.
func (b *builder) checkVisitors(r mesh.Resource, t *policy.TargetRef) {
	found, listener := false, false
	for _, gw := range b.byKind[mesh.KindGateway] {
		spec, ok := b.specs[gw.Key].(*policy.Gateway)
		if !ok || gw.Namespace != r.Namespace || gw.Name != t.Name {
			continue
		}
		found = true
		for _, l := range spec.Listeners {
			if t.SectionName != "" && t.SectionName != string(l.Name) {
				continue
			}
			listener = true
			b.checkVisits(r, gateway{res: gw, spec: spec}, l)
		}
	}
	switch {
	case !found:
		b.issue(r.Key, "it targets Gateway %s/%s, which is not here", r.Namespace, t.Name)
	case !listener:
		b.issue(r.Key, "it targets listener %q of Gateway %s, which has none of this name", t.SectionName, t.Name)
	}
}

// checkVisits says what a policy looks at that a listener can't know.
func (b *builder) checkVisits(r mesh.Resource, gw gateway, l gatewayv1.Listener) {
	spec, ok := b.specs[r.Key].(*policy.AuthorizationPolicy)
	if !ok {
		return
	}
	e := EdgeListener{Protocol: l.Protocol}
	if l.TLS != nil && len(l.TLS.CertificateRefs) > 0 {
		e.Clients = gw.clients(l.Port)
	}
	effect := map[policy.Action]string{
		policy.Allow: "a rule with them allows nothing there", policy.Deny: "a rule with them denies everything there", policy.Audit: "a rule with them notes everything there",
	}[spec.Action]
	unknown := func(what string) {
		b.issue(r.Key, "listener %s of Gateway %s knows no %s: %s", l.Name, gw.res.Name, what, effect)
	}
	for _, rule := range spec.Rules {
		identities := slices.ContainsFunc(rule.From, func(s policy.Source) bool { return len(s.Identities) > 0 })
		names := slices.ContainsFunc(rule.To, func(o policy.Operation) bool { return len(o.ServerNames) > 0 })
		switch {
		case !e.HTTP() && looksAtRequests(rule, 0):
			unknown("methods, paths, headers and claims of its visitors")
		case identities && !e.Proven():
			unknown("identities of its visitors, since it demands no certificates")
		case names && (l.Protocol == gatewayv1.HTTPProtocolType || l.Protocol == gatewayv1.TCPProtocolType):
			unknown("server names of its visitors")
		}
	}
}
