package ir

// RouteTable is a named set of virtual hosts. What it says holds from the next request of a live
// connection.
type RouteTable struct {
	Name  string        `json:"name"`
	Hosts []VirtualHost `json:"hosts"`
	// Proxyless is read by a gRPC client.
	Proxyless bool `json:"proxyless,omitempty"`
	// Edge is set where the requests are of clients that are not of the mesh.
	Edge *EdgeRoutes `json:"edge,omitempty"`

	Patches Patches `json:"patches,omitempty"`
	Sources Sources `json:"sources,omitempty"`
}

// VirtualHost takes the requests for its domains.
type VirtualHost struct {
	Name string `json:"name"`
	// Domains are lower-case host names, with a port where the request must have one; "*" is whatever
	// no other host takes.
	Domains []string `json:"domains"`
	Routes  []Route  `json:"routes"`
	// Retry is what all of its routes do unless they have their own.
	Retry *Retry `json:"retry,omitempty"`
	// Authorization decides who may send which requests to the host.
	Authorization *Authorization `json:"authorization,omitempty"`
	// Filters of all of its routes that have none of their own.
	Filters Filters `json:"filters,omitzero"`
}

// Route is what happens to the requests that match; of several the first counts.
type Route struct {
	// Name of the rule that it comes from, for logs; Counted says that its requests are counted by it, Timed that their durations are, too.
	Name    string `json:"name,omitempty"`
	Counted bool   `json:"counted,omitempty"`
	Timed   bool   `json:"timed,omitempty"`
	Match   Match  `json:"match"`
	// Exactly one of Backends, Reply and Redirect is set.
	Backends []Backend `json:"backends,omitempty"`
	Reply    *Reply    `json:"reply,omitempty"`
	Redirect *Redirect `json:"redirect,omitempty"`
	Rewrite  *Rewrite  `json:"rewrite,omitempty"`
	Mirrors  []Mirror  `json:"mirrors,omitempty"`
	// Request and Response edit headers on the way to the backend and back.
	Request  HeaderEdits `json:"request,omitzero"`
	Response HeaderEdits `json:"response,omitzero"`
	Retry    *Retry      `json:"retry,omitempty"`
	Timeouts Timeouts    `json:"timeouts,omitzero"`
	Filters  Filters     `json:"filters,omitzero"`
}

// Match is met when all that is set is met.
type Match struct {
	Path PathMatch `json:"path"`
	// Methods: one of them. Empty means all.
	Methods []string      `json:"methods,omitempty"`
	Headers []HeaderMatch `json:"headers,omitempty"`
	// Query parameters; of one that is there several times the first counts.
	Query []HeaderMatch `json:"query,omitempty"`
	// Host and NotHost are regular expressions (RE2) that the whole of the request's host, with its port, does and does not match.
	Host    string `json:"host,omitempty"`
	NotHost string `json:"notHost,omitempty"`
	// Connect takes CONNECT, which has no path, and makes a connection to the backend.
	Connect bool `json:"connect,omitempty"`
	// PerMillion takes of the requests that match otherwise those whose number is less; 0 means all. Each request draws its number once,
	// for all routes: after a route with 300,000 the same match with 500,000 gets 20 %.
	PerMillion uint32 `json:"perMillion,omitempty"`
}

// PathMatch looks at the path without its query.
type PathMatch struct {
	Kind  PathKind `json:"kind"`
	Value string   `json:"value"`
}

// PathKind is how a path is compared.
type PathKind string

// The kinds of PathMatch. PathElements takes the value and what follows it after a slash.
const (
	PathExact    PathKind = "exact"
	PathElements PathKind = "elements"
	PathPrefix   PathKind = "prefix"
	PathRegex    PathKind = "regex" // RE2, of the whole path
)

// HeaderMatch is met by a request whose header, or query parameter, has exactly the value, or one that Regex matches as
// a whole (RE2).
type HeaderMatch struct {
	Name  string `json:"name"` // of a header in lower case
	Value string `json:"value,omitempty"`
	Regex string `json:"regex,omitempty"`
}

// Backend is a cluster with its share of the requests.
type Backend struct {
	Cluster string `json:"cluster"`
	Weight  uint32 `json:"weight"`
	// Host that it is asked for instead of what the client wrote; empty leaves that, or what the route's Rewrite says.
	Host string `json:"host,omitempty"`
	// Request and Response are as Route's, after them.
	Request  HeaderEdits `json:"request,omitzero"`
	Response HeaderEdits `json:"response,omitzero"`
}

// Reply is an answer made by the proxy: RFC 9457 problem details.
type Reply struct {
	Status uint32 `json:"status"`
	Code   string `json:"code"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Try    string `json:"try"`
}

// Retry says which failed requests are tried again.
type Retry struct {
	On       []RetryOn `json:"on"`
	Attempts uint32    `json:"attempts"` // beyond the first
	// BackOff between tries grows to MaxBackOff.
	BackOff    Millis `json:"backOffMs"`
	MaxBackOff Millis `json:"maxBackOffMs"`
	// PerTry gives one try up; with Hedge it goes on while the next begins.
	PerTry Millis `json:"perTryMs,omitempty"`
	Hedge  bool   `json:"hedge,omitempty"`
	// OtherHost tries on another endpoint each time. OtherZoneAfter is how many tries a priority gets before the next one; 0 for
	// no end.
	OtherHost      bool   `json:"otherHost,omitempty"`
	OtherZoneAfter uint32 `json:"otherZoneAfter,omitempty"`
}

// RetryOn is a reason to try again: an HTTP status, a name of those below, or a status of gRPC as Envoy calls it.
type RetryOn string

// The reasons to try again. Those of the first group are certain that no application saw the request.
const (
	RetryConnectFailure     RetryOn = "connect-failure"
	RetryRefusedStream      RetryOn = "refused-stream"
	RetryResetBeforeRequest RetryOn = "reset-before-request"

	RetryReset RetryOn = "reset"
	// RetryNoAnswer is RetryReset, where the server's sidecar is told so by its application, too.
	RetryNoAnswer    RetryOn = "no-answer"
	RetryUnavailable RetryOn = "503"
	RetryTimeout     RetryOn = "504"
)
