package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"

	"github.com/comity-mesh/comity/xds/ir"
)

// negotiated speaks to each endpoint what its peer announces: HTTP/2 to sidecars that understand requests, HTTP/1.1 to applications
// behind those that don't.
func negotiated(c ir.Cluster) *httpv3.HttpProtocolOptions_AutoConfig {
	return &httpv3.HttpProtocolOptions_AutoConfig{AutoConfig: &httpv3.HttpProtocolOptions_AutoHttpConfig{
		HttpProtocolOptions: &corev3.Http1ProtocolOptions{}, Http2ProtocolOptions: http2Options(c),
	}}
}
