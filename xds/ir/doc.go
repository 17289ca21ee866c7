// Package ir is the configuration of one proxy as plain data: Envoy-shaped, so that building it is a
// straight walk, and Envoy-free, so that it can be read, compared and hashed. translate makes it, envoy
// builds messages from it. Durations are in milliseconds, 0 means "not set".
package ir

import "github.com/comity-mesh/comity/mesh"

// Proxy is everything one proxy needs. Names are unique within each list.
type Proxy struct {
	Clusters  []Cluster    `json:"clusters,omitempty"`
	Endpoints []Endpoints  `json:"endpoints,omitempty"`
	Listeners []Listener   `json:"listeners,omitempty"`
	Routes    []RouteTable `json:"routes,omitempty"`
	Secrets   []Secret     `json:"secrets,omitempty"`
	// Admissions are those that chains name.
	Admissions []Admission `json:"admissions,omitempty"`
	// Targets are all that a client without a proxy has instead of Listeners.
	Targets []Target `json:"targets,omitempty"`
}

// Sources are the resources that shaped an object. They never change what is built, nor its version:
// they only say whom to blame for it.
type Sources []mesh.Key

// Millis is a duration in milliseconds.
type Millis uint32
