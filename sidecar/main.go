// Sidecar runs Envoy beside one workload of a VM zone: it enrols the workload with its zone by token,
// keeps its identity, registers where it is and how its application does, and gives it local ports to
// the mesh. It needs no root.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/comity-mesh/comity/dataplane"
	"github.com/comity-mesh/comity/dataplane/program"
	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/mesh"
)

// settings are the keys of the configuration file, the environment (COMITY_SIDECAR_*) and the flags.
type settings struct {
	ZoneAddress  []string             `json:"zoneAddress" usage:"host:port of the zone's control plane; default: as the token says"`
	TokenFile    string               `json:"tokenFile" usage:"file with the enrolment token, - for standard input; default: COMITY_ENROL_TOKEN"`
	Namespace    string               `json:"namespace" usage:"namespace of the workload; default: the token's"`
	Name         string               `json:"name" usage:"name of the workload"`
	Labels       map[string]string    `json:"labels" usage:"labels that the enrolment token must have given; Services select by all of the token's, whether named here or not"`
	Address      string               `json:"address" usage:"IP address by which the zone reaches this machine; default: the one from which the zone is reached"`
	InboundPort  uint16               `json:"inboundPort" usage:"port for mTLS from the zone; 0: any free one"`
	OutboundPort int                  `json:"outboundPort" usage:"port on loopback for HTTP by host name; 0: any free one, -1: none"`
	Proxyless    bool                 `json:"proxyless" usage:"no Envoy: a gRPC client of this user reads the zone's configuration itself, by the files and the socket in runDir (docs/proxyless.md)"`
	AppAddress   string               `json:"appAddress" usage:"IP address where the application listens; default 127.0.0.1"`
	Upstreams    []dataplane.Upstream `json:"upstreams" usage:"local ports for TCP services: [{service, namespace, port, localPort}]"`
	DNS          dnsSettings          `json:"dns"`
	HealthCheck  healthCheck          `json:"healthCheck"`
	Capacity     float64              `json:"capacity" usage:"capacity in endpoint-equivalents; 0 means 1"`
	Locality     program.Locality     `json:"locality"`
	DataDir      string               `json:"dataDir" usage:"folder that keeps the instance key over a restart; empty: memory only"`
	RunDir       string               `json:"runDir" usage:"folder for sockets while running, this sidecar's alone"`
	SecretsDir   string               `json:"secretsDir" usage:"folder of certificates that stay on this machine, as <namespace>/<name>/{tls.crt,tls.key,ca.crt}; empty: none"`
	WriteInfo    string               `json:"writeInfo" usage:"file to write a JSON description of the running sidecar to (ports, identity, readiness)"`
	DrainTime    time.Duration        `json:"drainTime" usage:"how long clients have to go elsewhere when the sidecar ends; 0 means 1.5s"`
	Envoy        program.Envoy        `json:"envoy"`
	Metrics      program.Metrics      `json:"metrics"`
	Log          telemetry.LogConfig  `json:"log"`
}

// dnsSettings are of the names that the sidecar answers; none without an address.
type dnsSettings struct {
	Address   string   `json:"address" usage:"loopback address:port where names of the mesh are answered with virtual addresses, at which Envoy then listens on the services' own ports (docs/dns.md); empty: nowhere"`
	Upstreams []string `json:"upstreams" usage:"IP addresses (:port) of the resolvers for all other names; default: those of /etc/resolv.conf"`
	Block     string   `json:"block" usage:"/16 of 127.0.0.0/8 for the virtual addresses, this sidecar's alone on its machine; default 127.128.0.0/16"`
}

// healthCheck is made of the application; none without a port.
type healthCheck struct {
	Port       uint16 `json:"port" usage:"port of the application to check; 0: no check, the workload is healthy while its sidecar is"`
	Path       string `json:"path" usage:"path for an HTTP GET that must answer 200 to 399; empty: a TCP connection is enough"`
	IntervalMS int    `json:"intervalMs" usage:"milliseconds between checks, at least 100; 0 means 1000"`
	TimeoutMS  int    `json:"timeoutMs" usage:"milliseconds a check may take; 0 means 500"`
}

// Validate is asked by internal/config.
func (s *settings) Validate() error {
	if s.OutboundPort < -1 || s.OutboundPort > 65535 {
		return fmt.Errorf("outboundPort %d is not a port, 0 for any or -1 for none", s.OutboundPort)
	}
	if s.DNS.Address == "" && (s.DNS.Block != "" || len(s.DNS.Upstreams) > 0) {
		return errors.New("dns needs an address")
	}
	if s.HealthCheck.Port == 0 && s.HealthCheck != (healthCheck{}) {
		return errors.New("healthCheck needs a port")
	}
	return nil
}

func main() {
	os.Exit(program.Program[settings]{
		Name: "sidecar", Short: "Run Envoy beside a workload", Defaults: settings{}, Common: common,
		Long: "Sidecar enrols a workload with its zone, keeps its identity and runs its Envoy.\n\nThe enrolment token comes from a file, standard input or " + program.TokenEnv + ", never from a flag.",
	}.Main())
}

func common(s settings) program.Common {
	w := dataplane.Workload{
		Address: s.Address, InboundPort: s.InboundPort, AppAddress: s.AppAddress, Upstreams: s.Upstreams,
		Capacity: s.Capacity, Locality: mesh.Locality(s.Locality),
	}
	if s.OutboundPort > 0 {
		w.OutboundPort = uint16(s.OutboundPort) //nolint:gosec // Validate bounds it
	}
	if h := dataplane.HealthCheck(s.HealthCheck); h.Port != 0 {
		w.HealthCheck = &h
	}
	var dns *dataplane.DNS
	if s.DNS.Address != "" {
		dns = &dataplane.DNS{Address: s.DNS.Address, Upstreams: s.DNS.Upstreams, Block: s.DNS.Block}
	}
	return program.Common{
		TokenFile: s.TokenFile, Log: s.Log, Envoy: s.Envoy, Metrics: s.Metrics,
		Proxy: dataplane.Config{
			Namespace: s.Namespace, Name: s.Name, ZoneAddresses: s.ZoneAddress, DataDir: s.DataDir, RunDir: s.RunDir, SecretsDir: s.SecretsDir,
			InfoFile: s.WriteInfo, DrainTime: s.DrainTime, Locality: mesh.Locality(s.Locality),
			Sidecar: &dataplane.Sidecar{Labels: s.Labels, Workload: w, NoOutbound: s.OutboundPort < 0, DNS: dns, Proxyless: s.Proxyless},
		},
	}
}
