package pgstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/engine"
)

// putCall is one PutRecords on its way to the writing goroutine.
type putCall struct {
	pending
	bucket   string
	writes   []store.RecordWrite
	sequence int64
}

func (c *putCall) size() int {
	n := 0
	for _, w := range c.writes {
		n += len(w.Key) + len(w.Value)
	}
	return n
}

// PutRecords implements store.Records. Without writes it returns the bucket's sequence.
func (s *Store) PutRecords(ctx context.Context, bucket string, writes ...store.RecordWrite) (uint64, error) {
	if err := engine.CheckRecords(bucket, writes); err != nil {
		return 0, fmt.Errorf("put records in %s: %w", bucket, err)
	}
	c := &putCall{pending: pending{ctx: ctx, done: make(chan struct{})}, bucket: bucket, writes: writes}
	if err := s.puts.do(&c.pending, c); err != nil {
		return 0, fmt.Errorf("put records in %s: %w", bucket, err)
	}
	return uint64(c.sequence), nil
}

type recordKey struct{ bucket, key string }

// putGroup is one transaction of records.
type putGroup struct {
	at        int64 // microseconds
	sequences map[string]int64
	versions  map[recordKey]int64 // of those that a call has a condition for; then of what was written
	written   map[recordKey]*store.RecordWrite
	touched   map[string]struct{}
}

// putGroup commits records in one transaction.
func (s *Store) putGroup(ctx context.Context, conn *pgx.Conn, calls []*putCall) ([]error, error) {
	g := &putGroup{
		at: s.now().UnixMicro(), sequences: map[string]int64{}, versions: map[recordKey]int64{},
		written: map[recordKey]*store.RecordWrite{}, touched: map[string]struct{}{},
	}
	if err := begin(ctx, conn, g.read(calls)); err != nil {
		return nil, err
	}
	errs := make([]error, len(calls))
	for i, c := range calls {
		errs[i] = g.put(c)
	}
	if len(g.touched) == 0 {
		_, err := conn.Exec(ctx, "ROLLBACK")
		return errs, err
	}
	if err := send(ctx, conn, g.write()); err != nil {
		return nil, err
	}
	s.hub.Touch(g.touched)
	return errs, nil
}

// read locks the buckets, in order, so that no two groups wait for each other, then reads what the calls need. A
// bucket that is new gets its row first.
func (g *putGroup) read(calls []*putCall) *pgx.Batch {
	buckets := map[string]struct{}{}
	var inBucket, keys []string
	for _, c := range calls {
		buckets[c.bucket] = struct{}{}
		for _, w := range c.writes {
			if w.IfVersion != nil {
				inBucket, keys = append(inBucket, c.bucket), append(keys, w.Key)
			}
		}
	}
	sorted := slices.Sorted(maps.Keys(buckets))
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	b.Queue(`INSERT INTO buckets SELECT b, 0 FROM unnest($1::text[]) AS b WHERE NOT EXISTS (SELECT FROM buckets WHERE bucket = b)
		ORDER BY b ON CONFLICT DO NOTHING`, sorted)
	b.Queue("SELECT bucket, sequence FROM buckets WHERE bucket = ANY($1) ORDER BY bucket FOR NO KEY UPDATE", sorted).Query(func(rows pgx.Rows) error {
		var bucket string
		var sequence int64
		_, err := pgx.ForEachRow(rows, []any{&bucket, &sequence}, func() error {
			g.sequences[bucket] = sequence
			return nil
		})
		return err
	})
	if len(keys) > 0 {
		b.Queue("SELECT bucket, key, version FROM unnest($1::text[], $2::text[]) AS k (bucket, key) JOIN records USING (bucket, key)", inBucket, keys).Query(func(rows pgx.Rows) error {
			var k recordKey
			var version int64
			_, err := pgx.ForEachRow(rows, []any{&k.bucket, &k.key, &version}, func() error {
				g.versions[k] = version
				return nil
			})
			return err
		})
	}
	return b
}

// put works out one call on top of those before it in the group.
func (g *putGroup) put(c *putCall) error {
	c.sequence = g.sequences[c.bucket]
	if len(c.writes) == 0 {
		return nil
	}
	// A call may name a key twice: then the second sees the first.
	sequence, before := c.sequence+1, maps.Clone(g.versions)
	for _, w := range c.writes {
		k := recordKey{c.bucket, w.Key}
		if err := engine.CheckVersion(w, uint64(g.versions[k])); err != nil {
			g.versions = before
			return err
		}
		if g.versions[k] = sequence; w.Delete {
			g.versions[k] = 0
		}
	}
	for _, w := range c.writes {
		g.written[recordKey{c.bucket, w.Key}] = &w
	}
	c.sequence, g.sequences[c.bucket] = sequence, sequence
	g.touched[c.bucket] = struct{}{}
	return nil
}

// write writes what was decided and commits, in one round trip. The other replicas are told after the commit: a
// notification inside of it would hold a lock on the whole database until the disk has it.
func (g *putGroup) write() *pgx.Batch {
	var gone, kept struct{ bucket, key []string }
	var values [][]byte
	var versions []int64
	for k, w := range g.written {
		if w.Delete {
			gone.bucket, gone.key = append(gone.bucket, k.bucket), append(gone.key, k.key)
			continue
		}
		kept.bucket, kept.key = append(kept.bucket, k.bucket), append(kept.key, k.key)
		value := w.Value
		if value == nil {
			value = []byte{} // NULL is not the same as nothing
		}
		values, versions = append(values, value), append(versions, g.versions[k])
	}
	buckets := slices.Sorted(maps.Keys(g.touched))
	sequences := make([]int64, len(buckets))
	for i, bucket := range buckets {
		sequences[i] = g.sequences[bucket]
	}
	b := &pgx.Batch{}
	b.Queue("UPDATE buckets SET sequence = n.sequence FROM unnest($1::text[], $2::bigint[]) AS n (bucket, sequence) WHERE buckets.bucket = n.bucket", buckets, sequences)
	if len(gone.key) > 0 {
		b.Queue("DELETE FROM records USING unnest($1::text[], $2::text[]) AS k (bucket, key) WHERE records.bucket = k.bucket AND records.key = k.key", gone.bucket, gone.key)
	}
	if len(kept.key) > 0 {
		b.Queue(`INSERT INTO records SELECT bucket, key, value, version, $5
			FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[]) AS r (bucket, key, value, version)
			ON CONFLICT (bucket, key) DO UPDATE SET value = excluded.value, version = excluded.version, updated_at = excluded.updated_at`,
			kept.bucket, kept.key, values, versions, g.at)
	}
	b.Queue("COMMIT")
	b.Queue("SELECT pg_notify($1, bucket) FROM unnest($2::text[]) AS bucket", channelRecords, buckets)
	return b
}

// GetRecord implements store.Records.
func (s *Store) GetRecord(ctx context.Context, bucket, key string) (store.Record, error) {
	if err := engine.CheckText(bucket, key); err != nil {
		return store.Record{}, fmt.Errorf("get a record: %w", err)
	}
	r := store.Record{Key: key}
	err := s.read(ctx, func(ctx context.Context) error {
		var at int64
		err := s.readers.QueryRow(ctx, "SELECT value, version, updated_at FROM records WHERE bucket = $1 AND key = $2", bucket, key).Scan(&r.Value, &r.Version, &at)
		r.UpdatedAt = engine.FromMicro(at)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Record{}, fmt.Errorf("record %s in %s: %w", key, bucket, err)
	}
	return r, nil
}

// ListRecords implements store.Records.
func (s *Store) ListRecords(ctx context.Context, bucket, prefix string) (out []store.Record, sequence uint64, err error) {
	if err := engine.CheckText(bucket, prefix); err != nil {
		return nil, 0, fmt.Errorf("list records: %w", err)
	}
	err = s.read(ctx, func(ctx context.Context) error {
		out, sequence = []store.Record{}, 0
		// One statement, so that the sequence is of the same moment as the records.
		rows, err := s.readers.Query(ctx, `SELECT b.sequence, r.key, r.value, r.version, r.updated_at
			FROM buckets AS b LEFT JOIN records AS r ON r.bucket = b.bucket AND r.key ^@ $2 WHERE b.bucket = $1 ORDER BY r.key`, bucket, prefix)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var key *string
			var version, at *int64
			var r store.Record
			if err := rows.Scan(&sequence, &key, &r.Value, &version, &at); err != nil {
				return err
			}
			if key == nil {
				continue // there are none
			}
			r.Key, r.Version, r.UpdatedAt = *key, uint64(*version), engine.FromMicro(*at)
			out = append(out, r)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, 0, fmt.Errorf("records in %s: %w", bucket, err)
	}
	return out, sequence, nil
}

// WatchRecords implements store.Records.
func (s *Store) WatchRecords(ctx context.Context, prefix string) <-chan struct{} {
	return s.hub.WatchRecords(ctx, prefix)
}
