package sqlitestore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/engine"
)

// Head implements store.Store.
func (s *Store) Head(ctx context.Context) (mesh.Cursor, error) {
	if err := ctx.Err(); err != nil {
		return mesh.Cursor{}, err
	}
	return s.hub.Cursor(), nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, k mesh.Key) (mesh.Resource, error) {
	if err := engine.CheckKey(k); err != nil {
		return mesh.Resource{}, fmt.Errorf("get: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return mesh.Resource{}, err
	}
	var body []byte
	// One row is there before the driver's goroutine for the context would be.
	err := s.get.QueryRowContext(context.WithoutCancel(ctx), string(k.Origin), string(k.Kind), k.Namespace, k.Name).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return mesh.Resource{}, fmt.Errorf("get %s: %w", k, store.ErrNotFound)
	}
	if err != nil {
		return mesh.Resource{}, fmt.Errorf("get %s: %w", k, failed(ctx, err))
	}
	return engine.Decode(body)
}

// failed is the error of a read: that of the context, when that is why.
func failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return classify(err)
}

var dialect = engine.Dialect{
	Contains: "instr(name, ?) > 0",
	Label:    "EXISTS (SELECT 1 FROM json_each(labels) AS l WHERE l.key = ? AND l.value = ?)",
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, q store.Query) (store.Page, error) {
	plan, err := engine.PlanList(q, dialect)
	if err != nil {
		return store.Page{}, fmt.Errorf("list: %w", err)
	}
	at, bodies, err := s.selectBodies(ctx, plan)
	if err != nil {
		return store.Page{}, fmt.Errorf("list: %w", failed(ctx, err))
	}
	page, err := plan.Page(at, bodies)
	if err != nil {
		return store.Page{}, fmt.Errorf("list: %w", err)
	}
	return page, nil
}

func (s *Store) selectBodies(ctx context.Context, plan engine.Plan) (at mesh.Cursor, bodies [][]byte, err error) {
	tx, err := s.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return at, nil, err
	}
	defer func() {
		// A read has nothing to lose; the error is that of a connection already gone.
		_ = tx.Rollback() // see above
	}()
	// The first statement fixes the snapshot, so the cursor belongs to exactly these rows.
	if err := tx.QueryRowContext(ctx, "SELECT incarnation, head FROM meta").Scan((*string)(&at.Incarnation), &at.Revision); err != nil {
		return at, nil, err
	}
	rows, err := tx.QueryContext(ctx, plan.SQL, plan.Args...)
	if err != nil {
		return at, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var body []byte
		if err := rows.Scan(&body); err != nil {
			return at, nil, err
		}
		bodies = append(bodies, body)
	}
	return at, bodies, rows.Err()
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, from mesh.Cursor) (store.Watcher, error) {
	return s.hub.Watch(ctx, from)
}

// readCommits reads up to n commits after `after` for a watcher.
func (s *Store) readCommits(ctx context.Context, after mesh.Revision, n int) ([]store.Commit, error) {
	rows, err := s.readers.QueryContext(ctx, `SELECT m.incarnation, c.revision, c.at, c.actor, ch.deleted, ch.body
		FROM meta AS m, commits AS c JOIN changes AS ch ON ch.revision = c.revision
		WHERE c.revision > ? AND c.revision <= ? ORDER BY c.revision, ch.seq`, int64(after), int64(after)+int64(n))
	if err != nil {
		return nil, fmt.Errorf("watch: %w", failed(ctx, err))
	}
	defer rows.Close()
	var out []store.Commit
	for rows.Next() {
		var c store.Commit
		var revision, at int64
		var deleted bool
		var body []byte
		if err := rows.Scan((*string)(&c.Cursor.Incarnation), &revision, &at, &c.Actor, &deleted, &body); err != nil {
			return nil, fmt.Errorf("watch: %w", failed(ctx, err))
		}
		res, err := engine.Decode(body)
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		c.Cursor.Revision, c.At = mesh.Revision(revision), engine.FromMicro(at)
		if len(out) == 0 || out[len(out)-1].Cursor != c.Cursor {
			out = append(out, c)
		}
		last := &out[len(out)-1]
		last.Changes = append(last.Changes, store.Change{Resource: res, Deleted: deleted})
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("watch: %w", failed(ctx, err))
	}
	// The log is dense, so a gap at the front is what compaction took meanwhile.
	if len(out) == 0 || out[0].Cursor.Revision != after+1 {
		return nil, store.ErrCompacted
	}
	return out, nil
}

// History implements store.Store. limit 0 means 100; before 0 means from the newest.
func (s *Store) History(ctx context.Context, k mesh.Key, limit int, before mesh.Revision) ([]store.HistoryEntry, error) {
	if limit == 0 {
		limit = 100
	}
	if err := cmp.Or(engine.CheckLimit(limit), engine.CheckKey(k)); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	if before == 0 {
		before = 1<<63 - 1
	}
	rows, err := s.readers.QueryContext(ctx, `SELECT revision, at, actor, source, reason, request_id, before, after FROM history
		WHERE origin = ? AND kind = ? AND namespace = ? AND name = ? AND revision < ? ORDER BY revision DESC, seq DESC LIMIT ?`,
		string(k.Origin), string(k.Kind), k.Namespace, k.Name, int64(before), limit)
	if err != nil {
		return nil, fmt.Errorf("history of %s: %w", k, failed(ctx, err))
	}
	defer rows.Close()
	out := []store.HistoryEntry{}
	for rows.Next() {
		var e store.HistoryEntry
		var revision, at int64
		var was, is []byte
		if err := rows.Scan(&revision, &at, &e.Actor, &e.Source, &e.Reason, &e.RequestID, &was, &is); err != nil {
			return nil, fmt.Errorf("history of %s: %w", k, failed(ctx, err))
		}
		e.Revision, e.At = mesh.Revision(revision), engine.FromMicro(at)
		for _, side := range []struct {
			body []byte
			into **mesh.Resource
		}{{was, &e.Before}, {is, &e.After}} {
			if side.body == nil {
				continue
			}
			r, err := engine.Decode(side.body)
			if err != nil {
				return nil, fmt.Errorf("history of %s: %w", k, err)
			}
			*side.into = &r
		}
		out = append(out, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("history of %s: %w", k, failed(ctx, err))
	}
	return out, nil
}
