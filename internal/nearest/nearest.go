// Package nearest finds what somebody probably meant who mistyped a name. It counts edits with a library, so that what is near
// means the same for fields, kinds, commands and the names of what there is.
package nearest

import (
	"slices"
	"strings"

	"github.com/agext/levenshtein"
)

const (
	// most is how many letters of a word may be put in, taken out or replaced for it to be still the same word mistyped.
	most = 2
	// longest bounds what is compared: longer words are no names.
	longest = 253
)

// Word is the one of the known words that is nearest to what was typed, empty if none is near. Case plays no part. Of several that
// are as near, one with the same first letter wins, which hardly anybody mistakes; then the first in alphabetical order. A word of which the beginning
// was typed is as near as one with two mistakes.
func Word(typed string, known []string) string {
	if typed == "" || len(typed) > longest {
		return ""
	}
	best, near := 2*(most+1), ""
	low := strings.ToLower(typed)
	for _, k := range slices.Sorted(slices.Values(known)) {
		other := strings.ToLower(k)
		if other == "" || len(other) > len(low)+longest {
			continue
		}
		edits := levenshtein.Distance(low, other, nil)
		begun := len(low) >= 3 && strings.HasPrefix(other, low)
		if edits >= len(other) || edits > most && !begun {
			continue
		}
		rank := 2 * min(edits, most) // in halves of an edit
		if low[0] != other[0] {
			rank++
		}
		if rank < best {
			best, near = rank, k
		}
	}
	return near
}

// Question asks whether the nearest word was meant, empty if there is none.
func Question(typed string, known []string) string {
	if near := Word(typed, known); near != "" {
		return "did you mean " + near + "?"
	}
	return ""
}
