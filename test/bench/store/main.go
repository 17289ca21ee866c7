// Store measures writes: applies of 32 clients and of one, on Postgres and on SQLite, beside pgbench writing the same
// rows to the same server in turns.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/comity-mesh/comity/internal/pgbin"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/pgstore"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

const clients = 32

// The rows of one apply that changes one resource, as pgstore writes them, in a transaction of its own. counted takes the
// revision from the one row that orders all writers, as a store must; uncounted takes any number, which no watcher could
// follow, and shows what the database does if nobody has to wait.
const (
	counted = `\set id random(1, 10000)
BEGIN;
UPDATE meta SET head = head + 1 RETURNING head \gset
` + rows
	uncounted = `\set id random(1, 10000)
\set head random(1, 1000000000000)
BEGIN;
` + rows
	rows = `INSERT INTO commits VALUES (:head, 0, 'bench');
INSERT INTO changes VALUES (:head, 0, false, convert_to(repeat('x', 600), 'UTF8'));
INSERT INTO history VALUES ('global', 'Service', 'shop', 'p' || :id, :head, 0, 0, 'bench', 'bench', '', '', convert_to(repeat('x', 600), 'UTF8'), convert_to(repeat('x', 600), 'UTF8'));
INSERT INTO resources VALUES ('global', 'Service', 'shop', 'p' || :id, :head, 0, '{}', convert_to(repeat('x', 600), 'UTF8'))
	ON CONFLICT (origin, kind, namespace, name) DO UPDATE SET revision = excluded.revision, body = excluded.body;
COMMIT;
`
)

func main() {
	turns := flag.Int("turns", 3, "turns of each")
	span := flag.Duration("for", 4*time.Second, "length of a turn")
	flag.Parse()
	if err := run(context.Background(), *turns, *span); err != nil {
		fmt.Fprintln(os.Stderr, "store:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, turns int, span time.Duration) error {
	dir, err := os.MkdirTemp("", "comity-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	server, err := pgbin.Run(ctx, "shared_buffers = 256MB", "max_wal_size = 4GB")
	if err != nil {
		return err
	}
	defer server.Remove() //nolint:errcheck // a folder for temporary files
	ours, err := openPostgres(ctx, server, "ours")
	if err != nil {
		return err
	}
	defer ours.Close()
	theirs, err := openPostgres(ctx, server, "theirs") // the same tables
	if err != nil {
		return err
	}
	if err := theirs.Close(); err != nil {
		return err
	}
	lite, err := sqlitestore.Open(ctx, filepath.Join(dir, "x.db"), sqlitestore.Options{})
	if err != nil {
		return err
	}
	defer lite.Close()
	r := rig.NewReport(os.Stdout, "store", fmt.Sprintf("Postgres on a Unix socket, fsync on; %d turns of %s each; one resource of 600 bytes an apply", turns, span))
	w := world{server: server, ours: ours, lite: lite, dir: dir, span: span}
	for _, n := range []int{clients, 1} {
		if err := w.compare(ctx, r, n, turns); err != nil {
			return err
		}
	}
	return r.Err()
}

func openPostgres(ctx context.Context, server *pgbin.Server, name string) (*pgstore.Store, error) {
	if _, err := server.Run(ctx, "createdb", name); err != nil {
		return nil, err
	}
	d := pgstore.Database{URL: server.URL(name), Password: func() (string, error) { return server.Password(), nil }}
	if _, err := pgstore.Migrate(ctx, d, pgstore.MigrateOptions{}); err != nil {
		return nil, err
	}
	return pgstore.Open(ctx, d, pgstore.Options{})
}

type world struct {
	server *pgbin.Server
	ours   store.Store
	lite   store.Store
	dir    string
	span   time.Duration
}

// compare lets n clients write to each in turns.
func (w *world) compare(ctx context.Context, r *rig.Report, n, turns int) error {
	var ours, lite, ordered, free []float64
	var pgTimes, liteTimes []time.Duration
	for range turns {
		rate, times, err := apply(ctx, w.ours, n, w.span)
		if err != nil {
			return err
		}
		ours, pgTimes = append(ours, rate), append(pgTimes, times...)
		for _, b := range []struct {
			script string
			into   *[]float64
		}{{counted, &ordered}, {uncounted, &free}} {
			rate, err := w.pgbench(ctx, b.script, n)
			if err != nil {
				return err
			}
			*b.into = append(*b.into, rate)
		}
		if rate, times, err = apply(ctx, w.lite, n, w.span); err != nil {
			return err
		}
		lite, liteTimes = append(lite, rate), append(liteTimes, times...)
	}
	of := fmt.Sprintf("%d clients: ", n)
	name := fmt.Sprintf("store-%d-", n)
	r.Figure(name+"postgres", of+"applies on Postgres", median(ours), "/s")
	r.Figure(name+"pgbench", of+"pgbench, the same rows, ordered by the counter", median(ordered), "/s")
	r.Figure(name+"pgbench-free", of+"pgbench, the same rows, in no order", median(free), "/s")
	r.Figure(name+"sqlite", of+"applies on SQLite", median(lite), "/s")
	if n > 1 {
		r.Limit(name+"behind", of+"pgbench's rate over ours", median(ordered)/median(ours), "", 2)
		r.Figure(name+"behind-free", of+"pgbench's rate without order over ours", median(free)/median(ours), "")
	}
	for _, l := range []struct {
		name  string
		times []time.Duration
	}{{"Postgres", pgTimes}, {"SQLite", liteTimes}} {
		slices.Sort(l.times)
		for _, p := range []float64{50, 99} {
			at := l.times[int(float64(len(l.times)-1)*p/100)]
			r.Figure(fmt.Sprintf("%s%s-p%.0f", name, strings.ToLower(l.name), p), fmt.Sprintf("%san apply on %s, p%.0f", of, l.name, p), at.Seconds()*1000, "ms")
		}
	}
	return nil
}

// apply lets n writers write for a while, each its own resources, and returns their rate and how long each call took.
func apply(ctx context.Context, s store.Store, n int, span time.Duration) (rate float64, times []time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range n {
		wg.Go(func() {
			var mine []time.Duration
			var failed error
			for k := 0; ctx.Err() == nil && failed == nil; k++ {
				spec, _ := json.Marshal(strconv.FormatInt(time.Now().UnixNano(), 10) + strings.Repeat("x", 330)) // a string always goes
				at := time.Now()
				_, err := s.Apply(ctx, store.Batch{Actor: "user:bench", Source: "bench", Writes: []store.Write{{Resource: mesh.Resource{
					Key:        mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindService, Namespace: "shop", Name: fmt.Sprintf("p%d-%d", i, k%300)},
					APIVersion: "v1", Spec: spec,
				}}}})
				switch {
				case err == nil:
					mine = append(mine, time.Since(at))
				case ctx.Err() == nil:
					failed = err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, mine...)
			if failed != nil {
				err = failed
			}
		})
	}
	wg.Wait()
	return float64(len(times)) / time.Since(begin).Seconds(), times, err
}

// pgbench runs a script with n connections and returns its transactions a second.
func (w *world) pgbench(ctx context.Context, script string, n int) (float64, error) {
	file := filepath.Join(w.dir, "script.sql")
	// The path is set once for the database, not in each transaction.
	if _, err := w.server.Run(ctx, "psql", "-qd", "theirs", "-c", "ALTER DATABASE theirs SET search_path = comity"); err != nil {
		return 0, err
	}
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return 0, err
	}
	out, err := w.server.Run(ctx, "pgbench", "-n", "-M", "prepared", "-c", strconv.Itoa(n), "-j", "2",
		"-T", strconv.Itoa(max(1, int(w.span.Seconds()))), "-f", file, "theirs")
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(out, "tps = ")
	if !ok {
		return 0, fmt.Errorf("pgbench said no rate: %s", out)
	}
	figure, _, _ := strings.Cut(rest, " ")
	return strconv.ParseFloat(figure, 64)
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
