package ads

import "github.com/comity-mesh/comity/xds/snapshot"

// Proven reports whether some Envoy has acknowledged a resource of a type URL as the view has it in force
// now, in that version.
func (s *Server) Proven(view snapshot.ViewKey, typeURL, name, version string) bool {
	t, ok := snapshot.ParseType(typeURL)
	g := s.views.Current(view)
	if !ok || g == nil {
		return false
	}
	e := g.Find(t, name)
	return e != nil && e.Version == version && e.Proven()
}
