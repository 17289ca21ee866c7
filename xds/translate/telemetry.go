package translate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// serverTelemetry is what is told of the requests from a zone to a port; who tells it toldBy adds.
func (in *inbound) serverTelemetry(s *topology.Service, p topology.Port, from topology.Zone) *ir.Telemetry {
	said := in.tr.untold(in.tr.t.ServerTelemetry(s, p), topology.ServicePort{ServiceName: s.ServiceName, Port: p.Number})
	return in.tr.telemetry(said, ir.Ends{
		Reporter: "server", Zone: in.tr.t.Zone, SourceZone: from.Name,
		Destination: s.ServiceName.String(), DestinationZone: in.tr.t.Zone,
	})
}

// toldBy are the chains with the name of the workload that tells of their requests.
func toldBy(w *topology.Workload, chains []ir.Chain) []ir.Chain {
	told := func(t *ir.Telemetry) *ir.Telemetry {
		by := *t
		by.Ends.Proxy = w.Name + "." + w.Namespace
		return &by
	}
	out := slices.Clone(chains)
	for i := range out {
		if h := out[i].HTTP; h != nil && h.Telemetry != nil {
			http := *h
			http.Telemetry, out[i].HTTP = told(h.Telemetry), &http
		}
		if c := out[i].TCP; c != nil && c.Telemetry != nil {
			tcp := *c
			tcp.Telemetry, out[i].TCP = told(c.Telemetry), &tcp
		}
	}
	return out
}

// clientTelemetry is what is told of the requests of a workload.
func (tr *Translator) clientTelemetry(w *topology.Workload) *ir.Telemetry {
	name := w.Name + "." + w.Namespace
	return tr.telemetry(tr.t.ClientTelemetry(w.Namespace), ir.Ends{Reporter: "client", Proxy: name, Zone: tr.t.Zone, Source: name, SourceZone: tr.t.Zone})
}

// untold leaves out what would be told a port of requests to that port: each telling is a request to it, and would be told of.
func (tr *Translator) untold(m policy.Merged[policy.TelemetryPolicy], port topology.ServicePort) policy.Merged[policy.TelemetryPolicy] {
	itself := func(c policy.Collector, by mesh.Key) bool {
		if c.Service == nil {
			return false
		}
		to, _ := tr.t.HTTPPort(by.Namespace, *c.Service)
		return to == port
	}
	m.Spec.AccessLogs = slices.DeleteFunc(slices.Clone(m.Spec.AccessLogs), func(l policy.AccessLogTo) bool { return l.OTLP != nil && itself(*l.OTLP, m.By("AccessLogs")) })
	if t := m.Spec.Tracing; t != nil && itself(t.Collector(), m.By("Tracing")) {
		m.Spec.Tracing = nil
	}
	return m
}

// gatewayTelemetry is what is told of the requests from outside.
func (tr *Translator) gatewayTelemetry() *ir.Telemetry {
	return tr.telemetry(tr.t.EdgeTelemetry(), ir.Ends{Reporter: "gateway", Zone: tr.t.Zone})
}

// egressTelemetry is what is told of the requests of a zone to an ExternalService.
func (tr *Translator) egressTelemetry(e *topology.External, from topology.Zone) *ir.Telemetry {
	return tr.telemetry(tr.t.EdgeTelemetry(), ir.Ends{Reporter: "egress", Zone: tr.t.Zone, SourceZone: from.Name, Destination: e.ServiceName.String(), DestinationZone: "outside"})
}

// toldReaches are the ways to the services of the mesh that ingresses and egresses tell.
func (tr *Translator) toldReaches() []reach {
	return tr.reachesOf(tr.t.EdgeCollectors())
}

// telemetry is nil where nothing is told.
func (tr *Translator) telemetry(m policy.Merged[policy.TelemetryPolicy], ends ir.Ends) *ir.Telemetry {
	out := &ir.Telemetry{Ends: ends}
	if a := tr.t.Config.AccessLog; a != nil && m.Spec.AccessLogs == nil {
		out.Logs = []ir.AccessLog{{File: a.Path}}
	}
	for _, l := range m.Spec.AccessLogs {
		if log, ok := tr.accessLog(l, m.By("AccessLogs").Namespace); ok {
			out.Logs = append(out.Logs, log)
		}
	}
	if t := m.Spec.Tracing; t != nil {
		out.Tracing = tr.tracing(*t, m.By("Tracing").Namespace)
	}
	if out.Logs == nil && out.Tracing == nil {
		return nil
	}
	return out
}

func (tr *Translator) accessLog(l policy.AccessLogTo, namespace string) (out ir.AccessLog, ok bool) {
	if f := l.Filter; f != nil {
		out = ir.AccessLog{MinStatus: f.MinStatus, MinDuration: millis(f.Duration()), Flags: f.Flags, PathPrefix: f.PathPrefix}
		if f.Share() < 100 {
			out.PerMillion = perMillionOf(f.Share())
		}
	}
	if l.File != nil {
		out.File = l.File.Path
		return out, true
	}
	out.Collector = tr.collector(*l.OTLP, namespace, true)
	return out, out.Collector != nil
}

func (tr *Translator) tracing(t policy.Tracing, namespace string) *ir.Tracing {
	c := tr.collector(t.Collector(), namespace, t.HTTP2())
	if c == nil {
		return nil
	}
	out := &ir.Tracing{Collector: *c, Protocol: ir.SpansOTLP, W3C: t.W3C, Percent: t.Share()}
	switch {
	case t.Zipkin != nil:
		out.Protocol = ir.SpansZipkin
	case t.Protocol == policy.OTLPHTTP:
		out.Protocol = ir.SpansOTLPHTTP
	}
	for _, tag := range t.Tags {
		out.Tags = append(out.Tags, ir.SpanTag(tag))
	}
	return out
}

// collector is nil for a service that is not there: Envoy refuses a listener that tells a cluster which it does not have.
func (tr *Translator) collector(c policy.Collector, namespace string, http2 bool) *ir.Collector {
	if c.Service == nil {
		return &ir.Collector{Cluster: collectorName(c, http2), Authority: c.Address}
	}
	to, ok := tr.t.HTTPPort(namespace, *c.Service)
	if !ok {
		return nil
	}
	return &ir.Collector{Cluster: clusterName(to.ServiceName, to.Port), Authority: mesh.ClusterSetHost(to.Name, to.Namespace)}
}

// collectorName is `collector/<host:port>`, with "/http1" where HTTP/2 is not spoken, and a digest of what is said of TLS.
func collectorName(c policy.Collector, http2 bool) string {
	name := "collector/" + c.Address
	if !http2 {
		name += "/http1"
	}
	if c.TLS == nil {
		return name
	}
	sum := sha256.Sum256([]byte(c.TLS.ServerName + "\n" + c.TLS.CA))
	return name + "/" + hex.EncodeToString(sum[:4])
}

// collectorClusters lead to the collectors outside of the mesh that any of the policies tell, each once.
func collectorClusters(policies ...policy.Merged[policy.TelemetryPolicy]) []ir.Cluster {
	var out []ir.Cluster
	add := func(c policy.Collector, http2 bool, source mesh.Key) {
		if c.Service != nil {
			return
		}
		name := collectorName(c, http2)
		i := slices.IndexFunc(out, func(o ir.Cluster) bool { return o.Name == name })
		if i < 0 {
			i = len(out)
			host, port := c.HostPort()
			cluster := ir.Cluster{
				Name: name, Protocol: ir.HTTP1, ConnectTimeout: externalConnectTimeout, IdleTimeout: appIdle,
				Outside: &ir.Outside{Endpoints: []ir.OutsideEndpoint{{Address: host, Port: port, Weight: 1}}},
			}
			if http2 {
				cluster.Protocol, cluster.IdleTimeout = ir.HTTP2, connectionIdle
			}
			if t := c.TLS; t != nil {
				tls := &ir.OutsideTLS{ServerName: cmp.Or(t.ServerName, host), AuthoritySecret: systemRoots}
				if t.CA != "" {
					tls.AuthoritySecret, tls.Authorities = "", t.CA
				}
				cluster.Outside.TLS = tls
			}
			out = append(out, cluster)
		}
		out[i].Sources = unique(append(out[i].Sources, source))
	}
	for _, m := range policies {
		for _, l := range m.Spec.AccessLogs {
			if l.OTLP != nil {
				add(*l.OTLP, true, m.By("AccessLogs"))
			}
		}
		if t := m.Spec.Tracing; t != nil {
			add(t.Collector(), t.HTTP2(), m.By("Tracing"))
		}
	}
	return out
}

// telemetryOf are all the policies that say what a workload tells.
func (tr *Translator) telemetryOf(w *topology.Workload) []policy.Merged[policy.TelemetryPolicy] {
	out := []policy.Merged[policy.TelemetryPolicy]{tr.t.ClientTelemetry(w.Namespace)}
	for _, s := range tr.t.ServedBy(w) {
		for _, p := range s.Ports {
			out = append(out, tr.t.ServerTelemetry(s, p))
		}
	}
	return out
}
