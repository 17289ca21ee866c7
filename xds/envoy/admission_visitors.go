package envoy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/comity-mesh/comity/xds/ir"
)

// fromState, with a number of bits after it, is the range of so many bits in which the client's address is.
const fromState = "comity.from/"

// visits says what is decided about a client who has no identity in the mesh, and which audits note it.
func (s *states) visits(v ir.Visitors, audits []ir.Audit) {
	lists := [][]ir.Decision{v.Decisions, v.Shadow}
	for _, a := range audits {
		lists = append(lists, a.Callers[0].Decisions)
	}
	s.ranges(lists)
	s.verdict(v.Decisions, policyState, decisionState)
	if len(v.Shadow) > 0 {
		s.verdict(v.Shadow, shadowPolicyState, shadowState)
	}
	all := ""
	for i, a := range audits {
		noted := auditState + "/" + strconv.Itoa(i)
		s.text(noted, "no")
		for _, met := range conditions(a.Callers[0].Decisions[0].Requests) {
			s.ask(noted, met, "yes")
			s.ask(auditState, met, a.Policy) // the first of the audits comes last
		}
		all = chosen(`filter_state["`+noted+`"] == b"yes"`, a.Policy+",") + all
	}
	if all != "" {
		s.text(auditsState, all)
	}
}

// ranges notes the client's address as often as it is compared with ranges of another size. Envoy's expressions know texts, not
// addresses.
func (s *states) ranges(lists [][]ir.Decision) {
	var sizes []int
	for _, d := range slices.Concat(lists...) {
		for _, r := range d.Requests {
			for _, p := range r.Addresses {
				sizes = append(sizes, p.Bits())
			}
		}
	}
	slices.Sort(sizes)
	for _, bits := range slices.Compact(sizes) {
		n := strconv.Itoa(bits)
		s.text(fromState+n, "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT("+n+")%")
	}
}

// verdict says which decision is the first that is met: what is said later overwrites what was said before.
func (s *states) verdict(decisions []ir.Decision, policyKey, decisionKey string) {
	identities := false
	for _, d := range slices.Backward(decisions) {
		how := denied
		if d.Allow {
			how = allowed
		}
		for _, met := range conditions(d.Requests) {
			s.ask(policyKey, met, d.Policy)
			s.ask(decisionKey, met, how)
		}
		identities = identities || slices.ContainsFunc(d.Requests, func(r ir.RequestMatch) bool { return len(r.Identities) > 0 })
	}
	if identities {
		s.ask(policyKey, malformedCaller(), MalformedIdentity)
		s.ask(decisionKey, malformedCaller(), denied)
	}
}

// conditions are met by connections that any of the matches is about; of none, by all.
func conditions(matches []ir.RequestMatch) []string {
	if len(matches) == 0 {
		return []string{"true"}
	}
	var out []string
	for _, r := range matches {
		met := "true"
		if len(r.Identities) > 0 {
			var ids []ir.Pattern
			for _, id := range r.Identities {
				ids = append(ids, id.Identity)
			}
			met = isOf(ids)
		}
		for _, also := range []string{among(r.Addresses), named(r.ServerNames)} {
			if also != "" {
				met += " && " + also
			}
		}
		out = append(out, "("+met+")")
	}
	return out
}

// among is met by clients in one of the ranges.
func among(ranges []netip.Prefix) string {
	by := map[int][]string{}
	for _, p := range ranges {
		by[p.Bits()] = append(by[p.Bits()], "b"+quoted(p.String()))
	}
	var ways []string
	for bits := range 129 {
		if len(by[bits]) > 0 {
			ways = append(ways, `filter_state["`+fromState+strconv.Itoa(bits)+`"] in [`+strings.Join(by[bits], ", ")+"]")
		}
	}
	if ways == nil {
		return ""
	}
	return "(" + strings.Join(ways, " || ") + ")"
}

// named is met by clients who asked for one of the names.
func named(names []string) string {
	const sni = "connection.requested_server_name"
	var ways, whole []string
	for _, name := range names {
		if suffix, ok := strings.CutPrefix(name, "*"); ok {
			ways = append(ways, sni+".endsWith("+quoted(suffix)+")")
		} else {
			whole = append(whole, quoted(name))
		}
	}
	if whole != nil {
		ways = append(ways, sni+" in ["+strings.Join(whole, ", ")+"]")
	}
	if ways == nil {
		return ""
	}
	return "(" + strings.Join(ways, " || ") + ")"
}
