package translate

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// externalConnectTimeout has room for a far server and its TLS, and for one packet that is sent again after 1 s and 2 s.
const externalConnectTimeout ir.Millis = 5_000

// systemRoots is the secret that an agent makes of the authorities that its machine believes.
const systemRoots = "system-roots"

// externalName is `external/<service>.<namespace>:<port>`.
func externalName(n topology.ServiceName, port uint16) string {
	return "external/" + clusterName(n, port)
}

// externalClusters are those of every ExternalService, whoever knows its hosts: routes of any namespace may lead to it.
func (tr *Translator) externalClusters() []ir.Cluster {
	var out []ir.Cluster
	for _, e := range tr.t.Externals {
		for _, p := range e.Ports {
			if e.Gateway {
				out = append(out, tr.gatewayCluster(e, p))
			} else {
				out = append(out, tr.outsideCluster(e, p))
			}
		}
	}
	return out
}

// outsideCluster leads straight out.
func (tr *Translator) outsideCluster(e *topology.External, p topology.ExternalPort) ir.Cluster {
	c := ir.Cluster{
		Name: externalName(e.ServiceName, p.Port), Protocol: ir.Bytes, ConnectTimeout: externalConnectTimeout,
		Outside: &ir.Outside{Endpoints: outsideEndpoints(e, p), TLS: outsideTLS(e, p.TLS)}, Detection: tr.outsideDetection(),
	}
	switch p.Protocol {
	case topology.HTTP:
		c.Protocol, c.IdleTimeout = ir.HTTP1, appIdle
	case topology.HTTP2, topology.GRPC:
		c.Protocol, c.IdleTimeout = ir.HTTP2, connectionIdle
	case topology.TCP:
	}
	traffic := tr.t.ExternalTraffic(e, p)
	tr.treatCluster(&c, p.AsPort(), traffic.Spec)
	if c.HealthCheck != nil {
		c.HealthCheck.Host = e.Spec.Hosts[0]
	}
	c.Sources = unique(slices.Concat(tr.externalSources(e), clusterSources(traffic)))
	return c
}

func (tr *Translator) externalSources(e *topology.External) ir.Sources {
	return unique(slices.Concat(ir.Sources{e.Source.Key}, tr.t.ConfigSources))
}

// outsideDetection does not ping: who is not of the mesh may take pings for abuse.
func (tr *Translator) outsideDetection() *ir.Detection {
	d := tr.detection()
	d.KeepAlive, d.KeepAliveTimeout = 0, 0
	return d
}

// outsideEndpoints numbers the priorities without gaps, as Envoy wants them.
func outsideEndpoints(e *topology.External, p topology.ExternalPort) []ir.OutsideEndpoint {
	list := e.Spec.Endpoints
	if len(list) == 0 {
		list = []policy.ExternalEndpoint{{Address: e.Spec.Hosts[0]}}
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(x, y policy.ExternalEndpoint) int { return cmp.Compare(x.Priority, y.Priority) })
	var out []ir.OutsideEndpoint
	priority := uint32(0)
	for i, one := range list {
		if i > 0 && one.Priority != list[i-1].Priority {
			priority++
		}
		port := p.TargetPort
		if one.Port != 0 && len(e.Ports) == 1 {
			port = one.Port
		}
		out = append(out, ir.OutsideEndpoint{Address: one.Address, Port: port, Priority: priority, Weight: cmp.Or(one.Weight, 1)})
	}
	return out
}

func outsideTLS(e *topology.External, t *policy.OriginateTLS) *ir.OutsideTLS {
	if t == nil {
		return nil
	}
	spec := t.WithDefaults(e.Spec.Hosts)
	out := &ir.OutsideTLS{ServerName: spec.ServerName, TLS13: spec.MinVersion == "1.3"}
	secret := func(prefix, name string) string { return prefix + e.Namespace + "/" + name }
	switch {
	case spec.CA == nil:
		out.AuthoritySecret = systemRoots
	case spec.CA.Secret != "":
		out.AuthoritySecret = secret(topology.AuthorityPrefix, spec.CA.Secret)
	default:
		out.Authorities = spec.CA.PEM
	}
	if spec.ClientCertificate != nil {
		out.Certificate = secret(topology.CertificatePrefix, spec.ClientCertificate.Secret)
	}
	return out
}

// externalHosts have a virtual host for every port of an ExternalService that the sidecars of a namespace know.
func (tr *Translator) externalHosts(namespace string) (hosts []ir.VirtualHost, sources ir.Sources) {
	for _, x := range tr.t.ExternalHosts(namespace) {
		name := externalName(x.ServiceName, x.Port.Port)
		h := ir.VirtualHost{
			// Nothing more is tried again than what nobody can have seen: who counts calls, or bills them, is not of the mesh.
			Name: name, Domains: x.Domains, Retry: safeRetry(tr.settings.Retry),
			Routes: []ir.Route{{Match: anyPath(), Backends: []ir.Backend{{Cluster: name, Weight: 1}}}},
		}
		switch {
		case !x.Port.Protocol.IsHTTP():
			h.Routes, h.Retry = tunnelRoutes(name, x), nil
		case !x.Gateway: // else the egress treats them, who asks the server
			traffic := tr.t.ExternalTraffic(x.External, x.Port)
			h.Routes = tr.treatOutside(x.Port.AsPort(), h.Routes, traffic.Spec)
			sources = append(sources, outsideSources(traffic)...)
		}
		hosts = append(hosts, h)
		sources = append(sources, x.Source.Key)
	}
	return hosts, sources
}

// tunnelRoutes take applications that use the sidecar as their proxy and ask it for a connection (RFC 9110, 9.3.6).
func tunnelRoutes(cluster string, x topology.ExternalHost) []ir.Route {
	return []ir.Route{
		{Match: ir.Match{Connect: true}, Backends: []ir.Backend{{Cluster: cluster, Weight: 1}}},
		{Match: anyPath(), Reply: &ir.Reply{
			Status: http.StatusMisdirectedRequest, Code: "NOT-HTTP", Title: "The sidecar understands no requests on this port",
			Detail: "Port " + strconv.Itoa(int(x.Port.Port)) + " of ExternalService " + x.ServiceName.String() + " is declared as " + string(x.Port.ExternalPort.Protocol) + ".",
			Try:    "Use the sidecar as proxy with CONNECT (HTTPS_PROXY), declare an upstream with a local port, or declare the port as http with tls.",
		}},
	}
}

// hostOutside is the name of an ExternalService that a route leads to, which knows no other; empty for services of the mesh.
func (tr *Translator) hostOutside(to topology.Backend) string {
	e, ok := tr.t.External(to.ServiceName)
	if !to.External || !ok || len(e.Spec.Hosts) == 0 {
		return ""
	}
	return e.Spec.Hosts[0]
}
