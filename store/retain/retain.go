// Package retain keeps what a store remembers at its length: the change log by revisions, the history by
// age. It is the same chore for global and zones.
package retain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Policy says how much is kept.
type Policy struct {
	Revisions uint64        // of the change log, at least 100
	History   time.Duration // at least an hour
	Every     time.Duration // how often the rest is dropped, at least a second
}

// Default is for programs' configurations.
func Default() Policy {
	return Policy{Revisions: 100_000, History: 90 * 24 * time.Hour, Every: 10 * time.Minute}
}

// Check returns what is wrong, each with the name of the field.
func (p Policy) Check() error {
	var errs []error
	if p.Revisions < 100 {
		errs = append(errs, fmt.Errorf("revisions: %d is less than 100", p.Revisions))
	}
	if p.History < time.Hour {
		errs = append(errs, fmt.Errorf("history: %s is less than 1h", p.History))
	}
	if p.Every < time.Second {
		errs = append(errs, fmt.Errorf("every: %s is less than 1s", p.Every))
	}
	return errors.Join(errs...)
}

// Run applies the policy until ctx ends. A store that can't is told of in the log, and tried again.
func Run(ctx context.Context, s store.Store, p Policy, log *slog.Logger) error {
	tick := time.NewTicker(p.Every)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			if err := Once(ctx, s, p, now); err != nil && ctx.Err() == nil {
				log.WarnContext(ctx, "the store still holds what is too old", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Once applies the policy as of now.
func Once(ctx context.Context, s store.Store, p Policy, now time.Time) error {
	head, err := s.Head(ctx)
	if err != nil {
		return err
	}
	if uint64(head.Revision) > p.Revisions {
		err = s.Compact(ctx, head.Revision-mesh.Revision(p.Revisions))
	}
	return errors.Join(err, s.ForgetHistory(ctx, now.Add(-p.History)))
}
