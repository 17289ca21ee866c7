package sqlitestore

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Head implements store.Store.
func (s *Store) Head(ctx context.Context) (mesh.Cursor, error) {
	if err := ctx.Err(); err != nil {
		return mesh.Cursor{}, err
	}
	return s.hub.cursor(), nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, k mesh.Key) (mesh.Resource, error) {
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
	return decode(body)
}

// failed is the error of a read: that of the context, when that is why.
func failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return classify(err)
}

// position is what a continue token holds: whose query it is, the cursor of the first page, and the
// sort columns of the last row.
type position struct {
	Query  []byte      `json:"q"`
	Cursor mesh.Cursor `json:"c"`
	Number int64       `json:"n,omitempty"`
	Key    mesh.Key    `json:"k"`
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
	if q.Limit == 0 {
		q.Limit = 100
	}
	if q.Limit < 1 || q.Limit > 1000 {
		return store.Page{}, fmt.Errorf("%w: limit %d is not from 1 to 1000", store.ErrInvalid, q.Limit)
	}
	after, err := s.position(q)
	if err != nil {
		return store.Page{}, err
	}
	query, args, err := listSQL(q, after)
	if err != nil {
		return store.Page{}, err
	}
	tx, err := s.readers.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return store.Page{}, failed(ctx, err)
	}
	defer func() {
		// A read has nothing to lose; the error is that of a connection already gone.
		_ = tx.Rollback() // see above
	}()
	var page store.Page
	var head int64
	// The first statement fixes the snapshot, so the cursor belongs to exactly these rows.
	if err := tx.QueryRowContext(ctx, "SELECT incarnation, head FROM meta").Scan((*string)(&page.Cursor.Incarnation), &head); err != nil {
		return store.Page{}, failed(ctx, err)
	}
	page.Cursor.Revision = mesh.Revision(head)
	if after != nil {
		page.Cursor = after.Cursor
	}
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return store.Page{}, failed(ctx, err)
	}
	defer rows.Close()
	page.Items = []mesh.Resource{}
	for rows.Next() {
		var body []byte
		if err := rows.Scan(&body); err != nil {
			return store.Page{}, failed(ctx, err)
		}
		r, err := decode(body)
		if err != nil {
			return store.Page{}, err
		}
		page.Items = append(page.Items, r)
	}
	if err := rows.Err(); err != nil {
		return store.Page{}, failed(ctx, err)
	}
	if len(page.Items) > q.Limit {
		page.Items = page.Items[:q.Limit]
		page.Continue = token(q, page)
	}
	return page, nil
}

// position reads Query.Continue; nil on the first page.
func (s *Store) position(q store.Query) (*position, error) {
	if q.Continue == "" {
		return nil, nil // no position is a position: the start
	}
	var p position
	raw, err := base64.RawURLEncoding.DecodeString(q.Continue)
	if err != nil || json.Unmarshal(raw, &p) != nil {
		return nil, fmt.Errorf("%w: not a continue token", store.ErrInvalid)
	}
	if string(p.Query) != string(queryHash(q)) {
		return nil, fmt.Errorf("%w: the continue token belongs to another query", store.ErrInvalid)
	}
	if p.Cursor.Incarnation != s.hub.cursor().Incarnation {
		return nil, store.ErrIncarnation
	}
	return &p, nil
}

func token(q store.Query, page store.Page) string {
	last := page.Items[len(page.Items)-1]
	p := position{Query: queryHash(q), Cursor: page.Cursor, Key: last.Key}
	switch q.Sort {
	case store.SortChanged:
		p.Number = int64(last.Revision)
	case store.SortCreated:
		p.Number = last.CreatedAt.UnixMicro()
	case store.SortKey, store.SortName:
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// queryHash is of everything but the page.
func queryHash(q store.Query) []byte {
	q.Continue, q.Limit = "", 0
	raw, err := json.Marshal(q)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(raw)
	return sum[:12]
}

// listSQL builds the statement. It asks for one row more than the page, to know whether there is one.
func listSQL(q store.Query, after *position) (query string, args []any, err error) {
	var where []string
	add := func(clause string, values ...any) {
		where = append(where, clause)
		args = append(args, values...)
	}
	for _, c := range []struct{ column, value string }{
		{"origin", string(q.Origin)}, {"kind", string(q.Kind)}, {"namespace", q.Namespace}, {"name", q.Name},
	} {
		if c.value != "" {
			add(c.column+" = ?", c.value)
		}
	}
	if q.Contains != "" {
		add("instr(name, ?) > 0", q.Contains)
	}
	for _, k := range sorted(q.Labels) {
		add("EXISTS (SELECT 1 FROM json_each(labels) AS l WHERE l.key = ? AND l.value = ?)", k, q.Labels[k])
	}
	var columns []string
	var values []any
	key := func(p *position) []any {
		return []any{string(p.Key.Origin), string(p.Key.Kind), p.Key.Namespace, p.Key.Name}
	}
	byKey := []string{"origin", "kind", "namespace", "name"}
	if after == nil {
		after = &position{} // its values are not used
	}
	switch q.Sort {
	case store.SortKey:
		columns, values = byKey, key(after)
	case store.SortName:
		columns, values = []string{"name", "origin", "kind", "namespace"},
			[]any{after.Key.Name, string(after.Key.Origin), string(after.Key.Kind), after.Key.Namespace}
	case store.SortChanged:
		columns, values = append([]string{"revision"}, byKey...), append([]any{after.Number}, key(after)...)
	case store.SortCreated:
		columns, values = append([]string{"created_at"}, byKey...), append([]any{after.Number}, key(after)...)
	default:
		return "", nil, fmt.Errorf("%w: there is no sort %q", store.ErrInvalid, q.Sort)
	}
	op, dir := ">", ""
	if q.Desc {
		op, dir = "<", " DESC"
	}
	if q.Continue != "" {
		marks := strings.TrimSuffix(strings.Repeat("?, ", len(values)), ", ")
		add("("+strings.Join(columns, ", ")+") "+op+" ("+marks+")", values...)
	}
	query = "SELECT body FROM resources"
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	query += " ORDER BY " + strings.Join(columns, dir+", ") + dir + " LIMIT ?"
	return query, append(args, q.Limit+1), nil
}

func sorted(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
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
		res, err := decode(body)
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		c.Cursor.Revision, c.At = mesh.Revision(revision), fromMicro(at)
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
	if limit < 1 || limit > 1000 {
		return nil, fmt.Errorf("history: %w: limit %d is not from 1 to 1000", store.ErrInvalid, limit)
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
		e.Revision, e.At = mesh.Revision(revision), fromMicro(at)
		for _, side := range []struct {
			body []byte
			into **mesh.Resource
		}{{was, &e.Before}, {is, &e.After}} {
			if side.body == nil {
				continue
			}
			r, err := decode(side.body)
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
