package snapshot

import (
	"cmp"
	"slices"
	"strings"
)

// fallbacks are entries by type and name, sorted.
type fallbacks []*Entry

func (f fallbacks) find(t Type, name string) (int, bool) {
	return slices.BinarySearchFunc(f, name, func(e *Entry, name string) int {
		return cmp.Or(cmp.Compare(e.Type, t), strings.Compare(e.Name, name))
	})
}

// get returns nil where there is none.
func (f fallbacks) get(t Type, name string) *Entry {
	if i, ok := f.find(t, name); ok {
		return f[i]
	}
	return nil
}

func (f *fallbacks) put(e *Entry) {
	i, ok := f.find(e.Type, e.Name)
	if ok {
		(*f)[i] = e
	} else {
		*f = slices.Insert(*f, i, e)
	}
}
