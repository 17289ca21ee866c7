package pgstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/pgstore"
)

// TestWritersReadNoTables: what a write looks for it finds by its key, though its statements were planned when the tables were empty.
func TestWritersReadNoTables(t *testing.T) {
	const writes, many, turns = 50, 40, 80
	d := migrated(t)
	s := open(t, d, pgstore.Options{})
	// In company a write looks for many keys, for which a small table is best read from end to end; the plan of that is kept.
	together := store.Batch{Actor: "user:x", Source: "test"}
	for i := range many {
		together.Writes = append(together.Writes, store.Write{Resource: mesh.Resource{
			Key: mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindService, Namespace: "shop", Name: fmt.Sprintf("m%d", i)}, APIVersion: "v1", Spec: []byte("{}"),
		}})
	}
	for i := range turns {
		for j := range together.Writes {
			together.Writes[j].Resource.Spec = fmt.Appendf(nil, `{"n":%d}`, i)
		}
		if _, err := s.Apply(t.Context(), together); err != nil {
			t.Fatal(err)
		}
	}
	for i := range writes {
		mustPut(t, s, fmt.Sprintf("p%d", i), "{}")
		if _, err := s.PutRecords(t.Context(), "bucket", store.RecordWrite{Key: fmt.Sprint(i), Value: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	s.Close() // its connections say what they did
	looker := connect(t, d)
	for _, table := range []string{"resources", "records"} {
		var whole, byKey int64
		for deadline := time.Now().Add(20 * time.Second); byKey < writes; {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d of %d writes looked by a key, %d read all of it", table, byKey, writes, whole)
			}
			if err := looker.QueryRow(t.Context(), "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relname = $1", table).Scan(&whole, &byKey); err != nil {
				t.Fatal(err)
			}
		}
		if whole > turns/10 {
			t.Errorf("%s was read from end to end %d times", table, whole)
		}
	}
}
