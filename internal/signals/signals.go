// Package signals names the metrics by which proxies tell of traffic, for the agents that make them and for all who read
// them. What each counts is in docs/observability.md.
package signals

// Metrics of a proxy. Requests and connections are between pairs, which the Pair labels name.
const (
	// Requests that were answered, each once however often it was tried. Labels: Pair, CodeClass.
	Requests = "comity_requests_total"
	// RequestDuration in seconds, of answered requests. Labels: Pair.
	RequestDuration = "comity_request_duration_seconds"
	// GRPCErrors are answers with a gRPC status other than OK; most of them are 2xx among Requests. Labels: Pair, GRPCStatus.
	GRPCErrors = "comity_grpc_errors_total"
	// TCPConnections that reached an endpoint. Labels: Pair.
	TCPConnections = "comity_tcp_connections_total"
	// TCPOpen are those that are open now. Labels: Pair.
	TCPOpen = "comity_tcp_connections_open"
	// TCPBytes that were passed on, live. Labels: Pair, Direction.
	TCPBytes = "comity_tcp_bytes_total"
	// AppUp is 1 if the application's own metrics could be read and are in this answer.
	AppUp = "comity_app_scrape_up"
)

// Labels of them.
const (
	// Reporter is the end that counts: Client, Server or Gateway.
	Reporter = "reporter"
	// Source is the name in the SPIFFE ID of who asks (its service account); Unknown where a server doesn't tell callers apart.
	Source          = "source"
	SourceNamespace = "source_namespace"
	SourceZone      = "source_zone"
	// Destination is the Service that is asked, whichever zone serves it.
	Destination          = "destination"
	DestinationNamespace = "destination_namespace"
	// DestinationZone is the zone of the endpoint that answered; None where no endpoint did.
	DestinationZone = "destination_zone"
	// Protocol is HTTP (gRPC included) or TCP.
	Protocol = "protocol"
	// CodeClass is 1xx to 5xx; None where the caller went before there was an answer.
	CodeClass = "code_class"
	// GRPCStatus is the name of the status, as in "UNAVAILABLE".
	GRPCStatus = "grpc_status"
	// Direction is Sent (from source to destination) or Received.
	Direction = "direction"
)

// Values of the labels.
const (
	Client   = "client"
	Server   = "server"
	Gateway  = "gateway"
	HTTP     = "http"
	TCP      = "tcp"
	Sent     = "sent"
	Received = "received"
	// Unknown is who is not told apart, None what there was not.
	Unknown = "unknown"
	None    = "none"
	// Other is everything beyond MaxPairs.
	Other = "other"
)

// MaxPairs is how many pairs a proxy tells apart; all further ones are one pair, whose names are Other.
const MaxPairs = 1000

// Pair lists the labels that name a pair.
func Pair() []string {
	return []string{Reporter, Source, SourceNamespace, SourceZone, Destination, DestinationNamespace, DestinationZone, Protocol}
}
