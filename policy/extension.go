package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy/lua"
)

// Extension adds what Comity itself has not to the way of requests. Those that apply to a request add up:
// they run one after the other, the wider target first, then by creation.
type Extension struct {
	Attachment
	// Side says whether it runs where requests begin or where they are served. Default Server: there nobody gets around
	// it.
	Side Side `json:"side,omitempty"`
	// Exactly one of the following.
	Lua                   *Lua                   `json:"lua,omitempty"`
	ExternalAuthorization *ExternalAuthorization `json:"externalAuthorization,omitempty"`
	Patch                 *Patch                 `json:"patch,omitempty"`
}

// Side is an end of a request's way.
type Side string

// The sides.
const (
	SideServer Side = "Server"
	SideClient Side = "Client"
)

// Lua runs a script with each request and answer, as Envoy's Lua filter does: functions envoy_on_request and
// envoy_on_response (LuaJIT, Lua 5.1).
type Lua struct {
	// Inline is the script, at most 32 KiB.
	Inline string `json:"inline"`
}

// ExternalAuthorization asks a service of the mesh about each request before it is served (Envoy's ext_authz).
type ExternalAuthorization struct {
	// Service that is asked, by mTLS as every other. The AuthorizationPolicies of that service must allow those who ask.
	Service ServiceAddress `json:"service"`
	// Protocol: GRPC asks envoy.service.auth.v3.Authorization/Check; HTTP sends the request without its body to the service,
	// whose answer 200 means yes. Default GRPC.
	Protocol AuthorizationProtocol `json:"protocol,omitempty"`
	// Timeout of an answer. Default 200ms: it is part of every request.
	Timeout gatewayv1.Duration `json:"timeout,omitempty"`
	// FailOpen lets requests through when the service does not answer. Default false: they are refused with 403.
	FailOpen bool `json:"failOpen,omitempty"`
	// BodyBytes of the request are shown to the service (GRPC only); larger ones are cut. Default 0: none.
	BodyBytes uint32 `json:"bodyBytes,omitempty"`
	// PathPrefix is put before the path of what is asked (HTTP only).
	PathPrefix string `json:"pathPrefix,omitempty"`
	// RequestHeaders that are shown to the service beside those that HTTP needs and authorization (HTTP only; GRPC shows all).
	RequestHeaders []string `json:"requestHeaders,omitempty"`
	// UpstreamHeaders of the service's answer that the request is given (HTTP only; with GRPC the answer says so itself).
	UpstreamHeaders []string `json:"upstreamHeaders,omitempty"`
}

// ServiceAddress is a port of a service.
type ServiceAddress struct {
	Name string `json:"name"`
	// Namespace defaults to that of the resource that names it.
	Namespace string `json:"namespace,omitempty"`
	Port      uint16 `json:"port"`
}

// AuthorizationProtocol is how an external authorization is asked.
type AuthorizationProtocol string

// The protocols.
const (
	AuthorizationGRPC AuthorizationProtocol = "GRPC"
	AuthorizationHTTP AuthorizationProtocol = "HTTP"
)

// Patch changes what Envoy is told, past everything that Comity checks and promises. It is a last resort, for who runs the mesh: it must
// be in namespace comity-system and is for every proxy that has the resource.
type Patch struct {
	// Resource is the type of Envoy's resource: Cluster, Listener or RouteConfiguration.
	Resource PatchedResource `json:"resource"`
	// Name of the resource, as `comity proxy config` shows it; "*" at its end stands for anything.
	Name string `json:"name"`
	// Merge is a message of the type, as JSON or YAML. It is merged into what Comity made: fields are set, messages merged, lists
	// appended to.
	Merge json.RawMessage `json:"merge"`
}

// PatchedResource is a type of Envoy's resources.
type PatchedResource string

// The types that can be patched.
const (
	PatchCluster  PatchedResource = "Cluster"
	PatchListener PatchedResource = "Listener"
	PatchRoutes   PatchedResource = "RouteConfiguration"
)

// Bounds of an Extension.
const (
	maxLuaBytes  = 32 << 10
	maxBodyBytes = 1 << 20
)

// DefaultAuthorizationTimeout is that of an ExternalAuthorization.
const DefaultAuthorizationTimeout = 200 * time.Millisecond

// RunsAt is Side, or its default.
func (e Extension) RunsAt() Side { return cmp.Or(e.Side, SideServer) }

// Wait is how long an answer is waited for.
func (e ExternalAuthorization) Wait() time.Duration {
	return durationOr(e.Timeout, DefaultAuthorizationTimeout)
}

// Matches reports whether a resource of the name is patched.
func (p Patch) Matches(name string) bool {
	if prefix, ok := strings.CutSuffix(p.Name, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return name == p.Name
}

func validateExtension(r *report, res mesh.Resource, e *Extension) {
	validateAttachment(r, res, e.Attachment, "Service", "HTTPRoute", "GRPCRoute")
	sides := []string{"", string(SideServer), string(SideClient)}
	if t := e.TargetRef; t != nil && t.Kind != "Service" && e.Patch == nil && !slices.Contains(sides, string(e.Side)) {
		sides = []string{string(SideClient)} // see below
	}
	r.oneOf("/spec/side", string(e.Side), sides...)
	if e.Enforced {
		r.add(FieldError{Pointer: "/spec/enforced", Code: CodeInvalid, Message: "extensions add up, so that none wins over another", Hint: "leave it out"})
	}
	if t := e.TargetRef; t != nil && t.Kind != "Service" && e.RunsAt() != SideClient && e.Patch == nil {
		r.add(FieldError{Pointer: "/spec/side", Code: CodeInvalid, Message: "routes are taken by clients: an extension of a " + clip(t.Kind) + " must run there", Hint: "write side: Client, or target the Service", Choices: []string{string(SideClient)}})
	}
	given := 0
	if e.Lua != nil {
		given++
		validateLua(r, *e.Lua)
	}
	if e.ExternalAuthorization != nil {
		given++
		validateExternalAuthorization(r, *e.ExternalAuthorization)
	}
	if e.Patch != nil {
		given++
		validatePatch(r, res, e)
	}
	if given != 1 {
		r.add(FieldError{Pointer: "/spec", Code: CodeInvalid, Message: "must have exactly one of lua, externalAuthorization and patch"})
	}
}

func validateLua(r *report, l Lua) {
	const at = "/spec/lua/inline"
	switch {
	case strings.TrimSpace(l.Inline) == "":
		r.required(at)
		return
	case len(l.Inline) > maxLuaBytes:
		r.add(FieldError{Pointer: at, Code: CodeTooLarge, Message: fmt.Sprintf("has %d bytes; at most %d are allowed", len(l.Inline), maxLuaBytes)})
		return
	}
	switch err := lua.Check(l.Inline); {
	case errors.Is(err, lua.ErrNothingRuns):
		r.add(FieldError{Pointer: at, Code: CodeInvalid, Message: err.Error(), Hint: "write function envoy_on_request(handle) ... end"})
	case err != nil:
		r.invalid(at, "%s", err)
	}
}

func validateExternalAuthorization(r *report, e ExternalAuthorization) {
	const at = "/spec/externalAuthorization"
	validateServiceAddress(r, at+"/service", e.Service)
	r.oneOf(at+"/protocol", string(e.Protocol), "", string(AuthorizationGRPC), string(AuthorizationHTTP))
	r.duration(at+"/timeout", e.Timeout, time.Millisecond, time.Minute)
	if e.BodyBytes > maxBodyBytes {
		r.add(FieldError{Pointer: at + "/bodyBytes", Code: CodeOutOfRange, Message: fmt.Sprintf("must be at most %d", maxBodyBytes)})
	}
	http := e.Protocol == AuthorizationHTTP
	if http && e.BodyBytes > 0 {
		r.invalid(at+"/bodyBytes", "is for protocol GRPC")
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"pathPrefix", e.PathPrefix != ""}, {"requestHeaders", e.RequestHeaders != nil}, {"upstreamHeaders", e.UpstreamHeaders != nil}} {
		if f.set && !http {
			r.invalid(at+"/"+f.name, "is for protocol HTTP")
		}
	}
	if e.PathPrefix != "" {
		validatePathValue(r, at+"/pathPrefix", e.PathPrefix)
	}
	for name, list := range map[string][]string{"requestHeaders": e.RequestHeaders, "upstreamHeaders": e.UpstreamHeaders} {
		r.values(at+"/"+name, list, func(h string) error {
			if !headerName.MatchString(h) {
				return fmt.Errorf("%q is no header name", clip(h))
			}
			return nil
		})
	}
}

func validateServiceAddress(r *report, at string, a ServiceAddress) {
	r.checked(at+"/name", a.Name, mesh.CheckLabel)
	if a.Namespace != "" {
		r.checked(at+"/namespace", a.Namespace, mesh.CheckLabel)
	}
	r.port(at+"/port", a.Port)
}

func validatePatch(r *report, res mesh.Resource, e *Extension) {
	const at = "/spec/patch"
	if res.Namespace != SystemNamespace {
		r.add(FieldError{Pointer: "/metadata/namespace", Code: CodeInvalid, Message: "a patch is for every proxy of the mesh, so it must be in namespace " + SystemNamespace, Choices: []string{SystemNamespace}})
	}
	if e.Side != "" {
		r.add(FieldError{Pointer: "/spec/side", Code: CodeInvalid, Message: "a patch has no side", Hint: "name the resource that is to be changed"})
	}
	r.oneOf(at+"/resource", string(e.Patch.Resource), string(PatchCluster), string(PatchListener), string(PatchRoutes))
	if e.Patch.Name == "" {
		r.required(at + "/name")
	}
	if len(e.Patch.Name) > 512 || strings.Contains(strings.TrimSuffix(e.Patch.Name, "*"), "*") {
		r.invalid(at+"/name", `must be at most 512 bytes, with "*" at its end only`)
	}
	if raw := bytes.TrimSpace(e.Patch.Merge); len(raw) == 0 || raw[0] != '{' || bytes.Equal(raw, []byte("{}")) {
		r.invalid(at+"/merge", "must be an object with fields of Envoy's message")
	}
}
