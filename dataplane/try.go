package dataplane

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/mesh"
)

const (
	// maxTrial bounds what the zone has tried, in bytes, when it is unpacked.
	maxTrial = 64 << 20
	// tryLimit is how long Envoy may read it. A thousand clusters take it 0.7 s of a core.
	tryLimit = 8 * time.Second
)

// trials have this machine's Envoy read what the zone means to send to the one that runs: one trial at a time, for it costs the application
// memory. The zone could have the running Envoy do all that a trial does.
type trials struct {
	program string // Envoy's
	dir     string
	turn    chan struct{} // capacity 1
}

func newTrials(program, dir string) *trials {
	return &trials{program: program, dir: dir, turn: make(chan struct{}, 1)}
}

// try writes a mesh.Trial of a packed bootstrap.
func (t *trials) try(ctx context.Context, packed []byte, w io.Writer) error {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return fmt.Errorf("unpack the trial: %w", err)
	}
	bootstrap, err := io.ReadAll(io.LimitReader(r, maxTrial+1))
	if err != nil {
		return fmt.Errorf("unpack the trial: %w", err)
	}
	if len(bootstrap) > maxTrial {
		return fmt.Errorf("the trial has more than %d bytes", maxTrial)
	}
	if err := errors.Join(os.RemoveAll(t.dir), os.Mkdir(t.dir, 0o700)); err != nil { // one that was killed may have left something
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	refusal, err := envoybin.Validate(ctx, t.program, t.dir, bootstrap)
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(mesh.Trial{Refused: refusal})
}
