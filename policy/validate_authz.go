package policy

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

var methodToken = regexp.MustCompile(`^[A-Z][A-Z0-9_-]{0,31}$`)

// Bounds of an AuthorizationPolicy; each value becomes a matcher in every proxy it reaches.
const (
	maxRules  = 64
	maxValues = 256
	// maxConditions of one operation or rule, which all must match.
	maxConditions = 16
)

func validateAuthorizationPolicy(r *report, res mesh.Resource, p *AuthorizationPolicy) {
	if t := p.TargetRef; t != nil && (t.Kind == string(mesh.KindHTTPRoute) || t.Kind == string(mesh.KindGRPCRoute)) {
		r.add(FieldError{
			Pointer: "/spec/targetRef/kind", Code: CodeUnsupported, Message: "by which route a request comes is its caller's word, so nothing can be authorised by it",
			Hint: "target the Service, and write what the route's rules match (methods, paths, headers) into `to`",
		})
	} else {
		validateTarget(r, res, p.TargetRef, "Service", "ExternalService", "Gateway")
	}
	visitors := p.ForVisitors()
	r.oneOf("/spec/action", string(p.Action), string(Allow), string(Deny), string(Audit))
	r.oneOf("/spec/mode", string(p.Mode), "", string(Enforce), string(Shadow))
	if p.Action == Audit && p.Mode == Shadow {
		r.add(FieldError{Pointer: "/spec/mode", Code: CodeInvalid, Message: "an Audit decides nothing anyway", Hint: "leave mode out"})
	}
	r.atMost("/spec/rules", len(p.Rules), maxRules)
	for i, rule := range p.Rules {
		at := ptr("/spec/rules", i)
		// An empty list from a template must not mean "everybody".
		if rule.From != nil && len(rule.From) == 0 || rule.To != nil && len(rule.To) == 0 {
			r.invalid(at, "a `from` or `to` that is given must not be empty; leave it out to match everything")
		}
		r.atMost(at+"/from", len(rule.From), maxRules)
		for j, s := range rule.From {
			if visitors {
				validateVisitors(r, ptr(at+"/from", j), s)
				continue
			}
			validateSource(r, ptr(at+"/from", j), s)
		}
		r.atMost(at+"/to", len(rule.To), maxRules)
		for j, o := range rule.To {
			validateOperation(r, ptr(at+"/to", j), o)
			if visitors && len(o.Ports) > 0 {
				r.invalid(ptr(at+"/to", j)+"/ports", "a Gateway has no ports of services: narrow the target by sectionName, to one listener")
			}
			if !visitors && len(o.ServerNames) > 0 {
				r.invalid(ptr(at+"/to", j)+"/serverNames", "callers of the mesh ask for services, not for names of their choice: target the Gateway to decide about visitors")
			}
		}
		if rule.When != nil {
			validateCondition(r, at+"/when", *rule.When)
		}
		if r.full() {
			return
		}
	}
}

// validateTargetRef checks the target of a policy that is for whole Services only; t may be nil.
func validateTargetRef(r *report, res mesh.Resource, t *TargetRef) {
	validateTarget(r, res, t, "Service")
	if t != nil && t.SectionName != "" {
		r.unsupported("/spec/targetRef/sectionName", "a part of a Service", "leave it out")
	}
}

// targetGroup is the API group of a kind that policies target.
func targetGroup(kind string) string {
	switch mesh.Kind(kind) {
	case mesh.KindService:
		return ""
	case mesh.KindExternalService:
		return Group
	}
	return gatewayv1.GroupName
}

// validateTarget checks what a policy applies to, of the kinds that it can be for; t may be nil.
func validateTarget(r *report, res mesh.Resource, t *TargetRef, kinds ...string) {
	if t == nil {
		return
	}
	group := targetGroup(t.Kind)
	r.oneOf("/spec/targetRef/kind", t.Kind, kinds...)
	if slices.Contains(kinds, t.Kind) && t.Group != group {
		hint := "leave it out: a Service is of the core group"
		if group != "" {
			hint = "write group: " + group
		}
		r.add(FieldError{Pointer: "/spec/targetRef/group", Code: CodeUnsupported, Message: fmt.Sprintf("no %s is of group %q", t.Kind, clip(t.Group)), Hint: hint})
	}
	check := mesh.CheckLabel
	if t.Kind != "Service" {
		check = mesh.CheckSubdomain
	}
	r.checked("/spec/targetRef/name", t.Name, check)
	if t.SectionName != "" {
		r.checked("/spec/targetRef/sectionName", t.SectionName, mesh.CheckSubdomain)
	}
	if res.Namespace == SystemNamespace {
		r.add(FieldError{Pointer: "/spec/targetRef", Code: CodeUnsupported, Message: "policies in " + SystemNamespace + " are for the whole mesh", Hint: "move the policy to the namespace of what it targets"})
	}
}

// ForVisitors reports whether the policy is for who comes by a Gateway.
func (p *AuthorizationPolicy) ForVisitors() bool {
	return p.TargetRef != nil && p.TargetRef.Kind == string(mesh.KindGateway)
}

// validateVisitors checks a source of who has no identity.
func validateVisitors(r *report, at string, s Source) {
	if len(s.Namespaces)+len(s.ServiceAccounts)+len(s.Zones) > 0 {
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "visitors of a Gateway have no namespace or zone", Hint: "write addresses, or identities of their certificates, or target the Service to decide about callers of the mesh"})
	}
	if len(s.Addresses)+len(s.Identities) == 0 {
		r.required(at + "/addresses")
	}
	r.values(at+"/identities", s.Identities, checkIdentity)
	r.values(at+"/addresses", s.Addresses, func(a string) error {
		_, err := AddressRange(a)
		return err
	})
}

// AddressRange reads an IP address or a prefix, which must not have bits beyond its length.
func AddressRange(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("%q must be an IP address, or a prefix of addresses as 192.0.2.0/24", clip(s))
	}
	return p, nil
}

func validateSource(r *report, at string, s Source) {
	if len(s.Addresses) > 0 {
		r.add(FieldError{Pointer: at + "/addresses", Code: CodeInvalid, Message: "callers of the mesh are known by their identities, not by addresses", Hint: "target the Gateway to decide about visitors"})
	}
	if len(s.Identities)+len(s.Namespaces)+len(s.ServiceAccounts)+len(s.Zones) == 0 {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "says nothing about the caller", Hint: "leave `from` out to match every caller of the mesh"})
	}
	r.values(at+"/identities", s.Identities, checkIdentity)
	r.values(at+"/namespaces", s.Namespaces, mesh.CheckLabel)
	r.values(at+"/serviceAccounts", s.ServiceAccounts, mesh.CheckSubdomain)
	r.values(at+"/zones", s.Zones, mesh.CheckZoneName)
	if len(s.ServiceAccounts) > 0 && len(s.Namespaces) == 0 {
		r.add(FieldError{Pointer: at + "/namespaces", Code: CodeRequired, Message: "service accounts need their namespaces", Hint: "two namespaces may have accounts of one name"})
	}
}

// checkIdentity accepts a SPIFFE ID, or a prefix of IDs ending at "/" (SPIFFE-ID 2).
func checkIdentity(id string) error {
	rest, ok := strings.CutPrefix(id, "spiffe://")
	if !ok {
		return fmt.Errorf("%q must be a SPIFFE ID, as in spiffe://zone.example/ns/shop/sa/web", clip(id))
	}
	td, path, ok := strings.Cut(rest, "/")
	if err := mesh.CheckTrustDomain(td); err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%q names no workload; to mean all of the trust domain end it with /", clip(id))
	}
	segments := strings.Split(path, "/")
	for i, seg := range segments {
		if seg == "" && i == len(segments)-1 {
			break // a prefix
		}
		if seg == "" || seg == "." || seg == ".." || strings.IndexFunc(seg, notIDRune) >= 0 {
			return fmt.Errorf("%q: every part of the path must be letters, digits, '.', '-' and '_'", clip(id))
		}
	}
	return nil
}

func notIDRune(c rune) bool {
	return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != '_'
}

func validateOperation(r *report, at string, o Operation) {
	if len(o.Methods)+len(o.Paths)+len(o.Headers)+len(o.Ports)+len(o.ServerNames) == 0 {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "says nothing about the request", Hint: "leave `to` out to match every request"})
	}
	r.values(at+"/methods", o.Methods, func(m string) error {
		if !methodToken.MatchString(m) {
			if upper := strings.ToUpper(m); methodToken.MatchString(upper) {
				return fmt.Errorf("%q is no HTTP method; write %s", m, upper)
			}
			return fmt.Errorf("%q is no HTTP method; methods are upper case", clip(m))
		}
		return nil
	})
	r.values(at+"/paths", o.Paths, func(p string) error {
		if !cleanPath(p) {
			return fmt.Errorf("%q must begin with / and be plain ASCII without spaces, ? and #", clip(p))
		}
		// Sidecars normalise what they receive, so such a path could never match, and a Deny of it would be none.
		for _, bad := range []string{"//", "/./", "/../", "%"} {
			if strings.Contains(p, bad) {
				return fmt.Errorf("%q must not contain %q: paths are compared in their plain form", clip(p), bad)
			}
		}
		if strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..") {
			return fmt.Errorf("%q must not end with a dot segment", clip(p))
		}
		if i := strings.IndexByte(p, '*'); i >= 0 && i < len(p)-1 {
			return fmt.Errorf("%q: * is understood at the end only", clip(p))
		}
		return nil
	})
	validateHeaders(r, at+"/headers", o.Headers)
	r.values(at+"/serverNames", o.ServerNames, func(name string) error {
		return mesh.CheckSubdomain(strings.TrimPrefix(name, "*."))
	})
	r.atMost(at+"/ports", len(o.Ports), maxValues)
	for i, p := range o.Ports {
		r.port(ptr(at+"/ports", i), p)
	}
}

func (r *report) values(at string, values []string, check func(string) error) {
	r.atMost(at, len(values), maxValues)
	seen := map[string]bool{}
	for i, v := range values {
		if seen[v] {
			r.add(FieldError{Pointer: ptr(at, i), Code: CodeDuplicate, Message: fmt.Sprintf("%q is listed twice", clip(v))})
			continue
		}
		seen[v] = true
		r.checked(ptr(at, i), v, check)
	}
}

func validateHeaders(r *report, at string, headers []HeaderValue) {
	r.atMost(at, len(headers), maxConditions)
	for i, h := range headers {
		at := ptr(at, i)
		switch name := strings.ToLower(h.Name); {
		case name == "":
			r.required(at + "/name")
		case !headerName.MatchString(h.Name):
			r.invalid(at+"/name", "%q is no name of a header (RFC 9110, 5.1)", clip(h.Name))
		case name == "host":
			r.unsupported(at+"/name", "the host", "target the service")
		case name == "x-forwarded-client-cert":
			r.add(FieldError{Pointer: at + "/name", Code: CodeUnsupported, Message: "who calls is not told by a header", Hint: "name identities in `from`"})
		}
		if len(h.Values) == 0 {
			r.add(FieldError{Pointer: at + "/values", Code: CodeRequired, Message: "is required", Hint: `for any value write ["*"]`})
		}
		r.values(at+"/values", h.Values, checkPattern)
	}
}

// checkPattern accepts a value of a header, or the beginning of one and a star.
func checkPattern(v string) error {
	for _, c := range []byte(v) {
		if c < ' ' || c >= 0x7f {
			return fmt.Errorf("%q must be plain ASCII", clip(v))
		}
	}
	if strings.TrimSpace(v) != v {
		return fmt.Errorf("%q: no header begins or ends with a space", clip(v))
	}
	if i := strings.IndexByte(v, '*'); i >= 0 && i < len(v)-1 {
		return fmt.Errorf("%q: * is understood at the end only", clip(v))
	}
	return nil
}

func validateCondition(r *report, at string, c Condition) {
	if len(c.Claims) == 0 {
		r.add(FieldError{Pointer: at + "/claims", Code: CodeRequired, Message: "says nothing", Hint: "leave `when` out to demand nothing more"})
	}
	r.atMost(at+"/claims", len(c.Claims), maxConditions)
	for i, claim := range c.Claims {
		at := ptr(at+"/claims", i)
		r.checked(at+"/name", claim.Name, checkClaim)
		if len(claim.Values) == 0 {
			r.required(at + "/values")
		}
		r.values(at+"/values", claim.Values, func(string) error { return nil })
	}
}

// checkClaim accepts the name of a claim, with dots that lead into objects.
func checkClaim(name string) error {
	path := Claim{Name: name}.Path()
	if len(path) > 8 {
		return fmt.Errorf("%q leads deeper than 8 objects", clip(name))
	}
	if slices.Contains(path, "") {
		return fmt.Errorf("%q has an empty part", clip(name))
	}
	return nil
}
