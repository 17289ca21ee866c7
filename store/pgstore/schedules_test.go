package pgstore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/comity-mesh/comity/internal/pgbin"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/pgstore"
	"github.com/comity-mesh/comity/store/storetest/history"
)

// reach is what a child needs to open a store.
type reach struct{ URL, Password string }

func openReach(ctx context.Context, text string) (store.Store, error) {
	var r reach
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, err
	}
	d := pgstore.Database{URL: r.URL, Password: func() (string, error) { return r.Password, nil }}
	return pgstore.Open(ctx, d, pgstore.Options{Readers: 3})
}

// TestSchedules: two replicas write and watch while they, their connections and the database are killed at random
// moments; nothing is lost, repeated or reordered.
func TestSchedules(t *testing.T) {
	server, err := pgbin.Run(t.Context(), "fsync = off", "max_connections = 60")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Remove(); err != nil {
			t.Error(err)
		}
	})
	cut := func(ctx context.Context, rng *rand.Rand) error {
		if rng.IntN(3) > 0 {
			_, err := server.Run(ctx, "psql", "-d", "postgres", "-qAtc", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'comity%' AND random() < 0.7")
			return err
		}
		server.Kill()
		return server.Start(ctx)
	}
	var sum history.Report
	n := history.Schedules(50)
	for seed := range n {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			name := fmt.Sprintf("s%d", seed)
			if _, err := server.Run(t.Context(), "createdb", name); err != nil {
				t.Fatal(err)
			}
			if _, err := pgstore.Migrate(t.Context(), on(server, name), pgstore.MigrateOptions{}); err != nil {
				t.Fatal(err)
			}
			at, err := json.Marshal(reach{server.URL(name), server.Password()})
			if err != nil {
				t.Fatal(err)
			}
			r, err := history.Run(t.Context(), history.Config{Seed: uint64(seed), Dir: t.TempDir(), Store: string(at), Open: openReach, Replicas: 2, Fault: cut})
			if err != nil {
				t.Fatal(err)
			}
			sum.Add(r)
		})
	}
	t.Logf("%d schedules: %+v", n, sum)
}
