package publish

import (
	"iter"

	"github.com/comity-mesh/comity/mesh"
)

// resources are those of the zone's store, by kind: most of what is asked of them concerns one.
type resources map[mesh.Kind]map[mesh.Key]mesh.Resource

func (s resources) put(r mesh.Resource) {
	if s[r.Kind] == nil {
		s[r.Kind] = map[mesh.Key]mesh.Resource{}
	}
	s[r.Kind][r.Key] = r
}

func (s resources) remove(k mesh.Key) { delete(s[k.Kind], k) }

func (s resources) get(k mesh.Key) (mesh.Resource, bool) {
	r, ok := s[k.Kind][k]
	return r, ok
}

func (s resources) len() int {
	n := 0
	for _, list := range s {
		n += len(list)
	}
	return n
}

func (s resources) all() iter.Seq[mesh.Resource] {
	return func(yield func(mesh.Resource) bool) {
		for _, list := range s {
			for _, r := range list {
				if !yield(r) {
					return
				}
			}
		}
	}
}
