package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
)

// Gateway is the Gateway API's: where a zone takes traffic that is not of the mesh. Ingresses serve it.
type Gateway = gatewayv1.GatewaySpec

// GatewayClass is the Gateway API's. There is one without being made: GatewayClassName.
type GatewayClass = gatewayv1.GatewayClassSpec

const (
	// GatewayController is the only controllerName of a GatewayClass.
	GatewayController = "mesh.comity.dev/gateway"
	// GatewayClassName is the class that always exists.
	GatewayClassName = "comity"
	// TLSMinimum, an option of a listener's tls, is the oldest version of TLS that is spoken: 1.2, the default, or 1.3.
	TLSMinimum = "mesh.comity.dev/tls-minimum"
	// AnnotationTrustedHops of a Gateway is how many proxies in front of it are believed when they say, in
	// x-forwarded-for, for whom they ask; default 0.
	AnnotationTrustedHops = "mesh.comity.dev/trusted-hops"
)

// Bounds of a Gateway, those of the Gateway API.
const (
	maxListeners    = 64
	maxCertificates = 64
	maxAddresses    = 16
	maxTrustedHops  = 16
	maxHostnames    = 16
)

func validateGatewayClass(r *report, _ mesh.Resource, c *GatewayClass) {
	r.oneOf("/spec/controllerName", string(c.ControllerName), GatewayController)
	if c.ParametersRef != nil {
		r.unsupported("/spec/parametersRef", "a class with parameters", "remove it")
	}
	if c.Description != nil {
		r.text("/spec/description", *c.Description)
	}
}

func validateGateway(r *report, res mesh.Resource, g *Gateway) {
	r.checked("/spec/gatewayClassName", string(g.GatewayClassName), mesh.CheckSubdomain)
	if _, err := TrustedHops(res); err != nil {
		r.add(FieldError{Pointer: ptr("/metadata/annotations", AnnotationTrustedHops), Code: CodeInvalid, Message: err.Error()})
	}
	if len(g.Listeners) == 0 {
		r.required("/spec/listeners")
	}
	r.atMost("/spec/listeners", len(g.Listeners), maxListeners)
	names := map[gatewayv1.SectionName]bool{}
	for i, l := range g.Listeners {
		at := ptr("/spec/listeners", i)
		r.checked(at+"/name", string(l.Name), mesh.CheckSubdomain)
		if names[l.Name] {
			r.add(FieldError{Pointer: at + "/name", Code: CodeDuplicate, Message: fmt.Sprintf("%q is used twice", clip(string(l.Name)))})
		}
		names[l.Name] = true
		validateListener(r, at, l)
		for _, other := range g.Listeners[:i] {
			if why := Indistinct(l, other); why != "" {
				r.add(FieldError{Pointer: at, Code: CodeDuplicate, Message: fmt.Sprintf("can't be told apart from listener %q: %s", clip(string(other.Name)), why)})
				break
			}
		}
		if r.full() {
			return
		}
	}
	r.atMost("/spec/addresses", len(g.Addresses), maxAddresses)
	for i, a := range g.Addresses {
		validateGatewayAddress(r, ptr("/spec/addresses", i), a)
	}
	if g.Infrastructure != nil {
		r.unsupported("/spec/infrastructure", "infrastructure made for a Gateway", "remove it: the ingresses that run in the zone serve it")
	}
	if a := g.AllowedListeners; a != nil && a.Namespaces != nil && a.Namespaces.From != nil && *a.Namespaces.From != gatewayv1.NamespacesFromNone {
		r.unsupported("/spec/allowedListeners", "a ListenerSet", "write the listeners into the Gateway")
	}
	if g.DefaultScope != "" && g.DefaultScope != gatewayv1.GatewayDefaultScopeNone {
		r.unsupported("/spec/defaultScope", "a default Gateway", "name the Gateway in parentRefs of routes")
	}
	if g.TLS != nil {
		validateGatewayTLS(r, res, g)
	}
}

// Indistinct says why traffic could not be told to be for one of two listeners and not for the other; empty if it can
// (Gateway API, GatewaySpec.Listeners).
func Indistinct(a, b gatewayv1.Listener) string {
	if a.Port != b.Port {
		return ""
	}
	overTLS := func(p gatewayv1.ProtocolType) bool {
		return p == gatewayv1.HTTPSProtocolType || p == gatewayv1.TLSProtocolType
	}
	switch {
	case a.Protocol == gatewayv1.TCPProtocolType || b.Protocol == gatewayv1.TCPProtocolType:
		return "nobody shares a port with TCP"
	case overTLS(a.Protocol) != overTLS(b.Protocol):
		return "a port is with TLS or without"
	case ListenerHost(a) == ListenerHost(b):
		return "port and hostname are the same"
	}
	return ""
}

// ListenerHost is the host name for which a listener is, in lower case, "" for all.
func ListenerHost(l gatewayv1.Listener) string {
	if l.Hostname == nil {
		return ""
	}
	return strings.ToLower(string(*l.Hostname))
}

func validateListener(r *report, at string, l gatewayv1.Listener) {
	if l.Port < 1 || l.Port > 65535 {
		r.add(FieldError{Pointer: at + "/port", Code: CodeOutOfRange, Message: "must be a port from 1 to 65535"})
	}
	if l.Protocol == gatewayv1.UDPProtocolType {
		r.unsupported(at+"/protocol", "UDP", "only what TCP carries can be meshed")
		return
	}
	r.oneOf(at+"/protocol", string(l.Protocol), "HTTP", "HTTPS", "TLS", "TCP")
	if l.Hostname != nil && *l.Hostname != "" {
		if l.Protocol == gatewayv1.TCPProtocolType {
			r.invalid(at+"/hostname", "a connection of TCP names no host")
		}
		r.checked(at+"/hostname", string(*l.Hostname), checkHostname)
	}
	validateListenerTLS(r, at, l)
	if l.AllowedRoutes != nil {
		validateAllowedRoutes(r, at+"/allowedRoutes", l)
	}
}

// checkHostname accepts a DNS name, the first label of which may be "*" (Gateway API, Hostname).
func checkHostname(s string) error {
	name := strings.TrimPrefix(s, "*.")
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("%q must be a name, not an address", clip(s))
	}
	if strings.Contains(name, "*") {
		return fmt.Errorf("%q: * stands for the first label and alone", clip(s))
	}
	return mesh.CheckSubdomain(name)
}

func validateListenerTLS(r *report, at string, l gatewayv1.Listener) {
	switch l.Protocol {
	case gatewayv1.HTTPSProtocolType, gatewayv1.TLSProtocolType:
	default:
		if l.TLS != nil {
			r.invalid(at+"/tls", "%s is without TLS", l.Protocol)
		}
		return
	}
	if l.TLS == nil {
		r.add(FieldError{Pointer: at + "/tls", Code: CodeRequired, Message: "is required", Hint: "give certificateRefs, or for protocol TLS mode: Passthrough"})
		return
	}
	at += "/tls"
	for _, k := range sortedOptions(l.TLS.Options) {
		if k != TLSMinimum {
			r.unsupported(ptr(at+"/options", k), "option "+clip(k), "there is "+TLSMinimum)
			continue
		}
		r.oneOf(ptr(at+"/options", k), string(l.TLS.Options[gatewayv1.AnnotationKey(k)]), "1.2", "1.3")
	}
	mode := gatewayv1.TLSModeTerminate
	if l.TLS.Mode != nil {
		mode = *l.TLS.Mode
	}
	r.oneOf(at+"/mode", string(mode), "Terminate", "Passthrough")
	if mode == gatewayv1.TLSModePassthrough {
		if l.Protocol == gatewayv1.HTTPSProtocolType {
			r.add(FieldError{Pointer: at + "/mode", Code: CodeInvalid, Message: "requests are not seen in what is passed through", Hint: "write protocol: TLS, and route it with a TLSRoute"})
		}
		if len(l.TLS.CertificateRefs)+len(l.TLS.Options) > 0 {
			r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "what is passed through needs no certificates and options", Hint: "remove them, or write mode: Terminate"})
		}
		return
	}
	if len(l.TLS.CertificateRefs) == 0 {
		r.required(at + "/certificateRefs")
	}
	r.atMost(at+"/certificateRefs", len(l.TLS.CertificateRefs), maxCertificates)
	for i, ref := range l.TLS.CertificateRefs {
		validateSecretRef(r, ptr(at+"/certificateRefs", i), ref)
	}
}

func sortedOptions(options map[gatewayv1.AnnotationKey]gatewayv1.AnnotationValue) []string {
	out := make([]string, 0, len(options))
	for k := range options {
		out = append(out, string(k))
	}
	slices.Sort(out)
	return out
}

func validateSecretRef(r *report, at string, ref gatewayv1.SecretObjectReference) {
	if ref.Group != nil && *ref.Group != "" || ref.Kind != nil && *ref.Kind != "Secret" {
		r.unsupported(at+"/kind", "a certificate that is no Secret", "leave out group and kind, or write Secret")
	}
	r.checked(at+"/name", string(ref.Name), mesh.CheckSubdomain)
	if ref.Namespace != nil { // of another one, a ReferenceGrant is needed there, which zones look for
		r.checked(at+"/namespace", string(*ref.Namespace), mesh.CheckLabel)
	}
}

// validateSecretName checks the name of what lies in the folder of secrets of an ingress.
func validateSecretName(r *report, at string, res mesh.Resource, name string, namespace *gatewayv1.Namespace) {
	r.checked(at+"/name", name, mesh.CheckSubdomain)
	if namespace != nil && string(*namespace) != res.Namespace {
		r.unsupported(at+"/namespace", "a secret of another namespace", "put it into the namespace of the Gateway")
	}
}

func validateAllowedRoutes(r *report, at string, l gatewayv1.Listener) {
	if n := l.AllowedRoutes.Namespaces; n != nil && n.From != nil {
		r.oneOf(at+"/namespaces/from", string(*n.From), "Same", "All", "Selector")
		if *n.From == gatewayv1.NamespacesFromSelector {
			validateNamespaceSelector(r, at+"/namespaces/selector", n.Selector)
		} else if n.Selector != nil {
			r.add(FieldError{Pointer: at + "/namespaces/selector", Code: CodeInvalid, Message: "goes with from: Selector alone", Hint: "write from: Selector, or remove it"})
		}
	}
	r.atMost(at+"/kinds", len(l.AllowedRoutes.Kinds), 8)
	possible := RouteKinds(l)
	for i, k := range l.AllowedRoutes.Kinds {
		kat := ptr(at+"/kinds", i)
		if k.Group != nil && *k.Group != gatewayv1.GroupName {
			r.oneOf(kat+"/group", string(*k.Group), gatewayv1.GroupName)
		}
		r.oneOf(kat+"/kind", string(k.Kind), possible...)
	}
}

// NamespaceLabel is the label that every namespace has in Kubernetes, with its name. On machines namespaces are no resources, so it is
// the only one.
const NamespaceLabel = "kubernetes.io/metadata.name"

func validateNamespaceSelector(r *report, at string, s *metav1.LabelSelector) {
	if s == nil || len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		r.add(FieldError{Pointer: at, Code: CodeRequired, Message: "selects every namespace", Hint: "say which, by " + NamespaceLabel + ", or write from: All"})
		return
	}
	r.atMost(at+"/matchExpressions", len(s.MatchExpressions), 16)
	known := func(at, label string) {
		if label != NamespaceLabel {
			r.unsupported(at, "the label "+clip(label), "namespaces are no resources here and have one label, "+NamespaceLabel+", which is their name")
		}
	}
	for _, k := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		known(ptr(at+"/matchLabels", k), k)
	}
	for i, e := range s.MatchExpressions {
		at := ptr(at+"/matchExpressions", i)
		known(at+"/key", e.Key)
		r.atMost(at+"/values", len(e.Values), 64)
		r.oneOf(at+"/operator", string(e.Operator), string(metav1.LabelSelectorOpIn), string(metav1.LabelSelectorOpNotIn), string(metav1.LabelSelectorOpExists), string(metav1.LabelSelectorOpDoesNotExist))
		listed := e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn
		if listed != (len(e.Values) > 0) {
			r.invalid(at+"/values", "In and NotIn need some, Exists and DoesNotExist have none")
		}
	}
}

// SelectsNamespace reports whether a valid selector selects a namespace.
func SelectsNamespace(s *metav1.LabelSelector, namespace string) bool {
	if s == nil {
		return false
	}
	for _, name := range s.MatchLabels {
		if name != namespace {
			return false
		}
	}
	return !slices.ContainsFunc(s.MatchExpressions, func(e metav1.LabelSelectorRequirement) bool {
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			return !slices.Contains(e.Values, namespace)
		case metav1.LabelSelectorOpNotIn:
			return slices.Contains(e.Values, namespace)
		case metav1.LabelSelectorOpExists:
			return false
		}
		return true
	})
}

// RouteKinds are the kinds of routes that the protocol of a listener can have.
func RouteKinds(l gatewayv1.Listener) []string {
	switch l.Protocol {
	case gatewayv1.HTTPProtocolType, gatewayv1.HTTPSProtocolType:
		return []string{string(mesh.KindHTTPRoute), string(mesh.KindGRPCRoute)}
	case gatewayv1.TLSProtocolType:
		return []string{string(mesh.KindTLSRoute)}
	}
	return []string{string(mesh.KindTCPRoute)}
}

func validateGatewayAddress(r *report, at string, a gatewayv1.GatewaySpecAddress) {
	kind := gatewayv1.IPAddressType
	if a.Type != nil {
		kind = *a.Type
	}
	switch {
	case a.Value == "" && (kind == gatewayv1.IPAddressType || kind == gatewayv1.HostnameAddressType): // any that an ingress has
	case kind == gatewayv1.IPAddressType:
		r.checked(at+"/value", a.Value, func(s string) error {
			if ip, err := netip.ParseAddr(s); err != nil || ip.Zone() != "" {
				return fmt.Errorf("%q must be an IP address", clip(s))
			}
			return nil
		})
	case kind == gatewayv1.HostnameAddressType:
		r.checked(at+"/value", a.Value, mesh.CheckSubdomain)
	default:
		r.oneOf(at+"/type", string(kind), "IPAddress", "Hostname")
	}
}

// validateGatewayTLS checks what holds for all listeners with TLS.
func validateGatewayTLS(r *report, res mesh.Resource, g *Gateway) {
	const at = "/spec/tls"
	if g.TLS.Backend != nil {
		r.unsupported(at+"/backend", "a certificate toward backends", "remove it: ingresses show services their identity in the mesh")
	}
	f := g.TLS.Frontend
	if f == nil {
		return
	}
	validateClients(r, at+"/frontend/default", res, f.Default.Validation)
	r.atMost(at+"/frontend/perPort", len(f.PerPort), maxListeners)
	seen := map[gatewayv1.PortNumber]bool{}
	for i, p := range f.PerPort {
		pat := ptr(at+"/frontend/perPort", i)
		if seen[p.Port] {
			r.add(FieldError{Pointer: pat + "/port", Code: CodeDuplicate, Message: fmt.Sprintf("port %d is listed twice", p.Port)})
		}
		seen[p.Port] = true
		terminates := func(l gatewayv1.Listener) bool {
			return l.Port == p.Port && l.TLS != nil && (l.TLS.Mode == nil || *l.TLS.Mode == gatewayv1.TLSModeTerminate)
		}
		if !slices.ContainsFunc(g.Listeners, terminates) {
			r.invalid(pat+"/port", "no listener ends TLS on port %d", p.Port)
		}
		validateClients(r, pat+"/tls", res, p.TLS.Validation)
	}
}

// validateClients checks who is believed among the clients of a Gateway; v may be nil.
func validateClients(r *report, at string, res mesh.Resource, v *gatewayv1.FrontendTLSValidation) {
	if v == nil {
		return
	}
	at += "/validation"
	if v.Mode != "" {
		r.oneOf(at+"/mode", string(v.Mode), string(gatewayv1.AllowValidOnly), string(gatewayv1.AllowInsecureFallback))
	}
	if len(v.CACertificateRefs) != 1 {
		r.add(FieldError{Pointer: at + "/caCertificateRefs", Code: CodeUnsupported, Message: "exactly one is needed", Hint: "put all authorities into one ca.crt"})
	}
	for i, ref := range v.CACertificateRefs {
		cat := ptr(at+"/caCertificateRefs", i)
		if ref.Group != "" || ref.Kind != "Secret" && ref.Kind != "ConfigMap" {
			r.unsupported(cat+"/kind", "authorities that are no Secret or ConfigMap", `write group: "" and kind: Secret`)
		}
		validateSecretName(r, cat, res, string(ref.Name), ref.Namespace)
	}
}

// validateGatewayParent checks a parent of a route that is a Gateway.
func validateGatewayParent(r *report, at string, p gatewayv1.ParentReference) {
	r.checked(at+"/name", string(p.Name), mesh.CheckSubdomain)
	if p.Namespace != nil {
		r.checked(at+"/namespace", string(*p.Namespace), mesh.CheckLabel)
	}
	if p.SectionName != nil {
		r.checked(at+"/sectionName", string(*p.SectionName), mesh.CheckSubdomain)
	}
	if p.Port != nil && (*p.Port < 1 || *p.Port > 65535) {
		r.add(FieldError{Pointer: at + "/port", Code: CodeOutOfRange, Message: "must be a port from 1 to 65535"})
	}
}

// validateHostnames checks the host names of a route, which are for its Gateways alone.
func validateHostnames(r *report, hosts []gatewayv1.Hostname, parents []gatewayv1.ParentReference) {
	if len(hosts) == 0 {
		return
	}
	if !slices.ContainsFunc(parents, isGateway) {
		r.add(FieldError{Pointer: "/spec/hostnames", Code: CodeUnsupported, Message: "a route of a Service matches all of its host names", Hint: "remove hostnames, or name a Gateway in parentRefs"})
	}
	validateServerNames(r, hosts)
}

// validateServerNames checks host names by themselves.
func validateServerNames(r *report, hosts []gatewayv1.Hostname) {
	r.atMost("/spec/hostnames", len(hosts), maxHostnames)
	seen := map[string]bool{}
	for i, h := range hosts {
		at := ptr("/spec/hostnames", i)
		r.checked(at, string(h), checkHostname)
		if seen[string(h)] {
			r.add(FieldError{Pointer: at, Code: CodeDuplicate, Message: fmt.Sprintf("%q is listed twice", clip(string(h)))})
		}
		seen[string(h)] = true
	}
}

// TrustedHops is how many proxies in front of a Gateway are believed.
func TrustedHops(res mesh.Resource) (uint32, error) {
	s, ok := res.Annotations[AnnotationTrustedHops]
	if !ok {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > maxTrustedHops {
		return 0, fmt.Errorf("%q must be a number from 0 to %d", clip(s), maxTrustedHops)
	}
	return uint32(n), nil
}
