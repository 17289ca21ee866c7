package envoy

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	statslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stats/v3"
)

// countPlaintext counts who speaks plaintext to a service port, of its log what the filter takes:
// `comity.plaintext.port.<port>.source.<address>`.
func (b *messages) countPlaintext(port string, filter *accesslogv3.AccessLogFilter) []*accesslogv3.AccessLog {
	if port == "" {
		return nil
	}
	return []*accesslogv3.AccessLog{b.note(filter, counter("plaintext", []*statslogv3.Config_Tag{
		{Name: "port", ValueFormat: port}, {Name: "source", ValueFormat: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"},
	}))}
}
