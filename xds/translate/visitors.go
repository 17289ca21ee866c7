package translate

import (
	"net/netip"
	"slices"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// visitors decides who may come by a listener of a Gateway: what a Deny matches is refused, and where there is an Allow what none of
// them matches. Where there is no policy everybody may, and the service decides about the ingress.
func (tr *Translator) visitors(e topology.EdgeListener, guard bool) []ir.Filter {
	policies := tr.t.Visitors(e.Gateway, e.Name)
	out := &ir.Visitors{}
	for _, a := range policies.All() {
		name, denies := PolicyName(a.Resource.Key), a.Spec.Action == policy.Deny
		if denies && len(a.Spec.Rules) == 0 {
			out.Decisions = append(out.Decisions, ir.Decision{Policy: name})
		}
		for _, rule := range a.Spec.Rules {
			out.Decisions = append(out.Decisions, ir.Decision{Policy: name, Allow: !denies, Requests: visits(rule, denies)})
		}
	}
	if len(out.Decisions) == 0 && len(policies.Allow) == 0 && !guard {
		return nil
	}
	last := ir.Decision{Policy: DefaultAllowName, Allow: true}
	if len(policies.Allow) > 0 {
		last = ir.Decision{Policy: DefaultDenyName}
	}
	out.Decisions = append(out.Decisions, last)
	if guard || slices.ContainsFunc(out.Decisions, func(d ir.Decision) bool {
		return slices.ContainsFunc(d.Requests, func(r ir.RequestMatch) bool { return len(r.Paths) > 0 })
	}) {
		ambiguous := ir.Decision{Policy: AmbiguousName, Requests: []ir.RequestMatch{{AmbiguousPath: true}}}
		out.Decisions = append([]ir.Decision{ambiguous}, out.Decisions...)
	}
	return []ir.Filter{{Visitors: out}}
}

// visits are the requests that a rule is about, none for all.
func visits(rule policy.Rule, wide bool) []ir.RequestMatch {
	var from []netip.Prefix
	for _, s := range rule.From {
		for _, a := range s.Addresses {
			if p, err := policy.AddressRange(a); err == nil { // it was validated
				from = append(from, p)
			}
		}
	}
	ops := rule.To
	if len(ops) == 0 {
		if len(from) == 0 && rule.When == nil {
			return nil
		}
		ops = []policy.Operation{{}}
	}
	var out []ir.RequestMatch
	for _, op := range ops {
		m := requestMatch(op, rule.When, wide)
		m.Addresses = from
		out = append(out, m)
	}
	return out
}
