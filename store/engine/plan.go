package engine

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Dialect is how a database says what SQL has no common words for. A question mark stands for a value.
type Dialect struct {
	Contains string // the column name contains a value
	Label    string // the column labels has a key (the first value) with a value (the second)
}

// Plan is one page of a list as a statement over the table
//
//	resources (origin, kind, namespace, name, revision, created_at, labels, body)
//
// It selects body, in order, of one row more than the page holds.
type Plan struct {
	SQL  string
	Args []any

	query store.Query
	after *position // nil on the first page
}

// position is what a continue token holds: whose query it is, the cursor of the first page, and the
// sort columns of the last row.
type position struct {
	Query  []byte      `json:"q"`
	Cursor mesh.Cursor `json:"c"`
	Number int64       `json:"n,omitempty"`
	Key    mesh.Key    `json:"k"`
}

// PlanList checks a query and plans it; store.ErrInvalid says what is wrong with it.
func PlanList(q store.Query, d Dialect) (Plan, error) {
	if q.Limit == 0 {
		q.Limit = 100
	}
	if err := CheckLimit(q.Limit); err != nil {
		return Plan{}, err
	}
	if err := checkQuery(q); err != nil {
		return Plan{}, err
	}
	p := Plan{query: q}
	if q.Continue != "" {
		raw, err := base64.RawURLEncoding.DecodeString(q.Continue)
		p.after = &position{}
		if err != nil || json.Unmarshal(raw, p.after) != nil {
			return Plan{}, fmt.Errorf("%w: not a continue token", store.ErrInvalid)
		}
		if string(p.after.Query) != string(queryHash(q)) {
			return Plan{}, fmt.Errorf("%w: the continue token belongs to another query", store.ErrInvalid)
		}
		if err := CheckKey(p.after.Key); err != nil {
			return Plan{}, err
		}
	}
	return p, p.build(d)
}

// checkQuery returns store.ErrInvalid for a query of what is no text.
func checkQuery(q store.Query) error {
	list := []string{string(q.Origin), string(q.Kind), q.Namespace, q.Name, q.Contains}
	for k, v := range q.Labels {
		list = append(list, k, v)
	}
	return CheckText(list...)
}

// CheckLimit returns store.ErrInvalid for a page of no size.
func CheckLimit(n int) error {
	if n < 1 || n > 1000 {
		return fmt.Errorf("%w: limit %d is not from 1 to 1000", store.ErrInvalid, n)
	}
	return nil
}

func (p *Plan) build(d Dialect) error {
	q := p.query
	var where []string
	add := func(clause string, values ...any) {
		where = append(where, clause)
		p.Args = append(p.Args, values...)
	}
	for _, c := range []struct{ column, value string }{
		{"origin", string(q.Origin)}, {"kind", string(q.Kind)}, {"namespace", q.Namespace}, {"name", q.Name},
	} {
		if c.value != "" {
			add(c.column+" = ?", c.value)
		}
	}
	if q.Contains != "" {
		add(d.Contains, q.Contains)
	}
	for _, k := range slices.Sorted(maps.Keys(q.Labels)) {
		add(d.Label, k, q.Labels[k])
	}
	after := p.after
	if after == nil {
		after = &position{} // its values are not used
	}
	byKey := []string{"origin", "kind", "namespace", "name"}
	key := []any{string(after.Key.Origin), string(after.Key.Kind), after.Key.Namespace, after.Key.Name}
	var columns []string
	var values []any
	switch q.Sort {
	case store.SortKey:
		columns, values = byKey, key
	case store.SortName:
		columns, values = []string{"name", "origin", "kind", "namespace"}, []any{key[3], key[0], key[1], key[2]}
	case store.SortChanged:
		columns, values = append([]string{"revision"}, byKey...), append([]any{after.Number}, key...)
	case store.SortCreated:
		columns, values = append([]string{"created_at"}, byKey...), append([]any{after.Number}, key...)
	default:
		return fmt.Errorf("%w: there is no sort %q", store.ErrInvalid, q.Sort)
	}
	op, dir := ">", ""
	if q.Desc {
		op, dir = "<", " DESC"
	}
	if p.after != nil {
		marks := strings.TrimSuffix(strings.Repeat("?, ", len(values)), ", ")
		add("("+strings.Join(columns, ", ")+") "+op+" ("+marks+")", values...)
	}
	p.SQL = "SELECT body FROM resources"
	if len(where) > 0 {
		p.SQL += " WHERE " + strings.Join(where, " AND ")
	}
	p.SQL += " ORDER BY " + strings.Join(columns, dir+", ") + dir + " LIMIT ?"
	p.Args = append(p.Args, q.Limit+1)
	return nil
}

// Page makes the page of what the statement selected in a store that stood at the cursor: store.ErrIncarnation if the
// page before was of another life.
func (p *Plan) Page(at mesh.Cursor, bodies [][]byte) (store.Page, error) {
	page := store.Page{Items: make([]mesh.Resource, 0, len(bodies)), Cursor: at}
	if p.after != nil {
		if p.after.Cursor.Incarnation != at.Incarnation {
			return store.Page{}, store.ErrIncarnation
		}
		page.Cursor = p.after.Cursor
	}
	more := len(bodies) > p.query.Limit
	for _, body := range bodies[:min(len(bodies), p.query.Limit)] {
		r, err := Decode(body)
		if err != nil {
			return store.Page{}, err
		}
		page.Items = append(page.Items, r)
	}
	if more {
		page.Continue = token(p.query, page)
	}
	return page, nil
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
