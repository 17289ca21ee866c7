package history

import (
	"fmt"
	"math/rand/v2"

	"github.com/comity-mesh/comity/mesh"
)

// Op is one call of a schedule. Its ID is the actor of its commit, and its idempotency key.
type Op struct {
	ID     string  `json:"id"`
	Writes []Write `json:"writes,omitempty"`
	// Count, instead of writes: add one to the counter record, by compare-and-set.
	Count bool `json:"count,omitempty"`
}

// Write is one write of an op.
type Write struct {
	Name   string `json:"name"`
	Delete bool   `json:"delete,omitempty"`
	// Conditional writes name the revision that they found; a repeated call names the same one.
	Conditional bool           `json:"conditional,omitempty"`
	IfRevision  *mesh.Revision `json:"ifRevision,omitempty"`
}

const (
	writers = 4
	each    = 14 // ops of a writer
	names   = 5  // resources that they write
)

// plan makes the ops of each writer.
func plan(rng *rand.Rand) [][]Op {
	all := make([][]Op, writers)
	for w := range all {
		for i := range each {
			op := Op{ID: fmt.Sprintf("w%d-%d", w, i)}
			if rng.IntN(5) == 0 {
				op.Count = true
			}
			for n := 1 + rng.IntN(3); !op.Count && len(op.Writes) < n; {
				op.Writes = append(op.Writes, Write{
					Name: fmt.Sprintf("r%d", (rng.IntN(names)+len(op.Writes))%names), Delete: rng.IntN(4) == 0, Conditional: rng.IntN(4) == 0,
				})
			}
			all[w] = append(all[w], op)
		}
	}
	return all
}
