package translate

import (
	"slices"

	"github.com/comity-mesh/comity/xds/ir"
)

// stayHere takes the word about other zones from the retries of a host where its backends have none to go to. Envoy would
// prepare for it with each request all the same, at 4 % of what a request costs its sidecar.
func (tr *Translator) stayHere(h ir.VirtualHost) ir.VirtualHost {
	inherits := false // a route that leads elsewhere has the host's retries
	for i, r := range h.Routes {
		switch elsewhere := slices.ContainsFunc(r.Backends, func(b ir.Backend) bool { return tr.elsewhere()[b.Cluster] }); {
		case r.Retry == nil:
			inherits = inherits || elsewhere
		case !elsewhere:
			h.Routes[i].Retry = here(r.Retry)
		}
	}
	if !inherits {
		h.Retry = here(h.Retry)
	}
	return h
}

func here(r *ir.Retry) *ir.Retry {
	out := *r
	out.OtherZoneAfter = 0
	return &out
}

// findElsewhere lists the clusters that have endpoints of several priorities, now or after the next loss of a zone.
func (tr *Translator) findElsewhere() map[string]bool {
	out := map[string]bool{}
	for _, s := range tr.t.Services {
		for _, p := range s.Ports {
			if len(tr.zonesOf(s, p)) > 1 {
				out[clusterName(s.ServiceName, p.Number)] = true
			}
		}
	}
	for _, e := range tr.t.Externals {
		for _, p := range e.Ports {
			name := externalName(e.ServiceName, p.Port)
			if e.Gateway { // a priority for each zone by which it leaves
				out[name] = len(e.Exits) > 1
				continue
			}
			ends := outsideEndpoints(e, p)
			out[name] = ends[len(ends)-1].Priority > 0
		}
	}
	return out
}
