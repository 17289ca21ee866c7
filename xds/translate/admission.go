package translate

import (
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// GuardedName names the refusal of connections whose requests nobody would look at, where something must.
const GuardedName = "default-deny:requests-must-be-looked-at"

// admission decides about the connections of a zone's callers to a port whose bytes are passed on to the application.
func (tr *Translator) admission(app string, s *topology.Service, p topology.Port, from topology.Zone, authorization ir.Authorization) ir.Admission {
	out := ir.Admission{
		To:            &ir.HostPort{Address: app, Port: s.Local.Targets[p.Number]},
		Authorization: authorization,
		Sources:       policySources(s, p, tr.t.ConfigSources),
	}
	for _, f := range tr.audits(s, p, from) {
		out.Audits = append(out.Audits, *f.Audit)
	}
	return out
}

// nobody refuses all callers of a zone, under a name.
func nobody(from topology.Zone, name string) ir.Authorization {
	return ir.Authorization{Callers: []ir.Caller{{Identity: everybodyOf(from), Decisions: []ir.Decision{{Policy: name}}}}}
}

// admittedCluster leads to the application for those who were let in.
func admittedCluster(app ir.HostPort, s *topology.Service) ir.Cluster {
	return ir.Cluster{Name: admittedName(app.Port), Protocol: ir.Bytes, ConnectTimeout: appConnectTimeout, Admitted: true, Sources: s.Sources}
}
