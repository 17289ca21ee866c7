package translate

import (
	"cmp"
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
	AmbiguousName    = "ambiguous-path:escaped-slash-where-policies-look-at-paths"
)

// PolicyName is what a policy is called in refusals: origin/namespace/name.
func PolicyName(k mesh.Key) string { return string(k.Origin) + "/" + k.Namespace + "/" + k.Name }

// verdict is one rule, resolved for the callers of one zone and one port.
type verdict struct {
	from     []ir.Pattern
	decision ir.Decision
}

// callers resolves the policies of a service port for the callers of one zone. Everything about the
// caller is decided here, down to a table of SPIFFE IDs and prefixes, so that a proxy looks up the
// caller once and then tries only the rules that concern it.
func (tr *Translator) callers(s *topology.Service, p topology.Port, from topology.Zone) []ir.Caller {
	var verdicts []verdict
	for _, a := range s.Policies.Deny {
		verdicts = append(verdicts, tr.verdicts(a, p, from, false)...)
	}
	for _, a := range s.Policies.Allow {
		verdicts = append(verdicts, tr.verdicts(a, p, from, true)...)
	}
	last := ir.Decision{Policy: DefaultDenyName}
	if len(s.Policies.Allow) == 0 && tr.t.Config.DefaultAuthorization == policy.DefaultAllow {
		last = ir.Decision{Policy: DefaultAllowName, Allow: true}
	}
	everybody := ir.Pattern(from.TrustDomain.ID("/"))
	patterns := []ir.Pattern{everybody}
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
	ambiguous := false
	for _, v := range verdicts {
		if !slices.ContainsFunc(v.from, func(by ir.Pattern) bool { return covers(by, pattern) }) {
			continue
		}
		out = append(out, v.decision)
		if len(v.decision.Requests) == 0 {
			last = ir.Decision{}
			break // nothing after it can be reached
		}
		ambiguous = ambiguous || slices.ContainsFunc(v.decision.Requests, func(r ir.RequestMatch) bool { return len(r.Paths) > 0 })
	}
	if last.Policy != "" {
		out = append(out, last)
	}
	if ambiguous {
		out = append([]ir.Decision{{Policy: AmbiguousName, Requests: []ir.RequestMatch{{AmbiguousPath: true}}}}, out...)
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

func sameDecision(a, b ir.Decision) bool {
	return a.Policy == b.Policy && a.Allow == b.Allow && slices.EqualFunc(a.Requests, b.Requests, func(x, y ir.RequestMatch) bool {
		return x.AmbiguousPath == y.AmbiguousPath && slices.Equal(x.Methods, y.Methods) && slices.Equal(x.Paths, y.Paths)
	})
}

// verdicts resolves the rules of one policy that concern the port and the zone.
func (tr *Translator) verdicts(a policy.Authorization, p topology.Port, from topology.Zone, allow bool) []verdict {
	name := PolicyName(a.Resource.Key)
	if !allow && len(a.Spec.Rules) == 0 {
		return []verdict{{[]ir.Pattern{ir.Pattern(from.TrustDomain.ID("/"))}, ir.Decision{Policy: name}}}
	}
	var out []verdict
	for _, rule := range a.Spec.Rules {
		patterns := tr.patterns(rule.From, from)
		requests, applies := requestsOf(rule.To, p, allow)
		if applies && len(patterns) > 0 {
			out = append(out, verdict{patterns, ir.Decision{Policy: name, Allow: allow, Requests: requests}})
		}
	}
	return out
}

// requestsOf resolves operations for one port. applies is false if none of them concerns it; no
// requests then means all of them. Where requests are not understood, what depends on them fails
// closed: it never allows and always denies.
func requestsOf(ops []policy.Operation, p topology.Port, allow bool) (requests []ir.RequestMatch, applies bool) {
	if len(ops) == 0 {
		return nil, true
	}
	everything := false
	for _, op := range ops {
		if len(op.Ports) > 0 && !slices.Contains(op.Ports, p.Number) {
			continue
		}
		looks := len(op.Methods)+len(op.Paths) > 0
		if looks && !p.Protocol.IsHTTP() && allow {
			continue
		}
		applies = true
		if !looks || !p.Protocol.IsHTTP() {
			everything = true
			continue
		}
		requests = append(requests, requestMatch(op))
	}
	if everything {
		return nil, true
	}
	return requests, applies
}

func requestMatch(op policy.Operation) ir.RequestMatch {
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
	return m
}

// patterns resolves sources for the callers of one zone; none means that nobody of the zone is meant.
func (tr *Translator) patterns(sources []policy.Source, from topology.Zone) []ir.Pattern {
	everybody := ir.Pattern(from.TrustDomain.ID("/"))
	if len(sources) == 0 {
		return []ir.Pattern{everybody}
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
