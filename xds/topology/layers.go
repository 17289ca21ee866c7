package topology

import (
	"github.com/comity-mesh/comity/mesh"
)

// attachLayers notes of which ports that are served here a policy says the layer.
func (b *builder) attachLayers() {
	for _, s := range b.t.Services {
		if s.Local == nil {
			continue // its own zone says
		}
		for _, p := range s.Ports {
			if _, served := s.Local.Targets[p.Number]; !served || !p.Protocol.IsHTTP() {
				continue
			}
			t := b.t.Traffic(s, p, mesh.Key{}, "")
			if t.Spec.Layer == "" {
				continue
			}
			if s.Local.Layers == nil {
				s.Local.Layers = map[uint16]mesh.Layer{}
			}
			s.Local.Layers[p.Number] = t.Spec.Layer
			s.Sources = append(s.Sources, t.By("Layer"))
		}
	}
}

// setLayer takes what the zone says of a port. A layer that a later release invents is passed over: the zone serves l7 too.
func (r *RemoteService) setLayer(proto Protocol, p mesh.ExportPort) {
	if !proto.IsHTTP() || p.Layer != mesh.LayerL4 {
		return
	}
	if r.Layers == nil {
		r.Layers = map[uint16]mesh.Layer{}
	}
	r.Layers[p.Port] = p.Layer
}

// Layer is what a zone says of a port of a service, empty for nothing; the zone that serves it decides, not its callers'.
func (t *Topology) Layer(s *Service, port uint16, zone string) mesh.Layer {
	if zone == t.Zone {
		if s.Local == nil {
			return ""
		}
		return s.Local.Layers[port]
	}
	for _, r := range s.Remotes {
		if r.Zone == zone {
			return r.Layers[port]
		}
	}
	return ""
}

// l4Everywhere reports whether all zones that have a port pass it on as bytes.
func (t *Topology) l4Everywhere(s *Service, port uint16) bool {
	found := false
	if s.Local != nil {
		if _, served := s.Local.Targets[port]; served {
			if found = s.Local.Layers[port] == mesh.LayerL4; !found {
				return false
			}
		}
	}
	for _, r := range s.Remotes {
		for _, p := range r.Ports {
			if p == port {
				if found = r.Layers[port] == mesh.LayerL4; !found {
					return false
				}
			}
		}
	}
	return found
}
