package sqlitestore_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/sqlitestore"
	"github.com/comity-mesh/comity/store/storetest"
	"github.com/comity-mesh/comity/store/storetest/history"
)

// childDir, when set, makes the test binary the process that TestKilled kills.
const childDir = "COMITY_TEST_STORE_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		writeUntilKilled(dir)
	}
	if os.Getenv(history.Env) != "" {
		os.Exit(history.Child(context.Background(), openFile))
	}
	goleak.VerifyTestMain(m)
}

func open(t *testing.T, path string, opts sqlitestore.Options) *sqlitestore.Store {
	t.Helper()
	s, err := sqlitestore.Open(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(ctx context.Context, s store.Store, name, spec string) (store.Result, error) {
	return s.Apply(ctx, store.Batch{Writes: []store.Write{{Resource: mesh.Resource{
		Key: mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindZone, Name: name}, Spec: json.RawMessage(spec),
	}}}})
}

func mustPut(t *testing.T, s store.Store, name, spec string) {
	t.Helper()
	if _, err := put(t.Context(), s, name, spec); err != nil {
		t.Fatal(err)
	}
}

func head(t *testing.T, s store.Store) mesh.Cursor {
	t.Helper()
	c, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		return open(t, filepath.Join(t.TempDir(), "odd name?#%.db"), sqlitestore.Options{})
	})
}

func TestReopen(t *testing.T) {
	storetest.RunReopen(t, func(t *testing.T, dir string) store.Store {
		return open(t, filepath.Join(dir, "x.db"), sqlitestore.Options{})
	})
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRestoredIsAnotherIncarnation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	reopen := func(f func(s *sqlitestore.Store)) mesh.Cursor {
		t.Helper()
		var log bytes.Buffer
		s := open(t, path, sqlitestore.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		if f != nil {
			f(s)
		}
		c := head(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := reopen(func(s *sqlitestore.Store) { mustPut(t, s, "a", "{}") })
	copyFile(t, path, path+".backup")
	if again := reopen(func(s *sqlitestore.Store) { mustPut(t, s, "b", "{}") }); again.Incarnation != first.Incarnation || again.Revision != 2 {
		t.Fatalf("after a clean restart: %v, was %v", again, first)
	}

	copyFile(t, path+".backup", path)
	restored := reopen(func(s *sqlitestore.Store) {
		if _, err := s.Watch(t.Context(), first); !errors.Is(err, store.ErrIncarnation) {
			t.Errorf("a cursor of the old life: %v", err)
		}
		mustPut(t, s, "c", "{}")
	})
	if restored.Incarnation == first.Incarnation || restored.Revision != 2 {
		t.Fatalf("after the restore: %v, was %v", restored, first)
	}
	if again := reopen(nil); again != restored {
		t.Fatalf("and after a restart: %v, was %v", again, restored)
	}

	if err := os.Remove(path + ".life"); err != nil {
		t.Fatal(err)
	}
	if moved := reopen(nil); moved.Incarnation == restored.Incarnation {
		t.Error("a database without its life file kept its incarnation")
	}
	if err := os.WriteFile(path+".life", []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if torn := reopen(nil); torn.Incarnation == restored.Incarnation || torn.Revision != 2 {
		t.Errorf("after nonsense in the life file: %v", torn)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	s := open(t, path, sqlitestore.Options{})
	if _, err := sqlitestore.Open(t.Context(), path, sqlitestore.Options{}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a second opener: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(t.Context(), store.Batch{}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("apply after close: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	junk := filepath.Join(dir, "junk.db")
	if err := os.WriteFile(junk, bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlitestore.Open(t.Context(), junk, sqlitestore.Options{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("junk: %v", err)
	}
	if _, err := sqlitestore.Open(t.Context(), filepath.Join(dir, "no", "such", "x.db"), sqlitestore.Options{}); err == nil {
		t.Error("a missing folder was no error")
	}
}

// TestFileCannotGrow: what SQLite's own limit of TestDiskFull can't show. The kernel refuses to let the files grow, under
// the log and under checkpoints; reads and watches go on, and with room again large writes do too, in the same life.
func TestFileCannotGrow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := open(t, path, sqlitestore.Options{})
	mustPut(t, s, "first", "{}")
	before := head(t, s)
	w, err := s.Watch(t.Context(), mesh.Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit // of this process, whose other tests wait
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	room := func(bytes uint64) {
		t.Helper()
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: bytes, Max: limit.Max}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { room(limit.Cur) })
	room(2 << 20)
	large := `{"a":"` + strings.Repeat("x", 300<<10) + `"}`
	taken := before.Revision
	for err == nil && taken < 100 {
		if _, err = put(t.Context(), s, fmt.Sprintf("large%d", taken), large); err == nil {
			taken++
		}
	}
	if !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("after %d revisions in 2 MiB: %v", taken, err)
	}
	t.Logf("after %d revisions: %v", taken, err)
	for range 3 {
		if _, err := put(t.Context(), s, "no", large); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("again: %v", err)
		}
	}
	if r, err := s.Get(t.Context(), mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindZone, Name: "first"}); err != nil || r.Revision != 1 {
		t.Errorf("a read: %+v, %v", r, err)
	}
	if now := head(t, s); now.Revision != taken {
		t.Errorf("the head is %d, and %d were taken", now.Revision, taken)
	}
	room(limit.Cur)
	for range 10 {
		mustPut(t, s, fmt.Sprintf("large%d", taken), large)
		taken++
	}
	for want := mesh.Revision(1); want <= taken; want++ {
		if c, err := w.Next(t.Context()); err != nil || c.Cursor.Revision != want {
			t.Fatalf("revision %d: %+v, %v", want, c.Cursor, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if now := head(t, open(t, path, sqlitestore.Options{})); now.Incarnation != before.Incarnation || now.Revision != taken {
		t.Errorf("opened again: %v, was %v with %d revisions", now, before, taken)
	}
}

// TestDiskFull: a write that finds no room fails alone, takes no revision, and later ones work.
func TestDiskFull(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "x.db"), sqlitestore.Options{MaxBytes: 600 << 10})
	mustPut(t, s, "small", `{"a":1}`)
	big := `{"a":"` + strings.Repeat("x", 900<<10) + `"}`
	if _, err := put(t.Context(), s, "big", big); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("too big: %v", err)
	}
	// Many at once, one of them too big: the group falls apart, the small ones are kept.
	type answer struct {
		name string
		err  error
	}
	answers := make(chan answer)
	for i := range 10 {
		go func() {
			name, spec := fmt.Sprintf("s%d", i), `{}`
			if i == 3 {
				spec = big
			}
			_, err := put(t.Context(), s, name, spec)
			answers <- answer{name, err}
		}()
	}
	for range 10 {
		if a := <-answers; (a.name == "s3") != errors.Is(a.err, store.ErrUnavailable) {
			t.Errorf("%s: %v", a.name, a.err)
		}
	}
	if got := head(t, s).Revision; got != 10 {
		t.Errorf("head is %d, not 10", got)
	}
	w, err := s.Watch(t.Context(), mesh.Cursor{})
	if err != nil {
		t.Fatal(err)
	}
	for want := mesh.Revision(1); want <= 10; want++ {
		if c, err := w.Next(t.Context()); err != nil || c.Cursor.Revision != want {
			t.Fatalf("revision %d: %+v, %v", want, c.Cursor, err)
		}
	}
}

func TestIdempotencyKeysEnd(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := open(t, filepath.Join(t.TempDir(), "x.db"), sqlitestore.Options{Now: func() time.Time { return now }})
	apply := func() store.Result {
		r, err := s.Apply(t.Context(), store.Batch{IdempotencyKey: "k", Writes: []store.Write{{Resource: mesh.Resource{Key: mesh.Key{Origin: "global", Kind: "Zone", Name: "a"}}}}})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	apply()
	now = now.Add(24 * time.Hour)
	if r := apply(); !r.Replayed {
		t.Error("forgotten after a day")
	}
	now = now.Add(2 * time.Hour)
	if r := apply(); r.Replayed {
		t.Error("kept for more than 25 hours")
	}
}

// writeUntilKilled is the child: it says every revision after its Apply was answered.
func writeUntilKilled(dir string) {
	ctx := context.Background()
	s, err := sqlitestore.Open(ctx, filepath.Join(dir, "x.db"), sqlitestore.Options{})
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	for i := 0; ; i++ {
		r, err := put(ctx, s, "a", fmt.Sprintf(`{"a":%d}`, i))
		if err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		fmt.Println(uint64(r.Revision))
	}
}

// TestKilled: what was answered before a SIGKILL is there afterwards, in the same incarnation.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	var incarnation mesh.Incarnation
	var answered mesh.Revision
	for round := range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n < 20 && lines.Scan(); n++ {
			if _, err := fmt.Sscan(lines.Text(), &answered); err != nil {
				t.Fatalf("child: %s", lines.Text())
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait() //nolint:errcheck // it was killed
		s := open(t, filepath.Join(dir, "x.db"), sqlitestore.Options{})
		h := head(t, s)
		if h.Revision < answered || answered == 0 {
			t.Fatalf("round %d: head %d, but %d was answered", round, h.Revision, answered)
		}
		if round > 0 && h.Incarnation != incarnation {
			t.Errorf("a crash began a new incarnation")
		}
		incarnation = h.Incarnation
		if h2, err := s.History(t.Context(), mesh.Key{Origin: "global", Kind: "Zone", Name: "a"}, 1000, 0); err != nil || len(h2) != int(h.Revision) {
			t.Errorf("history has %d entries for %d revisions, %v", len(h2), h.Revision, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func openFile(ctx context.Context, path string) (store.Store, error) {
	return sqlitestore.Open(ctx, path, sqlitestore.Options{})
}

// TestSchedules: writers and a watch in processes that are killed at random moments lose and repeat nothing.
func TestSchedules(t *testing.T) {
	var mu sync.Mutex
	var sum history.Report
	n := history.Schedules(150)
	t.Run("run", func(t *testing.T) {
		for seed := range n {
			t.Run(strconv.Itoa(seed), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				r, err := history.Run(t.Context(), history.Config{Seed: uint64(seed), Dir: dir, Store: filepath.Join(dir, "x.db"), Open: openFile, Replicas: 1})
				if err != nil {
					t.Fatal(err)
				}
				mu.Lock()
				defer mu.Unlock()
				sum.Add(r)
			})
		}
	})
	t.Logf("%d schedules: %+v", n, sum)
}

func BenchmarkApply(b *testing.B) {
	s, err := sqlitestore.Open(b.Context(), filepath.Join(b.TempDir(), "x.db"), sqlitestore.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	for i := 0; b.Loop(); i++ {
		if _, err := put(b.Context(), s, "a", fmt.Sprintf(`{"a":%d}`, i)); err != nil {
			b.Fatal(err)
		}
	}
}

func TestPowerLossIsAnotherIncarnation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	s := open(t, path, sqlitestore.Options{Boot: "run-1"})
	mustPut(t, s, "a", "{}")
	before := head(t, s)
	// What the disk held at the moment: the files as they are, the store never closed.
	cut := filepath.Join(dir, "cut.db")
	for _, suffix := range []string{"", "-wal", ".life"} {
		copyFile(t, path+suffix, cut+suffix)
	}
	killed := open(t, cut, sqlitestore.Options{Boot: "run-1"})
	if got := head(t, killed); got != before {
		t.Errorf("after the death of the process alone: %v, was %v", got, before)
	}
	lost := filepath.Join(dir, "lost.db")
	for _, suffix := range []string{"", "-wal", ".life"} {
		copyFile(t, path+suffix, lost+suffix)
	}
	after := open(t, lost, sqlitestore.Options{Boot: "run-2"})
	if got := head(t, after); got.Incarnation == before.Incarnation || got.Revision != before.Revision {
		t.Errorf("after a power loss: %v, was %v", got, before)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := head(t, open(t, path, sqlitestore.Options{Boot: "run-2"})); got != before {
		t.Errorf("after an orderly shutdown of the machine: %v, was %v", got, before)
	}
}

func TestLostDatabaseIsNotReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s := open(t, path, sqlitestore.Options{})
	mustPut(t, s, "a", "{}")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlitestore.Open(t.Context(), path, sqlitestore.Options{}); !errors.Is(err, sqlitestore.ErrLost) {
		t.Fatalf("an empty store began in its place: %v", err)
	}
	if err := os.Remove(path + ".life"); err != nil {
		t.Fatal(err)
	}
	if got := head(t, open(t, path, sqlitestore.Options{})); got.Revision != 0 {
		t.Errorf("after the operator's word: %v", got)
	}
}
