package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/engine"
)

// PutRecords implements store.Records. Without writes it returns the bucket's sequence.
func (s *Store) PutRecords(ctx context.Context, bucket string, writes ...store.RecordWrite) (uint64, error) {
	if err := engine.CheckRecords(bucket, writes); err != nil {
		return 0, fmt.Errorf("put records in %s: %w", bucket, err)
	}
	var sequence int64
	err := s.do(ctx, !store.Recoverable(bucket), func(tx *txn) error {
		sequence = 0
		if _, err := tx.row("SELECT sequence FROM buckets WHERE bucket = ?", []any{bucket}, &sequence); err != nil {
			return err
		}
		if len(writes) == 0 {
			return nil
		}
		sequence++
		if err := tx.modify("INSERT INTO buckets VALUES (?, ?) ON CONFLICT DO UPDATE SET sequence = excluded.sequence", bucket, sequence); err != nil {
			return err
		}
		for _, w := range writes {
			if err := tx.record(bucket, w, sequence); err != nil {
				return err
			}
		}
		tx.buckets[bucket] = struct{}{}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("put records in %s: %w", bucket, err)
	}
	return uint64(sequence), nil
}

func (tx *txn) record(bucket string, w store.RecordWrite, sequence int64) error {
	if w.IfVersion != nil {
		var version int64
		if _, err := tx.row("SELECT version FROM records WHERE bucket = ? AND key = ?", []any{bucket, w.Key}, &version); err != nil {
			return err
		}
		if err := engine.CheckVersion(w, uint64(version)); err != nil {
			return err
		}
	}
	if w.Delete {
		return tx.modify("DELETE FROM records WHERE bucket = ? AND key = ?", bucket, w.Key)
	}
	value := w.Value
	if value == nil {
		value = []byte{} // NULL is not the same as nothing
	}
	return tx.modify(`INSERT INTO records VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
		SET value = excluded.value, version = excluded.version, updated_at = excluded.updated_at`,
		bucket, w.Key, value, sequence, tx.now)
}

// GetRecord implements store.Records.
func (s *Store) GetRecord(ctx context.Context, bucket, key string) (store.Record, error) {
	if err := engine.CheckText(bucket, key); err != nil {
		return store.Record{}, fmt.Errorf("get a record: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return store.Record{}, err
	}
	r := store.Record{Key: key}
	var version, at int64
	// One row is there before the driver's goroutine for the context would be.
	err := s.record.QueryRowContext(context.WithoutCancel(ctx), bucket, key).Scan(&r.Value, &version, &at)
	if errors.Is(err, sql.ErrNoRows) {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Record{}, fmt.Errorf("record %s in %s: %w", key, bucket, failed(ctx, err))
	}
	r.Version, r.UpdatedAt = uint64(version), engine.FromMicro(at)
	return r, nil
}

// ListRecords implements store.Records.
func (s *Store) ListRecords(ctx context.Context, bucket, prefix string) ([]store.Record, uint64, error) {
	if err := engine.CheckText(bucket, prefix); err != nil {
		return nil, 0, fmt.Errorf("list records: %w", err)
	}
	out, sequence, err := s.listRecords(ctx, bucket, prefix)
	if err != nil {
		return nil, 0, fmt.Errorf("records in %s: %w", bucket, failed(ctx, err))
	}
	return out, uint64(sequence), nil
}

func (s *Store) listRecords(ctx context.Context, bucket, prefix string) ([]store.Record, int64, error) {
	tx, err := s.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		_ = tx.Rollback() // a read has nothing to lose
	}()
	var sequence int64
	err = tx.QueryRowContext(ctx, "SELECT sequence FROM buckets WHERE bucket = ?", bucket).Scan(&sequence)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, 0, err
	}
	rows, err := tx.QueryContext(ctx, `SELECT key, value, version, updated_at FROM records
		WHERE bucket = ? AND key >= ? AND key < ? ORDER BY key`, bucket, prefix, after(prefix))
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	out := []store.Record{}
	for rows.Next() {
		var r store.Record
		var version, at int64
		if err := rows.Scan(&r.Key, &r.Value, &version, &at); err != nil {
			return nil, 0, err
		}
		r.Version, r.UpdatedAt = uint64(version), engine.FromMicro(at)
		out = append(out, r)
	}
	return out, sequence, rows.Err()
}

// after is greater than every key with the prefix: SQLite compares text as bytes, and no UTF-8 has a
// byte 0xff.
func after(prefix string) string { return prefix + "\xff" }

// WatchRecords implements store.Records.
func (s *Store) WatchRecords(ctx context.Context, prefix string) <-chan struct{} {
	return s.hub.WatchRecords(ctx, prefix)
}
