package translate

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// Names of decisions that no policy made. They appear in Envoy's response code details, where a space
// would become an underscore.
const (
	DefaultDenyName  = "default-deny:no-AuthorizationPolicy-allows"
	DefaultAllowName = "default-allow:no-AuthorizationPolicy-applies"
	AmbiguousName    = "ambiguous-path:escaped-slash-or-semicolon-where-policies-look-at-paths"
)

// PolicyName is what a policy is called in refusals: origin/namespace/name.
func PolicyName(k mesh.Key) string { return string(k.Origin) + "/" + k.Namespace + "/" + k.Name }

// verdict is one rule, resolved for the callers of one zone and one port.
type verdict struct {
	from     []ir.Pattern
	decision ir.Decision
}

// authorization resolves the policies of a service port for the callers of one zone: what is decided, and what would be if those
// in shadow mode decided too.
func (tr *Translator) authorization(s *topology.Service, p topology.Port, from topology.Zone) *ir.Authorization {
	policies := s.Policies.OfPort(p.Name)
	out := &ir.Authorization{Callers: tr.callers(policies.Enforced(), p, from)}
	if policies.Shadowed() {
		out.Shadow = tr.callers(policies, p, from)
	}
	return out
}

// audits are the policies that only watch, one filter each, so that each counts all that it is about. The first comes
// last: in the access log it is the one that stays.
func (tr *Translator) audits(s *topology.Service, p topology.Port, from topology.Zone) []ir.Filter {
	var out []ir.Filter
	for _, a := range slices.Backward(s.Policies.OfPort(p.Name).Audit) {
		verdicts := tr.verdicts(a, p, from)
		name := PolicyName(a.Resource.Key)
		callers := callersOf(verdicts, from, ir.Decision{})
		callers = slices.DeleteFunc(callers, func(c ir.Caller) bool { return len(c.Decisions) == 0 })
		if len(callers) > 0 {
			out = append(out, ir.Filter{Audit: &ir.Audit{Policy: name, Callers: callers}})
		}
	}
	return out
}

// callers resolves policies of a service port for the callers of one zone. Everything about the
// caller is decided here, down to a table of SPIFFE IDs and prefixes, so that a proxy looks up the
// caller once and then tries only the rules that concern it.
func (tr *Translator) callers(policies policy.Policies, p topology.Port, from topology.Zone) []ir.Caller {
	var verdicts []verdict
	for _, a := range slices.Concat(policies.Deny, policies.Allow) {
		verdicts = append(verdicts, tr.verdicts(a, p, from)...)
	}
	return callersOf(verdicts, from, tr.byDefault(len(policies.Allow) > 0))
}

// byDefault is what is decided where no policy does; allows says that there are any that allow something.
func (tr *Translator) byDefault(allows bool) ir.Decision {
	if !allows && tr.t.Config.DefaultAuthorization == policy.DefaultAllow {
		return ir.Decision{Policy: DefaultAllowName, Allow: true}
	}
	return ir.Decision{Policy: DefaultDenyName}
}

// callersOf is the table of who is concerned by which verdicts; last is for what none of them decides.
func callersOf(verdicts []verdict, from topology.Zone, last ir.Decision) []ir.Caller {
	patterns := []ir.Pattern{everybodyOf(from)}
	for _, v := range verdicts {
		patterns = append(patterns, v.from...)
	}
	slices.Sort(patterns)
	var out []ir.Caller
	for _, pattern := range slices.Compact(patterns) {
		out = append(out, ir.Caller{Identity: pattern, Decisions: decisionsFor(pattern, verdicts, last)})
	}
	return dropRedundant(out)
}

// decisionsFor lists what concerns the callers of a pattern: denials, allowances, the default.
func decisionsFor(pattern ir.Pattern, verdicts []verdict, last ir.Decision) []ir.Decision {
	var out []ir.Decision
	decides := last.Policy != ""
	for _, v := range verdicts {
		if !slices.ContainsFunc(v.from, func(by ir.Pattern) bool { return covers(by, pattern) }) {
			continue
		}
		out = append(out, v.decision)
		if len(v.decision.Requests) == 0 {
			last = ir.Decision{}
			break // nothing after it can be reached
		}
	}
	if last.Policy != "" {
		out = append(out, last)
	}
	if decides {
		out = plainPaths(out, false)
	}
	return out
}

// dropRedundant leaves out patterns for which nothing else is decided than for the prefix that would
// take their callers anyway.
func dropRedundant(callers []ir.Caller) []ir.Caller {
	var out []ir.Caller
	for _, c := range callers { // sorted, so that a prefix comes before what it covers
		var by *ir.Caller
		for i := range out {
			if covers(out[i].Identity, c.Identity) && (by == nil || len(out[i].Identity) > len(by.Identity)) {
				by = &out[i]
			}
		}
		if by == nil || !slices.EqualFunc(by.Decisions, c.Decisions, sameDecision) {
			out = append(out, c)
		}
	}
	return out
}

func sameDecision(a, b ir.Decision) bool { return reflect.DeepEqual(a, b) }

// verdicts resolves the rules of one policy that concern the port and the zone. Those of an Audit allow, so to speak.
func (tr *Translator) verdicts(a policy.Authorization, p topology.Port, from topology.Zone) []verdict {
	name, action := PolicyName(a.Resource.Key), a.Spec.Action
	if action != policy.Allow && len(a.Spec.Rules) == 0 {
		return []verdict{{[]ir.Pattern{everybodyOf(from)}, ir.Decision{Policy: name, Allow: action == policy.Audit}}}
	}
	var out []verdict
	for _, rule := range a.Spec.Rules {
		patterns := tr.patterns(rule.From, from)
		if action == policy.Deny && from.TrustDomain == "" {
			patterns = []ir.Pattern{""} // who doesn't say who it is can't show that it is not who is denied
		}
		requests, applies := requestsOf(rule, p, action)
		if applies && len(patterns) > 0 {
			out = append(out, verdict{patterns, ir.Decision{Policy: name, Allow: action != policy.Deny, Requests: requests}})
		}
	}
	return out
}

// requestsOf resolves what a rule says of requests for one port. applies is false if it does not concern the port; no
// requests then means all of them. Where requests are not understood, what depends on them fails
// closed: it never allows and always denies.
func requestsOf(rule policy.Rule, p topology.Port, action policy.Action) (requests []ir.RequestMatch, applies bool) {
	ops := rule.To
	if len(ops) == 0 {
		ops = []policy.Operation{{}}
	}
	for _, op := range ops {
		if len(op.Ports) > 0 && !slices.Contains(op.Ports, p.Number) {
			continue
		}
		m := requestMatch(op, rule.When, action != policy.Allow)
		looks := !reflect.DeepEqual(m, ir.RequestMatch{})
		if looks && !p.Protocol.IsHTTP() && action == policy.Allow {
			continue
		}
		if !looks || !p.Protocol.IsHTTP() {
			return nil, true
		}
		requests, applies = append(requests, m), true
	}
	return requests, applies
}

// requestMatch is met by the requests of an operation under a condition, which may be nil. A wide one is for what must not be
// escaped by saying more than one thing.
func requestMatch(op policy.Operation, when *policy.Condition, wide bool) ir.RequestMatch {
	m := ir.RequestMatch{Methods: slices.Sorted(slices.Values(op.Methods))}
	for _, path := range op.Paths {
		if prefix, ok := strings.CutSuffix(path, "*"); ok {
			m.Paths = append(m.Paths, ir.PathMatch{Kind: ir.PathPrefix, Value: prefix})
		} else {
			m.Paths = append(m.Paths, ir.PathMatch{Kind: ir.PathExact, Value: path})
		}
	}
	slices.SortFunc(m.Paths, func(x, y ir.PathMatch) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Value, y.Value))
	})
	for _, h := range op.Headers {
		values := ir.HeaderValues{Name: strings.ToLower(h.Name), AmongOthers: wide}
		for _, v := range slices.Sorted(slices.Values(h.Values)) {
			prefix, isPrefix := strings.CutSuffix(v, "*")
			values.Values = append(values.Values, ir.TextMatch{Prefix: isPrefix, Value: prefix})
		}
		m.Headers = append(m.Headers, values)
	}
	if when != nil {
		for _, c := range when.Claims {
			m.Claims = append(m.Claims, ir.ClaimValues{Path: c.Path(), Values: slices.Sorted(slices.Values(c.Values))})
		}
	}
	return m
}

// everybodyOf is the pattern for all callers of a zone; of no zone are those in plaintext.
func everybodyOf(from topology.Zone) ir.Pattern {
	if from.TrustDomain == "" {
		return ""
	}
	return ir.Pattern(from.TrustDomain.ID("/"))
}

// patterns resolves sources for the callers of one zone; none means that nobody of the zone is meant.
func (tr *Translator) patterns(sources []policy.Source, from topology.Zone) []ir.Pattern {
	everybody := everybodyOf(from)
	if len(sources) == 0 {
		return []ir.Pattern{everybody}
	}
	if everybody == "" {
		return nil
	}
	var out []ir.Pattern
	for _, s := range sources {
		if len(s.Zones) > 0 && !slices.Contains(s.Zones, from.Name) {
			continue
		}
		set := []ir.Pattern{everybody}
		if len(s.Namespaces) > 0 || len(s.ServiceAccounts) > 0 {
			set = intersect(set, accounts(from.TrustDomain, s))
		}
		if len(s.Identities) > 0 {
			ids := make([]ir.Pattern, len(s.Identities))
			for i, id := range s.Identities {
				ids[i] = ir.Pattern(id)
			}
			set = intersect(set, ids)
		}
		out = append(out, set...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func accounts(td mesh.TrustDomain, s policy.Source) []ir.Pattern {
	var out []ir.Pattern
	for _, ns := range s.Namespaces {
		if len(s.ServiceAccounts) == 0 {
			out = append(out, ir.Pattern(td.ID("/ns/"+ns+"/")))
		}
		for _, sa := range s.ServiceAccounts {
			out = append(out, ir.Pattern(td.WorkloadID(ns, sa)))
		}
	}
	return out
}

// intersect returns the patterns of those who are of both sets.
func intersect(a, b []ir.Pattern) []ir.Pattern {
	var out []ir.Pattern
	for _, x := range a {
		for _, y := range b {
			switch {
			case covers(x, y):
				out = append(out, y)
			case covers(y, x):
				out = append(out, x)
			}
		}
	}
	return out
}
