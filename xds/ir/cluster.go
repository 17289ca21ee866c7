package ir

// Cluster is a set of endpoints and how to speak to them.
type Cluster struct {
	Name     string   `json:"name"`
	Protocol Protocol `json:"protocol"`
	// Fixed is the one endpoint of a cluster that has no Endpoints: an application on its machine.
	Fixed *HostPort `json:"fixed,omitempty"`
	// Admitted leads where an Admission lets connections.
	Admitted bool `json:"admitted,omitempty"`
	// Inside leads to the Listener of the name in the same proxy, which is Inside.
	Inside string `json:"inside,omitempty"`
	// Outside leads out of the mesh. A cluster with it has neither Endpoints nor MTLS.
	Outside *Outside `json:"outside,omitempty"`
	// Forward leads wherever requests say; it has nothing of the others either.
	Forward *Forward `json:"forward,omitempty"`
	// MTLS is spoken as Peers says for an endpoint's zone; an endpoint whose zone is not among them
	// can't be reached. Off: bytes as they come.
	MTLS  bool   `json:"mtls,omitempty"`
	Peers []Peer `json:"peers,omitempty"`

	ConnectTimeout Millis `json:"connectTimeoutMs"`
	// IdleTimeout closes connections that carried nothing for so long.
	IdleTimeout Millis `json:"idleTimeoutMs,omitempty"`
	// MaxAge replaces connections that are older, so that load spreads again (HTTP only).
	MaxAge Millis `json:"maxAgeMs,omitempty"`
	// MaxRequests replaces connections that carried so many (HTTP only); 0 for no end.
	MaxRequests uint32   `json:"maxRequests,omitempty"`
	Breaker     *Breaker `json:"breaker,omitempty"`
	// Balance chooses endpoints; nil goes by turns.
	Balance *Balance `json:"balance,omitempty"`
	// HealthCheck asks those endpoints whose group is not Unchecked.
	HealthCheck *HealthCheck `json:"healthCheck,omitempty"`
	// Detection watches endpoints by the requests they fail, and prefers those of the lowest priority. Nil: there
	// is one endpoint, and nothing to choose.
	Detection *Detection `json:"detection,omitempty"`

	// Proxyless is read by a gRPC client, which takes certificates from files: MTLS with the one of Peers, or
	// else Fallback, which names clusters in the order in which to try them.
	Proxyless bool     `json:"proxyless,omitempty"`
	Fallback  []string `json:"fallback,omitempty"`

	Patches Patches `json:"patches,omitempty"`
	Sources Sources `json:"sources,omitempty"`
}

// Detection is when an endpoint is taken out of use.
type Detection struct {
	// LocalFailures in a row: connections refused, reset or timed out. GatewayFailures: answers by which the
	// endpoint's own sidecar says that it can't reach its application.
	LocalFailures   uint32 `json:"localFailures"`
	GatewayFailures uint32 `json:"gatewayFailures"`
	// Interval at which endpoints may come back, after Ejection at first.
	Interval           Millis `json:"intervalMs"`
	Ejection           Millis `json:"ejectionMs"`
	MaxEjectionPercent uint32 `json:"maxEjectionPercent"`
	// Answers that count as GatewayFailures beside those.
	Answers Answers `json:"answers,omitempty"`
	// FailurePercent of an endpoint's requests in an interval take it out as well, where it had FailureRequests of them and
	// FailureEndpoints did; 0 for never.
	FailurePercent   uint32 `json:"failurePercent,omitempty"`
	FailureRequests  uint32 `json:"failureRequests,omitempty"`
	FailureEndpoints uint32 `json:"failureEndpoints,omitempty"`
	// KeepAlive sends HTTP/2 pings and closes a connection without an answer after KeepAliveTimeout.
	KeepAlive        Millis `json:"keepAliveMs"`
	KeepAliveTimeout Millis `json:"keepAliveTimeoutMs"`
	// PanicPercent of the endpoints must look alive, or all of them are tried.
	PanicPercent uint32 `json:"panicPercent"`
}

// Answers is a class of answers by status.
type Answers string

// The classes of answers.
const (
	GatewayErrors Answers = "gatewayErrors" // 502, 503, 504
	ServerErrors  Answers = "serverErrors"  // 5xx
)

// Protocol is what is spoken to the endpoints of a cluster.
type Protocol string

// The protocols.
const (
	HTTP1 Protocol = "http1"
	HTTP2 Protocol = "http2"
	Bytes Protocol = "bytes"
	// Negotiated is HTTP2 with peers that announce it (ALPN), HTTP1 with the others.
	Negotiated Protocol = "negotiated"
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
	// L4: the sidecar there passes bytes on, so the application is who speaks.
	L4 bool `json:"l4,omitempty"`
	// Trust names the secret with the roots of the zone's trust domain.
	Trust string `json:"trust"`
	// Identities are the SPIFFE IDs that may answer, sorted; never empty.
	Identities []string `json:"identities"`
}
