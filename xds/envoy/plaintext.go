package envoy

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	statslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stats/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// maxPlaintextCallers bounds how many addresses a port tells apart.
const maxPlaintextCallers = 1024

// countPlaintext counts who speaks plaintext to a service port, of its log what the filter takes:
// `comity.plaintext.port.<port>.source.<address>`.
func (b *messages) countPlaintext(port string, filter *accesslogv3.AccessLogFilter) []*accesslogv3.AccessLog {
	if port == "" {
		return nil
	}
	return []*accesslogv3.AccessLog{{Name: statsLog, Filter: filter, ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: b.any(&statslogv3.Config{
		StatsScope: &typev3.Scope{Prefix: "comity", MaxCounters: u32(maxPlaintextCallers)},
		Counters: []*statslogv3.Config_Counter{{
			Stat: &statslogv3.Config_Stat{Name: "plaintext", Tags: []*statslogv3.Config_Tag{
				{Name: "port", ValueFormat: port}, {Name: "source", ValueFormat: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"},
			}},
			ValueFixed: wrapperspb.UInt64(1),
		}},
	})}}}
}
