// Ingress runs Envoy as the entry of a zone for traffic from other zones. It passes TLS through by
// server name to the sidecars behind it and holds no workload's key. With the role egress it is the zone's way out of the mesh
// instead: it ends the sidecars' mTLS, decides who may, and calls what is outside.
package main

import (
	"os"
	"time"

	"github.com/comity-mesh/comity/dataplane"
	"github.com/comity-mesh/comity/dataplane/program"
	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/mesh"
)

// settings are the keys of the configuration file, the environment (COMITY_INGRESS_*) and the flags.
type settings struct {
	ZoneAddress []string            `json:"zoneAddress" usage:"host:port of the zone's control plane; default: as the token says"`
	TokenFile   string              `json:"tokenFile" usage:"file with the enrolment token, - for standard input; default: COMITY_ENROL_TOKEN"`
	Role        string              `json:"role" usage:"ingress: takes traffic from other zones; egress: is the way of the zone's sidecars to ExternalServices"`
	Name        string              `json:"name" usage:"name of the ingress or egress within its zone"`
	BindAddress string              `json:"bindAddress" usage:"IP address on which to listen"`
	Lanes       []uint16            `json:"lanes" usage:"ports on which to listen; several, because HTTP/2 through passthrough ties a connection to one server; 0: any free one"`
	Advertise   advertise           `json:"advertise"`
	Gateways    []string            `json:"gateways" usage:"Gateways to serve, as namespace/name; empty: every one of the zone"`
	Locality    program.Locality    `json:"locality"`
	DataDir     string              `json:"dataDir" usage:"folder that keeps the instance key over a restart; empty: memory only"`
	RunDir      string              `json:"runDir" usage:"folder for sockets while running, this ingress's alone"`
	SecretsDir  string              `json:"secretsDir" usage:"folder of certificates that stay on this machine, as <namespace>/<name>/{tls.crt,tls.key,ca.crt}; empty: none"`
	WriteInfo   string              `json:"writeInfo" usage:"file to write a JSON description of the running ingress to (ports, identity, readiness)"`
	DrainTime   time.Duration       `json:"drainTime" usage:"how long other zones have to go elsewhere when the ingress ends; 0 means 5s"`
	Envoy       program.Envoy       `json:"envoy"`
	Metrics     program.Metrics     `json:"metrics"`
	Log         telemetry.LogConfig `json:"log"`
}

// advertise is how other zones reach the ingress, or the zone's sidecars the egress.
type advertise struct {
	ID      string   `json:"id" usage:"identity of the address among the zone's; default: the name"`
	Network string   `json:"network" usage:"network on which host is reachable; empty: every one"`
	Host    string   `json:"host" usage:"IP address or DNS name for other zones; default: bindAddress"`
	Ports   []uint16 `json:"ports" usage:"ports for other zones, where a load balancer or NAT changes them; default: lanes"`
}

func main() {
	os.Exit(program.Program[settings]{
		Name: "ingress", Short: "Run Envoy as the entry of a zone, or as its way out", Common: common,
		Long:     "Ingress enrols with its zone and takes traffic from other zones, or as egress traffic of the zone's sidecars to ExternalServices.\n\nThe enrolment token comes from a file, standard input or " + program.TokenEnv + ", never from a flag.",
		Defaults: settings{Role: string(mesh.RoleIngress), Name: "ingress", BindAddress: "0.0.0.0", Lanes: []uint16{15443, 15444, 15445, 15446}},
	}.Main())
}

func common(s settings) program.Common {
	return program.Common{
		TokenFile: s.TokenFile, Log: s.Log, Envoy: s.Envoy, Metrics: s.Metrics,
		Proxy: dataplane.Config{
			Name: s.Name, ZoneAddresses: s.ZoneAddress, DataDir: s.DataDir, RunDir: s.RunDir, SecretsDir: s.SecretsDir,
			InfoFile: s.WriteInfo, DrainTime: s.DrainTime, Locality: mesh.Locality(s.Locality),
			Ingress: &dataplane.IngressSpec{
				Role: mesh.Role(s.Role), BindAddress: s.BindAddress, BindPorts: s.Lanes, Gateways: s.Gateways,
				Advertised: mesh.Ingress{ID: s.Advertise.ID, Network: s.Advertise.Network, Host: s.Advertise.Host, Ports: s.Advertise.Ports},
			},
		},
	}
}
