package ir

// HealthCheck asks endpoints whether they are well. Exactly one of HTTP, GRPC and TCP is set.
type HealthCheck struct {
	// HTTP is a path that is well when it answers 200 to 399.
	HTTP string `json:"http,omitempty"`
	// GRPC asks grpc.health.v1.Health.
	GRPC *GRPCCheck `json:"grpc,omitempty"`
	// TCP makes a session, and asks nothing.
	TCP bool `json:"tcp,omitempty"`
	// Host that HTTP and GRPC ask for; empty: the cluster's name.
	Host string `json:"host,omitempty"`

	Interval     Millis `json:"intervalMs"`
	IdleInterval Millis `json:"idleIntervalMs"` // where there is no traffic
	Timeout      Millis `json:"timeoutMs"`
	// In a row.
	Unhealthy uint32 `json:"unhealthy"`
	Healthy   uint32 `json:"healthy"`
}

// GRPCCheck names the service that is asked for, empty for the server.
type GRPCCheck struct {
	Service string `json:"service,omitempty"`
}
