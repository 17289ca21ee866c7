package pgstore

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/engine"
)

// applyCall is one Apply on its way to the writing goroutine.
type applyCall struct {
	pending
	batch  store.Batch
	hash   []byte // nil: the result is not remembered
	result store.Result
}

func (c *applyCall) size() int {
	n := 0
	for _, w := range c.batch.Writes {
		n += 512 + len(w.Resource.Spec)
	}
	return n
}

// Apply implements store.Store. HistoryEntry.RequestID is the batch's idempotency key.
func (s *Store) Apply(ctx context.Context, b store.Batch) (store.Result, error) {
	if err := engine.CheckBatch(b); err != nil {
		return store.Result{}, fmt.Errorf("apply: %w", err)
	}
	hash, err := engine.BatchHash(b)
	if err != nil {
		return store.Result{}, fmt.Errorf("apply: %w", err)
	}
	c := &applyCall{pending: pending{ctx: ctx, done: make(chan struct{})}, batch: b, hash: hash}
	if err := s.applies.do(&c.pending, c); err != nil {
		return store.Result{}, fmt.Errorf("apply: %w", err)
	}
	return c.result, nil
}

// memory is a remembered result.
type memory struct{ hash, result []byte }

// group is one transaction of applies.
type group struct {
	now      standing
	at       int64 // microseconds
	current  map[mesh.Key]engine.Document
	memories map[string]memory

	commits []store.Commit
	changed map[mesh.Key]engine.Effect // the last of each
	rows    rows
	// remembered are those of this group.
	remembered []string
}

// applyGroup commits applies in one transaction.
func (s *Store) applyGroup(ctx context.Context, conn *pgx.Conn, calls []*applyCall) ([]error, error) {
	g := &group{at: s.now().UnixMicro(), current: map[mesh.Key]engine.Document{}, memories: map[string]memory{}, changed: map[mesh.Key]engine.Effect{}}
	known := s.hub.Cursor()
	if err := begin(ctx, conn, g.read(calls)); err != nil {
		return nil, err
	}
	if err := g.now.check(known); err != nil {
		return nil, err
	}
	s.stand(g.now)
	errs := make([]error, len(calls))
	for i, c := range calls {
		if errs[i] = g.decide(c); errs[i] != nil {
			c.result = store.Result{}
		}
	}
	if len(g.commits) == 0 && len(g.remembered) == 0 {
		_, err := conn.Exec(ctx, "ROLLBACK")
		return errs, err
	}
	if err := send(ctx, conn, g.write()); err != nil {
		return nil, err
	}
	s.publish(ctx, g.commits)
	return errs, nil
}

// publish wakes the watchers of this replica. Commits of others that it was not told of yet come first, so that its
// watchers need not all read them.
func (s *Store) publish(ctx context.Context, commits []store.Commit) {
	if len(commits) == 0 {
		return
	}
	if missing := commits[0].Cursor.Revision - s.hub.Cursor().Revision - 1; missing > 0 && missing <= catchUpMaximum {
		if before, err := s.readCommits(ctx, s.hub.Cursor().Revision, int(missing)); err == nil {
			s.hub.Publish(before)
		}
	}
	s.hub.Publish(commits)
}

// read locks the counter, which makes every replica's groups one sequence, then reads what the calls need.
func (g *group) read(calls []*applyCall) *pgx.Batch {
	keys := map[mesh.Key]struct{}{}
	var remembered []string
	for _, c := range calls {
		for _, w := range c.batch.Writes {
			keys[w.Resource.Key] = struct{}{}
		}
		if c.hash != nil {
			remembered = append(remembered, c.batch.IdempotencyKey)
		}
	}
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	b.Queue(standingSQL + " FOR NO KEY UPDATE").QueryRow(func(row pgx.Row) error { return row.Scan(g.now.into()...) })
	var k keyColumns
	for key := range maps.Keys(keys) {
		k.add(key)
	}
	b.Queue(`SELECT body FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS k (origin, kind, namespace, name)
		JOIN resources USING (origin, kind, namespace, name)`, k.args()...).Query(g.scanBodies)
	if len(remembered) > 0 {
		b.Queue("SELECT key, hash, result FROM idempotency WHERE key = ANY($1) AND at > $2",
			remembered, g.at-engine.KeepIdempotencyKeys.Microseconds()).Query(g.scanMemories)
	}
	return b
}

func (g *group) scanBodies(rows pgx.Rows) error {
	for rows.Next() {
		var body []byte
		if err := rows.Scan(&body); err != nil {
			return err
		}
		r, err := engine.Decode(body)
		if err != nil {
			return err
		}
		g.current[r.Key] = engine.Document{Resource: &r, Body: body}
	}
	return rows.Err()
}

func (g *group) scanMemories(rows pgx.Rows) error {
	for rows.Next() {
		var key string
		var m memory
		if err := rows.Scan(&key, &m.hash, &m.result); err != nil {
			return err
		}
		g.memories[key] = m
	}
	return rows.Err()
}

// decide works out one apply on top of those before it in the group.
func (g *group) decide(c *applyCall) (err error) {
	key := c.batch.IdempotencyKey
	if m, ok := g.memories[key]; ok && c.hash != nil {
		c.result, err = engine.Replay(m.hash, c.hash, m.result)
		return err
	}
	d, err := engine.Decide(c.batch, g.now.at.Revision, engine.FromMicro(g.at), func(k mesh.Key) (engine.Document, error) { return g.current[k], nil })
	if err != nil {
		return err
	}
	c.result = d.Result
	if c.hash != nil {
		result, err := json.Marshal(d.Result)
		if err != nil {
			return err
		}
		g.memories[key] = memory{c.hash, result}
		g.remembered = append(g.remembered, key)
	}
	if len(d.Effects) == 0 {
		return nil
	}
	g.now.at.Revision = d.Result.Revision
	g.commits = append(g.commits, store.Commit{Cursor: g.now.at, At: engine.FromMicro(g.at), Actor: c.batch.Actor, Changes: d.Changes()})
	for seq, e := range d.Effects {
		r := e.Change.Resource
		g.changed[r.Key] = e
		g.current[r.Key] = engine.Document{}
		if !e.Change.Deleted {
			g.current[r.Key] = engine.Document{Resource: &r, Body: e.After}
		}
		g.rows.add(g.now.at.Revision, seq, c.batch, e)
	}
	return nil
}

// keyColumns are keys as parallel arrays.
type keyColumns struct{ origin, kind, namespace, name []string }

func (k *keyColumns) add(key mesh.Key) {
	k.origin = append(k.origin, string(key.Origin))
	k.kind = append(k.kind, string(key.Kind))
	k.namespace = append(k.namespace, key.Namespace)
	k.name = append(k.name, key.Name)
}

func (k *keyColumns) args() []any { return []any{k.origin, k.kind, k.namespace, k.name} }

// rows are those of changes and history, as parallel arrays.
type rows struct {
	keyColumns
	revision                       []int64
	seq                            []int32
	deleted                        []bool
	body, before, after            [][]byte
	actor, source, reason, request []string
}

func (r *rows) add(revision mesh.Revision, seq int, b store.Batch, e engine.Effect) {
	r.keyColumns.add(e.Change.Resource.Key)
	r.revision = append(r.revision, int64(revision))
	r.seq = append(r.seq, int32(seq)) //nolint:gosec // of one batch
	r.deleted = append(r.deleted, e.Change.Deleted)
	r.body = append(r.body, e.Body)
	r.before = append(r.before, e.Before)
	r.after = append(r.after, e.After)
	r.actor = append(r.actor, b.Actor)
	r.source = append(r.source, b.Source)
	r.reason = append(r.reason, b.Reason)
	r.request = append(r.request, b.IdempotencyKey)
}

// write writes what was decided, wakes the other replicas, and commits, in one round trip.
func (g *group) write() *pgx.Batch {
	b := &pgx.Batch{}
	if len(g.commits) > 0 {
		g.writeCommits(b)
	}
	if len(g.remembered) > 0 {
		var hashes, results [][]byte
		for _, key := range g.remembered {
			hashes = append(hashes, g.memories[key].hash)
			results = append(results, g.memories[key].result)
		}
		b.Queue("DELETE FROM idempotency WHERE at <= $1", g.at-engine.KeepIdempotencyKeys.Microseconds())
		b.Queue("INSERT INTO idempotency SELECT key, hash, $4, result FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS m (key, hash, result)",
			g.remembered, hashes, results, g.at)
	}
	b.Queue("COMMIT")
	return b
}

func (g *group) writeCommits(b *pgx.Batch) {
	var revisions []int64
	var actors []string
	for _, c := range g.commits {
		revisions = append(revisions, int64(c.Cursor.Revision))
		actors = append(actors, c.Actor)
	}
	b.Queue("INSERT INTO commits SELECT revision, $3, actor FROM unnest($1::bigint[], $2::text[]) AS c (revision, actor)", revisions, actors, g.at)
	r := &g.rows
	b.Queue("INSERT INTO changes SELECT * FROM unnest($1::bigint[], $2::integer[], $3::boolean[], $4::bytea[])", r.revision, r.seq, r.deleted, r.body)
	b.Queue(`INSERT INTO history SELECT origin, kind, namespace, name, revision, seq, $13, actor, source, reason, request, before, after
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::integer[],
			$7::text[], $8::text[], $9::text[], $10::text[], $11::bytea[], $12::bytea[])
		AS h (origin, kind, namespace, name, revision, seq, actor, source, reason, request, before, after)`,
		append(r.args(), r.revision, r.seq, r.actor, r.source, r.reason, r.request, r.before, r.after, g.at)...)
	var gone, kept keyColumns
	var revision, created []int64
	var labels []string
	var bodies [][]byte
	for key, e := range g.changed {
		if e.Change.Deleted {
			gone.add(key)
			continue
		}
		kept.add(key)
		revision = append(revision, int64(e.Change.Resource.Revision))
		created = append(created, e.Change.Resource.CreatedAt.UnixMicro())
		labels = append(labels, string(e.Labels))
		bodies = append(bodies, e.After)
	}
	if len(gone.name) > 0 {
		b.Queue(`DELETE FROM resources USING unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS k (origin, kind, namespace, name)
			WHERE resources.origin = k.origin AND resources.kind = k.kind AND resources.namespace = k.namespace AND resources.name = k.name`, gone.args()...)
	}
	if len(kept.name) > 0 {
		b.Queue(`INSERT INTO resources SELECT origin, kind, namespace, name, revision, created, labels::jsonb, body
			FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::text[], $8::bytea[])
			AS k (origin, kind, namespace, name, revision, created, labels, body)
			ON CONFLICT (origin, kind, namespace, name) DO UPDATE SET revision = excluded.revision, created_at = excluded.created_at,
				labels = excluded.labels, body = excluded.body`, append(kept.args(), revision, created, labels, bodies)...)
	}
	b.Queue("UPDATE meta SET head = $1", int64(g.now.at.Revision))
	b.Queue("SELECT pg_notify($1, $2)", channelRevisions, strconv.FormatUint(uint64(g.now.at.Revision), 10))
}
