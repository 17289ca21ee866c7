package archtest

// A room is a package, or with "/..." a package and all below it. Of several that fit a package, the
// longest decides. Names are relative to the module.
type room struct {
	path string
	// may lists the rooms it may import, besides the standard library and itself.
	may []string
	// libs lists the prefixes of other modules' packages that it may import; anyLib leaves that to
	// the doors below.
	libs []string
	why  string
}

// anyLib allows every library that has no door of its own.
var anyLib = []string{"*"}

// leaves are what every program may use.
var leaves = []string{
	"internal/config", "internal/envoybin", "internal/fault", "internal/freeport", "internal/lifecycle", "internal/nearest", "internal/retry", "internal/signals",
	"internal/stack", "internal/telemetry",
	"internal/version",
}

// rooms is the whole house. A package that is in no room fails the test: give it one, with its reason.
var rooms = []room{
	// The ground floor and the pure rooms: what can be read, tested and trusted without running anything.
	{"mesh", nil, nil,
		"everything stands on mesh, so it stands on nothing: ids, keys and revisions from the standard library alone"},
	{"policy/...", []string{"mesh", "policy/lua", "internal/nearest"}, []string{"sigs.k8s.io/gateway-api/apis", "sigs.k8s.io/yaml", "sigs.k8s.io/json", "k8s.io/apimachinery/pkg/apis/meta"},
		"policy is pure specs and their meaning; it must work the same in global, in a zone and in the CLI"},
	{"policy/lua", nil, []string{"github.com/yuin/gopher-lua/ast", "github.com/yuin/gopher-lua/parse"},
		"a script is read as Lua at the door; nothing here runs one"},
	{"policy/openapi", []string{"mesh", "policy"}, []string{"github.com/getkin/kin-openapi/openapi3", "sigs.k8s.io/gateway-api/apis/v1"},
		"routes are made of a document in one step that needs neither a mesh nor the command line"},
	{"identity", []string{"mesh"}, []string{"github.com/spiffe/go-spiffe/v2"},
		"who may claim which identity is decided in one small room, with no transport and no store in sight"},
	{"identity/spire", []string{"mesh", "identity"}, anyLib,
		"another implementation of identity.Source; nothing but that"},
	{"store", []string{"mesh"}, nil,
		"the Store contract knows what is stored, not how and not for whom"},
	{"store/engine", []string{"mesh", "store"}, nil,
		"what the engines share is what they decide, without any database"},
	{"store/...", []string{"mesh", "store", "store/engine"}, anyLib,
		"an engine implements the contract and knows nobody above it"},
	{"federation", []string{"mesh", "federation/federationpb"}, []string{"google.golang.org/protobuf"},
		"the protocol is a pure state machine: streams, stores and clocks are handed to it, so that partitions can be tested"},
	{"federation/federationpb", nil, []string{"google.golang.org/grpc", "google.golang.org/protobuf"},
		"generated from the .proto beside it"},
	{"federation/fedstore", []string{"mesh", "store", "federation", "federation/federationpb"}, []string{"google.golang.org/protobuf"},
		"carries out over a Store what a session decides, the same at both ends; the protocol itself never sees a store"},
	{"federation/...", []string{"mesh", "federation", "federation/federationpb"}, []string{"google.golang.org/protobuf", "pgregory.net/rapid"},
		"helpers of the protocol's tests stay as pure as the protocol"},
	{"crds/...", []string{"mesh", "policy", "identity"}, []string{"k8s.io/apimachinery", "sigs.k8s.io/gateway-api/apis"},
		"Kubernetes envelopes around the same specs: types only, no client"},

	// The pipeline: each arrow knows the type before it and the type it makes.
	{"xds/failover", []string{"mesh", "policy"}, nil,
		"how traffic is divided is arithmetic: without clock, memory and Envoy it can be proven, and asked what would be"},
	{"xds/topology", []string{"mesh", "policy", "identity", "xds/failover"}, []string{"sigs.k8s.io/gateway-api/apis/v1"},
		"desired state and endpoints in, one immutable picture out; it has never heard of Envoy"},
	{"xds/topology/topologytest", []string{"*"}, anyLib, "makes topologies for tests; nothing that ships imports it"},
	{"xds/ir", []string{"mesh"}, nil,
		"plain data of our own, so that policies edit nouns and not protobuf; of mesh only ids"},
	{"xds/translate", []string{"mesh", "policy", "identity", "xds/failover", "xds/topology", "xds/ir"}, []string{"sigs.k8s.io/gateway-api/apis/v1"},
		"pure: no clock, environment, logger or transport, so that golden pairs prove it"},
	{"xds/envoy", []string{"mesh", "xds/ir", "internal/signals"}, anyLib,
		"the only builder of Envoy messages sees the IR and nothing of where it came from"},
	{"xds/check", []string{"mesh", "policy", "xds/envoy"}, nil,
		"what Envoy's messages say of a resource at apply time, the same at global and in zones"},
	{"xds/snapshot", []string{"mesh", "xds/envoy"}, anyLib,
		"views, versions and deltas of finished resources; what they mean is not its business"},

	// The API over a store, the same for global and zones.
	{"api/client", []string{"mesh", "policy", "internal/fault", "internal/version"}, nil,
		"the wire forms and their client, alone, so that the CLI links no server"},
	{"api/...", withLeaves("api/...", "mesh", "store", "policy", "identity"), anyLib,
		"one set of handlers for global and zone: it may know neither"},

	// The programs. A program's rooms import each other freely; nobody imports a program.
	{"global-cp/...", withLeaves("global-cp/...", "internal/handshake", "api/...", "store/...", "mesh", "policy", "identity", "federation/...", "crds/...", "console", "xds/..."), anyLib,
		"global distributes intent and is never on the data path: it shares no code with a zone but the common rooms"},
	{"zone-cp/...", withLeaves("zone-cp/...", "internal/handshake", "api/...", "store/...", "mesh", "policy", "identity", "identity/spire", "federation/...", "crds/...", "console",
		"xds/...", "dataplane/enrolpb", "dataplane/peerpb"), anyLib,
		"a zone must serve without global, so it can't depend on global's code; of the dataplane it knows only the protocols"},
	{"dataplane/enrolpb", nil, []string{"google.golang.org/grpc", "google.golang.org/protobuf"},
		"generated from the .proto beside it"},
	{"dataplane/peerpb", nil, []string{"google.golang.org/grpc", "google.golang.org/protobuf"},
		"generated from the .proto beside it"},
	{"dataplane/...", withLeaves("internal/handshake", "dataplane/...", "mesh", "identity"), anyLib,
		"what runs beside Envoy holds keys: it stays small and knows no store, no policy and no translator"},
	{"sidecar/...", withLeaves("sidecar/...", "dataplane/...", "mesh", "identity"), anyLib,
		"beside every workload: as little code as possible"},
	{"ingress/...", withLeaves("ingress/...", "dataplane/...", "mesh", "identity"), anyLib,
		"open to other zones: as little code as possible"},
	{"comity/...", withLeaves("comity/...", "internal/openloop", "internal/pgbin", "api/...", "mesh", "policy", "policy/openapi", "identity", "crds/...", "xds/..."), anyLib,
		"the CLI talks to the API like any client; what it could read behind it, scripts could not"},
	{"deploy/demo/...", []string{"deploy/demo/...", "internal/lifecycle"}, anyLib,
		"the demo's programs are applications: they know nothing of the mesh, or the demo proves nothing"},
	{"console", nil, nil,
		"it embeds built pages"},

	// The leaves: each does one thing for programs, and most know nobody.
	{"internal/fault", nil, nil, "everybody may fail; so the error for people depends on nobody"},
	{"internal/version", nil, nil, "a leaf"},
	{"internal/retry", nil, anyLib, "a leaf"},
	{"internal/nearest", nil, []string{"github.com/agext/levenshtein"}, "a leaf: edits are counted by one library, and what is near means the same everywhere"},
	{"internal/lifecycle", nil, []string{"golang.org/x/sync/errgroup"}, "a leaf: one library"},
	{"internal/envoybin", []string{"internal/fault"}, []string{"golang.org/x/sys/unix"}, "a leaf"},
	{"internal/freeport", nil, nil, "a leaf"},
	{"internal/freeport/freeporttest", []string{"internal/freeport"}, nil, "used by tests only"},
	{"internal/pgbin", []string{"internal/fault"}, nil, "a leaf: it runs Postgres, and does not speak with it"},
	{"internal/openloop", nil, nil, "a leaf: the standard library is all that a schedule needs"},
	{"internal/config", []string{"internal/fault", "internal/nearest"},
		[]string{"github.com/knadh/koanf", "github.com/go-viper/mapstructure/v2", "github.com/spf13/pflag"}, "a leaf: koanf and what it brings"},
	{"internal/telemetry", []string{"internal/version"}, []string{"github.com/prometheus/client_golang"}, "a leaf: one library"},
	{"internal/signals", nil, nil, "names that agents write and tools read"},
	{"internal/stack", nil, nil, "a leaf"},
	{"internal/handshake", nil, []string{"google.golang.org/grpc", "github.com/prometheus/client_golang"},
		"a leaf: telemetry itself must not link gRPC into every program"},
	{"internal/archtest", nil, nil, "it reads the house and lives outside of it"},
	{"internal/golden", []string{"mesh"}, anyLib, "used by tests only"},

	// Programs and helpers that measure and prove; they are not shipped.
	{"test/...", []string{"*"}, anyLib, "proofs may look everywhere"},
}

func withLeaves(paths ...string) []string { return append(paths, leaves...) }

// A door is the only way to a heavy library: the rooms that may import it directly.
type door struct {
	lib   string // import path prefix
	rooms []string
	why   string
}

// notShipped are the rooms of programs that prove and measure: they may use any library, to hold ours
// against it.
var notShipped = []string{
	"test/...",
	// Here because Go keeps zone-cp's rooms for those below it.
	"zone-cp/internal/ads/benchserver", "zone-cp/internal/fedclient/benchzones",
}

// doors hold for the code that ships.
var doors = []door{
	{"github.com/jackc/pgx", []string{"store/pgstore/..."},
		"Postgres is one engine of the store; a second user would write queries the contract doesn't cover"},
	{"modernc.org/sqlite", []string{"store/sqlitestore"},
		"SQLite is one engine of the store; it is a C program translated to Go, 7 MB in every binary that links it"},
	{"github.com/envoyproxy/go-control-plane", []string{"xds/envoy", "xds/snapshot", "zone-cp/internal/ads", "dataplane/sds", "dataplane/lrs", "dataplane/tap", "dataplane/proxyless"},
		"Envoy's API changes every quarter; only the builder, the server that sends it, the agent's own servers of keys, for load reports and access logs, and its reader of roots may feel it"},
	{"github.com/miekg/dns", []string{"dataplane/dns"},
		"names are answered in one room: a reader of strangers' packets is no leaf that anybody may use"},
	{"github.com/spiffe/spire-api-sdk", []string{"identity/spire"},
		"SPIRE is one source of identities; nobody else should know that it exists"},
	{"k8s.io/client-go", []string{"zone-cp/internal/kube/...", "zone-cp/internal/discovery/kube"},
		"Kubernetes is one kind of zone; a VM zone must not need its client"},
	{"sigs.k8s.io/controller-runtime", []string{"zone-cp/internal/kube/...", "zone-cp/internal/discovery/kube"},
		"Kubernetes is one kind of zone; a VM zone must not need its client"},
	{"google.golang.org/grpc", []string{
		"federation/federationpb", "global-cp/internal/fedserver", "zone-cp/internal/fedclient", "zone-cp/internal/ads", "zone-cp/internal/ca",
		"dataplane/...", "identity/spire", "deploy/demo/...", "internal/handshake",
		"global-cp", "zone-cp", "ingress", "sidecar", // mains listen and dial
	}, "gRPC belongs where bytes leave the process; logic that sees streams can't be tested without them"},
	{"google.golang.org/grpc/mem", []string{"xds/snapshot", "zone-cp/internal/ads", "dataplane/lrs"},
		"only reference-counted buffers: a response is built once and sent to many streams without a copy, and a load report is read without its node"},
	{"github.com/danielgtaylor/huma/v2", []string{"api/...", "global-cp", "zone-cp"},
		"the REST API is in one room, so that global and zones can't differ; a main adds what only it has (join tokens; joining and enrolment) through the hook"},
	{"github.com/spf13/cobra", []string{"comity/...", "global-cp", "zone-cp", "ingress", "sidecar", "dataplane/program"},
		"only programs have commands; dataplane/program is what two of them share"},
	{"github.com/getkin/kin-openapi", []string{"policy/openapi"},
		"references, versions and schemas of OpenAPI are more than a few structs would understand; only who imports a document may feel them"},
	{"github.com/knadh/koanf", []string{"internal/config"},
		"parts get typed values; how they were read is one leaf's business"},
	{"pgregory.net/rapid", []string{"store/storetest", "federation/fedtest"}, "for tests and the suites they share"},
	{"github.com/rogpeppe/go-internal", []string{"comity"}, "for tests; comity diff shows differences with its package diff"},
	{"github.com/google/go-cmp", []string{"store/storetest", "federation/fedtest", "xds/topology/topologytest", "internal/golden"}, "for tests and the suites they share"},
	{"testing", []string{"store/storetest", "federation/fedtest", "xds/topology/topologytest", "internal/freeport/freeporttest", "internal/golden"},
		"a program that links `testing` has a test's flags and none of its honesty"},
}

// A link rule holds for all that a program is linked with, however far away it is imported.
type linkRule struct {
	programs []string
	never    string // import path prefix; of our own packages relative to the module
	why      string
}

var links = []linkRule{
	{[]string{"sidecar", "ingress"}, "modernc.org/sqlite", "an agent keeps no database"},
	{[]string{"sidecar", "ingress"}, "store", "an agent keeps no state but keys"},
	{[]string{"sidecar", "ingress"}, "api", "an agent speaks the enrolment protocol and nothing else"},
	{[]string{"sidecar", "ingress"}, "xds", "an agent passes configuration through; the zone makes it"},
	{[]string{"global-cp"}, "zone-cp", "global is never on the data path"},
	{[]string{"global-cp"}, "zone-cp/internal/ads", "global serves no Envoy"},
	{[]string{"zone-cp"}, "global-cp", "a zone must serve without global"},
	{[]string{"comity"}, "modernc.org/sqlite", "the CLI asks the API; it never opens a database"},
}

// mayPanic lists the places outside of tests where the code may panic, as file:function, each with the
// reason why no input can reach it.
var mayPanic = map[string]string{
	"api/api.go:recovered": "passes on net/http's own ErrAbortHandler, which is how a handler cuts a connection",
	"comity/root.go:must":  "cobra refuses only what a mistake in this program can give it (a flag that does not exist), at start",
}

// mayBackground lists the places outside of package main that may begin a context, as file:function.
var mayBackground = map[string]string{
	"dataplane/program/program.go:Main": "it is the main of two programs, sidecar and ingress",
}
