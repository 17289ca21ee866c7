package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store/pgstore"
)

// connect opens a plain connection to a database.
func connect(t *testing.T, d pgstore.Database) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	if config.Password, err = d.Password(); err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["search_path"] = "comity"
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the test has ended
	return conn
}

// stuck counts the applies of this process that wait for the writer.
func stuck() (n int) {
	stacks := make([]byte, 4<<20)
	for goroutine := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		first, rest, _ := strings.Cut(goroutine, "\n")
		if strings.Contains(first, "[select") && strings.Contains(rest, "pgstore.(*Store).Apply(") {
			n++
		}
	}
	return n
}

// TestGroupCommit: applies that come while the writer waits for the counter share one transaction and one notification,
// and each has a revision of its own.
func TestGroupCommit(t *testing.T) {
	const callers = 100
	d := migrated(t)
	s := open(t, d, pgstore.Options{})
	mustPut(t, s, "before", "{}")
	listener, holder, looker := connect(t, d), connect(t, d), connect(t, d)
	if _, err := listener.Exec(t.Context(), "LISTEN comity_revisions"); err != nil {
		t.Fatal(err)
	}
	hold, err := holder.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hold.Exec(t.Context(), "SELECT FROM meta FOR UPDATE"); err != nil {
		t.Fatal(err)
	}

	type answer struct {
		revision mesh.Revision
		err      error
	}
	answers := make(chan answer)
	apply := func(i int) {
		r, err := put(t.Context(), s, fmt.Sprintf("z%d", i), "{}")
		answers <- answer{r.Revision, err}
	}
	go apply(0)
	eventually(t, "the writer waits for the counter", func() error {
		var waiting bool
		err := looker.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')").Scan(&waiting)
		if err == nil && !waiting {
			err = errors.New("it does not")
		}
		return err
	})
	for i := 1; i < callers; i++ {
		go apply(i)
	}
	eventually(t, "the others wait for the writer", func() error {
		if n := stuck(); n < callers {
			return fmt.Errorf("%d of %d do", n, callers)
		}
		return nil
	})
	if err := hold.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}

	given := map[mesh.Revision]bool{}
	for range callers {
		a := <-answers
		if a.err != nil {
			t.Fatal(a.err)
		}
		given[a.revision] = true
	}
	revisions := slices.Sorted(maps.Keys(given))
	if len(revisions) != callers || revisions[0] != 2 || revisions[callers-1] != callers+1 {
		t.Errorf("%d different revisions for %d calls: %v", len(revisions), callers, revisions)
	}
	dense(t, s)
	var transactions int
	if err := looker.QueryRow(t.Context(), "SELECT count(DISTINCT xmin::text) FROM commits WHERE revision > 1").Scan(&transactions); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var told []string
	for len(told) == 0 || told[len(told)-1] != fmt.Sprint(callers+1) {
		n, err := listener.WaitForNotification(ctx)
		if err != nil {
			t.Fatalf("after %q: %v", told, err)
		}
		told = append(told, n.Payload)
	}
	// The first one's, and that of all the others.
	if transactions != 2 || len(told) != 2 {
		t.Errorf("%d calls took %d transactions, and notified %q", callers, transactions, told)
	}
}
