package translate

import (
	"slices"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

const (
	// The application is on the same machine.
	appConnectTimeout ir.Millis = 250
	// HTTP/2 through an ingress ties a connection to one endpoint: replacing connections is what
	// spreads load over endpoints and lanes.
	connectionMaxAge ir.Millis = 60_000
	// An idle connection costs keepalives, so it goes.
	connectionIdle ir.Millis = 60_000
	// Servers commonly close idle HTTP/1.1 connections after 5 s; a request sent in that moment fails.
	appIdle ir.Millis = 4_000
)

// reach is one way to a service port: wherever it is, in one zone only, or one instance there.
type reach struct {
	service  *topology.Service
	port     topology.Port
	zone     string // "" for any
	instance string // "" for any
}

func (r reach) name() string {
	switch {
	case r.zone == "":
		return clusterName(r.service.ServiceName, r.port.Number)
	case r.instance != "":
		return instanceName(r.service.ServiceName, r.zone, r.instance, r.port.Number)
	}
	return pinnedName(r.service.ServiceName, r.zone, r.port.Number)
}

func (r reach) covers(zone string) bool { return r.zone == "" || r.zone == zone }

// reaches lists every way to a service port. The pinned ones are there only where more than one zone
// has the port: otherwise they would be the same cluster again.
func (tr *Translator) reaches(s *topology.Service, p topology.Port) []reach {
	out := []reach{{service: s, port: p}}
	zones := tr.zonesOf(s, p)
	if len(zones) > 1 {
		for _, z := range zones {
			out = append(out, reach{service: s, port: p, zone: z})
		}
	}
	return append(out, tr.instances(s, p)...)
}

// zonesOf lists the zones that have the port, this one first.
func (tr *Translator) zonesOf(s *topology.Service, p topology.Port) []string {
	var zones []string
	if served(s, p) {
		zones = append(zones, tr.t.Zone)
	}
	for _, r := range s.Remotes {
		if slices.Contains(r.Ports, p.Number) {
			zones = append(zones, r.Zone)
		}
	}
	return zones
}

// served reports whether this zone has the port.
func served(s *topology.Service, p topology.Port) bool {
	if s.Local == nil {
		return false
	}
	_, ok := s.Local.Targets[p.Number]
	return ok
}

func (tr *Translator) outboundClusters() []ir.Cluster {
	var out []ir.Cluster
	for _, s := range tr.t.Services {
		for _, p := range s.Ports {
			for _, r := range tr.reaches(s, p) {
				out = append(out, tr.outboundCluster(r))
			}
		}
	}
	return slices.Concat(out, tr.externalClusters(), tr.undeclaredClusters())
}

func (tr *Translator) outboundCluster(r reach) ir.Cluster {
	c := ir.Cluster{
		Name: r.name(), Protocol: ir.Bytes, MTLS: true, Detection: tr.detection(),
		ConnectTimeout: millis(tr.settings.ConnectTimeout),
	}
	if r.port.Protocol.IsHTTP() {
		c.Protocol, c.IdleTimeout, c.MaxAge = ir.HTTP2, connectionIdle, connectionMaxAge
	}
	for _, zone := range tr.zonesOf(r.service, r.port) {
		z, ok := tr.t.ZoneNamed(zone)
		if !ok || !r.covers(zone) {
			continue
		}
		ids := identitiesIn(r.service, z)
		if len(ids) == 0 {
			continue // nobody there could answer
		}
		if !z.Local {
			c.ConnectTimeout = millis(tr.settings.RemoteConnectTimeout)
		}
		to, l4 := r.at(zone), tr.t.Layer(r.service, r.port.Number, zone) == mesh.LayerL4
		to.L4 = l4
		if z.Local {
			to.Instance = "" // its address says who is meant
		}
		c.Peers = append(c.Peers, ir.Peer{Zone: zone, SNI: to.SNI(tr.t.Zone), L4: l4, Trust: trustName(z.TrustDomain), Identities: ids})
	}
	speakToApps(&c, r.port.Protocol)
	traffic := tr.t.Traffic(r.service, r.port, mesh.Key{}, "")
	tr.treatCluster(&c, r.port, traffic.Spec)
	c.Sources = unique(slices.Concat(tr.clusterSources(r.service), clusterSources(traffic)))
	return c
}

// detection is what MeshConfig says of endpoints that fail.
func (tr *Translator) detection() *ir.Detection {
	o, k := tr.settings.Outlier, tr.settings.KeepAlive
	return &ir.Detection{
		LocalFailures: o.LocalFailures, GatewayFailures: o.GatewayFailures,
		Interval: millis(o.Interval), Ejection: millis(o.Ejection), MaxEjectionPercent: o.MaxEjectionPercent,
		KeepAlive: millis(k.Interval), KeepAliveTimeout: millis(k.Timeout), PanicPercent: tr.settings.PanicPercent,
	}
}

func (tr *Translator) clusterSources(s *topology.Service) ir.Sources {
	return unique(slices.Concat(s.Sources, tr.t.ConfigSources))
}

func millis(d time.Duration) ir.Millis { return ir.Millis(d.Milliseconds()) }

func identitiesIn(s *topology.Service, z topology.Zone) []string {
	if z.Local {
		return s.Local.Identities
	}
	for _, r := range s.Remotes {
		if r.Zone == z.Name {
			return r.Identities
		}
	}
	return nil
}

// ingressClusters: one per exported port, bytes passed on without being understood.
func (tr *Translator) ingressClusters() []ir.Cluster {
	var out []ir.Cluster
	for _, e := range tr.exported() {
		out = append(out, ir.Cluster{
			Name: localName(e), Protocol: ir.Bytes, Detection: tr.detection(),
			ConnectTimeout: millis(tr.settings.ConnectTimeout), Sources: tr.clusterSources(e.service),
		})
	}
	return out
}

// exported lists the ports that this zone offers to others. One without workloads is offered too: its
// chain then is there before the first of them is.
func (tr *Translator) exported() []reach {
	var out []reach
	for _, s := range tr.t.Services {
		if s.Local == nil || !s.Local.Exported {
			continue
		}
		for _, p := range s.Ports {
			if served(s, p) {
				out = append(out, reach{service: s, port: p, zone: tr.t.Zone})
				for _, i := range s.Instances(tr.t.Zone, tr.t.Zone) {
					out = append(out, reach{s, p, tr.t.Zone, i})
				}
			}
		}
	}
	return out
}

func appCluster(address string, s *topology.Service, p topology.Port) ir.Cluster {
	target := s.Local.Targets[p.Number]
	c := ir.Cluster{
		Name: appName(target), Protocol: ir.Bytes, ConnectTimeout: appConnectTimeout,
		Fixed:   &ir.HostPort{Address: address, Port: target},
		Sources: s.Sources,
	}
	switch p.Protocol {
	case topology.HTTP:
		c.Protocol, c.IdleTimeout = ir.HTTP1, appIdle
	case topology.HTTP2, topology.GRPC:
		c.Protocol = ir.HTTP2
	case topology.TCP:
	}
	return c
}
