package api

import (
	"cmp"
	"slices"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

// ofTraffic reports whether resources of a kind say something about traffic, and are no part of the mesh that it flows
// through.
func ofTraffic(k mesh.Kind) bool {
	switch k {
	case mesh.KindZone, mesh.KindWorkload, mesh.KindService, mesh.KindServiceExport:
		return false
	}
	return true
}

// policies gathers what zones say of each resource about traffic.
type policies map[mesh.Key]*client.PolicyOverview

// add takes what a zone says. Of one that is not heard only its name is kept: its last word would look like one of now.
func (p policies) add(zone client.ZoneOverview, k mesh.Key, w mesh.ResourceStatus) {
	o := p[k]
	if o == nil {
		o = &client.PolicyOverview{Key: k}
		p[k] = o
	}
	if zone.Unheard != nil {
		if zone.Unheard.Reason == mesh.UnheardAway {
			o.Unheard = append(o.Unheard, zone.Name)
		}
		return
	}
	o.Zones++
	o.Acked, o.Total = o.Acked+w.Acked, o.Total+w.Total
	note := client.PolicyNote{State: w.State, Message: why(w)}
	if w.State == mesh.StateApplied && len(w.Rejections) > 0 {
		note.State = mesh.StateRejected // by proxies
	}
	if note.State == mesh.StateApplied && note.Message == "" {
		return
	}
	i := slices.IndexFunc(o.Notes, func(n client.PolicyNote) bool { return n.State == note.State && n.Message == note.Message })
	if i < 0 {
		i, o.Notes = len(o.Notes), append(o.Notes, note)
	}
	o.Notes[i].Zones = append(o.Notes[i].Zones, zone.Name)
}

// list is in the order of the keys.
func (p policies) list() []client.PolicyOverview {
	out := make([]client.PolicyOverview, 0, len(p))
	for _, o := range p {
		out = append(out, *o)
	}
	slices.SortFunc(out, func(a, b client.PolicyOverview) int {
		return cmp.Or(cmp.Compare(a.Key.Kind, b.Key.Kind), cmp.Compare(a.Key.Namespace, b.Key.Namespace), cmp.Compare(a.Key.Name, b.Key.Name), cmp.Compare(a.Key.Origin, b.Key.Origin))
	})
	return out
}
