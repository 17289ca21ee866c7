package mesh

// Workload is one process on a VM with its sidecar. It is registered by the sidecar, leased, and
// belongs to its zone. Its labels (metadata) are what Services select.
type Workload struct {
	ServiceAccount string `json:"serviceAccount"`
	// Address is where the sidecar takes mTLS from its zone: an IP address and a port.
	Address     string `json:"address"`
	InboundPort uint16 `json:"inboundPort"`
	// Proxyless says that there is no proxy: the application is a gRPC client that reads the zone's
	// configuration itself. It serves nothing, and has none of the ports.
	Proxyless bool `json:"proxyless,omitempty"`
	// OutboundPort is the sidecar's local port for HTTP by host name, on loopback. 0: none.
	OutboundPort uint16 `json:"outboundPort,omitempty"`
	// AppAddress is where the application listens for its sidecar; default 127.0.0.1. The ports it
	// serves are those that the Services selecting it name as targetPort.
	AppAddress string `json:"appAddress,omitempty"`
	// Upstreams declares local ports for TCP services; HTTP needs none.
	Upstreams []Upstream `json:"upstreams,omitempty"`
	// VirtualAddresses, where set, are where the sidecar listens for each service by an address of its own.
	VirtualAddresses *VirtualAddresses `json:"virtualAddresses,omitempty"`
	// HealthCheck is made by the sidecar of its application; without it a workload with a lease is healthy.
	HealthCheck *HealthCheck `json:"healthCheck,omitempty"`
	// Capacity in endpoint-equivalents; 0 means 1.
	Capacity float64 `json:"capacity,omitempty"`
	// Locality of the machine within its zone.
	Locality Locality `json:"locality,omitzero"`
}

// Upstream binds a local port to a TCP port of a service.
type Upstream struct {
	// Kind is Service or ExternalService; empty means Service.
	Kind      Kind   `json:"kind,omitempty"`
	Service   string `json:"service"`
	Namespace string `json:"namespace,omitempty"` // default: the workload's
	Port      uint16 `json:"port"`
	LocalPort uint16 `json:"localPort"`
}

// HealthCheck is an HTTP GET (Path set) or a TCP connect of the application's port.
type HealthCheck struct {
	Port uint16 `json:"port"`
	Path string `json:"path,omitempty"`
	// IntervalMS and TimeoutMS in milliseconds; 0 means 1000 and 500.
	IntervalMS int `json:"intervalMs,omitempty"`
	TimeoutMS  int `json:"timeoutMs,omitempty"`
}
