package ir

// Cluster is a set of endpoints and how to speak to them.
type Cluster struct {
	Name     string   `json:"name"`
	Protocol Protocol `json:"protocol"`
	// Fixed is the one endpoint of a cluster that has no Endpoints: an application on its machine.
	Fixed *HostPort `json:"fixed,omitempty"`
	// MTLS is spoken as Peers says for an endpoint's zone; an endpoint whose zone is not among them
	// can't be reached. Off: bytes as they come.
	MTLS  bool   `json:"mtls,omitempty"`
	Peers []Peer `json:"peers,omitempty"`

	ConnectTimeout Millis `json:"connectTimeoutMs"`
	// IdleTimeout closes connections that carried nothing for so long.
	IdleTimeout Millis `json:"idleTimeoutMs,omitempty"`
	// MaxAge replaces connections that are older, so that load spreads again (HTTP only).
	MaxAge Millis `json:"maxAgeMs,omitempty"`
	// Failover watches endpoints by the requests they fail, and prefers those of the lowest priority.
	Failover bool `json:"failover,omitempty"`

	Sources Sources `json:"sources,omitempty"`
}

// Protocol is what is spoken to the endpoints of a cluster.
type Protocol string

// The protocols.
const (
	HTTP1 Protocol = "http1"
	HTTP2 Protocol = "http2"
	Bytes Protocol = "bytes"
)

// HostPort is an IP address and port.
type HostPort struct {
	Address string `json:"address"`
	Port    uint16 `json:"port"`
}

// Peer is who answers in one zone, and how to ask for it.
type Peer struct {
	Zone string `json:"zone"`
	SNI  string `json:"sni"`
	// Trust names the secret with the roots of the zone's trust domain.
	Trust string `json:"trust"`
	// Identities are the SPIFFE IDs that may answer, sorted; never empty.
	Identities []string `json:"identities"`
}
