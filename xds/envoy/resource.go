package envoy

import "github.com/comity-mesh/comity/mesh"

// Resource is one Envoy resource, ready to be sent: the unit that views, waves and quarantine work
// on. It is immutable.
type Resource struct {
	// Type is the xDS type URL, Name the resource's name (of a ClusterLoadAssignment its cluster_name).
	Type, Name string
	// Version is the hex of the first 16 bytes of the SHA-256 of the IR it was built from, salted with
	// Builder, so it is stable across restarts and replicas and differs when the builder does.
	Version string
	// Body is the marshalled message (the value of its Any).
	Body []byte
	// Sources are the mesh resources that shaped it, to climb back from a NACK to the policy at fault.
	Sources []mesh.Key
}
