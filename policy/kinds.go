package policy

import (
	"slices"
	"strings"

	"github.com/comity-mesh/comity/mesh"
)

// MadeAt says where resources of a kind may be created and edited.
type MadeAt string

// The places where a kind may be made.
const (
	MadeAnywhere  MadeAt = "anywhere"  // at global and in any zone
	MadeGlobal    MadeAt = "global"    // at global only
	MadeDiscovery MadeAt = "discovery" // by a zone's discovery only, never by users
)

// KindInfo describes one kind.
type KindInfo struct {
	Kind       mesh.Kind
	APIVersion string
	Plural     string // in URLs, lower case
	Singular   string
	Short      []string // further names for the CLI
	Namespaced bool
	MadeAt     MadeAt
	Summary    string // one sentence, for the CLI and the OpenAPI document

	newSpec  func() any
	validate func(*report, mesh.Resource, any)
}

// Kinds returns every kind this build knows, in the order in which they are best shown and applied.
func Kinds() []KindInfo {
	return []KindInfo{
		{
			Kind: mesh.KindZone, APIVersion: APIVersion, Plural: "zones", Singular: "zone", Short: []string{"zn"},
			MadeAt: MadeGlobal, Summary: "A failure domain with its own control plane and trust domain.",
			newSpec: func() any { return new(Zone) }, validate: as(validateZone),
		},
		{
			Kind: mesh.KindMeshConfig, APIVersion: APIVersion, Plural: "meshconfigs", Singular: "meshconfig", Short: []string{"mc"},
			MadeAt: MadeGlobal, Summary: "The defaults of the whole mesh.",
			newSpec: func() any { return new(MeshConfig) }, validate: as(validateMeshConfig),
		},
		{
			Kind: mesh.KindService, APIVersion: APIVersionCore, Plural: "services", Singular: "service", Short: []string{"svc"},
			Namespaced: true, MadeAt: MadeAnywhere, Summary: "A stable name for the workloads that a selector chooses.",
			newSpec: func() any { return new(Service) }, validate: as(validateService),
		},
		{
			Kind: mesh.KindWorkload, APIVersion: APIVersion, Plural: "workloads", Singular: "workload", Short: []string{"wl"},
			Namespaced: true, MadeAt: MadeDiscovery, Summary: "One process on a machine with its sidecar.",
			newSpec: func() any { return new(Workload) }, validate: as(validateWorkload),
		},
		{
			Kind: mesh.KindServiceExport, APIVersion: APIVersionMCS, Plural: "serviceexports", Singular: "serviceexport", Short: []string{"svcex"},
			Namespaced: true, MadeAt: MadeAnywhere, Summary: "Offers the Service of the same name to other zones.",
			newSpec: func() any { return new(ServiceExport) }, validate: as(validateServiceExport),
		},
		{
			Kind: mesh.KindHTTPRoute, APIVersion: APIVersionGatewayAPI, Plural: "httproutes", Singular: "httproute", Short: []string{"hr"},
			Namespaced: true, MadeAt: MadeAnywhere, Summary: "Chooses backends for the requests to a Service.",
			newSpec: func() any { return new(HTTPRoute) }, validate: as(validateHTTPRoute),
		},
		{
			Kind: mesh.KindGRPCRoute, APIVersion: APIVersionGatewayAPI, Plural: "grpcroutes", Singular: "grpcroute", Short: []string{"gr"},
			Namespaced: true, MadeAt: MadeAnywhere, Summary: "Chooses backends for gRPC calls by service and method.",
			newSpec: func() any { return new(GRPCRoute) }, validate: as(validateGRPCRoute),
		},
		{
			Kind: mesh.KindReferenceGrant, APIVersion: APIVersionGatewayAPI, Plural: "referencegrants", Singular: "referencegrant", Short: []string{"refgrant"},
			Namespaced: true, MadeAt: MadeAnywhere, Summary: "Lets routes of other namespaces lead to Services of its own.",
			newSpec: func() any { return new(ReferenceGrant) }, validate: as(validateReferenceGrant),
		},
		{
			Kind: mesh.KindAuthorizationPolicy, APIVersion: APIVersion, Plural: "authorizationpolicies", Singular: "authorizationpolicy",
			Short: []string{"authz", "ap"}, Namespaced: true, MadeAt: MadeAnywhere,
			Summary: "Allows or denies requests by who asks and what is asked.",
			newSpec: func() any { return new(AuthorizationPolicy) }, validate: as(validateAuthorizationPolicy),
		},
		{
			Kind: mesh.KindAuthenticationPolicy, APIVersion: APIVersion, Plural: "authenticationpolicies", Singular: "authenticationpolicy",
			Short: []string{"authn"}, Namespaced: true, MadeAt: MadeAnywhere,
			Summary: "Says what callers must prove: certificates, tokens of end users.",
			newSpec: func() any { return new(AuthenticationPolicy) }, validate: as(validateAuthenticationPolicy),
		},
		{
			Kind: mesh.KindFailoverPolicy, APIVersion: APIVersion, Plural: "failoverpolicies", Singular: "failoverpolicy",
			Short: []string{"fp"}, Namespaced: true, MadeAt: MadeAnywhere,
			Summary: "Says which zones serve a service, in which order, and when traffic moves.",
			newSpec: func() any { return new(FailoverPolicy) }, validate: as(validateFailoverPolicy),
		},
		{
			Kind: mesh.KindTrafficPolicy, APIVersion: APIVersion, Plural: "trafficpolicies", Singular: "trafficpolicy",
			Short: []string{"tp"}, Namespaced: true, MadeAt: MadeAnywhere,
			Summary: "Says how traffic is treated: timeouts, retries, limits, faults.",
			newSpec: func() any { return new(TrafficPolicy) }, validate: as(validateTrafficPolicy),
		},
		{
			Kind: mesh.KindTelemetryPolicy, APIVersion: APIVersion, Plural: "telemetrypolicies", Singular: "telemetrypolicy",
			Short: []string{"telemetry"}, Namespaced: true, MadeAt: MadeAnywhere,
			Summary: "Says what proxies tell of requests: access logs and traces.",
			newSpec: func() any { return new(TelemetryPolicy) }, validate: as(validateTelemetryPolicy),
		},
		{
			Kind: mesh.KindExtension, APIVersion: APIVersion, Plural: "extensions", Singular: "extension",
			Short: []string{"ext"}, Namespaced: true, MadeAt: MadeAnywhere,
			Summary: "Adds a Lua script, an external authorization or a patch of Envoy's configuration.",
			newSpec: func() any { return new(Extension) }, validate: as(validateExtension),
		},
		{
			Kind: mesh.KindGatewayClass, APIVersion: APIVersionGatewayAPI, Plural: "gatewayclasses", Singular: "gatewayclass", Short: []string{"gc"},
			MadeAt: MadeAnywhere, Summary: "Says who serves the Gateways that name it.",
			newSpec: func() any { return new(GatewayClass) }, validate: as(validateGatewayClass),
		},
		{
			Kind: mesh.KindGateway, APIVersion: APIVersionGatewayAPI, Plural: "gateways", Singular: "gateway", Short: []string{"gtw"},
			Namespaced: true, MadeAt: MadeAnywhere, Summary: "Takes traffic from outside of the mesh, at the ingresses of a zone.",
			newSpec: func() any { return new(Gateway) }, validate: as(validateGateway),
		},
		{
			Kind: mesh.KindTLSRoute, APIVersion: APIVersionGatewayAPI, Plural: "tlsroutes", Singular: "tlsroute",
			Namespaced: true, MadeAt: MadeAnywhere, Summary: "Chooses backends for the connections to a Gateway or a Service by their server name.",
			newSpec: func() any { return new(TLSRoute) }, validate: as(validateTLSRoute),
		},
		{
			Kind: mesh.KindTCPRoute, APIVersion: APIVersionGatewayAPI, Plural: "tcproutes", Singular: "tcproute",
			Namespaced: true, MadeAt: MadeAnywhere, Summary: "Chooses backends for the connections to a Gateway or a Service.",
			newSpec: func() any { return new(TCPRoute) }, validate: as(validateTCPRoute),
		},
		{
			Kind: mesh.KindExternalService, APIVersion: APIVersion, Plural: "externalservices", Singular: "externalservice",
			Short: []string{"extsvc"}, Namespaced: true, MadeAt: MadeAnywhere,
			Summary: "Something outside of the mesh that workloads call, and how it is reached.",
			newSpec: func() any { return new(ExternalService) }, validate: as(validateExternalService),
		},
	}
}

// as adapts a validator of one spec type to the table.
func as[T any](f func(*report, mesh.Resource, *T)) func(*report, mesh.Resource, any) {
	return func(r *report, res mesh.Resource, spec any) {
		if s, ok := spec.(*T); ok {
			f(r, res, s)
		}
	}
}

// Lookup finds a kind by its kind, plural, singular or short name, case-insensitively.
func Lookup(name string) (KindInfo, bool) {
	name = strings.ToLower(name)
	for _, k := range Kinds() {
		if name == strings.ToLower(string(k.Kind)) || name == k.Plural || name == k.Singular || slices.Contains(k.Short, name) {
			return k, true
		}
	}
	return KindInfo{}, false
}

// kindNames lists what `kind:` may say.
func kindNames() []string {
	var out []string
	for _, k := range Kinds() {
		out = append(out, string(k.Kind))
	}
	return out
}
