package envoy

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// allowUpgrades lets WebSockets through; Envoy refuses every upgrade that nobody names. Applications upgrade HTTP/1.1, between
// proxies it is an extended CONNECT of HTTP/2 (RFC 8441), which the server's side has to offer. Filters see the same GET either way.
func allowUpgrades(m *hcmv3.HttpConnectionManager) {
	m.UpgradeConfigs = []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}}
	if m.Http2ProtocolOptions == nil {
		m.Http2ProtocolOptions = &corev3.Http2ProtocolOptions{}
	}
	m.Http2ProtocolOptions.AllowConnect = true
}
