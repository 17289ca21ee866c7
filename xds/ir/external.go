package ir

// Outside is where a cluster leads that is not of the mesh. Names are resolved by the proxy; while one can't be, its last
// addresses stay.
type Outside struct {
	Endpoints []OutsideEndpoint `json:"endpoints"`
	// TLS is spoken to them; nil: bytes as they come.
	TLS *OutsideTLS `json:"tls,omitempty"`
}

// OutsideEndpoint is an IP address, or a DNS name for all of its addresses.
type OutsideEndpoint struct {
	Address string `json:"address"`
	Port    uint16 `json:"port"`
	// Priority: 0 is used first; without gaps.
	Priority uint32 `json:"priority"`
	Weight   uint32 `json:"weight"`
}

// OutsideTLS verifies a server that has no identity of the mesh.
type OutsideTLS struct {
	// ServerName that is asked for, and that the certificate must show.
	ServerName string `json:"serverName"`
	// TLS13 refuses TLS 1.2.
	TLS13 bool `json:"tls13,omitempty"`
	// Authorities in PEM form, or else the name of the agent's secret that has them.
	Authorities     string `json:"authorities,omitempty"`
	AuthoritySecret string `json:"authoritySecret,omitempty"`
	// Certificate names the agent's secret with the one to show; empty for none.
	Certificate string `json:"certificate,omitempty"`
}
