package dataplane

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/comity-mesh/comity/dataplane/dns"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
)

// maxLanes is how many ports an ingress may have; the zone takes no more.
const maxLanes = 16

// The parts of a Workload that a sidecar's configuration repeats.
type (
	// Upstream binds a local port to a TCP port of a service; LocalPort 0 lets the agent pick one.
	Upstream = mesh.Upstream
	// HealthCheck is made of the application.
	HealthCheck = mesh.HealthCheck
	// Workload is what a sidecar registers.
	Workload = mesh.Workload
)

// Config is one proxy. Exactly one of Sidecar and Ingress is set.
type Config struct {
	// Name of the Workload or the ingress, a DNS label. Namespace of the Workload; empty means the
	// token's, or that of the earlier enrolment.
	Namespace, Name string
	// Token is the text of the enrolment token, a secret; empty if the instance is enrolled already.
	Token string
	// ZoneAddresses are host:port of the zone's enrolment service; empty means those of the token, or
	// of the earlier enrolment.
	ZoneAddresses []string
	// DataDir keeps the instance key over a restart, in a file of mode 0600; empty keeps it in memory,
	// and a restart needs a token again.
	DataDir string
	// RunDir is the folder of this proxy's sockets while it runs, its own alone; empty means one in
	// the system's folder for temporary files.
	RunDir string
	// SecretsDir holds certificates, keys and authorities that stay on this machine, as
	// <namespace>/<name>/{tls.crt,tls.key,ca.crt}; empty: none.
	SecretsDir string
	// InfoFile, if set, is written with an Info when the ports are known and again when Envoy is ready.
	InfoFile string
	// MetricsAddress is the host:port of /metrics, /healthz and /readyz; empty means none, port 0 any.
	// Other than loopback only with MetricsPublic.
	MetricsAddress string
	MetricsPublic  bool
	// AppMetrics is the http URL where the application tells its own metrics, which then are part of the proxy's; empty: it has none.
	AppMetrics string
	// DrainTime is how long the zone has to withdraw this proxy before its Envoy ends; 0 means 1.5 s for
	// a sidecar and 5 s for an ingress.
	DrainTime time.Duration

	Envoy    Envoy
	Locality mesh.Locality

	Sidecar *Sidecar
	Ingress *IngressSpec

	clock func() time.Time // of certificates, for tests; nil: time.Now
}

// Envoy says how to run Envoy.
type Envoy struct {
	Path string // of its program
	// Concurrency is the number of worker threads; 0 means 1 for a sidecar and 2 for an ingress.
	Concurrency int
	LogLevel    string // of Envoy's own log: trace to critical, off; empty means warning
	// MaxConnections that are accepted in all; 0 means 10,000 for a sidecar and 50,000 for an ingress.
	// Never more than the limit of open files allows.
	MaxConnections int
}

// Sidecar is what a sidecar registers. In Workload, Address may be empty (this machine's toward the
// zone), and ports 0 (any free one): the agent fills them in. ServiceAccount is the token's.
type Sidecar struct {
	Labels   map[string]string
	Workload Workload
	// NoOutbound leaves Workload.OutboundPort 0, so that there is no local port for HTTP by host name.
	NoOutbound bool
	// DNS, where set, answers the application's questions for names of the mesh with virtual addresses, on which Envoy listens.
	DNS *DNS
	// Proxyless runs no Envoy: a gRPC client of the agent's user reads the zone's configuration itself, with
	// the files and the socket of RunDir.
	Proxyless bool
}

// DNS says how names are answered.
type DNS struct {
	// Address is the host:port on loopback where applications ask.
	Address string
	// Upstreams answer for all names that are not of the mesh, as IP address or address:port; none means those of /etc/resolv.conf.
	Upstreams []string
	// Block of virtual addresses, a /16 of 127.0.0.0/8; empty means mesh.DefaultVirtualBlock.
	Block string
}

func (d *DNS) check() error {
	if err := dns.CheckAddress(d.Address); err != nil {
		return fmt.Errorf("dns.address: %w", err)
	}
	if _, err := d.upstreams(); err != nil {
		return err
	}
	if d.Block == "" {
		return nil
	}
	if err := mesh.CheckVirtualBlock(d.Block); err != nil {
		return fmt.Errorf("dns.block: %w", err)
	}
	return nil
}

func (d *DNS) upstreams() ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, u := range d.Upstreams {
		at, err := netip.ParseAddrPort(u)
		if ip, errIP := netip.ParseAddr(u); errIP == nil {
			at, err = netip.AddrPortFrom(ip, 53), nil
		}
		if err != nil {
			return nil, fmt.Errorf("dns.upstreams: %q is neither an IP address nor one with a port", u)
		}
		out = append(out, at)
	}
	return out, nil
}

// IngressSpec is what a zone ingress registers, or a zone egress.
type IngressSpec struct {
	// Role is ingress (or empty), or egress: the way out of the mesh for the zone's sidecars. Advertised is then for them, and its Host
	// an IP address.
	Role mesh.Role
	// BindAddress is where Envoy listens, an IP address; BindPorts are its lanes, 0 for any free port.
	BindAddress string
	BindPorts   []uint16
	// Advertised is how other zones reach it; an empty Host means BindAddress, no Ports BindPorts.
	Advertised mesh.Ingress
	// Gateways that it serves, as namespace/name; none means all.
	Gateways []string
}

// Info describes a running agent to whoever started it. It holds no secret.
type Info struct {
	PID         int        `json:"pid"`
	Proxy       string     `json:"proxy"` // mesh.ProxyID
	Identity    string     `json:"identity,omitempty"`
	Zone        string     `json:"zone,omitempty"`
	Ready       bool       `json:"ready"`
	EnvoyPID    int        `json:"envoyPid,omitempty"`
	RunDir      string     `json:"runDir"`
	Address     string     `json:"address"`
	InboundPort uint16     `json:"inboundPort,omitempty"`
	Outbound    string     `json:"outbound,omitempty"` // host:port for HTTP by host name
	Upstreams   []Upstream `json:"upstreams,omitempty"`
	DNS         string     `json:"dns,omitempty"`   // host:port where the application's names are answered
	Ports       []uint16   `json:"ports,omitempty"` // of an ingress
	// Environment is the file with the variables that a proxyless application needs.
	Environment string `json:"environment,omitempty"`
	Metrics     string `json:"metrics,omitempty"`
}

func (c *Config) role() mesh.Role {
	switch {
	case c.Ingress != nil && c.Ingress.Role == mesh.RoleEgress:
		return mesh.RoleEgress
	case c.Ingress != nil:
		return mesh.RoleIngress
	}
	return mesh.RoleSidecar
}

// Proxyless reports whether there is no Envoy.
func (c *Config) Proxyless() bool { return c.Sidecar != nil && c.Sidecar.Proxyless }

func (c *Config) proxy() mesh.ProxyID {
	return mesh.ProxyID{Role: c.role(), Namespace: c.Namespace, Name: c.Name}
}

// Check reports what is wrong with the configuration by itself, without touching anything.
func (c *Config) Check() error {
	if (c.Sidecar == nil) == (c.Ingress == nil) {
		return errors.New("exactly one of sidecar and ingress must be configured")
	}
	if c.Name == "" {
		return errors.New("name is missing: the proxy must have a name in its zone")
	}
	if err := mesh.CheckLabel(c.Name); err != nil {
		return fmt.Errorf("name %w", err)
	}
	if c.Namespace != "" {
		if err := mesh.CheckLabel(c.Namespace); err != nil {
			return fmt.Errorf("namespace %w", err)
		}
	}
	if _, _, err := endpointsOf(c.ZoneAddresses); err != nil && len(c.ZoneAddresses) > 0 {
		return fmt.Errorf("zone address: %w", err)
	}
	if err := c.checkMetrics(); err != nil {
		return err
	}
	switch c.Envoy.LogLevel {
	case "", "trace", "debug", "info", "warning", "error", "critical", "off":
	default:
		return fmt.Errorf("log level %q of Envoy is none of trace, debug, info, warning, error, critical and off", c.Envoy.LogLevel)
	}
	if c.Envoy.Concurrency < 0 || c.Envoy.Concurrency > 256 || c.Envoy.MaxConnections < 0 || c.DrainTime < 0 {
		return errors.New("concurrency, maximum of connections and drain time must not be negative, concurrency at most 256")
	}
	if c.Ingress != nil {
		return c.Ingress.check()
	}
	return c.Sidecar.check()
}

func (c *Config) checkMetrics() error {
	if err := c.checkAppMetrics(); err != nil {
		return err
	}
	if c.MetricsAddress == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(c.MetricsAddress)
	if err != nil {
		return fmt.Errorf("metrics address: %w", err)
	}
	ip, err := netip.ParseAddr(host)
	if loopback := host == "localhost" || err == nil && ip.IsLoopback(); !loopback && !c.MetricsPublic {
		return fmt.Errorf("metrics address %s is not loopback: the metrics name every service this proxy talks to; set metrics.public to serve them to others", c.MetricsAddress)
	}
	return nil
}

func (c *Config) checkAppMetrics() error {
	if c.AppMetrics == "" {
		return nil
	}
	if c.Sidecar == nil {
		return errors.New("metrics application is for sidecars: there is no application here")
	}
	u, err := url.Parse(c.AppMetrics)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.User != nil {
		return errors.New("metrics application must be the URL of the application's metrics, as http://127.0.0.1:8080/metrics")
	}
	return nil
}

func (s *Sidecar) check() error {
	w := s.Workload
	if w.Address != "" {
		if ip, err := netip.ParseAddr(w.Address); err != nil || ip.IsUnspecified() || ip.Zone() != "" {
			return fmt.Errorf("address %q must be one IP address by which the zone reaches this machine", w.Address)
		}
	}
	if w.AppAddress != "" {
		if _, err := netip.ParseAddr(w.AppAddress); err != nil {
			return fmt.Errorf("application address %q must be an IP address", w.AppAddress)
		}
	}
	if s.DNS != nil {
		if err := s.DNS.check(); err != nil {
			return err
		}
		if s.Proxyless {
			return errors.New("a proxyless workload has no Envoy that would listen on virtual addresses: leave dns.address out")
		}
	}
	if s.Proxyless && (w.InboundPort != 0 || w.OutboundPort != 0 || w.HealthCheck != nil || len(w.Upstreams) > 0) {
		return errors.New("a proxyless workload is a client without ports: leave inboundPort, outboundPort, upstreams and healthCheck out")
	}
	if w.Capacity < 0 {
		return errors.New("capacity must not be negative")
	}
	for _, u := range w.Upstreams {
		if u.Service == "" || u.Port == 0 {
			return errors.New("an upstream needs a service and its port")
		}
	}
	if h := w.HealthCheck; h != nil {
		if h.Port == 0 || h.IntervalMS < 0 || h.TimeoutMS < 0 || h.IntervalMS > 0 && h.IntervalMS < 100 {
			return errors.New("a health check needs a port, an interval of at least 100 ms (0: 1000) and a timeout (0: 500)")
		}
		if h.Path != "" && !strings.HasPrefix(h.Path, "/") {
			return fmt.Errorf("path of the health check %q must begin with /", h.Path)
		}
	}
	return nil
}

func (i *IngressSpec) check() error {
	switch i.Role {
	case "", mesh.RoleIngress:
	case mesh.RoleEgress:
		if _, err := netip.ParseAddr(i.Advertised.Host); err != nil && i.Advertised.Host != "" {
			return fmt.Errorf("advertise.host %q of an egress must be an IP address, for the zone's sidecars", i.Advertised.Host)
		}
	default:
		return fmt.Errorf("role %q is neither ingress nor egress", i.Role)
	}
	if _, err := netip.ParseAddr(i.BindAddress); err != nil {
		return fmt.Errorf("bind address %q must be an IP address", i.BindAddress)
	}
	if len(i.BindPorts) == 0 || len(i.BindPorts) > maxLanes {
		return fmt.Errorf("%d lanes (bind ports), not 1 to %d", len(i.BindPorts), maxLanes)
	}
	if n := len(i.Advertised.Ports); n > maxLanes {
		return fmt.Errorf("%d advertised ports, more than %d", n, maxLanes)
	}
	for _, g := range i.Gateways {
		namespace, name, _ := strings.Cut(g, "/")
		if errors.Join(mesh.CheckLabel(namespace), mesh.CheckSubdomain(name)) != nil {
			return fmt.Errorf("gateway %q is not namespace/name", g)
		}
	}
	if ip, err := netip.ParseAddr(i.BindAddress); err == nil && ip.IsUnspecified() && i.Advertised.Host == "" {
		return errors.New("an ingress or egress that listens on every address must say by which advertise.host others reach it")
	}
	return nil
}

// identify settles who this proxy is from configuration, token and earlier enrolment, which must agree.
func (c *Config) identify() (*instance, *identity.EnrolToken, error) {
	var token *identity.EnrolToken
	if c.Token != "" {
		t, err := identity.ParseEnrolToken(strings.TrimSpace(c.Token))
		if err != nil {
			return nil, nil, &fault.Error{
				Code: "TOKEN-INVALID", What: "the enrolment token can't be read", Err: err,
				Try: "give it as the zone printed it, one line beginning with comity-enrol-", Docs: "docs/security.md", Exit: fault.ExitUsage,
			}
		}
		token = &t
	}
	found, err := readInstance(c.DataDir)
	if err != nil {
		return nil, nil, err
	}
	if c.Namespace == "" && c.Sidecar != nil {
		switch {
		case token != nil:
			c.Namespace = token.Namespace
		case found != nil:
			if p, err := mesh.ParseProxyID(found.Proxy); err == nil {
				c.Namespace = p.Namespace
			}
		}
	}
	if token != nil && (token.Role != c.role() || token.Namespace != c.Namespace) {
		return nil, nil, &fault.Error{
			Code: "TOKEN-SCOPE", What: "the enrolment token is for something else than this proxy",
			Cause: fmt.Sprintf("it is for a %s of namespace %q, and this is %s", token.Role, token.Namespace, c.proxy()),
			Try:   "create a token for this role and namespace", Docs: "docs/security.md", Exit: fault.ExitUsage,
		}
	}
	if found == nil {
		found, err = newInstance(c.DataDir, c.proxy())
		return found, token, err
	}
	if found.Proxy != c.proxy().String() {
		return nil, nil, &fault.Error{
			Code: "DATA-DIR", What: "the data directory belongs to another proxy",
			Cause: fmt.Sprintf("it holds the key of %s, and this is %s", found.Proxy, c.proxy()),
			Try:   "give each proxy a dataDir of its own", Docs: "docs/configuration.md", Exit: fault.ExitConflict,
		}
	}
	return found, token, nil
}

func jsonOf(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("describe this proxy: %w", err)
	}
	return raw, nil
}
