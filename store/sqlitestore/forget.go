package sqlitestore

import (
	"context"
	"fmt"
	"time"
)

// forgetAtOnce bounds how long forgetting keeps others from writing.
const forgetAtOnce = 500

// ForgetHistory implements store.Store.
func (s *Store) ForgetHistory(ctx context.Context, before time.Time) error {
	for more := true; more; {
		err := s.do(ctx, false, func(tx *txn) error {
			var last int64
			found, err := tx.row("SELECT max(at) FROM (SELECT at FROM history WHERE at < ? ORDER BY at LIMIT ?) HAVING max(at) IS NOT NULL",
				[]any{before.UnixMicro(), forgetAtOnce}, &last)
			if more = found && err == nil; !more {
				return err
			}
			return tx.modify("DELETE FROM history WHERE at <= ?", last)
		})
		if err != nil {
			return fmt.Errorf("forget history: %w", err)
		}
	}
	return nil
}
