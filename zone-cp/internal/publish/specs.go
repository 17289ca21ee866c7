package publish

import (
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// specs remembers decoded specs, so that a build decodes what has changed and nothing else.
type specs struct{ young, old map[edition]decoded }

// edition names one state of a resource in the zone's store.
type edition struct {
	key      mesh.Key
	revision mesh.Revision
}

type decoded struct {
	spec any
	err  error
}

// decode is policy.Decode. What it returns is shared: nobody changes it.
func (s *specs) decode(r mesh.Resource) (any, error) {
	e := edition{r.Key, r.Revision}
	d, ok := s.young[e]
	if !ok {
		if d, ok = s.old[e]; !ok {
			d.spec, d.err = policy.Decode(r.Kind, r.Spec)
		}
		if s.young == nil {
			s.young = map[edition]decoded{}
		}
		s.young[e] = d
	}
	return d.spec, d.err
}

// turn forgets what was not used since the last turn.
func (s *specs) turn() {
	s.old, s.young = s.young, make(map[edition]decoded, len(s.young))
}
