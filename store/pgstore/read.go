package pgstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/engine"
)

// read runs a read, and once more if its connection turns out to be dead: reading twice does no harm. pgx.ErrNoRows
// comes back as it is, everything else as an error of the contract.
func (s *Store) read(ctx context.Context, f func(ctx context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := f(ctx)
	if err != nil && ctx.Err() == nil && broken(err) {
		s.readers.Reset() // the others have died with it
		err = f(ctx)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return err
	}
	if err != nil && s.running.Err() != nil {
		return store.ErrClosed
	}
	return classify(ctx, err)
}

// broken reports an error that is not Postgres' word about the statement.
func broken(err error) bool {
	if errors.Is(err, pgx.ErrNoRows) {
		return false
	}
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return !ok || pe.Code[:2] == "57" // it shuts down, or was told to end this connection
}

// standing reads the counter's row.
func (s *Store) standing(ctx context.Context) (now standing, err error) {
	for range 2 {
		known := s.hub.Cursor()
		err = s.read(ctx, func(ctx context.Context) error {
			return s.readers.QueryRow(ctx, standingSQL).Scan(now.into()...)
		})
		if errors.Is(err, pgx.ErrNoRows) {
			return now, fmt.Errorf("%w: its counter is missing; it is being restored, or was not migrated", store.ErrUnavailable)
		}
		if err != nil || now.check(known) == nil {
			return now, err
		}
		// Restored under our connections: a new one notices.
		s.readers.Reset()
	}
	return now, fmt.Errorf("%w: %w", store.ErrUnavailable, errAnotherLife)
}

// Head implements store.Store.
func (s *Store) Head(ctx context.Context) (mesh.Cursor, error) {
	now, err := s.standing(ctx)
	if err != nil {
		return mesh.Cursor{}, fmt.Errorf("head: %w", err)
	}
	return now.at, nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, k mesh.Key) (mesh.Resource, error) {
	if err := engine.CheckKey(k); err != nil {
		return mesh.Resource{}, fmt.Errorf("get: %w", err)
	}
	var body []byte
	err := s.read(ctx, func(ctx context.Context) error {
		return s.readers.QueryRow(ctx, "SELECT body FROM resources WHERE origin = $1 AND kind = $2 AND namespace = $3 AND name = $4",
			string(k.Origin), string(k.Kind), k.Namespace, k.Name).Scan(&body)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = store.ErrNotFound
	}
	if err != nil {
		return mesh.Resource{}, fmt.Errorf("get %s: %w", k, err)
	}
	return engine.Decode(body)
}

var dialect = engine.Dialect{
	Contains: "strpos(name, ?) > 0",
	Label:    "labels @> jsonb_build_object(?::text, ?::text)",
}

// numbered writes each question mark as the number of its value.
func numbered(query string) string {
	parts := strings.Split(query, "?")
	var b strings.Builder
	b.WriteString(parts[0])
	for i, p := range parts[1:] {
		b.WriteString("$" + strconv.Itoa(i+1) + p)
	}
	return b.String()
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, q store.Query) (store.Page, error) {
	page, err := s.list(ctx, q)
	if err != nil {
		return store.Page{}, fmt.Errorf("list: %w", err)
	}
	return page, nil
}

func (s *Store) list(ctx context.Context, q store.Query) (store.Page, error) {
	plan, err := engine.PlanList(q, dialect)
	if err != nil {
		return store.Page{}, err
	}
	var now standing
	var bodies [][]byte
	err = s.read(ctx, func(ctx context.Context) error {
		// Two statements of one snapshot, so that the cursor belongs to exactly these rows.
		tx, err := s.readers.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx) //nolint:errcheck // a read has nothing to lose
		var b pgx.Batch
		b.Queue(standingSQL).QueryRow(func(row pgx.Row) error { return row.Scan(now.into()...) })
		b.Queue(numbered(plan.SQL), plan.Args...).Query(func(rows pgx.Rows) (err error) {
			bodies, err = pgx.CollectRows(rows, pgx.RowTo[[]byte])
			return err
		})
		return tx.SendBatch(ctx, &b).Close()
	})
	if err != nil {
		return store.Page{}, err
	}
	return plan.Page(now.at, bodies)
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, from mesh.Cursor) (store.Watcher, error) {
	w, err := s.hub.Watch(ctx, from)
	if errors.Is(err, store.ErrFuture) || errors.Is(err, store.ErrIncarnation) {
		// Another replica may have committed what this one was not told of yet.
		if err := s.catchUp(ctx); err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		w, err = s.hub.Watch(ctx, from)
	}
	return w, err
}

// catchUpMaximum is how many commits a replica that is behind reads for all of its watchers at once. Where it is
// further behind, each reads for itself.
const catchUpMaximum = 256

// catchUp makes known what other replicas have committed.
func (s *Store) catchUp(ctx context.Context) error {
	now, err := s.standing(ctx)
	if err != nil {
		return err
	}
	s.stand(now)
	known := s.hub.Cursor()
	if known.Incarnation != now.at.Incarnation || known.Revision >= now.at.Revision {
		return nil
	}
	from := known.Revision
	if now.at.Revision-from > catchUpMaximum {
		from = now.at.Revision - catchUpMaximum
	}
	commits, err := s.readCommits(ctx, from, catchUpMaximum)
	if errors.Is(err, store.ErrCompacted) {
		// All of it was compacted meanwhile: only the number is left to tell.
		s.hub.Advance(now.at)
		return nil
	}
	if err != nil {
		return err
	}
	s.hub.Publish(commits)
	return nil
}

// readCommits reads up to n commits after `after`, for watchers.
func (s *Store) readCommits(ctx context.Context, after mesh.Revision, n int) ([]store.Commit, error) {
	var out []store.Commit
	err := s.read(ctx, func(ctx context.Context) error {
		out = nil
		rows, err := s.readers.Query(ctx, `SELECT m.incarnation, c.revision, c.at, c.actor, ch.deleted, ch.body
			FROM meta AS m, commits AS c JOIN changes AS ch ON ch.revision = c.revision
			WHERE c.revision > $1 AND c.revision <= $2 ORDER BY c.revision, ch.seq`, int64(after), int64(after)+int64(n))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var c store.Commit
			var ch store.Change
			var at int64
			var body []byte
			if err := rows.Scan(&c.Cursor.Incarnation, &c.Cursor.Revision, &at, &c.Actor, &ch.Deleted, &body); err != nil {
				return err
			}
			if ch.Resource, err = engine.Decode(body); err != nil {
				return err
			}
			c.At = engine.FromMicro(at)
			if len(out) == 0 || out[len(out)-1].Cursor != c.Cursor {
				out = append(out, c)
			}
			last := &out[len(out)-1]
			last.Changes = append(last.Changes, ch)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
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
	var out []store.HistoryEntry
	err := s.read(ctx, func(ctx context.Context) error {
		out = []store.HistoryEntry{}
		rows, err := s.readers.Query(ctx, `SELECT revision, at, actor, source, reason, request_id, before, after FROM history
			WHERE origin = $1 AND kind = $2 AND namespace = $3 AND name = $4 AND revision < $5 ORDER BY revision DESC, seq DESC LIMIT $6`,
			string(k.Origin), string(k.Kind), k.Namespace, k.Name, int64(before), limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e store.HistoryEntry
			var at int64
			var was, is []byte
			if err := rows.Scan(&e.Revision, &at, &e.Actor, &e.Source, &e.Reason, &e.RequestID, &was, &is); err != nil {
				return err
			}
			e.At = engine.FromMicro(at)
			if e.Before, err = optional(was); err != nil {
				return err
			}
			if e.After, err = optional(is); err != nil {
				return err
			}
			out = append(out, e)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("history of %s: %w", k, err)
	}
	return out, nil
}

// optional decodes what may be absent.
func optional(body []byte) (*mesh.Resource, error) {
	if body == nil {
		return nil, nil // absent is an answer
	}
	r, err := engine.Decode(body)
	return &r, err
}
