package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// groupMaximum is how many waiting calls one transaction may take.
const groupMaximum = 128

// request is one call that writes. run works inside a savepoint; its error undoes what it did and
// nothing else. A call that may be lost with the machine's power does not wait for the disk.
type request struct {
	ctx     context.Context // the caller's, carried to the writing goroutine
	run     func(tx *txn) error
	durable bool
	err     error
	done    chan struct{}
}

// txn is the transaction of one group of calls.
type txn struct {
	ctx      context.Context // the store's: a caller who leaves must not break the group
	compiled *statements
	now      int64
	cursor   mesh.Cursor // where the store will stand after the calls so far
	commits  []store.Commit
	buckets  map[string]struct{}
	compact  mesh.Revision
	durable  bool
	// dirty: the transaction holds something to commit.
	dirty bool
}

// do hands a call to the writing goroutine and waits for its commit. When ctx ends while the call is
// being written, whether it was is not known.
func (s *Store) do(ctx context.Context, durable bool, run func(tx *txn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &request{ctx: ctx, run: run, durable: durable, done: make(chan struct{})}
	select {
	case s.requests <- r:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.quit:
		return store.ErrClosed
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write is the writing goroutine.
func (s *Store) write() {
	for {
		select {
		case <-s.quit:
			return
		case r := <-s.requests:
			for r != nil {
				r = s.group(r)
			}
		}
	}
}

// group runs the first call and all of its durability that are waiting in one transaction. It returns the
// first call of the other durability, which ends the group.
func (s *Store) group(first *request) (next *request) {
	taken := []*request{first}
	defer func() {
		for _, r := range taken {
			close(r.done)
		}
	}()
	more := func() *request {
		if len(taken) == groupMaximum {
			return nil
		}
		select {
		case r := <-s.requests:
			if r.durable != first.durable {
				next = r
				return nil
			}
			taken = append(taken, r)
			return r
		default:
			return nil
		}
	}
	if s.transact(first, more) || len(taken) == 1 {
		return next
	}
	// The disk refused one of them, or all. Alone, each learns whether it is the one.
	for _, r := range taken {
		s.transact(r, func() *request { return nil })
	}
	return next
}

// synchronous sets whether a commit waits for the disk. Only outside a transaction.
func (s *Store) synchronous(tx *txn) error {
	if tx.durable == s.syncing {
		return nil
	}
	level := "NORMAL"
	if tx.durable {
		level = "FULL"
	}
	// A pragma acts when it is compiled: there is nothing to prepare.
	if _, err := s.conn.ExecContext(tx.ctx, "PRAGMA synchronous = "+level); err != nil {
		return classify(err)
	}
	s.syncing = tx.durable
	return nil
}

// transact runs calls in one transaction and reports whether it stands. When it does not, the disk
// failed under it, and every call has an error.
func (s *Store) transact(first *request, more func() *request) bool {
	tx := &txn{ctx: s.running, compiled: &s.prepared, now: s.now().UnixMicro(), cursor: s.hub.Cursor(), buckets: map[string]struct{}{}, durable: first.durable}
	ran := []*request{first}
	err := s.synchronous(tx)
	if err == nil {
		err = tx.exec("BEGIN IMMEDIATE")
	}
	for r := first; err == nil && r != nil; r = more() {
		if r != first {
			ran = append(ran, r)
		}
		s.runOne(tx, r)
		// SQLite may have rolled the whole transaction back by itself: nothing more can go into it.
		if errors.Is(r.err, store.ErrUnavailable) {
			err = r.err
		}
	}
	if err == nil {
		err = s.commit(tx)
	} else if undo := tx.exec("ROLLBACK"); undo != nil {
		s.log.Debug("rollback after a failure of the disk", "error", undo)
	}
	if err != nil {
		for _, r := range ran {
			if r.err == nil {
				r.err = err
			}
		}
		return false
	}
	s.hub.Publish(tx.commits)
	s.hub.Touch(tx.buckets)
	s.hub.Compact(tx.compact)
	return true
}

func (s *Store) commit(tx *txn) error {
	if !tx.dirty {
		return tx.exec("ROLLBACK")
	}
	if err := tx.exec("COMMIT"); err != nil {
		if undo := tx.exec("ROLLBACK"); undo != nil {
			s.log.Debug("rollback after a failed commit", "error", undo)
		}
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	if len(tx.commits) == 0 || !tx.durable {
		return nil // what may be lost must not count as the life's head
	}
	// The commit is safe; failing the call now would be a lie. Without the note a restore of just
	// this revision goes unseen.
	if err := s.life.write(tx.cursor.Revision); err != nil {
		s.log.Warn("the life file beside the store can't be written", "error", err)
	}
	return nil
}

func (s *Store) runOne(tx *txn, r *request) {
	if r.err = r.ctx.Err(); r.err != nil {
		return
	}
	before := *tx
	if r.err = tx.exec("SAVEPOINT one"); r.err != nil {
		return
	}
	// Only this call's buckets may be forgotten if it fails.
	tx.buckets = map[string]struct{}{}
	r.err = r.run(tx)
	if r.err == nil {
		for b := range before.buckets {
			tx.buckets[b] = struct{}{}
		}
		r.err = tx.exec("RELEASE one")
		return
	}
	*tx = before
	if errors.Is(r.err, store.ErrUnavailable) {
		return
	}
	for _, q := range []string{"ROLLBACK TO one", "RELEASE one"} {
		if err := tx.exec(q); err != nil {
			r.err = fmt.Errorf("%w: %w after %w", store.ErrUnavailable, err, r.err)
			return
		}
	}
}

func (tx *txn) exec(query string, args ...any) error {
	stmt, err := tx.compiled.of(tx.ctx, query) //nolint:sqlclosecheck // kept for the next call; the store closes it
	if err != nil {
		return classify(err)
	}
	if _, err := stmt.ExecContext(tx.ctx, args...); err != nil {
		return classify(err)
	}
	return nil
}

// modify is exec for what must be committed.
func (tx *txn) modify(query string, args ...any) error {
	tx.dirty = true
	return tx.exec(query, args...)
}

func (tx *txn) row(query string, args []any, into ...any) (found bool, err error) {
	stmt, err := tx.compiled.of(tx.ctx, query) //nolint:sqlclosecheck // kept for the next call; the store closes it
	if err != nil {
		return false, classify(err)
	}
	err = stmt.QueryRowContext(tx.ctx, args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, classify(err)
	}
	return true, nil
}

// Compact implements store.Store.
func (s *Store) Compact(ctx context.Context, upTo mesh.Revision) error {
	err := s.do(ctx, true, func(tx *txn) error {
		upTo = min(upTo, tx.cursor.Revision)
		for _, q := range []string{
			"DELETE FROM changes WHERE revision <= ?",
			"DELETE FROM commits WHERE revision <= ?",
			"UPDATE meta SET compacted = max(compacted, ?)",
		} {
			if err := tx.modify(q, int64(upTo)); err != nil {
				return err
			}
		}
		tx.compact = max(tx.compact, upTo)
		return nil
	})
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}
