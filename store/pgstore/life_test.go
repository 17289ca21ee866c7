package pgstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/pgstore"
)

func put(ctx context.Context, s store.Store, name, spec string) (store.Result, error) {
	return s.Apply(ctx, store.Batch{Writes: []store.Write{{Resource: mesh.Resource{
		Key: mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindZone, Name: name}, Spec: json.RawMessage(spec),
	}}}})
}

func mustPut(t *testing.T, s store.Store, name, spec string) mesh.Revision {
	t.Helper()
	r, err := put(t.Context(), s, name, spec)
	if err != nil {
		t.Fatal(err)
	}
	return r.Revision
}

func head(t *testing.T, s store.Store) mesh.Cursor {
	t.Helper()
	c, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func next(t *testing.T, w store.Watcher) store.Commit {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := w.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func watch(t *testing.T, s store.Store, from mesh.Cursor) store.Watcher {
	t.Helper()
	w, err := s.Watch(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// Replicas on one database: each sees every commit once, in order, whoever made it, and hears of records.
func TestReplicas(t *testing.T) {
	d := migrated(t)
	const replicas, each = 3, 30
	var all []*pgstore.Store
	for range replicas {
		all = append(all, open(t, d, pgstore.Options{Readers: 2}))
	}
	var wg sync.WaitGroup
	for i, s := range all {
		w := watch(t, s, mesh.Cursor{})
		wg.Go(func() {
			for rev := mesh.Revision(1); rev <= replicas*each; rev++ {
				if c, err := w.Next(t.Context()); err != nil || c.Cursor.Revision != rev {
					t.Errorf("replica %d: %+v at %d, %v", i, c.Cursor, rev, err)
					return
				}
			}
		})
		wg.Go(func() {
			for k := range each {
				r, err := put(t.Context(), s, fmt.Sprintf("z%d", i), fmt.Sprintf(`{"k":%d}`, k))
				if err != nil {
					t.Error(err)
					return
				}
				// What one replica answered, another serves at once.
				if c, err := all[(i+1)%replicas].Head(t.Context()); err != nil || c.Revision < r.Revision {
					t.Errorf("head %v after revision %d, %v", c, r.Revision, err)
				}
				w, err := all[(i+1)%replicas].Watch(t.Context(), mesh.Cursor{Incarnation: head(t, s).Incarnation, Revision: r.Revision})
				if err != nil {
					t.Errorf("watch from a revision of another replica: %v", err)
					continue
				}
				w.Close()
			}
		})
	}
	wg.Wait()
	heard := all[1].WatchRecords(t.Context(), "status/")
	<-heard
	if _, err := all[0].PutRecords(t.Context(), "status/east", store.RecordWrite{Key: "k", Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-heard:
	case <-time.After(2 * time.Second): // the poll, at 3 s, would be too late
		t.Error("a replica did not hear of another's record")
	}
}

// A change of which nobody was told is found by looking.
func TestMissedNotification(t *testing.T) {
	d := migrated(t)
	s := open(t, d, pgstore.Options{Poll: 50 * time.Millisecond})
	mustPut(t, s, "a", "{}")
	w := watch(t, s, head(t, s))
	records := s.WatchRecords(t.Context(), "b")
	<-records
	silently := `BEGIN; UPDATE comity.meta SET head = 2; INSERT INTO comity.commits VALUES (2, 0, 'x');
		INSERT INTO comity.changes SELECT 2, 0, false, body FROM comity.resources;
		INSERT INTO comity.buckets VALUES ('b', 1); COMMIT`
	if _, err := shared.Run(t.Context(), "psql", "-qd", name(d), "-c", silently); err != nil {
		t.Fatal(err)
	}
	if c := next(t, w); c.Cursor.Revision != 2 || c.Actor != "x" {
		t.Errorf("found %+v", c)
	}
	<-records
}

// name is a database's.
func name(d pgstore.Database) string {
	_, rest, _ := strings.Cut(d.URL, "@/")
	n, _, _ := strings.Cut(rest, "?")
	return n
}

func incarnationEnds(t *testing.T, w store.Watcher) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if c, err := w.Next(ctx); !errors.Is(err, store.ErrIncarnation) {
		t.Errorf("a watch over a restore: %+v, %v", c, err)
	}
}

// What docs/postgres.md says of backup and restore.
func TestRestore(t *testing.T) {
	d := migrated(t)
	s := open(t, d, pgstore.Options{Poll: 50 * time.Millisecond})
	mustPut(t, s, "a", "{}")
	before := head(t, s)
	dump := filepath.Join(t.TempDir(), "dump")
	run := func(program string, args ...string) {
		t.Helper()
		if _, err := shared.Run(t.Context(), program, args...); err != nil {
			t.Fatal(err)
		}
	}
	run("pg_dump", "-Fc", "-n", "comity", "-f", dump, name(d))
	mustPut(t, s, "b", "{}")

	t.Run("into another database", func(t *testing.T) {
		other := database(t)
		run("pg_restore", "-d", name(other), dump)
		r := open(t, other, pgstore.Options{})
		after := head(t, r)
		if after.Incarnation == before.Incarnation || after.Revision != 1 {
			t.Errorf("head %v, was %v", after, before)
		}
		if _, err := r.Watch(t.Context(), before); !errors.Is(err, store.ErrIncarnation) {
			t.Errorf("a cursor of the life before: %v", err)
		}
		if again := head(t, open(t, other, pgstore.Options{})); again != after {
			t.Errorf("and after a restart %v, was %v", again, after)
		}
	})
	t.Run("in place, under a replica that runs", func(t *testing.T) {
		w := watch(t, s, head(t, s))
		run("pg_restore", "--clean", "--if-exists", "--single-transaction", "-d", name(d), dump)
		incarnationEnds(t, w)
		if after := head(t, s); after.Incarnation == before.Incarnation || after.Revision != 1 {
			t.Errorf("head %v, was %v", after, before)
		}
		if rev := mustPut(t, s, "c", "{}"); rev != 2 {
			t.Errorf("the next revision is %d", rev)
		}
	})
	t.Run("rows only, under a replica that runs", func(t *testing.T) {
		mustPut(t, s, "d", "{}")
		now := head(t, s)
		w := watch(t, s, now)
		run("psql", "-qd", name(d), "-c", "BEGIN; UPDATE comity.meta SET head = 1; DELETE FROM comity.commits WHERE revision > 1; DELETE FROM comity.changes WHERE revision > 1; COMMIT")
		incarnationEnds(t, w)
		if after := head(t, s); after.Incarnation == now.Incarnation || after.Revision != 1 {
			t.Errorf("head %v, was %v", after, now)
		}
	})
	t.Run("by an operator's word", func(t *testing.T) {
		now := head(t, s)
		w := watch(t, s, now)
		m, err := pgstore.Migrate(t.Context(), d, pgstore.MigrateOptions{NewIncarnation: true})
		if err != nil || !m.NewIncarnation || m.Incarnation == now.Incarnation || len(m.Steps) != 0 {
			t.Errorf("%+v, %v", m, err)
		}
		incarnationEnds(t, w)
		if after := head(t, s); after.Incarnation != m.Incarnation || after.Revision != now.Revision {
			t.Errorf("head %v, want %v", after, m.Incarnation)
		}
	})
}

func TestMigrate(t *testing.T) {
	d := database(t)
	if _, err := pgstore.Open(t.Context(), d, pgstore.Options{}); !errors.Is(err, pgstore.ErrNotMigrated) {
		t.Errorf("an empty database: %v", err)
	}
	if m, err := pgstore.Migrate(t.Context(), d, pgstore.MigrateOptions{DryRun: true}); err != nil || m.From != 0 || len(m.Steps) != m.To {
		t.Errorf("a dry run: %+v, %v", m, err)
	}
	if _, err := pgstore.Open(t.Context(), d, pgstore.Options{}); !errors.Is(err, pgstore.ErrNotMigrated) {
		t.Errorf("after a dry run: %v", err)
	}
	var wg sync.WaitGroup
	steps := make(chan int, 4)
	for range 4 { // as replicas that all start with database.migrate
		wg.Go(func() {
			m, err := pgstore.Migrate(t.Context(), d, pgstore.MigrateOptions{})
			if err != nil {
				t.Error(err)
			}
			steps <- len(m.Steps)
		})
	}
	wg.Wait()
	close(steps)
	sum := 0
	for n := range steps {
		sum += n
	}
	if want, err := filepath.Glob("migrations/*.sql"); err != nil || sum != len(want) {
		t.Errorf("%d steps were taken, there are %d", sum, len(want))
	}
	s := open(t, d, pgstore.Options{})
	mustPut(t, s, "a", "{}")
	if _, err := shared.Run(t.Context(), "psql", "-qd", name(d), "-c", "INSERT INTO comity.migrations VALUES (99, 'from the future', now())"); err != nil {
		t.Fatal(err)
	}
	if _, err := pgstore.Open(t.Context(), d, pgstore.Options{}); !errors.Is(err, pgstore.ErrNewerSchema) {
		t.Errorf("a newer schema: %v", err)
	}
	// Who runs already goes on, over new connections too.
	if _, err := shared.Run(t.Context(), "psql", "-qc", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+name(d)+"'"); err != nil {
		t.Fatal(err)
	}
	if rev := mustPut(t, s, "b", "{}"); rev != 2 {
		t.Errorf("revision %d", rev)
	}
	if _, err := pgstore.Migrate(t.Context(), d, pgstore.MigrateOptions{}); !errors.Is(err, pgstore.ErrNewerSchema) {
		t.Errorf("migrating a newer schema: %v", err)
	}
}

// The permissions of docs/postgres.md are enough: one role owns the schema, another only writes rows.
func TestRoles(t *testing.T) {
	d := database(t)
	sql := fmt.Sprintf(`CREATE ROLE owner_%[1]s LOGIN PASSWORD 'o'; CREATE ROLE writer_%[1]s LOGIN PASSWORD 'w';
		CREATE SCHEMA comity AUTHORIZATION owner_%[1]s;
		GRANT USAGE ON SCHEMA comity TO writer_%[1]s;
		ALTER DEFAULT PRIVILEGES FOR ROLE owner_%[1]s IN SCHEMA comity GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO writer_%[1]s`, name(d))
	if _, err := shared.Run(t.Context(), "psql", "-qd", name(d), "-c", sql); err != nil {
		t.Fatal(err)
	}
	as := func(role, password string) pgstore.Database {
		return pgstore.Database{URL: strings.Replace(d.URL, "postgres@", role+"_"+name(d)+"@", 1), Password: func() (string, error) { return password, nil }}
	}
	if _, err := pgstore.Migrate(t.Context(), as("writer", "w"), pgstore.MigrateOptions{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("who may not, migrated: %v", err)
	}
	if _, err := pgstore.Migrate(t.Context(), as("owner", "o"), pgstore.MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	s := open(t, as("writer", "w"), pgstore.Options{})
	mustPut(t, s, "a", "{}")
	if err := s.Compact(t.Context(), 1); err != nil {
		t.Error(err)
	}
	if err := s.ForgetHistory(t.Context(), time.Now()); err != nil {
		t.Error(err)
	}
	_, err := pgstore.Open(t.Context(), as("writer", "secret-that-is-wrong"), pgstore.Options{})
	if !errors.Is(err, store.ErrUnavailable) || strings.Contains(err.Error(), "secret") {
		t.Errorf("a wrong password: %v", err)
	}
}

func TestPasswordsInURLsAreRefused(t *testing.T) {
	for _, url := range []string{
		"postgres://u:hidden@h/d", "postgres://u@h/d?password=hidden", "postgres://u@h/d?sslpassword=hidden",
		"host=h password=hidden", "postgres://u:hidden@h:port/d", "postgres://u@h/d?sslmode=hidden",
	} {
		if err := (pgstore.Database{URL: url}).Check(); err == nil || strings.Contains(err.Error(), "hidden") && !strings.Contains(url, "sslmode") {
			t.Errorf("%s: %v", url, err)
		}
	}
	if err := (pgstore.Database{URL: "postgresql://u@h:5432,i:5432/d?target_session_attrs=read-write"}).Check(); err != nil {
		t.Error(err)
	}
}
