package sqlitestore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/engine"
)

// Apply implements store.Store. HistoryEntry.RequestID is the batch's idempotency key.
func (s *Store) Apply(ctx context.Context, b store.Batch) (store.Result, error) {
	res, err := s.apply(ctx, b)
	if err != nil {
		return store.Result{}, fmt.Errorf("apply: %w", err)
	}
	return res, nil
}

func (s *Store) apply(ctx context.Context, b store.Batch) (res store.Result, err error) {
	if err := engine.CheckBatch(b); err != nil {
		return res, err
	}
	hash, err := engine.BatchHash(b)
	if err != nil {
		return res, err
	}
	durable := slices.ContainsFunc(b.Writes, func(w store.Write) bool { return !w.Copy })
	err = s.do(ctx, durable, func(tx *txn) (err error) {
		res, err = tx.apply(b, hash)
		return err
	})
	return res, err
}

func (tx *txn) apply(b store.Batch, hash []byte) (store.Result, error) {
	if hash != nil {
		if res, replayed, err := tx.replay(b.IdempotencyKey, hash); err != nil || replayed {
			return res, err
		}
	}
	d, err := engine.Decide(b, tx.cursor.Revision, engine.FromMicro(tx.now), tx.current)
	if err != nil {
		return store.Result{}, err
	}
	if len(d.Effects) > 0 {
		if err := tx.take(b, d); err != nil {
			return store.Result{}, err
		}
	}
	if hash != nil {
		return d.Result, tx.remember(b.IdempotencyKey, hash, d.Result)
	}
	return d.Result, nil
}

// take writes what was decided, under its revision.
func (tx *txn) take(b store.Batch, d engine.Decision) error {
	revision := int64(d.Result.Revision)
	for seq, e := range d.Effects {
		r := e.Change.Resource
		var err error
		if e.Change.Deleted {
			err = tx.modify("DELETE FROM resources WHERE origin = ? AND kind = ? AND namespace = ? AND name = ?",
				string(r.Origin), string(r.Kind), r.Namespace, r.Name)
		} else {
			err = tx.modify(`INSERT INTO resources VALUES (?, ?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT DO UPDATE SET revision = excluded.revision, created_at = excluded.created_at, labels = excluded.labels, body = excluded.body`,
				string(r.Origin), string(r.Kind), r.Namespace, r.Name, revision, r.CreatedAt.UnixMicro(), string(e.Labels), e.After)
		}
		if err != nil {
			return err
		}
		if err := tx.modify("INSERT INTO changes VALUES (?, ?, ?, ?)", revision, seq, e.Change.Deleted, e.Body); err != nil {
			return err
		}
		err = tx.modify("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
			string(r.Origin), string(r.Kind), r.Namespace, r.Name, revision, seq, tx.now, b.Actor, b.Source, b.Reason, b.IdempotencyKey, e.Before, e.After)
		if err != nil {
			return err
		}
	}
	if err := tx.modify("INSERT INTO commits VALUES (?, ?, ?)", revision, tx.now, b.Actor); err != nil {
		return err
	}
	if err := tx.modify("UPDATE meta SET head = ?", revision); err != nil {
		return err
	}
	tx.cursor.Revision = d.Result.Revision
	tx.commits = append(tx.commits, store.Commit{Cursor: tx.cursor, At: engine.FromMicro(tx.now), Actor: b.Actor, Changes: d.Changes()})
	return nil
}

// replay answers from the idempotency key if it was used.
func (tx *txn) replay(key string, hash []byte) (store.Result, bool, error) {
	var had, result []byte
	found, err := tx.row("SELECT hash, result FROM idempotency WHERE key = ? AND at > ?",
		[]any{key, tx.now - engine.KeepIdempotencyKeys.Microseconds()}, &had, &result)
	if err != nil || !found {
		return store.Result{}, false, err
	}
	res, err := engine.Replay(had, hash, result)
	return res, true, err
}

func (tx *txn) remember(key string, hash []byte, res store.Result) error {
	result, err := json.Marshal(res)
	if err != nil {
		return err
	}
	if err := tx.modify("DELETE FROM idempotency WHERE at <= ?", tx.now-engine.KeepIdempotencyKeys.Microseconds()); err != nil {
		return err
	}
	return tx.modify("INSERT INTO idempotency VALUES (?, ?, ?, ?)", key, hash, tx.now, result)
}

func (tx *txn) current(k mesh.Key) (engine.Document, error) {
	var body []byte
	found, err := tx.row("SELECT body FROM resources WHERE origin = ? AND kind = ? AND namespace = ? AND name = ?",
		[]any{string(k.Origin), string(k.Kind), k.Namespace, k.Name}, &body)
	if err != nil || !found {
		return engine.Document{}, err
	}
	res, err := engine.Decode(body)
	return engine.Document{Resource: &res, Body: body}, err
}
