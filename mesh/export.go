package mesh

// Export is what a zone offers of one service to the others: the payload of an "export" statement.
// The zone that makes it signs it; nobody else may speak for it.
type Export struct {
	Namespace string       `json:"namespace"`
	Service   string       `json:"service"`
	Ports     []ExportPort `json:"ports"`
	// Identities are all SPIFFE IDs that may answer for the service, sorted; clients accept exactly
	// these.
	Identities []string `json:"identities"`
	// Instances are the names of the workloads, sorted, of a headless service: each can be called by itself. Zones that
	// don't know this field go on as before.
	Instances []string `json:"instances,omitempty"`
	// Ready of Total endpoints are healthy; Capacity is the sum over all of them, in
	// endpoint-equivalents, and ReadyCapacity over the healthy ones.
	Ready         int     `json:"ready"`
	Total         int     `json:"total"`
	Capacity      float64 `json:"capacity"`
	ReadyCapacity float64 `json:"readyCapacity"`
}

// MaxInstances is how many workloads of a headless service have names in other zones.
const MaxInstances = 1000

// ExportPort is one port of an exported service.
type ExportPort struct {
	Name        string `json:"name,omitempty"`
	Port        uint16 `json:"port"`
	AppProtocol string `json:"appProtocol"` // "http", "http2", "grpc" or "tcp"
	// Layer is how clients reach it; empty means LayerL7, and that the zone serves nothing else. One that is said is served on
	// both, so that zones which don't know this field go on as before.
	Layer Layer `json:"layer,omitempty"`
}

// IngressSet is how other zones reach a zone: the payload of an "ingress" statement.
type IngressSet struct {
	Ingresses []Ingress `json:"ingresses"`
	// Egresses of the zone, by which other zones may leave the mesh; they are reached through its ingresses. Zones that don't know
	// this field leave through their own alone, as before.
	Egresses []Egress `json:"egresses,omitempty"`
}

// Egress is an egress proxy of a zone as other zones know it. Its identity follows from its name (TrustDomain.EgressID), so that no
// zone can name anybody but its own.
type Egress struct {
	Name string `json:"name"`
	// Ready: it may be sent requests.
	Ready bool `json:"ready,omitempty"`
}
