// Package discovery says what runs in a zone. A Source watches one kind of place (machines whose
// sidecars register themselves, in package vm; a Kubernetes API server later) and offers what it
// knows as one immutable picture.
package discovery

import (
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/xds/topology"
)

// Source is one place where workloads and ingresses are found.
type Source interface {
	// Picture is everything the source knows now. The caller must not change it.
	Picture() Picture
	// Changed signals (coalesced, capacity 1) after the picture became another one.
	Changed() <-chan struct{}
}

// Picture is what a source knows at one moment.
type Picture struct {
	// Workloads that are running, or were and did not leave; sorted by namespace and name.
	Workloads []topology.Workload
	// Ingresses of the zone, sorted by name.
	Ingresses []Ingress
	// Egresses of the zone, sorted by name.
	Egresses []topology.EgressProxy
	// Agents says how each of the above does, for statuses, keyed by the proxy.
	Agents map[mesh.ProxyID]Agent
}

// Ingress is one zone ingress: where its Envoy listens, and how other zones reach it.
type Ingress struct {
	topology.IngressProxy
	Advertised mesh.Ingress `json:"advertised"`
	// Ready: its agent attends, its Envoy serves, and it is not drained. One that is not stays configured, but is not
	// advertised while another is ready.
	Ready bool `json:"ready"`
}

// Egress is the same program when it is the way out: what is advertised is for the zone's own sidecars.
func (i Ingress) Egress() topology.EgressProxy {
	return topology.EgressProxy{
		Name: i.Name, BindAddress: i.BindAddress, BindPorts: i.BindPorts, Address: i.Advertised.Host, Ports: i.Advertised.Ports, Ready: i.Ready,
	}
}

// Agent is what the program beside an Envoy last said.
type Agent struct {
	Attending    bool // its stream is open
	Healthy      bool // as published
	Draining     bool // it is to get no new requests
	Tries        bool // it has its Envoy read what another is to run
	Reason       string
	EnvoyVersion string
	Identity     string // SPIFFE ID
	Plaintext    []mesh.PlaintextPort
	Unsevered    string // why its Envoy's connections to revoked zones could not be ended; empty when none are left
}
