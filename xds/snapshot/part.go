package snapshot

import (
	"fmt"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/xds/envoy"
)

// Part is content that views have in common. It is immutable, and is found out about once for all of them.
type Part struct{ entries [typeCount][]*Entry }

// Part makes a part of resources. Errors are those of Publish.
func (s *Store) Part(resources []envoy.Resource) (*Part, error) {
	p := new(Part)
	for i := range resources {
		e, err := s.entry(nil, &resources[i])
		if err != nil {
			return nil, err
		}
		p.entries[e.Type] = append(p.entries[e.Type], e)
	}
	return p, p.sort()
}

func (p *Part) sort() error {
	for _, list := range p.entries {
		slices.SortFunc(list, func(a, b *Entry) int { return strings.Compare(a.Name, b.Name) })
		for i := 1; i < len(list); i++ {
			if list[i].Name == list[i-1].Name {
				return twice(list[i])
			}
		}
	}
	return nil
}

func twice(e *Entry) error { return fmt.Errorf("%s %q is given twice", e.Type, e.Name) }

// together are the entries of a type in all parts, sorted. Where only one part has any, they are its own memory.
func together(t Type, parts []*Part) ([]*Entry, error) {
	var most []*Entry
	total, first := 0, 0
	for i, p := range parts {
		if total += len(p.entries[t]); len(p.entries[t]) > len(most) {
			most, first = p.entries[t], i
		}
	}
	if total == len(most) {
		return most, nil
	}
	out := append(make([]*Entry, 0, total), most...)
	for i, p := range parts {
		if i == first {
			continue
		}
		for _, e := range p.entries[t] {
			at, found := slices.BinarySearchFunc(out, e.Name, byName)
			if found {
				return nil, twice(e)
			}
			out = slices.Insert(out, at, e)
		}
	}
	return out, nil
}
