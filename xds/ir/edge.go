package ir

// PublicTLS ends the TLS of clients that are not of the mesh: version 1.2 or later.
type PublicTLS struct {
	// Certificates name secrets on the proxy's machine, one at least. Which of several is shown decides the server name that
	// the client asks for.
	Certificates []string `json:"certificates"`
	// Clients, when set, names the secret on the machine with the authorities under which clients must be.
	Clients string `json:"clients,omitempty"`
	// Optional, of Clients, lets in those too who show no certificate or one that proves nothing.
	Optional bool `json:"optional,omitempty"`
	// Minimum13 refuses TLS 1.2.
	Minimum13 bool `json:"minimum13,omitempty"`
	// HTTP announces "h2" and "http/1.1" (ALPN).
	HTTP bool `json:"http,omitempty"`
}

// Edge is how requests of clients that are not of the mesh are taken: with suspicion.
type Edge struct {
	// TrustedHops are the proxies in front whose word about the client is believed (x-forwarded-for).
	TrustedHops uint32 `json:"trustedHops,omitempty"`
}

// EdgeRoutes are the routes for such requests: the port in their Host header plays no part, and what only this proxy may
// say of a client is taken out of their headers.
type EdgeRoutes struct {
	// TellClient tells servers which certificate, verified here, the client showed.
	TellClient bool `json:"tellClient,omitempty"`
}
