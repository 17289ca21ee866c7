// Package storetest is the suite that every engine of store.Store passes. What it does not test, a
// caller must not rely on.
package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Run runs the suite; open returns a new, empty store that the suite closes.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for name, test := range map[string]func(*suite){
		"get and list":                 testGetList,
		"pages":                        testPages,
		"pages under writes":           testPagesUnderWrites,
		"apply is one revision":        testOneRevision,
		"generation and unchanged":     testGeneration,
		"copies":                       testCopies,
		"conflicts":                    testConflicts,
		"idempotency":                  testIdempotency,
		"dry run":                      testDryRun,
		"history":                      testHistory,
		"invalid calls":                testInvalid,
		"watch from anywhere":          testWatch,
		"watch cursors":                testCursors,
		"watch deletions":              testDeletions,
		"watch ends":                   testWatchEnds,
		"watchers among writers":       testWatchersAmongWriters,
		"slow watcher is compacted":    testSlowWatcher,
		"optimistic writers":           testOptimisticWriters,
		"records":                      testRecords,
		"records compare and set":      testRecordsCAS,
		"records watch":                testRecordsWatch,
		"records leave revisions":      testRecordsLeaveRevisions,
		"calls end with their context": testContext,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			t.Cleanup(cancel)
			st := open(t)
			t.Cleanup(func() {
				if err := st.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			test(&suite{T: t, ctx: ctx, st: st})
		})
	}
}

// RunReopen tests what must survive a close. open opens the store that lives in dir, which is empty
// the first time.
func RunReopen(t *testing.T, open func(t *testing.T, dir string) store.Store) {
	dir := t.TempDir()
	st := open(t, dir)
	s := &suite{T: t, ctx: t.Context(), st: st}
	s.put("a", 1)
	s.put("b", 1)
	s.put("a", 2)
	v := s.records("bucket", store.RecordWrite{Key: "k", Value: []byte("v")})
	s.apply(store.Batch{Writes: []store.Write{{Resource: res("c", 1)}}, IdempotencyKey: "key"})
	before := s.head()
	if err := st.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}

	s.st = open(t, dir)
	t.Cleanup(func() {
		if err := s.st.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if got := s.head(); got != before {
		t.Errorf("head is %v after reopening, was %v", got, before)
	}
	if got := s.watch(mesh.Cursor{Incarnation: before.Incarnation, Revision: 1}).names(s, 3); fmt.Sprint(got) != "[b@2 a@3 c@4]" {
		t.Errorf("watch after reopening: %v", got)
	}
	if r, err := s.st.GetRecord(s.ctx, "bucket", "k"); err != nil || string(r.Value) != "v" || r.Version != v {
		t.Errorf("record after reopening: %+v, %v", r, err)
	}
	if r := s.apply(store.Batch{Writes: []store.Write{{Resource: res("c", 1)}}, IdempotencyKey: "key"}); !r.Replayed || r.Revision != 4 {
		t.Errorf("idempotency key after reopening: %+v", r)
	}
	if r := s.put("d", 1); r.Revision != 5 {
		t.Errorf("the next revision is %d, not 5", r.Revision)
	}
}

type suite struct {
	*testing.T
	ctx context.Context // one test's
	st  store.Store
}

// res is a Service at global.
func res(name string, port int) mesh.Resource {
	return mesh.Resource{
		Key:        mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindService, Namespace: "shop", Name: name},
		APIVersion: "v1", Spec: json.RawMessage(fmt.Sprintf(`{"port":%d}`, port)),
	}
}

func (s *suite) apply(b store.Batch) store.Result {
	s.Helper()
	r, err := s.st.Apply(s.ctx, b)
	if err != nil {
		s.Fatalf("apply: %v", err)
	}
	return r
}

func (s *suite) put(name string, port int) store.Result {
	s.Helper()
	return s.apply(store.Batch{Writes: []store.Write{{Resource: res(name, port)}}, Actor: "user:test", Source: "test"})
}

func (s *suite) delete(name string) store.Result {
	s.Helper()
	return s.apply(store.Batch{Writes: []store.Write{{Resource: res(name, 0), Delete: true}}, Actor: "user:test"})
}

func (s *suite) get(name string) mesh.Resource {
	s.Helper()
	r, err := s.st.Get(s.ctx, res(name, 0).Key)
	if err != nil {
		s.Fatalf("get %s: %v", name, err)
	}
	return r
}

func (s *suite) list(q store.Query) store.Page {
	s.Helper()
	p, err := s.st.List(s.ctx, q)
	if err != nil {
		s.Fatalf("list %+v: %v", q, err)
	}
	return p
}

func (s *suite) head() mesh.Cursor {
	s.Helper()
	c, err := s.st.Head(s.ctx)
	if err != nil {
		s.Fatalf("head: %v", err)
	}
	return c
}

func (s *suite) records(bucket string, w ...store.RecordWrite) uint64 {
	s.Helper()
	v, err := s.st.PutRecords(s.ctx, bucket, w...)
	if err != nil {
		s.Fatalf("put records: %v", err)
	}
	return v
}

func (s *suite) is(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Fatalf("error %v, want %v", err, want)
	}
}

func (s *suite) equal(got, want any) {
	s.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		s.Fatalf("got  %v\nwant %v", got, want)
	}
}

type watch struct{ store.Watcher }

func (s *suite) watch(from mesh.Cursor) watch {
	s.Helper()
	w, err := s.st.Watch(s.ctx, from)
	if err != nil {
		s.Fatalf("watch from %v: %v", from, err)
	}
	s.Cleanup(w.Close)
	return watch{w}
}

// names reads n changes as name@revision, with a minus before those deleted.
func (w watch) names(s *suite, n int) []string {
	s.Helper()
	var out []string
	for len(out) < n {
		c, err := w.Next(s.ctx)
		if err != nil {
			s.Fatalf("next after %v: %v", out, err)
		}
		for _, ch := range c.Changes {
			name := fmt.Sprintf("%s@%d", ch.Resource.Name, c.Cursor.Revision)
			if ch.Deleted {
				name = "-" + name
			}
			out = append(out, name)
		}
	}
	return out
}

func names(items []mesh.Resource) []string {
	out := []string{}
	for _, r := range items {
		out = append(out, r.Name)
	}
	return out
}

func ptr[T any](v T) *T { return &v }
