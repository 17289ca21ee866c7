package metrics

import (
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/internal/signals"
)

// methods are the requests that others made of what this proxy serves, by method, where a policy has Envoy note them.
func (r *reading) methods() {
	r.each("envoy_comity_"+signals.NotedMethods, func(l labelled, m *dto.Metric) {
		p, ok := r.t.names.served(r.self, l[signals.TagChain], "", signals.HTTP)
		if !ok {
			return
		}
		to := r.metric(signals.MethodRequests, p, words{l[signals.TagMethod], class(l[signals.TagCode])}, signals.Method, signals.CodeClass)
		to.Counter = &dto.Counter{Value: proto.Float64(to.GetCounter().GetValue() + m.GetCounter().GetValue())}
	})
}
