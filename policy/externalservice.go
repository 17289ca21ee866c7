package policy

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"strings"

	"github.com/comity-mesh/comity/mesh"
)

// ExternalService is something outside of the mesh that workloads call: under which host names, where it really is,
// how it is reached, and by whom.
type ExternalService struct {
	// Hosts are the names by which applications ask for it: DNS names or IPv4 addresses. The first is its own: where it is, unless
	// Endpoints say so, and whose certificate it shows, unless TLS says so.
	Hosts []string       `json:"hosts"`
	Ports []ExternalPort `json:"ports"`
	// Endpoints are where it is. Default: the first host, by DNS.
	Endpoints []ExternalEndpoint `json:"endpoints,omitempty"`
	// ExportTo says whose sidecars know it. Default Namespace.
	ExportTo ExportTo `json:"exportTo,omitempty"`
	// Exit says how traffic leaves the zone; nil is as MeshConfig's egress says.
	Exit *Exit `json:"exit,omitempty"`
}

// ExternalPort is one port of an ExternalService.
type ExternalPort struct {
	// Name is required where there are several ports.
	Name string `json:"name,omitempty"`
	// Port by which applications ask for it.
	Port uint16 `json:"port"`
	// TargetPort is where it really listens; default Port.
	TargetPort uint16 `json:"targetPort,omitempty"`
	// Protocol that applications speak.
	Protocol ExternalProtocol `json:"protocol"`
	// TLS makes the proxy speak TLS to it on behalf of applications that don't. Default: bytes go out as they come.
	TLS *OriginateTLS `json:"tls,omitempty"`
}

// ExternalProtocol is what applications speak to an ExternalService.
type ExternalProtocol string

// The protocols. HTTP, HTTP2 and GRPC are understood, and asked for by host name; TLS, which applications speak
// themselves, and TCP are passed on as bytes.
const (
	ExternalHTTP  ExternalProtocol = "http"
	ExternalHTTP2 ExternalProtocol = "http2"
	ExternalGRPC  ExternalProtocol = "grpc"
	ExternalTLS   ExternalProtocol = "tls"
	ExternalTCP   ExternalProtocol = "tcp"
)

// ExternalEndpoint is one place where an ExternalService is.
type ExternalEndpoint struct {
	// Address is an IP address, or a DNS name, all of whose addresses are used.
	Address string `json:"address"`
	// Port where it listens here, of an ExternalService with one port; default the port's targetPort.
	Port uint16 `json:"port,omitempty"`
	// Priority 0 is used first, the others in order when those before fail. Default 0.
	Priority uint32 `json:"priority,omitempty"`
	// Weight among the addresses of one priority. Default 1.
	Weight uint32 `json:"weight,omitempty"`
}

// OriginateTLS is the proxy's TLS to an ExternalService. The server's certificate is always verified.
type OriginateTLS struct {
	// ServerName that is asked for (SNI) and that the certificate must show; default the first host.
	ServerName string `json:"serverName,omitempty"`
	// CA is whom to believe. Default: the authorities that the proxy's machine believes.
	CA *ExternalCA `json:"ca,omitempty"`
	// MinVersion is "1.2" (default) or "1.3".
	MinVersion string `json:"minVersion,omitempty"`
	// ClientCertificate is shown to the server. Default none.
	ClientCertificate *SecretRef `json:"clientCertificate,omitempty"`
}

// ExternalCA is an authority for servers. Exactly one field is set.
type ExternalCA struct {
	// PEM holds certificates.
	PEM string `json:"pem,omitempty"`
	// Secret names the ca.crt of a secret on the proxy's machine.
	Secret string `json:"secret,omitempty"`
}

// SecretRef names a secret of the resource's namespace that is in a folder of the proxy's machine (secretsDir), and
// never leaves it.
type SecretRef struct {
	Secret string `json:"secret"`
}

// ExportTo says whose sidecars know an ExternalService.
type ExportTo string

// The values of ExportTo.
const (
	ExportNamespace ExportTo = "Namespace"
	ExportMesh      ExportTo = "Mesh"
)

// Exit says how traffic leaves the zone.
type Exit struct {
	// Gateway: through egress proxies alone, of the zone of who calls, over mTLS, by who asks. Else from each sidecar.
	Gateway bool `json:"gateway,omitempty"`
	// Zones through whose egress proxies it leaves, wherever it is called from; the next where none of those before can be used.
	// They imply Gateway. Default: each zone through its own.
	Zones []string `json:"zones,omitempty"`
}

// WithDefaults fills in what is left out of the TLS of a service with the hosts.
func (t OriginateTLS) WithDefaults(hosts []string) OriginateTLS {
	if t.ServerName == "" && len(hosts) > 0 {
		t.ServerName = hosts[0]
	}
	t.MinVersion = cmp.Or(t.MinVersion, "1.2")
	return t
}

// Bounds of an ExternalService.
const (
	maxExternalHosts     = 32
	maxExternalPorts     = 32
	maxExternalEndpoints = 64
	maxExternalPriority  = 7
	maxExternalPEM       = 64 << 10
	maxExitZones         = 8
)

func validateExternalService(r *report, res mesh.Resource, s *ExternalService) {
	if res.Namespace == SystemNamespace && s.ExportTo != ExportMesh {
		r.add(FieldError{Pointer: "/spec/exportTo", Code: CodeInvalid, Message: "nobody would know it: there are no workloads in " + SystemNamespace, Hint: "write exportTo: Mesh"})
	}
	if len(s.Hosts) == 0 {
		r.required("/spec/hosts")
	}
	r.atMost("/spec/hosts", len(s.Hosts), maxExternalHosts)
	r.values("/spec/hosts", s.Hosts, checkExternalHost)
	validateExternalPorts(r, s)
	r.atMost("/spec/endpoints", len(s.Endpoints), maxExternalEndpoints)
	seen := map[ExternalEndpoint]bool{}
	for i, e := range s.Endpoints {
		at := ptr("/spec/endpoints", i)
		r.checked(at+"/address", e.Address, checkExternalAddress)
		if e.Port != 0 && len(s.Ports) > 1 {
			r.add(FieldError{Pointer: at + "/port", Code: CodeInvalid, Message: "it would be the same for all ports of the service", Hint: "leave it out and use targetPort, or make one ExternalService a port"})
		}
		if e.Priority > maxExternalPriority {
			r.add(FieldError{Pointer: at + "/priority", Code: CodeOutOfRange, Message: fmt.Sprintf("must be from 0 to %d", maxExternalPriority)})
		}
		if e.Weight > 128 {
			r.add(FieldError{Pointer: at + "/weight", Code: CodeOutOfRange, Message: "must be from 1 to 128"})
		}
		place := ExternalEndpoint{Address: e.Address, Port: e.Port}
		if seen[place] {
			r.add(FieldError{Pointer: at, Code: CodeDuplicate, Message: fmt.Sprintf("%s is listed twice", clip(e.Address))})
		}
		seen[place] = true
	}
	r.oneOf("/spec/exportTo", string(s.ExportTo), "", string(ExportNamespace), string(ExportMesh))
	if s.Exit != nil {
		r.atMost("/spec/exit/zones", len(s.Exit.Zones), maxExitZones)
		r.values("/spec/exit/zones", s.Exit.Zones, mesh.CheckZoneName)
	}
}

func validateExternalPorts(r *report, s *ExternalService) {
	if len(s.Ports) == 0 {
		r.required("/spec/ports")
	}
	r.atMost("/spec/ports", len(s.Ports), maxExternalPorts)
	listed := portList{}
	for i, p := range s.Ports {
		at := ptr("/spec/ports", i)
		listed.check(r, at, p.Name, p.Port, len(s.Ports) > 1)
		r.oneOf(at+"/protocol", string(p.Protocol), string(ExternalHTTP), string(ExternalHTTP2), string(ExternalGRPC), string(ExternalTLS), string(ExternalTCP))
		if p.TLS != nil && p.Protocol == ExternalTLS {
			r.add(FieldError{Pointer: at + "/tls", Code: CodeInvalid, Message: "applications speak TLS on this port themselves", Hint: "leave it out, or say what they speak inside: http, http2, grpc or tcp"})
		}
		if p.TLS != nil {
			validateOriginateTLS(r, at+"/tls", *p.TLS)
		}
	}
}

func validateOriginateTLS(r *report, at string, t OriginateTLS) {
	if t.ServerName != "" {
		r.checked(at+"/serverName", t.ServerName, mesh.CheckSubdomain)
	}
	r.oneOf(at+"/minVersion", t.MinVersion, "", "1.2", "1.3")
	if t.ClientCertificate != nil {
		r.checked(at+"/clientCertificate/secret", t.ClientCertificate.Secret, mesh.CheckSubdomain)
	}
	if t.CA != nil {
		validateExternalCA(r, at+"/ca", *t.CA)
	}
}

func validateExternalCA(r *report, at string, ca ExternalCA) {
	switch {
	case (ca.PEM == "") == (ca.Secret == ""):
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: "must have either pem or secret", Hint: "leave ca out to believe the authorities of the proxy's machine"})
	case ca.Secret != "":
		r.checked(at+"/secret", ca.Secret, mesh.CheckSubdomain)
	case len(ca.PEM) > maxExternalPEM:
		r.add(FieldError{Pointer: at + "/pem", Code: CodeTooLarge, Message: fmt.Sprintf("%d bytes; at most %d are allowed", len(ca.PEM), maxExternalPEM)})
	default:
		if err := checkCertificates(ca.PEM); err != nil {
			r.add(FieldError{Pointer: at + "/pem", Code: CodeInvalid, Message: err.Error(), Hint: "write the certificates, and nothing else, as -----BEGIN CERTIFICATE----- ..."})
		}
	}
}

// checkExternalHost takes names that can't be taken for those of the mesh's own services.
func checkExternalHost(h string) error {
	if err := mesh.CheckSubdomain(h); err != nil {
		return err
	}
	switch {
	case !strings.Contains(h, "."):
		return fmt.Errorf("%q has no dot: it would be taken for a name of the mesh", clip(h))
	case strings.HasSuffix(h, ".mesh") || strings.HasSuffix(h, ".svc.clusterset.local"):
		return fmt.Errorf("%q is a name of the mesh", clip(h))
	}
	return nil
}

func checkExternalAddress(a string) error {
	ip, err := netip.ParseAddr(a)
	switch {
	case err != nil:
		return mesh.CheckSubdomain(a)
	case ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast():
		return fmt.Errorf("%q must be one address that can be connected to", clip(a))
	}
	return nil
}

// checkCertificates reports why text is no list of certificates in PEM form.
func checkCertificates(text string) error {
	rest := []byte(text)
	for n := 0; ; n++ {
		block, after := pem.Decode(rest)
		if block == nil {
			if n == 0 || strings.TrimSpace(string(rest)) != "" {
				return fmt.Errorf("there is something after certificate %d that is none", n)
			}
			return nil
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("%q is no certificate", clip(block.Type))
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d: %w", n+1, err)
		}
		rest = after
	}
}
