package translate

import (
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// instances are the ways to each workload of a headless service, zone by zone.
func (tr *Translator) instances(s *topology.Service, p topology.Port) []reach {
	var out []reach
	for _, z := range tr.zonesOf(s, p) {
		for _, i := range s.Instances(z, tr.t.Zone) {
			out = append(out, reach{s, p, z, i})
		}
	}
	return out
}

// instanceHosts are for requests to one of them. As with a zone's name, routes don't apply to it and policies for the service do.
func (tr *Translator) instanceHosts(s *topology.Service, p topology.Port, byDefault bool) []ir.VirtualHost {
	var out []ir.VirtualHost
	for _, to := range tr.instances(s, p) {
		out = append(out, ir.VirtualHost{
			Name: to.name(),
			Domains: domains(p.Number, byDefault,
				mesh.InstanceHost(to.instance, s.Name, s.Namespace, to.zone), mesh.ClusterSetInstanceHost(to.instance, s.Name, s.Namespace, to.zone)),
			Routes: tr.straight(s, p, to),
			Retry:  safeRetry(tr.settings.Retry),
		})
	}
	return out
}

// at is the port of a service in a zone, or of one instance there.
func (r reach) at(zone string) mesh.ServicePort {
	p := servicePort(zone, r.service.ServiceName, r.port.Number)
	p.Instance = r.instance
	return p
}

// zoneless is its name in its own zone: `<service>.<namespace>:<port>`, of an instance `<instance>.<service>.<namespace>:<port>`.
func (r reach) zoneless() string {
	n := r.service.ServiceName.String()
	if r.instance != "" {
		n = r.instance + "." + n
	}
	return portName(n, r.port.Number)
}

// workloads are those of this zone that answer.
func (r reach) workloads() []*topology.Workload {
	if r.instance == "" {
		return r.service.Local.Workloads
	}
	for _, w := range r.service.Local.Workloads {
		if w.Name == r.instance {
			return []*topology.Workload{w}
		}
	}
	return nil
}

// serverNames are those by which the callers of a zone ask for a port. A workload's own name comes from other zones only.
func (in *inbound) serverNames(p mesh.ServicePort, s *topology.Service, from topology.Zone) []string {
	names := []string{p.SNI(from.Name)}
	if s.Local.Headless && !from.Local {
		p.Instance = in.instance
		names = append(names, p.SNI(from.Name))
	}
	return names
}
