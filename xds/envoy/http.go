package envoy

import (
	"slices"

	"strings"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	celv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/filters/cel/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/comity-mesh/comity/xds/ir"
)

const (
	rbacFilter  = "envoy.filters.http.rbac"
	problemJSON = "application/problem+json"
)

// httpManager is lean: each thing left out here costs CPU in every request (research of the data path:
// 56 us per request and hop like this, 162 us as meshes commonly configure it).
func (b *messages) httpManager(h ir.HTTP) proto.Message {
	m := &hcmv3.HttpConnectionManager{
		StatPrefix: h.StatPrefix,
		CodecType:  hcmv3.HttpConnectionManager_AUTO,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource: fromADS(), RouteConfigName: h.RouteTable,
		}},
		// No request id where nothing is traced; an application's own passes through.
		GenerateRequestId: no(),
		// Applications see the headers that were sent, not the mesh's opinion of them.
		SkipXffAppend:              true,
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		// One meaning per path, before routes and policies look at it (RFC 3986, 6.2.2).
		NormalizePath: yes(),
		MergeSlashes:  true,
		// Long streams are legitimate; this ends those that carried nothing for an hour.
		StreamIdleTimeout: seconds(3600),
		AccessLog:         slices.Concat(b.accessLogs(h.Telemetry, httpLogFields()), []*accesslogv3.AccessLog{b.tellRequests()}, b.httpNotes(h)),
	}
	m.AccessLog = append(m.AccessLog, b.countPlaintext(h.Plaintext, nil)...)
	if h.Codec == ir.CodecHTTP2 {
		m.CodecType = hcmv3.HttpConnectionManager_HTTP2
		// Other sidecars come here, which end streams that are silent; a second timer for each request would cost 2 % of its CPU.
		m.StreamIdleTimeout = seconds(0)
	}
	if h.Authorize || h.Edge != nil {
		// A sender of half a request is not waited for: who it is has been said, whether it may call is decided about whole requests.
		// The application beside a client's sidecar holds up only itself, and the timer would cost it 2 % of a request's CPU.
		m.RequestHeadersTimeout = seconds(10)
	}
	if h.ForwardIdentity {
		// Only the URI: a subject or DNS name could be mistaken for an identity.
		m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
		m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
	}
	if t := h.Telemetry; t != nil && t.Tracing != nil {
		b.trace(m, *t)
	}
	if h.Edge != nil {
		guardRequests(m, *h.Edge)
	}
	allowUpgrades(m)
	m.HttpFilters = append(m.HttpFilters, b.filterPlace(beforeFilters))
	if h.Authorize {
		// Allow rules without policies refuse everything. The policies come with the routes, so that they
		// hold from the next request of a live connection; a route without them stays closed.
		m.HttpFilters = append(m.HttpFilters, b.httpFilter(rbacFilter, &rbacv3.RBAC{Rules: &rbacconfigv3.RBAC{Action: rbacconfigv3.RBAC_ALLOW}}))
		m.LocalReplyConfig = &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{b.deniedReply(h.Explain), b.unauthenticatedReply(), b.limitedReply(), b.shedReply(), noAnswerReply()}}
	}
	if h.Edge != nil {
		m.LocalReplyConfig = &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{b.deniedReply(h.Explain), b.unauthenticatedReply(), b.limitedReply()}}
	}
	m.HttpFilters = append(m.HttpFilters, b.filterPlace(afterFilters), b.filterPlace(loadFilters))
	router := &routerv3.Router{SuppressEnvoyHeaders: true} // which no application reads
	if h.Authorize {
		// A server's answers by response code; it costs some 5 us a request. Of a client Envoy counts failed requests by
		// endpoint with them, and load reports need that.
		router.DynamicStats = no()
	}
	m.HttpFilters = append(m.HttpFilters, b.httpFilter("envoy.filters.http.router", router))
	return m
}

func (b *messages) httpFilter(name string, m proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: b.any(m)}}
}

// refusedByHeader tells who is refused by whom, where the mesh says so.
const refusedByHeader = "comity-refused-by"

// deniedReply is what who is refused is told. RESPONSE_CODE_DETAILS carries the name of the policy: it is in the access log,
// and in the answer only where that is wanted, since it tells strangers what the mesh is protected by.
func (b *messages) deniedReply(explain bool) *hcmv3.ResponseMapper {
	body := map[string]string{
		"code":   "NOT-ALLOWED",
		"title":  "An authorization policy refuses the request",
		"status": "%RESPONSE_CODE%",
		"try":    "See who may call the service: comity get authorizationpolicies",
	}
	var headers []*corev3.HeaderValueOption
	if explain {
		body["detail"], body["caller"] = "%RESPONSE_CODE_DETAILS%", "%DOWNSTREAM_PEER_URI_SAN%"
		headers = []*corev3.HeaderValueOption{{
			Header:       &corev3.HeaderValue{Key: refusedByHeader, Value: "%RESPONSE_CODE_DETAILS%"},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}}
	}
	return &hcmv3.ResponseMapper{
		Filter: b.because("rbac_access_denied"),
		BodyFormatOverride: &corev3.SubstitutionFormatString{
			ContentType: problemJSON,
			Format:      &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: stringStruct(body)},
		},
		HeadersToAdd: headers,
	}
}

// unauthenticatedReply is what who has no good token is told, and why. All of it is 401: Envoy says 403 where the token is for
// others.
func (b *messages) unauthenticatedReply() *hcmv3.ResponseMapper {
	m := b.replyTo(problem{
		details: []string{"jwt_authn_access_denied"},
		code:    "NOT-AUTHENTICATED", title: "The request has no token that the service accepts", detail: "%RESPONSE_CODE_DETAILS%",
		try: "See which tokens it accepts: comity get authenticationpolicies",
	})
	m.StatusCode = u32(401)
	return m
}

// because is met by answers that Envoy itself makes for a reason, whose details begin so.
func (b *messages) because(details ...string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ExtensionFilter{ExtensionFilter: &accesslogv3.ExtensionFilter{
		Name: "envoy.access_loggers.extension_filters.cel",
		ConfigType: &accesslogv3.ExtensionFilter_TypedConfig{TypedConfig: b.any(&celv3.ExpressionFilter{
			Expression: `response.code_details.startsWith("` + strings.Join(details, `") || response.code_details.startsWith("`) + `")`,
		})},
	}}}
}

// noAnswerHeader is on the answers that a sidecar makes because its application does not: it refuses the connection (UF)
// or ends it in the middle (UC). So clients can tell an endpoint that fails from one that passes on the failure of
// somebody else: both say 503. The name is one of those that Envoy has a place for, and nobody else means anything by it in an answer
// to a request: to look for one of our own Envoy would sort all headers of every answer, at 2 % of a request's CPU.
const noAnswerHeader = "x-envoy-degraded"

func noAnswerReply() *hcmv3.ResponseMapper {
	return &hcmv3.ResponseMapper{
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
			ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{"UF", "UC"}},
		}},
		HeadersToAdd: []*corev3.HeaderValueOption{{
			Header:       &corev3.HeaderValue{Key: noAnswerHeader, Value: "%RESPONSE_FLAGS%"},
			AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}},
	}
}

func stringStruct(m map[string]string) *structpb.Struct {
	s := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(m))}
	for k, v := range m {
		s.Fields[k] = structpb.NewStringValue(v)
	}
	return s
}

func httpLogFields() map[string]string {
	return map[string]string{
		"time": "%START_TIME%", "durationMs": "%DURATION%", "method": "%REQ(:METHOD)%", "host": "%REQ(:AUTHORITY)%",
		"path": "%REQ(:PATH)%", "protocol": "%PROTOCOL%", "status": "%RESPONSE_CODE%", "details": "%RESPONSE_CODE_DETAILS%",
		"flags": "%RESPONSE_FLAGS%", "caller": "%DOWNSTREAM_PEER_URI_SAN%", "server": "%UPSTREAM_PEER_URI_SAN%",
		"cluster": "%UPSTREAM_CLUSTER%", "upstream": "%UPSTREAM_HOST%", "bytesIn": "%BYTES_RECEIVED%", "bytesOut": "%BYTES_SENT%",
		// Who calls in plaintext has no name but this.
		"source": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
		"route":  "%ROUTE_NAME%", "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "upstreamMs": "%RESPONSE_DURATION%",
		"traceId": "%TRACE_ID%", "requestId": "%REQ(X-REQUEST-ID)%",
		// What policies in shadow mode would do, by which of them, and the policies that only watch.
		"shadow": "%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_engine_result)%", "shadowPolicy": "%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_effective_policy_id)%",
		"audit": "%DYNAMIC_METADATA(envoy.filters.http.rbac:" + auditPrefix + "shadow_effective_policy_id)%",
	}
}

func tcpLogFields() map[string]string {
	return map[string]string{
		"time": "%START_TIME%", "durationMs": "%DURATION%", "details": "%CONNECTION_TERMINATION_DETAILS%", "flags": "%RESPONSE_FLAGS%",
		"caller": "%DOWNSTREAM_PEER_URI_SAN%", "server": "%UPSTREAM_PEER_URI_SAN%", "sni": "%REQUESTED_SERVER_NAME%", "source": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
		"cluster": "%UPSTREAM_CLUSTER%", "upstream": "%UPSTREAM_HOST%", "bytesIn": "%BYTES_RECEIVED%", "bytesOut": "%BYTES_SENT%",
		"decision": stateOf(decisionState), "policy": stateOf(policyState), "shadow": stateOf(shadowState), "shadowPolicy": stateOf(shadowPolicyState),
		"audit": stateOf(auditState),
	}
}
