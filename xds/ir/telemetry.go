package ir

// Telemetry is what a listener's chain tells of requests and connections. It is part of the listener: Envoy has no place for
// it in a route, so a change of it renews connections.
type Telemetry struct {
	Logs    []AccessLog `json:"logs,omitempty"`
	Tracing *Tracing    `json:"tracing,omitempty"`
	// Ends are what is known of both without a request; what is empty, Envoy finds out.
	Ends Ends `json:"ends"`
}

// Ends of requests, as `<name>.<namespace>` and zones.
type Ends struct {
	// Reporter is the end that tells: "client", "server", "gateway" or "egress".
	Reporter        string `json:"reporter"`
	Proxy           string `json:"proxy,omitempty"` // workload that tells
	Source          string `json:"source,omitempty"`
	SourceZone      string `json:"sourceZone,omitempty"`
	Destination     string `json:"destination,omitempty"`
	DestinationZone string `json:"destinationZone,omitempty"`
	// Zone of who tells.
	Zone string `json:"zone"`
}

// AccessLog is where requests are logged as JSON: a File or a Collector.
type AccessLog struct {
	File      string     `json:"file,omitempty"`
	Collector *Collector `json:"collector,omitempty"`
	// What is logged meets all that is set.
	MinStatus   uint32   `json:"minStatus,omitempty"`
	MinDuration Millis   `json:"minDurationMs,omitempty"`
	Flags       []string `json:"flags,omitempty"`
	PathPrefix  string   `json:"pathPrefix,omitempty"`
	// PerMillion of those; 0 means all.
	PerMillion uint32 `json:"perMillion,omitempty"`
}

// Collector is told over a cluster, under a name.
type Collector struct {
	Cluster   string `json:"cluster"`
	Authority string `json:"authority"`
}

// Tracing tells a collector of requests as spans.
type Tracing struct {
	Collector Collector    `json:"collector"`
	Protocol  SpanProtocol `json:"protocol"`
	// W3C context beside B3 (zipkin).
	W3C bool `json:"w3c,omitempty"`
	// Percent of the requests that belong to no trace.
	Percent float64   `json:"percent"`
	Tags    []SpanTag `json:"tags,omitempty"`
}

// SpanProtocol is how a collector is told.
type SpanProtocol string

// The protocols.
const (
	SpansOTLP     SpanProtocol = "otlp"
	SpansOTLPHTTP SpanProtocol = "otlp-http"
	SpansZipkin   SpanProtocol = "zipkin"
)

// SpanTag is a literal, or what a header says.
type SpanTag struct {
	Name    string `json:"name"`
	Literal string `json:"literal,omitempty"`
	Header  string `json:"header,omitempty"`
	Default string `json:"default,omitempty"`
}
