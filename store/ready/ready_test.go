package ready_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/ready"
	"github.com/comity-mesh/comity/store/sqlitestore"
)

// TestCheck fills a real store, in which small writes still find room.
func TestCheck(t *testing.T) {
	engine, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"), sqlitestore.Options{MaxBytes: 600 << 10})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := ready.Watch(engine, func() time.Time { return now })
	put := func(size int) error {
		_, err := s.PutRecords(t.Context(), "status/west", store.RecordWrite{Key: "k", Value: []byte(strings.Repeat("x", size))})
		return err
	}
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := put(900 << 10); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("the store has no limit: %v", err)
	}
	if err := put(10); err != nil {
		t.Fatal(err)
	}
	now = now.Add(3 * time.Second)
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "failed 3s ago") {
		t.Errorf("after a failed write: %v", err)
	}
	now = now.Add(10 * time.Second)
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("when nothing fails any more: %v", err)
	}
	// Its own writes are few.
	_, before, err := s.ListRecords(t.Context(), "readiness", "")
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, after, err := s.ListRecords(t.Context(), "readiness", ""); err != nil || after != before {
		t.Errorf("%d probes, %v", after-before, err)
	}
	// A store that is gone is found without anybody's writes.
	now = now.Add(time.Minute)
	if err := engine.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err == nil {
		t.Error("a closed store is ready")
	}
}
