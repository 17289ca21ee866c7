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

// checkVisitors says of a policy for a Gateway what of that is not here, and of which listeners the requests are not understood.
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
			if !slices.Contains([]gatewayv1.ProtocolType{gatewayv1.HTTPProtocolType, gatewayv1.HTTPSProtocolType}, l.Protocol) {
				b.issue(r.Key, "listener %s of Gateway %s passes on connections, about which it can't decide: nobody is served there", l.Name, t.Name)
			}
		}
	}
	switch {
	case !found:
		b.issue(r.Key, "it targets Gateway %s/%s, which is not here", r.Namespace, t.Name)
	case !listener:
		b.issue(r.Key, "it targets listener %q of Gateway %s, which has none of this name", t.SectionName, t.Name)
	}
}
