package tap

import (
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"

	"github.com/comity-mesh/comity/mesh"
)

// Logs and the tags of their entries, as xds/envoy names them.
const (
	logConnections = "connections"
	tagChain       = "chain"
	tagFlags       = "flags"
	tagServer      = "server"
	tagZone        = "zone"
	tagTrace       = "traceparent"
	tagB3          = "b3"
	tagDecision    = "decision"
	tagPolicy      = "policy"
	tagCaller      = "caller" // of connections that another listener of the Envoy relayed

	decisionDenied = "denied"
)

// request reads an entry about a request.
func (s Self) request(log string, e *datav3.HTTPAccessLogEntry) (mesh.TapRequest, map[string]string, bool) {
	req, res := e.GetRequest(), e.GetResponse()
	r := s.common(log, e.GetCommonProperties())
	r.Method = strings.TrimPrefix(req.GetRequestMethod().String(), "METHOD_UNSPECIFIED")
	if r.Method == "" {
		r.Method = "-" // Envoy's enumeration doesn't have it, or there was none
	}
	r.Host = req.GetAuthority()
	if r.Side == mesh.TapClient && r.Destination.Name == "" { // answered before anybody was chosen, as by a fault
		r.Destination = parseHost(r.Host)
	}
	r.Path, _, _ = strings.Cut(req.GetPath(), "?") // a query may hold a secret
	r.Status, r.Details = res.GetResponseCode().GetValue(), res.GetResponseCodeDetails()
	r.BytesIn, r.BytesOut = req.GetRequestBodyBytes(), res.GetResponseBodyBytes()
	r.RequestID = req.GetRequestId()
	r.Protocol = map[datav3.HTTPAccessLogEntry_HTTPVersion]string{
		datav3.HTTPAccessLogEntry_HTTP10: "HTTP/1.0", datav3.HTTPAccessLogEntry_HTTP11: "HTTP/1.1", datav3.HTTPAccessLogEntry_HTTP2: "HTTP/2",
	}[e.GetProtocolVersion()]
	tags := e.GetCommonProperties().GetCustomTags()
	r.TraceID = traceID(tags)
	r.Policy = decidedBy(r.Details, e.GetCommonProperties().GetMetadata())
	return r, knownHeaders(req.GetRequestHeaders(), map[string]string{
		"user-agent": req.GetUserAgent(), "referer": req.GetReferer(), "x-request-id": req.GetRequestId(), "traceparent": tags[tagTrace],
	}), true
}

// connection reads an entry about a connection. Of those that a listener took, only what came no further is told: the others
// are told by what passed them on, or by their requests.
func (s Self) connection(log string, e *datav3.TCPAccessLogEntry) (mesh.TapRequest, map[string]string, bool) {
	c := e.GetCommonProperties()
	r := s.common(log, c)
	r.Protocol, r.Open = "TCP", c.GetAccessLogType() == datav3.AccessLogType_TcpUpstreamConnected
	r.BytesIn, r.BytesOut = e.GetConnectionProperties().GetReceivedBytes(), e.GetConnectionProperties().GetSentBytes()
	r.Details = firstOf(c.GetDownstreamTransportFailureReason(), c.GetConnectionTerminationDetails(), c.GetUpstreamTransportFailureReason())
	tags := c.GetCustomTags()
	if r.Policy = decidedBy(r.Details, c.GetMetadata()); r.Policy != "" {
		r.Denied = true // Envoy says nothing of a connection that it lets in
	} else if r.Policy = dashless(tags[tagPolicy]); r.Policy != "" {
		r.Denied = tags[tagDecision] == decisionDenied
	}
	if log == logConnections && c.GetDownstreamTransportFailureReason() == "" && r.Flags != "NR" {
		return r, nil, false
	}
	return r, nil, true
}

// common is what requests and connections have alike.
func (s Self) common(log string, c *datav3.AccessLogCommon) mesh.TapRequest {
	tags := c.GetCustomTags()
	r := mesh.TapRequest{
		Time: c.GetStartTime().AsTime(), DurationMS: float64(c.GetDuration().AsDuration().Microseconds()) / 1000,
		Zone: s.Zone, Proxy: s.Proxy.String(), Flags: dashless(tags[tagFlags]), Route: c.GetRouteName(), Attempts: c.GetUpstreamRequestAttemptCount(),
	}
	chain := parseChain(tags[tagChain])
	tls := c.GetTlsProperties()
	peer := dashless(tags[tagCaller])
	for _, san := range tls.GetPeerCertificateProperties().GetSubjectAltName() {
		if san.GetUri() != "" {
			peer = san.GetUri()
			break
		}
	}
	r.Source = mesh.TapEnds{Identity: peer, Address: address(c.GetDownstreamRemoteAddress())}
	r.Source.Namespace, r.Source.Name = serviceAccount(peer)
	switch {
	case chain.egress:
		r.Side, r.Source.Zone = mesh.TapGateway, chain.from
		r.Destination = mesh.TapEnds{Namespace: chain.namespace, Name: chain.service, Port: chain.port, Address: address(c.GetUpstreamRemoteAddress())}
		return r
	case chain.inbound:
		r.Side, r.Source.Zone = mesh.TapServer, chain.from
		r.Destination = mesh.TapEnds{Namespace: chain.namespace, Name: chain.service, Port: chain.port, Zone: s.Zone, Identity: s.Identity}
		return r
	case log == logConnections && s.Proxy.Role == mesh.RoleSidecar:
		// Refused before a chain was found, or in it before it had a name.
		r.Side = mesh.TapServer
		r.Destination = mesh.TapEnds{Namespace: s.Proxy.Namespace, Name: s.Proxy.Name, Zone: s.Zone, Identity: s.Identity}
		if p, from, ok := parseServerName(tls.GetTlsSniHostname()); ok {
			r.Destination.Namespace, r.Destination.Name, r.Destination.Port, r.Source.Zone = p.Namespace, p.Service, p.Port, from
		}
		return r
	case s.Proxy.Role == mesh.RoleSidecar:
		r.Side = mesh.TapClient
		r.Source = mesh.TapEnds{Namespace: s.Proxy.Namespace, Name: s.Proxy.Name, Zone: s.Zone, Identity: s.Identity}
	default:
		r.Side = mesh.TapGateway
		if p, from, ok := parseServerName(tls.GetTlsSniHostname()); ok && r.Source.Zone == "" {
			r.Source.Zone = from
			r.Destination = mesh.TapEnds{Namespace: p.Namespace, Name: p.Service, Port: p.Port, Zone: p.Zone}
			return r
		}
	}
	r.Destination = parseCluster(c.GetUpstreamCluster())
	r.Destination.Identity, r.Destination.Address = tags[tagServer], address(c.GetUpstreamRemoteAddress())
	if z := dashless(tags[tagZone]); z != "" {
		r.Destination.Zone = z
	}
	return r
}

// chainName is `inbound/<service>.<namespace>:<port>/<source zone>[/l4]`, `plaintext/<service>.<namespace>:<port>` or
// `egress/<service>.<namespace>:<port>/<source zone>[/refused]`, as xds/translate names chains.
type chainName struct {
	inbound, egress          bool
	service, namespace, from string
	port                     uint16
}

func parseChain(s string) (c chainName) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || parts[0] != "inbound" && parts[0] != "plaintext" && parts[0] != "egress" {
		return c
	}
	to, egress := parseCluster(parts[1]), parts[0] == "egress"
	c = chainName{inbound: !egress, egress: egress, service: to.Name, namespace: to.Namespace, port: to.Port}
	if len(parts) > 2 {
		c.from = parts[2]
	}
	return c
}

// parseCluster reads `[local/|external/]<service>.<namespace>[.<zone>]:<port>`; of other names nothing is known.
func parseCluster(s string) (e mesh.TapEnds) {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "local/"), "external/")
	host, port, ok := strings.Cut(s, ":")
	number, err := strconv.ParseUint(port, 10, 16)
	labels := strings.Split(host, ".")
	if !ok || err != nil || len(labels) < 2 {
		return e
	}
	e = mesh.TapEnds{Name: labels[0], Namespace: labels[1], Port: uint16(number)}
	if len(labels) == 3 {
		e.Zone = labels[2]
	}
	return e
}

// parseHost reads the names of services, as mesh.ClusterSetHost, mesh.ZoneHost and those of instances make them.
func parseHost(s string) (e mesh.TapEnds) {
	host, port, _ := strings.Cut(s, ":")
	name, everywhere := strings.CutSuffix(host, ".svc.clusterset.local")
	name, pinned := strings.CutSuffix(name, ".mesh")
	labels := strings.Split(name, ".")
	if pinned {
		e.Zone, labels = labels[len(labels)-1], labels[:len(labels)-1]
	}
	if n := len(labels); (everywhere || pinned) && n >= 2 {
		number, _ := strconv.ParseUint(port, 10, 16) // 0 where there is none
		return mesh.TapEnds{Name: labels[n-2], Namespace: labels[n-1], Zone: e.Zone, Port: uint16(number)}
	}
	return mesh.TapEnds{}
}

// parseServerName reads what a client of the mesh asks for (mesh.ServicePort.SNI): whose port, and from which zone.
func parseServerName(s string) (p mesh.ServicePort, from string, ok bool) {
	labels := strings.Split(s, ".")
	if len(labels) == 7 && labels[4] == "l4" {
		labels = append(labels[:4:4], labels[5:]...)
	}
	if len(labels) != 6 || labels[5] != "mesh" {
		return p, "", false
	}
	number, err := strconv.ParseUint(labels[1], 10, 16)
	return mesh.ServicePort{Zone: labels[4], Namespace: labels[3], Service: labels[2], Port: uint16(number)}, labels[0], err == nil
}

// serviceAccount reads `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
func serviceAccount(id string) (namespace, name string) {
	if _, rest, ok := strings.Cut(id, "/ns/"); ok {
		namespace, name, _ = strings.Cut(rest, "/sa/")
	}
	return namespace, name
}

// traceID is that of W3C's traceparent, or else of B3.
func traceID(tags map[string]string) string {
	if p := strings.Split(tags[tagTrace], "-"); len(p) >= 3 {
		return p[1]
	}
	return dashless(tags[tagB3])
}

// decidedBy is the policy that refused, by the details of the answer, or else the one that allowed.
func decidedBy(details string, m *corev3.Metadata) string {
	for _, reason := range []string{"rbac_access_denied_matched_policy[", "rbac_deny_close_matched_policy["} {
		if _, rest, ok := strings.Cut(details, reason); ok {
			return strings.TrimSuffix(rest, "]")
		}
	}
	return m.GetFilterMetadata()["envoy.filters.http.rbac"].GetFields()["enforced_effective_policy_id"].GetStringValue()
}

func address(a *corev3.Address) string {
	if s := a.GetSocketAddress(); s != nil {
		return s.GetAddress()
	}
	return a.GetPipe().GetPath()
}

// dashless is empty for what Envoy writes where there is nothing.
func dashless(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

func firstOf(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}
