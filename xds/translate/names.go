package translate

import (
	"strconv"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
)

// Names of IR objects. Envoys, their statistics and people who debug see them: they are part of the
// interface and don't change lightly.

// OutboundRouteTable is the one route table of requests by host name.
const OutboundRouteTable = "outbound"

// NowhereCluster is named where something is asked that is not there: Envoy has no such cluster.
const NowhereCluster = "nowhere"

// clusterName is `<service>.<namespace>:<port>`: the service wherever it is.
func clusterName(n topology.ServiceName, port uint16) string { return portName(n.String(), port) }

func portName(name string, port uint16) string { return name + ":" + strconv.Itoa(int(port)) }

// pinnedName is `<service>.<namespace>.<zone>:<port>`: the service in one zone.
func pinnedName(n topology.ServiceName, zone string, port uint16) string {
	return portName(n.String()+"."+zone, port)
}

// instanceName is `<instance>.<service>.<namespace>.<zone>:<port>`: one workload of the service.
func instanceName(n topology.ServiceName, zone, instance string, port uint16) string {
	return portName(instance+"."+n.String()+"."+zone, port)
}

// localName is `local/<service>.<namespace>:<port>`: what an ingress reaches of the service, or of one instance of it.
func localName(r reach) string { return "local/" + r.zoneless() }

// ruleName is `<namespace>/<route>/<rule>`, or `<namespace>/<route>[<index>]` of a rule without a name.
func ruleName(m policy.RouteMatch) string {
	route := m.Route.Namespace + "/" + m.Route.Name
	if m.RuleName == "" {
		return route + "[" + strconv.Itoa(m.Rule) + "]"
	}
	return route + "/" + m.RuleName
}

// appName is `app:<port>`: the application beside the sidecar.
func appName(port uint16) string { return "app:" + strconv.Itoa(int(port)) }

// admittedName is `app:<port>/admitted`: the same for connections that an admission let in.
func admittedName(port uint16) string { return appName(port) + "/admitted" }

// admissionName is `admission/<chain>`.
func admissionName(chain string) string { return "admission/" + chain }

// inboundName is `inbound/<service>.<namespace>:<port>/<source zone>`.
func inboundName(n topology.ServiceName, port uint16, source string) string {
	return "inbound/" + clusterName(n, port) + "/" + source
}

// l4Name is `<name>/l4`: the way to the same port on which bytes are passed on.
func l4Name(name string) string { return name + "/l4" }

// peerName is `peer/<source zone>`: the way of another zone's ingresses to the agent.
func peerName(source string) string { return "peer/" + source }

// trustName is the secret by which the servers of a trust domain are recognised, peersName that for its
// clients.
func trustName(td mesh.TrustDomain) string { return "td/" + string(td) }
func peersName(td mesh.TrustDomain) string { return "peers/" + string(td) }

func servicePort(zone string, n topology.ServiceName, port uint16) mesh.ServicePort {
	return mesh.ServicePort{Zone: zone, Namespace: n.Namespace, Service: n.Name, Port: port}
}

// certificateName and authorityName are secrets that lie on the proxy's machine; its agent knows them by these names.
func certificateName(n topology.SecretName) string { return topology.CertificatePrefix + n.String() }
func authorityName(n topology.SecretName) string   { return topology.AuthorityPrefix + n.String() }
