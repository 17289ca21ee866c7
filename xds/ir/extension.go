package ir

import "encoding/json"

// Lua runs a script with each request and answer.
type Lua struct {
	Script string `json:"script"`
	// KeepRoute leaves the choice of the route as it is when the script edits the request.
	KeepRoute bool `json:"keepRoute,omitempty"`
}

// ExternalAuthorization asks somebody about each request.
type ExternalAuthorization struct {
	Cluster string `json:"cluster"`
	// Authority is the host name under which it is asked.
	Authority string `json:"authority"`
	// GRPC, else HTTP.
	GRPC     bool   `json:"grpc,omitempty"`
	Timeout  Millis `json:"timeoutMs"`
	FailOpen bool   `json:"failOpen,omitempty"`
	// BodyBytes of the request that are shown.
	BodyBytes uint32 `json:"bodyBytes,omitempty"`
	// PathPrefix, RequestHeaders that are shown and UpstreamHeaders that are taken over are for HTTP.
	PathPrefix      string   `json:"pathPrefix,omitempty"`
	RequestHeaders  []string `json:"requestHeaders,omitempty"`
	UpstreamHeaders []string `json:"upstreamHeaders,omitempty"`
}

// Patches are messages, as JSON, that are merged into the one built from the object, in order.
type Patches []json.RawMessage
