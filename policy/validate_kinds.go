package policy

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

func validateZone(r *report, _ mesh.Resource, z *Zone) {
	r.text("/spec/displayName", z.DisplayName)
	if z.Cloud != "" {
		r.checked("/spec/cloud", z.Cloud, mesh.CheckLabel)
	}
	if z.Region != "" {
		r.checked("/spec/region", z.Region, mesh.CheckLabel)
	}
	if z.TrustDomain != "" {
		r.checked("/spec/trustDomain", string(z.TrustDomain), mesh.CheckTrustDomain)
	}
	r.atMost("/spec/namespaces", len(z.Namespaces), 1000)
	seen := map[string]bool{}
	for i, ns := range z.Namespaces {
		at := ptr("/spec/namespaces", i)
		switch {
		case seen[ns]:
			r.add(FieldError{Pointer: at, Code: CodeDuplicate, Message: fmt.Sprintf("%q is listed twice", clip(ns))})
		case ns == "*" && len(z.Namespaces) > 1:
			r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: `"*" means all namespaces and stands alone`, Hint: `write namespaces: ["*"], or list them without it`})
		case ns != "*":
			r.checked(at, ns, mesh.CheckLabel)
		}
		seen[ns] = true
	}
	if z.Drain != nil {
		r.duration("/spec/drain/over", z.Drain.Over, 0, 24*time.Hour)
		r.text("/spec/drain/reason", z.Drain.Reason)
	}
	if z.Revoked != nil {
		r.text("/spec/revoked/reason", z.Revoked.Reason)
	}
}

func validateMeshConfig(r *report, res mesh.Resource, c *MeshConfig) {
	if res.Name != "default" {
		r.add(FieldError{Pointer: "/metadata/name", Code: CodeInvalid, Message: "the mesh has one MeshConfig, named default", Choices: []string{"default"}})
	}
	if _, ok := res.Annotations[mesh.AnnotationZones]; ok {
		r.add(FieldError{Pointer: ptr("/metadata/annotations", mesh.AnnotationZones), Code: CodeUnsupported, Message: "the MeshConfig reaches every zone", Hint: "remove the annotation"})
	}
	r.oneOf("/spec/defaultAuthorization", string(c.DefaultAuthorization), "", string(DefaultAllow), string(DefaultDeny))
	if c.AccessLog != nil {
		r.checked("/spec/accessLog/path", c.AccessLog.Path, checkLogPath)
	}
	if c.Detection != nil {
		validateDetection(r, *c.Detection)
	}
	if c.Egress != nil {
		validateEgress(r, *c.Egress)
	}
	if c.Trust != nil {
		r.duration("/spec/trust/lease", c.Trust.Lease, time.Minute, 365*24*time.Hour)
		r.oneOf("/spec/trust/afterLease", string(c.Trust.AfterLease), "", string(Distrust), string(Keep))
	}
}

func validateService(r *report, _ mesh.Resource, s *Service) {
	if len(s.Selector) == 0 {
		r.add(FieldError{Pointer: "/spec/selector", Code: CodeRequired, Message: "is required", Hint: "name the labels of the workloads that serve it"})
	}
	r.atMost("/spec/selector", len(s.Selector), maxLabels)
	validateLabels(r, "/spec/selector", s.Selector)
	if len(s.Ports) == 0 {
		r.required("/spec/ports")
	}
	r.oneOf("/spec/clusterIP", s.ClusterIP, "", ClusterIPNone)
	r.atMost("/spec/ports", len(s.Ports), 100)
	listed := portList{}
	for i, p := range s.Ports {
		at := ptr("/spec/ports", i)
		listed.check(r, at, p.Name, p.Port, len(s.Ports) > 1)
		switch p.Protocol {
		case "", "TCP":
		case "UDP", "SCTP":
			r.unsupported(at+"/protocol", p.Protocol, "only TCP can be meshed")
		default:
			r.oneOf(at+"/protocol", p.Protocol, "", "TCP")
		}
		if p.AppProtocol == "kubernetes.io/wss" {
			r.unsupported(at+"/appProtocol", p.AppProtocol, "the mesh can't look into the application's own TLS: serve kubernetes.io/ws, which the mesh encrypts, or say tcp")
			continue
		}
		r.oneOf(at+"/appProtocol", p.AppProtocol, "", "http", "kubernetes.io/ws", "http2", "kubernetes.io/h2c", "grpc", "tcp")
	}
}

// portList are the ports of a list so far, by number and by name; each is given once, and has a name where there are several.
type portList struct {
	names map[string]bool
	ports map[uint16]bool
}

func (l *portList) check(r *report, at, name string, port uint16, several bool) {
	if l.names == nil {
		l.names, l.ports = map[string]bool{}, map[uint16]bool{}
	}
	r.port(at+"/port", port)
	if port != 0 && l.ports[port] {
		r.add(FieldError{Pointer: at + "/port", Code: CodeDuplicate, Message: fmt.Sprintf("port %d is listed twice", port)})
	}
	l.ports[port] = true
	switch {
	case name == "" && several:
		r.add(FieldError{Pointer: at + "/name", Code: CodeRequired, Message: "is required where there are several ports"})
	case name != "" && l.names[name]:
		r.add(FieldError{Pointer: at + "/name", Code: CodeDuplicate, Message: fmt.Sprintf("%q is used twice", clip(name))})
	case name != "":
		r.checked(at+"/name", name, mesh.CheckLabel)
	}
	l.names[name] = true
}

func validateServiceExport(*report, mesh.Resource, *ServiceExport) {}

func validateWorkload(r *report, _ mesh.Resource, w *Workload) {
	r.checked("/spec/serviceAccount", w.ServiceAccount, mesh.CheckSubdomain)
	r.checked("/spec/address", w.Address, func(s string) error {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return fmt.Errorf("%q must be an IP address", clip(s))
		}
		if a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("%q can't be reached from other machines", s)
		}
		return nil
	})
	if w.Proxyless {
		validateProxyless(r, w)
	} else {
		r.port("/spec/inboundPort", w.InboundPort)
	}
	if w.AppAddress != "" {
		r.checked("/spec/appAddress", w.AppAddress, func(s string) error {
			if a, err := netip.ParseAddr(s); err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
				return fmt.Errorf("%q must be the IP address on which the application listens", clip(s))
			}
			return nil
		})
	}
	if math.IsNaN(w.Capacity) || w.Capacity < 0 || w.Capacity > 1e6 {
		r.add(FieldError{Pointer: "/spec/capacity", Code: CodeOutOfRange, Message: "must be from 0 to 1000000"})
	}
	for _, l := range []struct{ at, v string }{
		{"/spec/locality/cloud", w.Locality.Cloud}, {"/spec/locality/region", w.Locality.Region}, {"/spec/locality/zone", w.Locality.Zone},
	} {
		if l.v != "" {
			r.checked(l.at, l.v, mesh.CheckLabel)
		}
	}
	validateUpstreams(r, w)
	if v := w.VirtualAddresses; v != nil {
		r.checked("/spec/virtualAddresses/block", v.Block, mesh.CheckVirtualBlock)
	}
	if h := w.HealthCheck; h != nil {
		r.port("/spec/healthCheck/port", h.Port)
		if h.Path != "" && !cleanPath(h.Path) {
			r.invalid("/spec/healthCheck/path", "must begin with / and be plain ASCII without spaces")
		}
		r.millis("/spec/healthCheck/intervalMs", h.IntervalMS)
		r.millis("/spec/healthCheck/timeoutMs", h.TimeoutMS)
	}
}

// validateProxyless refuses what only a proxy could do.
func validateProxyless(r *report, w *Workload) {
	for _, p := range []struct {
		at  string
		set bool
	}{
		{"/spec/inboundPort", w.InboundPort != 0}, {"/spec/outboundPort", w.OutboundPort != 0},
		{"/spec/virtualAddresses", w.VirtualAddresses != nil}, {"/spec/upstreams", len(w.Upstreams) > 0}, {"/spec/healthCheck", w.HealthCheck != nil},
	} {
		if p.set {
			r.invalid(p.at, "has no effect in a proxyless workload, which is a client and has no proxy: leave it out")
		}
	}
}

func validateUpstreams(r *report, w *Workload) {
	// Two listeners of one sidecar on one port would be refused by Envoy, one of them at random.
	used := map[uint16]string{}
	if w.OutboundPort != 0 {
		used[w.OutboundPort] = "outboundPort"
	}
	if w.InboundPort != 0 {
		if w.InboundPort == w.OutboundPort {
			r.add(FieldError{Pointer: "/spec/outboundPort", Code: CodeDuplicate, Message: "is the inboundPort too"})
		}
		used[w.InboundPort] = "inboundPort"
	}
	r.atMost("/spec/upstreams", len(w.Upstreams), 1000)
	for i, u := range w.Upstreams {
		at := ptr("/spec/upstreams", i)
		r.oneOf(at+"/kind", string(u.Kind), "", string(mesh.KindService), string(mesh.KindExternalService))
		r.checked(at+"/service", u.Service, mesh.CheckLabel)
		if u.Namespace != "" {
			r.checked(at+"/namespace", u.Namespace, mesh.CheckLabel)
		}
		r.port(at+"/port", u.Port)
		r.port(at+"/localPort", u.LocalPort)
		if by := used[u.LocalPort]; by != "" {
			r.add(FieldError{Pointer: at + "/localPort", Code: CodeDuplicate, Message: fmt.Sprintf("port %d is taken by %s", u.LocalPort, by)})
		} else if u.LocalPort != 0 {
			used[u.LocalPort] = fmt.Sprintf("upstreams[%d]", i)
		}
	}
}

func (r *report) millis(at string, ms int) {
	if ms != 0 && (ms < 10 || ms > 3_600_000) {
		r.add(FieldError{Pointer: at, Code: CodeOutOfRange, Message: "must be from 10 to 3600000 milliseconds, or 0 for the default"})
	}
}

// cleanPath reports whether s can be an HTTP path without a query (RFC 3986 pchar and "/").
func cleanPath(s string) bool {
	if !strings.HasPrefix(s, "/") || len(s) > 1024 {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == '?' || c == '#' {
			return false
		}
	}
	return true
}
