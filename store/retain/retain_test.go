package retain_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/store/retain"
	"github.com/comity-mesh/comity/store/sqlitestore"
)

func TestOnce(t *testing.T) {
	clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "x.db"), sqlitestore.Options{Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	key := mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindZone, Name: "a"}
	for i := range 1200 {
		clock = clock.Add(time.Hour)
		if _, err := s.Apply(t.Context(), store.Batch{Writes: []store.Write{{Resource: mesh.Resource{Key: key, Spec: fmt.Appendf(nil, `{"n":%d}`, i)}}}}); err != nil {
			t.Fatal(err)
		}
	}
	p := retain.Policy{Revisions: 100, History: 24 * time.Hour, Every: time.Second}
	if err := errors.Join(p.Check(), retain.Default().Check(), retain.Once(t.Context(), s, p, clock)); err != nil {
		t.Fatal(err)
	}
	head, err := s.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for back, want := range map[mesh.Revision]error{100: nil, 101: store.ErrCompacted} {
		w, err := s.Watch(t.Context(), mesh.Cursor{Incarnation: head.Incarnation, Revision: head.Revision - back})
		if !errors.Is(err, want) {
			t.Errorf("a watch from %d revisions ago: %v, not %v", back, err, want)
		}
		if err == nil {
			w.Close()
		}
	}
	h, err := s.History(t.Context(), key, 1000, 0)
	if err != nil || len(h) != 25 {
		t.Errorf("%d changes in the history of a day and its first moment, %v", len(h), err)
	}
	if (retain.Policy{}).Check() == nil {
		t.Error("a policy that keeps nothing")
	}
}
