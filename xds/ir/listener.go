package ir

// Listener is one address on which a proxy takes connections.
type Listener struct {
	Name    string `json:"name"`
	Address string `json:"address"` // IP
	Port    uint16 `json:"port"`
	// Inspect reads the TLS client hello first: chains are chosen by server name, and what is not TLS
	// is refused.
	Inspect bool `json:"inspect,omitempty"`
	// Application: with Inspect, whoever connects is the application beside the proxy.
	Application bool `json:"application,omitempty"`
	// Public: whoever connects is not of the mesh, so that a connection may take little memory.
	Public bool `json:"public,omitempty"`
	// Exclusive: its address and port are shared with nobody. Else another proxy of the same user could take half of the
	// connections, and show its own identity for them.
	Exclusive bool `json:"exclusive,omitempty"`
	// Inside: who connects is another listener of the same proxy, over a Cluster that is Inside; it has no Address. What that one's
	// Admission allowed gets the first of two Chains, everything else the second.
	Inside bool    `json:"inside,omitempty"`
	Chains []Chain `json:"chains"`

	Patches Patches `json:"patches,omitempty"`
	Sources Sources `json:"sources,omitempty"`
}

// Chain is what is done with the connections of a listener that match. Editing a chain cuts its
// connections, so nothing that policy decides may be in it.
type Chain struct {
	Name string `json:"name"`
	// ServerNames it takes, exact or "*.suffix"; empty takes every connection and needs Inspect off.
	ServerNames []string `json:"serverNames,omitempty"`
	// TLS ends TLS here; nil leaves the bytes as they are.
	TLS *ServerTLS `json:"tls,omitempty"`
	// PublicTLS ends it for clients that are not of the mesh; at most one of it and TLS is set.
	PublicTLS *PublicTLS `json:"publicTLS,omitempty"`
	// Connections bounds how fast new ones are taken; nil does not.
	Connections *ConnectionLimit `json:"connections,omitempty"`
	// Exactly one of HTTP and TCP is set.
	HTTP *HTTP `json:"http,omitempty"`
	TCP  *TCP  `json:"tcp,omitempty"`
}

// ServerTLS demands a client certificate, TLS 1.3, and resumes no session.
type ServerTLS struct {
	// Peers names the secret that says which clients are accepted.
	Peers string `json:"peers"`
	// HTTP2 announces "h2" (ALPN).
	HTTP2 bool `json:"http2,omitempty"`
}

// HTTP understands requests and routes them.
type HTTP struct {
	// StatPrefix groups its counters. With Authorize it is the chain's name, by which agents know who is served.
	StatPrefix string    `json:"statPrefix"`
	Codec      HTTPCodec `json:"codec"`
	RouteTable string    `json:"routeTable"`
	// Authorize refuses every request that the virtual host's Authorization does not allow, those of a
	// host without one included.
	Authorize bool `json:"authorize,omitempty"`
	// Explain tells who is refused by which policy, and who it is taken for.
	Explain bool `json:"explain,omitempty"`
	// Callers are counted one by one, of a manager that authorizes.
	Callers bool `json:"callers,omitempty"`
	// Methods are counted one by one, of a manager that authorizes.
	Methods bool `json:"methods,omitempty"`
	// ForwardIdentity tells the application the caller's SPIFFE ID (x-forwarded-client-cert, URI=) and
	// drops what the caller wrote there itself.
	ForwardIdentity bool `json:"forwardIdentity,omitempty"`
	// Plaintext names the service port whose callers are counted by address, since they prove nothing.
	Plaintext string `json:"plaintext,omitempty"`
	// Edge is set where clients are not of the mesh.
	Edge *Edge `json:"edge,omitempty"`
	// Telemetry is nil where nothing is told.
	Telemetry *Telemetry `json:"telemetry,omitempty"`
}

// HTTPCodec is the protocol that a listener speaks.
type HTTPCodec string

// The codecs. CodecAuto tells HTTP/1.1 and HTTP/2 with prior knowledge apart.
const (
	CodecAuto  HTTPCodec = "auto"
	CodecHTTP2 HTTPCodec = "http2"
)

// TCP passes bytes on.
type TCP struct {
	StatPrefix string `json:"statPrefix"`
	// Serves: StatPrefix is the chain's name, by which agents know who is served.
	Serves bool `json:"serves,omitempty"`
	// Cluster takes all connections; where it is empty, Backends divide them.
	Cluster  string    `json:"cluster,omitempty"`
	Backends []Backend `json:"backends,omitempty"`
	// Plaintext is as that of HTTP.
	Plaintext string `json:"plaintext,omitempty"`
	// Admission names what decides about each connection. Cluster then is one that is Admitted, or Inside where it Relays.
	Admission string `json:"admission,omitempty"`
	// Relays: the connection begins anew inside of this proxy, and is told of there.
	Relays bool `json:"relays,omitempty"`
	// Relayed: it is of a listener Inside, and who calls is what was noted.
	Relayed bool `json:"relayed,omitempty"`
	// Attempts to connect before giving up; 0 means 1.
	Attempts uint32 `json:"attempts,omitempty"`
	// MaxDuration ends a connection however busy it is.
	MaxDuration Millis     `json:"maxDurationMs,omitempty"`
	Telemetry   *Telemetry `json:"telemetry,omitempty"`
}
