package translate

import (
	"strings"

	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/topology"
)

// tellApart has the callers and methods of a port counted one by one, where a policy wants that. With callers the chain counts under a prefix of its own,
// `callers/` instead of `inbound/`, so that agents don't take what it counts in all for what it counted before.
func (tr *Translator) tellApart(h *ir.HTTP, s *topology.Service, p topology.Port) {
	m := tr.t.ServerTelemetry(s, p).Spec.Metrics
	h.Methods = m != nil && m.Methods
	if m == nil || !m.Callers {
		return
	}
	h.Callers = true
	h.StatPrefix = strings.Replace(h.StatPrefix, "inbound/", "callers/", 1)
}
