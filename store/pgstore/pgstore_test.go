package pgstore_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/comity-mesh/comity/internal/pgbin"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/pgstore"
	"github.com/comity-mesh/comity/store/storetest"
	"github.com/comity-mesh/comity/store/storetest/history"
)

// shared is the server of the tests that do it no harm; each has a database of its own.
var shared *pgbin.Server

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv(history.Env) != "" {
		return history.Child(context.Background(), openReach)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	if shared, err = pgbin.Run(ctx, "fsync = off", "max_connections = 400"); err != nil {
		fmt.Println(err)
		return 1
	}
	defer shared.Remove() //nolint:errcheck // a folder for temporary files
	code := m.Run()
	if err := goleak.Find(goleak.IgnoreTopFunction("os/exec.(*Cmd).Wait"), goleak.IgnoreAnyFunction("github.com/comity-mesh/comity/internal/pgbin.(*Server).start.func1")); err != nil && code == 0 {
		fmt.Println(err)
		return 1
	}
	return code
}

var databases atomic.Int64

// on is a database of a server.
func on(s *pgbin.Server, name string) pgstore.Database {
	return pgstore.Database{URL: s.URL(name), Password: func() (string, error) { return s.Password(), nil }}
}

// database makes an empty database on the shared server.
func database(t *testing.T) pgstore.Database {
	t.Helper()
	name := fmt.Sprintf("t%d", databases.Add(1))
	if _, err := shared.Run(t.Context(), "createdb", name); err != nil {
		t.Fatal(err)
	}
	return on(shared, name)
}

func migrated(t *testing.T) pgstore.Database {
	t.Helper()
	d := database(t)
	if _, err := pgstore.Migrate(t.Context(), d, pgstore.MigrateOptions{}); err != nil {
		t.Fatal(err)
	}
	return d
}

func open(t *testing.T, d pgstore.Database, o pgstore.Options) *pgstore.Store {
	t.Helper()
	s, err := pgstore.Open(t.Context(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, migrated(t), pgstore.Options{Readers: 3}) })
}

func TestReopen(t *testing.T) {
	d := migrated(t)
	storetest.RunReopen(t, func(t *testing.T, _ string) store.Store { return open(t, d, pgstore.Options{}) })
}
