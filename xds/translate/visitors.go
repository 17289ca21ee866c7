package translate

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// visitors decides who may come by a listener of a Gateway: what a Deny matches is refused, and where there is an Allow what none of
// them matches. Where there is no policy everybody may, and the service decides about the ingress.
func (tr *Translator) visitors(e topology.EdgeListener, guard bool) []ir.Filter {
	policies := tr.t.Visitors(e.Gateway, e.Name)
	var out []ir.Filter
	for _, a := range tr.visitAudits(e) {
		out = append(out, ir.Filter{Audit: &a})
	}
	decides := len(policies.Deny)+len(policies.Allow) > 0
	if !decides && !guard {
		return out
	}
	v := &ir.Visitors{Decisions: plainPaths(decisionsAbout(e, policies.Enforced()), guard)}
	if policies.Shadowed() {
		v.Shadow = plainPaths(decisionsAbout(e, policies), guard)
	}
	return append(out, ir.Filter{Visitors: v})
}

// plainPaths refuses paths of which applications make different things, where decisions look at paths or something else does.
func plainPaths(decisions []ir.Decision, guard bool) []ir.Decision {
	if !guard && !slices.ContainsFunc(decisions, func(d ir.Decision) bool {
		return slices.ContainsFunc(d.Requests, func(r ir.RequestMatch) bool { return len(r.Paths) > 0 })
	}) {
		return decisions
	}
	return append([]ir.Decision{{Policy: AmbiguousName, Requests: []ir.RequestMatch{{AmbiguousPath: true}}}}, decisions...)
}

// admitVisitors decides the same about the connections that a listener passes on.
func (tr *Translator) admitVisitors(e topology.EdgeListener) ir.Admission {
	policies := tr.t.Visitors(e.Gateway, e.Name)
	v := &ir.Visitors{Decisions: decisionsAbout(e, policies.Enforced())}
	if policies.Shadowed() {
		v.Shadow = decisionsAbout(e, policies)
	}
	a := ir.Admission{Visitors: v, Audits: tr.visitAudits(e), Sources: ir.Sources{e.Gateway}}
	for _, p := range policies.All() {
		a.Sources = append(a.Sources, p.Resource.Key)
	}
	a.Sources = unique(a.Sources)
	return a
}

// decisionsAbout are those of policies about a listener's visitors, the denials first.
func decisionsAbout(e topology.EdgeListener, policies policy.Policies) []ir.Decision {
	var out []ir.Decision
	for _, a := range slices.Concat(policies.Deny, policies.Allow) {
		out = append(out, visitsOf(e, a)...)
	}
	if len(policies.Allow) > 0 {
		return append(out, ir.Decision{Policy: DefaultDenyName})
	}
	return append(out, ir.Decision{Policy: DefaultAllowName, Allow: true})
}

// visitAudits are the policies that only watch; the first comes last.
func (tr *Translator) visitAudits(e topology.EdgeListener) []ir.Audit {
	var out []ir.Audit
	for _, a := range slices.Backward(tr.t.Visitors(e.Gateway, e.Name).Audit) {
		if noted := visitsOf(e, a); len(noted) > 0 {
			about := ir.Decision{Policy: PolicyName(a.Resource.Key), Allow: true}
			for _, d := range noted {
				if len(d.Requests) == 0 {
					about.Requests = nil
					break
				}
				about.Requests = append(about.Requests, d.Requests...)
			}
			out = append(out, ir.Audit{Policy: about.Policy, Callers: []ir.Caller{{Decisions: []ir.Decision{about}}}})
		}
	}
	return out
}

// visitsOf are the decisions of one policy.
func visitsOf(e topology.EdgeListener, a policy.Authorization) []ir.Decision {
	d := ir.Decision{Policy: PolicyName(a.Resource.Key), Allow: a.Spec.Action != policy.Deny}
	if a.Spec.Action != policy.Allow && len(a.Spec.Rules) == 0 {
		return []ir.Decision{d}
	}
	var out []ir.Decision
	for _, rule := range a.Spec.Rules {
		if requests, applies := visits(e, rule, a.Spec.Action != policy.Allow); applies {
			d.Requests = requests
			out = append(out, d)
		}
	}
	return out
}

// visits are the requests, or connections, that a rule is about, none for all. What can't be known of a listener's visitors fails
// closed: a wide rule, which denies or notes, is about all of them, another one about none.
func visits(e topology.EdgeListener, rule policy.Rule, wide bool) (out []ir.RequestMatch, applies bool) {
	from, ops := rule.From, rule.To
	if len(from) == 0 {
		from = []policy.Source{{}}
	}
	if len(ops) == 0 {
		ops = []policy.Operation{{}}
	}
	for _, s := range from {
		for _, op := range ops {
			m := requestMatch(op, rule.When, wide)
			if unknown := forget(e, &m, &s, &op); unknown && !wide {
				continue
			}
			for _, a := range s.Addresses {
				if p, err := policy.AddressRange(a); err == nil { // it was validated
					m.Addresses = append(m.Addresses, p)
				}
			}
			slices.SortFunc(m.Addresses, netip.Prefix.Compare)
			for _, id := range slices.Sorted(slices.Values(s.Identities)) {
				m.Identities = append(m.Identities, ir.IdentityMatch{Identity: ir.Pattern(id), AmongOthers: wide})
			}
			for _, name := range slices.Sorted(slices.Values(op.ServerNames)) {
				m.ServerNames = append(m.ServerNames, strings.ToLower(name))
			}
			if reflect.DeepEqual(m, ir.RequestMatch{}) {
				return nil, true
			}
			out, applies = append(out, m), true
		}
	}
	return out, applies
}

// forget takes out of a rule what a listener can't know of its visitors, and reports whether there was anything.
func forget(e topology.EdgeListener, m *ir.RequestMatch, s *policy.Source, op *policy.Operation) (unknown bool) {
	if !e.HTTP() && !reflect.DeepEqual(*m, ir.RequestMatch{}) {
		*m, unknown = ir.RequestMatch{}, true
	}
	if len(s.Identities) > 0 && !e.Proven() {
		s.Identities, unknown = nil, true
	}
	if len(op.ServerNames) > 0 && (e.Protocol == gatewayv1.HTTPProtocolType || e.Protocol == gatewayv1.TCPProtocolType) {
		op.ServerNames, unknown = nil, true
	}
	return unknown
}
