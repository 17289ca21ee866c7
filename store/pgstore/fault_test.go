package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/comity-mesh/comity/internal/pgbin"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/pgstore"
)

// own is a server that a test may break, with a store on it.
func own(t *testing.T, settings ...string) (*pgbin.Server, *pgstore.Store) {
	t.Helper()
	server, err := pgbin.Run(t.Context(), append(settings, "fsync = off")...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Remove(); err != nil {
			t.Error(err)
		}
	})
	d := on(server, "postgres")
	if _, err := pgstore.Migrate(t.Context(), d, pgstore.MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	return server, open(t, d, pgstore.Options{Poll: 100 * time.Millisecond})
}

// eventually repeats a call until it succeeds.
func eventually(t *testing.T, what string, call func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := call()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// dense reads the whole log, and fails if a revision is missing.
func dense(t *testing.T, s store.Store) {
	t.Helper()
	w := watch(t, s, mesh.Cursor{})
	for want, last := mesh.Revision(1), head(t, s).Revision; want <= last; want++ {
		if c := next(t, w); c.Cursor.Revision != want {
			t.Fatalf("revision %d where %d should be", c.Cursor.Revision, want)
		}
	}
}

// The server dies: a clear state, watches that go on, and writes again as soon as it is back.
func TestServerDies(t *testing.T) {
	server, s := own(t)
	mustPut(t, s, "a", "{}")
	w := watch(t, s, head(t, s))
	server.Kill()
	// Its processes take a moment to notice, and may serve until then.
	last := mesh.Revision(1)
	for what, call := range map[string]func() error{
		"an apply": func() error {
			r, err := put(t.Context(), s, "b", fmt.Sprint(last))
			last = max(last, r.Revision)
			return err
		},
		"a read": func() error {
			_, err := s.Get(t.Context(), mesh.Key{Origin: "global", Kind: "Zone", Name: "a"})
			return err
		},
		"a record": func() error {
			_, err := s.PutRecords(t.Context(), "b", store.RecordWrite{Key: "k"})
			return err
		},
	} {
		eventually(t, what+" is refused", func() error {
			err := call()
			if err == nil {
				return errors.New("it was served")
			}
			if !errors.Is(err, store.ErrUnavailable) {
				t.Fatalf("%s: %v", what, err)
			}
			return nil
		})
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The first call after it is good: nobody has to fail for the dead connections.
	if rev := mustPut(t, s, "c", "{}"); rev <= last {
		t.Errorf("revision %d after %d", rev, last)
	}
	for want := mesh.Revision(2); want <= head(t, s).Revision; want++ {
		if c := next(t, w); c.Cursor.Revision != want {
			t.Fatalf("the watch goes on with %+v, not %d", c, want)
		}
	}
}

// A standby that was promoted is another timeline, and so another incarnation: it may lack what was confirmed.
func TestFailover(t *testing.T) {
	server, s := own(t)
	mustPut(t, s, "a", "{}")
	before := head(t, s)
	w := watch(t, s, before)
	server.Stop()
	// The standby has a copy of the files; promoted, it is what the clients' address leads to.
	if err := os.WriteFile(filepath.Join(server.Dir(), "data", "standby.signal"), nil, 0o644); err != nil { //nolint:gosec // the server reads it as another user
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := put(t.Context(), s, "b", "{}"); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "standby") {
		t.Errorf("a write to a standby: %v", err)
	}
	if _, err := server.Run(t.Context(), "psql", "-qAtc", "SELECT pg_promote()"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a write after the promotion", func() error {
		_, err := put(t.Context(), s, "b", "{}")
		return err
	})
	incarnationEnds(t, w)
	if after := head(t, s); after.Incarnation == before.Incarnation || after.Revision != 2 {
		t.Errorf("head %v, was %v", after, before)
	}
}

// No connection is left for a replica that starts, and later there is.
func TestOutOfConnections(t *testing.T) {
	d := migrated(t)
	s := open(t, d, pgstore.Options{Readers: 1, Poll: 50 * time.Millisecond})
	mustPut(t, s, "a", "{}")
	if _, err := s.PutRecords(t.Context(), "b", store.RecordWrite{Key: "k"}); err != nil {
		t.Fatal(err)
	}
	limit := func(n int) {
		t.Helper()
		sql := fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d", name(d), n)
		if _, err := shared.Run(t.Context(), "psql", "-qc", sql); err != nil {
			t.Fatal(err)
		}
	}
	// Superusers are let in whatever the limit is, so this needs another role.
	role := "few_" + name(d)
	sql := fmt.Sprintf("CREATE ROLE %[1]s LOGIN PASSWORD 'f'; GRANT ALL ON SCHEMA comity TO %[1]s; GRANT ALL ON ALL TABLES IN SCHEMA comity TO %[1]s", role)
	if _, err := shared.Run(t.Context(), "psql", "-qd", name(d), "-c", sql); err != nil {
		t.Fatal(err)
	}
	few := pgstore.Database{URL: strings.Replace(d.URL, "postgres@", role+"@", 1), Password: func() (string, error) { return "f", nil }}
	r := open(t, few, pgstore.Options{Readers: 2, Poll: 50 * time.Millisecond})
	if rev := mustPut(t, r, "b", "{}"); rev != 2 {
		t.Fatalf("revision %d", rev)
	}
	limit(0)
	if _, err := shared.Run(t.Context(), "psql", "-qc", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '"+role+"'"); err != nil {
		t.Fatal(err)
	}
	if _, err := put(t.Context(), r, "c", "{}"); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "too many connections") {
		t.Errorf("without a connection: %v", err)
	}
	if _, err := pgstore.Open(t.Context(), few, pgstore.Options{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a replica that starts: %v", err)
	}
	limit(-1)
	if rev := mustPut(t, r, "c", "{}"); rev != 3 {
		t.Errorf("revision %d", rev)
	}
	dense(t, r)
}

// A database that turns read-only says so, and takes writes again when it does.
func TestReadOnly(t *testing.T) {
	d := migrated(t)
	s := open(t, d, pgstore.Options{})
	mustPut(t, s, "a", "{}")
	readOnly := func(on string) {
		t.Helper()
		sql := fmt.Sprintf("ALTER DATABASE %s SET default_transaction_read_only = %s", name(d), on)
		for _, q := range []string{sql, fmt.Sprintf("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%s'", name(d))} {
			if _, err := shared.Run(t.Context(), "psql", "-qc", q); err != nil {
				t.Fatal(err)
			}
		}
	}
	readOnly("on")
	if _, err := put(t.Context(), s, "b", "{}"); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a write: %v", err)
	}
	if r, err := s.Get(t.Context(), mesh.Key{Origin: "global", Kind: "Zone", Name: "a"}); err != nil || r.Revision != 1 {
		t.Errorf("a read: %+v, %v", r, err)
	}
	readOnly("off")
	if rev := mustPut(t, s, "b", "{}"); rev != 2 {
		t.Errorf("revision %d", rev)
	}
}

// TestDiskFull: files can't grow. Writes fail with a reason, nothing is corrupted, and there is room again.
func TestDiskFull(t *testing.T) {
	server, s := own(t, "full_page_writes = off")
	mustPut(t, s, "a", "{}")
	before, err := s.Get(t.Context(), mesh.Key{Origin: "global", Kind: "Zone", Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	// To Postgres a limit on the size of a file is a disk without room, and needs no root. Log segments have their
	// full size already; the tables grow into it.
	room(t, server, strconv.Itoa(17<<20))
	full := false
	for i := 0; i < 40 && !full; i++ {
		_, err := put(t.Context(), s, fmt.Sprintf("z%d", i), noise(900<<10))
		if full = err != nil; full && !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("a full disk: %v", err)
		}
		if full {
			t.Logf("after %d of 900 KiB: %v", i, err)
		}
	}
	if !full {
		t.Fatal("the disk did not fill up")
	}
	if now, err := s.Get(t.Context(), before.Key); err != nil || now.Revision != before.Revision {
		t.Errorf("a read: %+v, %v", now, err)
	}
	room(t, server, "unlimited")
	eventually(t, "a write with room", func() error {
		_, err := put(t.Context(), s, "after", "{}")
		return err
	})
	dense(t, s)
}

// noise is a JSON string that does not compress.
func noise(n int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-"
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))] //nolint:gosec // noise
	}
	return strconv.Quote(string(b))
}

// room limits how large a file of the server may become.
func room(t *testing.T, server *pgbin.Server, bytes string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(server.Dir(), "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	children, err := os.ReadFile(filepath.Join("/proc", first, "task", first, "children"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(strings.Fields(string(children)), first) {
		cmd := exec.CommandContext(t.Context(), "prlimit", "--pid", pid, "--fsize="+bytes+":")
		_, as := server.Command()
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as} // one may limit only one's own
		if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(string(out), "No such process") {
			t.Fatalf("limit the files of process %s: %v: %s", pid, err, out)
		}
	}
}
