package sqlitestore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// keepIdempotencyKeys is an hour more than the contract asks for, so that a retry at the end of its
// day is not a race.
const keepIdempotencyKeys = 25 * time.Hour

// Apply implements store.Store. HistoryEntry.RequestID is the batch's idempotency key.
func (s *Store) Apply(ctx context.Context, b store.Batch) (store.Result, error) {
	for _, w := range b.Writes {
		if err := checkKey(w.Resource.Key); err != nil {
			return store.Result{}, fmt.Errorf("apply: %w", err)
		}
		if !w.Delete && len(w.Resource.Spec) > 0 && !json.Valid(w.Resource.Spec) {
			return store.Result{}, fmt.Errorf("apply %s: %w: the spec is not JSON", w.Resource.Key, store.ErrInvalid)
		}
	}
	if b.DryRun {
		b.IdempotencyKey = ""
	}
	var hash []byte
	if b.IdempotencyKey != "" {
		sum, err := batchHash(b)
		if err != nil {
			return store.Result{}, fmt.Errorf("apply: %w", err)
		}
		hash = sum
	}
	var res store.Result
	durable := slices.ContainsFunc(b.Writes, func(w store.Write) bool { return !w.Copy })
	err := s.do(ctx, durable, func(tx *txn) error {
		a := &application{tx: tx, batch: b, result: store.Result{Items: []store.ResultItem{}}}
		err := a.run(hash)
		res = a.result
		return err
	})
	if b.DryRun && err == errDryRun { //nolint:errorlint // never wrapped: it is ours
		err = nil
	}
	if err != nil {
		return store.Result{}, fmt.Errorf("apply: %w", err)
	}
	return res, nil
}

// errDryRun makes the savepoint roll back after everything went well.
var errDryRun = fmt.Errorf("dry run")

// application is one Apply inside the transaction.
type application struct {
	tx     *txn
	batch  store.Batch
	result store.Result
	// revision is what this batch takes if it changes anything.
	revision mesh.Revision
	changes  []store.Change
}

func (a *application) run(hash []byte) error {
	a.revision = a.tx.cursor.Revision + 1
	if hash != nil {
		if replayed, err := a.replay(hash); err != nil || replayed {
			return err
		}
	}
	for _, w := range a.batch.Writes {
		item, err := a.one(w)
		if err != nil {
			return err
		}
		a.result.Items = append(a.result.Items, item)
	}
	a.result.Revision = a.tx.cursor.Revision
	if a.batch.DryRun {
		return errDryRun
	}
	if len(a.changes) > 0 {
		if err := a.finish(); err != nil {
			return err
		}
	}
	if hash != nil {
		return a.remember(hash)
	}
	return nil
}

// finish takes the revision.
func (a *application) finish() error {
	tx, at := a.tx, a.tx.now
	if err := tx.modify("INSERT INTO commits VALUES (?, ?, ?)", int64(a.revision), at, a.batch.Actor); err != nil {
		return err
	}
	if err := tx.modify("UPDATE meta SET head = ?", int64(a.revision)); err != nil {
		return err
	}
	tx.cursor.Revision = a.revision
	a.result.Revision = a.revision
	tx.commits = append(tx.commits, store.Commit{Cursor: tx.cursor, At: fromMicro(at), Actor: a.batch.Actor, Changes: a.changes})
	return nil
}

func (a *application) one(w store.Write) (store.ResultItem, error) {
	cur, body, err := a.tx.current(w.Resource.Key)
	if err != nil {
		return store.ResultItem{}, err
	}
	if w.IfRevision != nil {
		var have mesh.Revision
		if cur != nil {
			have = cur.Revision
		}
		if have != *w.IfRevision {
			return store.ResultItem{}, &store.ConflictError{Key: w.Resource.Key, Current: cur}
		}
	}
	if w.Delete {
		if cur == nil {
			return store.ResultItem{Outcome: store.Absent, Resource: mesh.Resource{Key: w.Resource.Key}}, nil
		}
		return store.ResultItem{Outcome: store.Deleted, Resource: *cur}, a.delete(*cur, body, w)
	}
	next := a.next(w, cur)
	outcome := store.Updated
	switch {
	case cur == nil:
		outcome = store.Created
	case same(*cur, next, w.Copy):
		return store.ResultItem{Outcome: store.Unchanged, Resource: *cur}, nil
	}
	if err := a.put(next, body); err != nil {
		return store.ResultItem{}, err
	}
	if a.batch.DryRun {
		next = asNeverWritten(next, cur)
	}
	return store.ResultItem{Outcome: outcome, Resource: next}, nil
}

// asNeverWritten takes from a dry run's resource the numbers that it would only get by being written.
func asNeverWritten(next mesh.Resource, cur *mesh.Resource) mesh.Resource {
	if cur == nil {
		next.UID, next.Created, next.Changed, next.Revision = "", 0, 0, 0
		return next
	}
	next.Changed, next.Revision = cur.Changed, cur.Revision
	return next
}

// next is the resource as the write makes it.
func (a *application) next(w store.Write, cur *mesh.Resource) mesh.Resource {
	n := w.Resource
	n.Revision = a.revision
	if len(n.Spec) == 0 {
		n.Spec = json.RawMessage("{}")
	}
	if w.Copy {
		return n
	}
	now := fromMicro(a.tx.now)
	n.Changed, n.ChangedAt = a.revision, now
	if cur == nil {
		n.UID, n.Generation, n.Created, n.CreatedAt = randomID(), 1, a.revision, now
		return n
	}
	n.UID, n.Generation, n.Created, n.CreatedAt = cur.UID, cur.Generation, cur.Created, cur.CreatedAt
	if !equalJSON(cur.Spec, n.Spec) {
		n.Generation++
	}
	return n
}

// same reports whether a write changes nothing. A copy must agree in all that its origin gave it.
func same(cur, next mesh.Resource, asCopy bool) bool {
	if cur.APIVersion != next.APIVersion || !maps.Equal(cur.Labels, next.Labels) ||
		!maps.Equal(cur.Annotations, next.Annotations) || !equalJSON(cur.Spec, next.Spec) {
		return false
	}
	return !asCopy || cur.UID == next.UID && cur.Generation == next.Generation && cur.Created == next.Created &&
		cur.Changed == next.Changed && cur.CreatedAt.Equal(next.CreatedAt) && cur.ChangedAt.Equal(next.ChangedAt)
}

// equalJSON compares without regard to white space; specs are small, and most are equal bytes.
func equalJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

func (a *application) put(next mesh.Resource, before []byte) error {
	body, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	labels, err := json.Marshal(next.Labels)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	if next.Labels == nil {
		labels = []byte("{}")
	}
	err = a.tx.modify(`INSERT INTO resources VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET revision = excluded.revision, created_at = excluded.created_at, labels = excluded.labels, body = excluded.body`,
		string(next.Origin), string(next.Kind), next.Namespace, next.Name, int64(next.Revision), next.CreatedAt.UnixMicro(), string(labels), body)
	if err != nil {
		return err
	}
	return a.log(next, false, before, body)
}

func (a *application) delete(cur mesh.Resource, body []byte, w store.Write) error {
	err := a.tx.modify("DELETE FROM resources WHERE origin = ? AND kind = ? AND namespace = ? AND name = ?",
		string(cur.Origin), string(cur.Kind), cur.Namespace, cur.Name)
	if err != nil {
		return err
	}
	// The log says which revision of the origin deleted it.
	if cur.Changed = a.revision; w.Copy && w.Resource.Changed != 0 {
		cur.Changed = w.Resource.Changed
	}
	return a.log(cur, true, body, nil)
}

// log writes the change and the history of one resource.
func (a *application) log(res mesh.Resource, deleted bool, before, after []byte) error {
	seq := len(a.changes)
	a.changes = append(a.changes, store.Change{Resource: res, Deleted: deleted})
	body := after
	if deleted {
		var err error
		if body, err = json.Marshal(res); err != nil {
			return fmt.Errorf("%w: %w", store.ErrInvalid, err)
		}
	}
	if err := a.tx.modify("INSERT INTO changes VALUES (?, ?, ?, ?)", int64(a.revision), seq, deleted, body); err != nil {
		return err
	}
	b := a.batch
	return a.tx.modify("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		string(res.Origin), string(res.Kind), res.Namespace, res.Name, int64(a.revision), seq, a.tx.now,
		b.Actor, b.Source, b.Reason, b.IdempotencyKey, before, after)
}

// replay answers from the idempotency key if it was used.
func (a *application) replay(hash []byte) (bool, error) {
	var had, result []byte
	found, err := a.tx.row("SELECT hash, result FROM idempotency WHERE key = ? AND at > ?",
		[]any{a.batch.IdempotencyKey, a.tx.now - keepIdempotencyKeys.Microseconds()}, &had, &result)
	if err != nil || !found {
		return false, err
	}
	if !bytes.Equal(had, hash) {
		return false, store.ErrIdempotencyMismatch
	}
	if err := json.Unmarshal(result, &a.result); err != nil {
		return false, fmt.Errorf("idempotency record: %w", err)
	}
	a.result.Replayed = true
	return true, nil
}

func (a *application) remember(hash []byte) error {
	result, err := json.Marshal(a.result)
	if err != nil {
		return err
	}
	if err := a.tx.modify("DELETE FROM idempotency WHERE at <= ?", a.tx.now-keepIdempotencyKeys.Microseconds()); err != nil {
		return err
	}
	return a.tx.modify("INSERT INTO idempotency VALUES (?, ?, ?, ?)", a.batch.IdempotencyKey, hash, a.tx.now, result)
}

// batchHash tells one request from another. Who asks is part of it: a key is no way to read
// another's result.
func batchHash(b store.Batch) ([]byte, error) {
	data, err := json.Marshal(struct {
		Writes []store.Write
		Actor  string
	}{b.Writes, b.Actor})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	sum := sha256.Sum256(data)
	return sum[:], nil
}

func (tx *txn) current(k mesh.Key) (*mesh.Resource, []byte, error) {
	var body []byte
	found, err := tx.row("SELECT body FROM resources WHERE origin = ? AND kind = ? AND namespace = ? AND name = ?",
		[]any{string(k.Origin), string(k.Kind), k.Namespace, k.Name}, &body)
	if err != nil || !found {
		return nil, nil, err
	}
	res, err := decode(body)
	return &res, body, err
}

func decode(body []byte) (mesh.Resource, error) {
	var r mesh.Resource
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("%w: a stored resource can't be read: %w", store.ErrUnavailable, err)
	}
	return r, nil
}

func checkKey(k mesh.Key) error {
	if k.Origin == "" || k.Kind == "" || k.Name == "" {
		return fmt.Errorf("%w: key %q needs origin, kind and name", store.ErrInvalid, k)
	}
	for _, part := range [...]string{string(k.Origin), string(k.Kind), k.Namespace, k.Name} {
		if strings.Contains(part, "/") || len(part) > 512 {
			return fmt.Errorf("%w: a part of key %.100q is too long or has a slash", store.ErrInvalid, k)
		}
	}
	return nil
}

func fromMicro(us int64) time.Time { return time.UnixMicro(us).UTC() }
