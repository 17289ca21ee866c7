package signals

// What Envoys note for their agents, beside what they count anyway: counters and a gauge of the scope NotesScope, with tags. The
// zone's configuration has them noted, the agent reads them.
const (
	NotesScope = "comity"
	// NotedAnswers are answers that a client's Envoy made before it chose an endpoint, as an injected fault. Tags: TagCluster,
	// TagZone, TagCode.
	NotedAnswers = "answers"
	// NotedCalls are a server's answers by caller. Tags: TagChain, TagCaller, TagCode.
	NotedCalls = "calls"
	// NotedMethods are a server's answers by method. Tags: TagChain, TagMethod, TagCode.
	NotedMethods = "methods"
	// NotedErrors are answers of gRPC that are not OK. Tags: TagStatus, and TagCluster and TagZone, or TagChain and TagCaller.
	NotedErrors = "grpc_errors"
	// NotedConnections reached an endpoint, NotedOpen of them are open. Tags: TagCluster and TagZone, or TagChain and TagCaller.
	NotedConnections = "connections"
	NotedOpen        = "open"
)

// Tags of notes. A value that Envoy doesn't know is "-".
const (
	TagCluster = "cluster" // that the route names
	TagZone    = "zone"    // of the endpoint
	TagChain   = "chain"   // that the connection came by: StatPrefix of the listener's part
	TagCaller  = "caller"  // SPIFFE ID
	TagCode    = "code"    // of HTTP, 0 if the caller went before
	TagStatus  = "status"  // of gRPC, by name
	TagMethod  = "method"  // one of Methods, or Other
)

// MaxNotes bounds the counters of one kind that an Envoy makes for one listener's part, several of which make a pair; what would be
// more is not noted. It is more than the agent tells apart (MaxPairs).
const MaxNotes = 4 * MaxPairs
