package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/comity-mesh/comity/mesh"
)

// forgetAtOnce bounds how many rows one transaction forgets.
const forgetAtOnce = 2000

// Compact implements store.Store. What is said first is the new end, in a moment; the rows go afterwards, a few at a
// time, without keeping anybody from writing.
func (s *Store) Compact(ctx context.Context, upTo mesh.Revision) error {
	var compacted mesh.Revision
	err := s.read(ctx, func(ctx context.Context) error {
		err := s.readers.QueryRow(ctx, "UPDATE meta SET compacted = greatest(compacted, least($1, head)) RETURNING compacted", int64(upTo)).Scan(&compacted)
		if err == nil {
			_, err = s.readers.Exec(ctx, "SELECT pg_notify($1, '')", channelRevisions)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	s.hub.Compact(compacted)
	err = s.chore(ctx, func(tx pgx.Tx) (more bool, err error) {
		tag, err := tx.Exec(ctx, `WITH old AS (SELECT revision FROM commits WHERE revision <= $1 ORDER BY revision LIMIT $2),
			gone AS (DELETE FROM changes USING old WHERE changes.revision = old.revision)
			DELETE FROM commits USING old WHERE commits.revision = old.revision`, int64(compacted), forgetAtOnce)
		return tag.RowsAffected() == forgetAtOnce, err
	})
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}

// ForgetHistory implements store.Store.
func (s *Store) ForgetHistory(ctx context.Context, before time.Time) error {
	err := s.chore(ctx, func(tx pgx.Tx) (more bool, err error) {
		tag, err := tx.Exec(ctx, "DELETE FROM history WHERE ctid = ANY (ARRAY(SELECT ctid FROM history WHERE at < $1 ORDER BY at LIMIT $2))",
			before.UnixMicro(), forgetAtOnce)
		return tag.RowsAffected() == forgetAtOnce, err
	})
	if err != nil {
		return fmt.Errorf("forget history: %w", err)
	}
	return nil
}

// chore runs a step until it has no more to do, each time in a transaction. Of several replicas one does it: the lock
// is the transaction's own, so whoever lost its connection has lost the lock and what it did with it, and no epoch
// is needed to fence it. Who finds another at work leaves it to that one.
func (s *Store) chore(ctx context.Context, step func(pgx.Tx) (more bool, err error)) error {
	for more := true; more; {
		err := s.read(ctx, func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, s.readers, func(tx pgx.Tx) (err error) {
				var alone bool
				if err := tx.QueryRow(ctx, "SELECT pg_try_advisory_xact_lock($1)", choreLock).Scan(&alone); err != nil || !alone {
					more = false
					return err
				}
				more, err = step(tx)
				return err
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}
