package inspect

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
)

const (
	// maxTrials is how many Envoys read a configuration at one time.
	maxTrials = 64
	// maxTrial bounds a configuration, packed, below what gRPC delivers in one message (4 MiB).
	maxTrial = 3 << 20
	// maxVerdict bounds what an Envoy says.
	maxVerdict = 16 << 10
	// verdictWithin is longer than an agent lets its Envoy read.
	verdictWithin = 12 * time.Second
)

// ErrSilent is of a proxy that does not answer, or is not there; it may come back. An agent that says that it can't is neither.
var ErrSilent = errors.New("it does not answer")

// Try has a proxy's Envoy read a bootstrap that it does not run (envoy.Trial), and returns why it refuses it; empty if it does not. The error
// is why that proxy could not say, ErrSilent among others.
func (d *Desk) Try(ctx context.Context, proxy mesh.ProxyID, bootstrap []byte) (refusal string, err error) {
	ctx, cancel := context.WithTimeout(ctx, verdictWithin)
	defer cancel()
	var packed, said bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(bootstrap); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	if packed.Len() > maxTrial {
		return "", fmt.Errorf("it has %d bytes; at most %d can be sent", packed.Len(), maxTrial)
	}
	err = d.put(ctx, proxy, &enrolpb.Ask{What: "try", Detail: packed.Bytes()}, maxTrials, func(part []byte) error {
		if said.Len()+len(part) > maxVerdict {
			return errors.New("its answer is too long")
		}
		said.Write(part)
		return nil
	})
	if said, ok := errors.AsType[saidError](err); ok {
		return "", said
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrSilent, err)
	}
	var t mesh.Trial
	if err := json.Unmarshal(said.Bytes(), &t); err != nil {
		return "", fmt.Errorf("its answer can't be read: %w", err)
	}
	return t.Refused, nil
}
