package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

func asConflict(err error) (*store.ConflictError, bool) {
	var c *store.ConflictError
	return c, errors.As(err, &c) && errors.Is(err, store.ErrConflict)
}

func testWatch(s *suite) {
	for i := range 5 {
		s.put(fmt.Sprintf("s%d", i), 1)
	}
	head := s.head()
	for from, want := range map[mesh.Revision]string{0: "[s0@1 s1@2 s2@3 s3@4 s4@5 -s0@6]", 4: "[s4@5 -s0@6]", 5: "[-s0@6]"} {
		w := s.watch(mesh.Cursor{Incarnation: head.Incarnation, Revision: from})
		if from == 0 {
			s.delete("s0")
		}
		if s.head().Revision < 6 {
			s.delete("s0")
		}
		s.equal(w.names(s, int(6-from)), want)
	}
	// A watcher that waits is woken.
	w := s.watch(s.head())
	got := make(chan store.Commit, 1)
	go func() {
		if c, err := w.Next(s.ctx); err == nil {
			got <- c
		}
		close(got)
	}()
	s.put("late", 1)
	if c := <-got; len(c.Changes) != 1 || c.Changes[0].Resource.Name != "late" {
		s.Fatalf("woken with %+v", c)
	}
}

// A deletion says which revision of the origin it is, to who watches live and to who reads the log.
func testDeletions(s *suite) {
	s.put("a", 1)
	live := s.watch(s.head())
	copied := res("b", 1)
	copied.Changed = 40
	s.delete("a")
	s.apply(store.Batch{Writes: []store.Write{{Resource: copied, Copy: true}}})
	gone := mesh.Resource{Key: copied.Key, Changed: 41}
	s.apply(store.Batch{Writes: []store.Write{{Resource: gone, Delete: true, Copy: true}}})
	s.apply(store.Batch{Writes: []store.Write{{Resource: copied, Copy: true}}})
	s.apply(store.Batch{Writes: []store.Write{{Resource: mesh.Resource{Key: copied.Key}, Delete: true, Copy: true}}})
	for _, w := range []watch{live, s.watch(mesh.Cursor{Incarnation: s.head().Incarnation, Revision: 1})} {
		for _, want := range []mesh.Revision{2, 40, 41, 40, 6} {
			c, err := w.Next(s.ctx)
			if err != nil {
				s.Fatal(err)
			}
			if r := c.Changes[0].Resource; r.Changed != want || len(r.Spec) == 0 {
				s.Fatalf("revision %d: %s changed at %d, want %d; spec %s", c.Cursor.Revision, r.Name, r.Changed, want, r.Spec)
			}
		}
	}
	if h, err := s.st.History(s.ctx, res("a", 1).Key, 1, 0); err != nil || h[0].Before == nil || h[0].Before.Changed != 1 {
		s.Fatalf("history %+v, %v", h, err)
	}
}

func testCursors(s *suite) {
	for i := range 4 {
		s.put("a", i)
	}
	head := s.head()
	if head.Incarnation == "" {
		s.Fatal("no incarnation")
	}
	watch := func(inc mesh.Incarnation, rev mesh.Revision) error {
		w, err := s.st.Watch(s.ctx, mesh.Cursor{Incarnation: inc, Revision: rev})
		if err == nil {
			w.Close()
		}
		return err
	}
	s.is(watch("another", 1), store.ErrIncarnation)
	s.is(watch(head.Incarnation, 5), store.ErrFuture)
	if err := s.st.Compact(s.ctx, 2); err != nil {
		s.Fatal(err)
	}
	s.is(watch(head.Incarnation, 1), store.ErrCompacted)
	s.is(watch("", 0), store.ErrCompacted)
	s.equal(s.watch(mesh.Cursor{Incarnation: head.Incarnation, Revision: 2}).names(s, 2), "[a@3 a@4]")
	if err := s.st.Compact(s.ctx, 1); err != nil { // going back forgets nothing and revives nothing
		s.Fatal(err)
	}
	s.is(watch(head.Incarnation, 1), store.ErrCompacted)
	if err := s.st.Compact(s.ctx, 1000); err != nil { // up to the head, not beyond
		s.Fatal(err)
	}
	if err := watch(head.Incarnation, 4); err != nil {
		s.Fatalf("watch from the head: %v", err)
	}
	s.equal(s.get("a").Revision, 4)
}

func testWatchEnds(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	byCtx, err := s.st.Watch(ctx, mesh.Cursor{})
	if err != nil {
		s.Fatal(err)
	}
	byClose := s.watch(mesh.Cursor{})
	byCall := s.watch(mesh.Cursor{})
	callCtx, callCancel := context.WithCancel(s.ctx)
	errs := make(chan error, 3)
	var wg sync.WaitGroup
	for _, next := range []func() (store.Commit, error){
		func() (store.Commit, error) { return byCtx.Next(s.ctx) },
		func() (store.Commit, error) { return byClose.Next(s.ctx) },
		func() (store.Commit, error) { return byCall.Next(callCtx) },
	} {
		wg.Go(func() {
			_, err := next()
			errs <- err
		})
	}
	cancel()
	byClose.Close()
	byClose.Close()
	callCancel()
	wg.Wait()
	for range 3 {
		if err := <-errs; err == nil {
			s.Error("a watcher that ended delivered")
		}
	}
	// The end of one call is not the end of its watcher.
	s.put("a", 1)
	s.equal(byCall.names(s, 1), "[a@1]")
}

// testWatchersAmongWriters: nothing lost, repeated or out of order, wherever a watcher begins.
func testWatchersAmongWriters(s *suite) {
	const writers, each, watchers = 6, 40, 5
	total := writers * each
	var wg sync.WaitGroup
	for w := range watchers {
		wg.Go(func() {
			at := mesh.Cursor{}
			for at.Revision < mesh.Revision(total) {
				watcher, err := s.st.Watch(s.ctx, at)
				if err != nil {
					s.Errorf("watch: %v", err)
					return
				}
				// Every watcher goes away and resumes after another number of commits.
				for range 20 + 30*w {
					c, err := watcher.Next(s.ctx)
					if err != nil {
						s.Errorf("next: %v", err)
						watcher.Close()
						return
					}
					if c.Cursor.Revision != at.Revision+1 || len(c.Changes) == 0 || c.Changes[0].Resource.Revision != c.Cursor.Revision {
						s.Errorf("after %d came %+v", at.Revision, c)
						watcher.Close()
						return
					}
					if at = c.Cursor; at.Revision == mesh.Revision(total) {
						break
					}
				}
				watcher.Close()
			}
		})
	}
	seen := make([]map[mesh.Revision]bool, writers)
	for i := range writers {
		seen[i] = map[mesh.Revision]bool{}
		wg.Go(func() {
			for j := range each {
				r, err := s.st.Apply(s.ctx, store.Batch{Writes: []store.Write{{Resource: res(fmt.Sprintf("w%d", i), j)}}})
				if err != nil {
					s.Errorf("apply: %v", err)
					return
				}
				seen[i][r.Revision] = true
			}
		})
	}
	wg.Wait()
	all := map[mesh.Revision]bool{}
	for _, m := range seen {
		for r := range m {
			all[r] = true
		}
	}
	if len(all) != total || s.head().Revision != mesh.Revision(total) {
		s.Fatalf("%d applies took %d revisions, the head is %d", total, len(all), s.head().Revision)
	}
}

func testSlowWatcher(s *suite) {
	s.put("a", 0)
	slow := s.watch(mesh.Cursor{})
	s.equal(slow.names(s, 1), "[a@1]")
	for i := range 300 {
		s.put("a", i+1)
	}
	if err := s.st.Compact(s.ctx, 290); err != nil {
		s.Fatal(err)
	}
	// It may still hold what it had read, in order, but must then be told, not skip.
	at := mesh.Revision(1)
	for {
		c, err := slow.Next(s.ctx)
		if errors.Is(err, store.ErrCompacted) {
			break
		}
		if err != nil || c.Cursor.Revision != at+1 {
			s.Fatalf("after %d: %+v, %v", at, c.Cursor, err)
		}
		if at++; at > 290 {
			s.Fatal("read through compacted changes")
		}
	}
}

// testOptimisticWriters: of writers that read, add one and write back, none overwrites another.
func testOptimisticWriters(s *suite) {
	s.put("counter", 0)
	const writers, each = 5, 15
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				cur, err := s.st.Get(s.ctx, res("counter", 0).Key)
				if err != nil {
					s.Error(err)
					return
				}
				var n int
				if _, err := fmt.Sscanf(string(cur.Spec), `{"port":%d}`, &n); err != nil {
					s.Error(err)
					return
				}
				_, err = s.st.Apply(s.ctx, store.Batch{Writes: []store.Write{{Resource: res("counter", n+1), IfRevision: &cur.Revision}}})
				switch {
				case err == nil:
					done++
				case !errors.Is(err, store.ErrConflict):
					s.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	s.equal(string(s.get("counter").Spec), fmt.Sprintf(`{"port":%d}`, writers*each))
}

func testRecords(s *suite) {
	_, err := s.st.GetRecord(s.ctx, "b", "k")
	s.is(err, store.ErrNotFound)
	if list, seq, err := s.st.ListRecords(s.ctx, "b", ""); err != nil || list == nil || len(list) != 0 || seq != 0 {
		s.Fatalf("an unknown bucket: %v, %d, %v", list, seq, err)
	}
	s.equal(s.records("b", store.RecordWrite{Key: "x/2", Value: []byte("2")}, store.RecordWrite{Key: "x/1", Value: []byte("1")}, store.RecordWrite{Key: "y", Value: nil}), 1)
	s.equal(s.records("b", store.RecordWrite{Key: "x/2", Value: []byte("3")}, store.RecordWrite{Key: "none", Delete: true}), 2)
	s.equal(s.records("c", store.RecordWrite{Key: "x/2", Value: []byte("other")}), 1)
	list, seq, err := s.st.ListRecords(s.ctx, "b", "x/")
	if err != nil || seq != 2 || len(list) != 2 || list[0].Key != "x/1" || list[0].Version != 1 || string(list[1].Value) != "3" || list[1].Version != 2 || list[1].UpdatedAt.IsZero() {
		s.Fatalf("list %+v, %d, %v", list, seq, err)
	}
	if r, err := s.st.GetRecord(s.ctx, "b", "y"); err != nil || len(r.Value) != 0 {
		s.Fatalf("an empty value: %+v, %v", r, err)
	}
	s.records("b", store.RecordWrite{Key: "x/1", Delete: true})
	_, err = s.st.GetRecord(s.ctx, "b", "x/1")
	s.is(err, store.ErrNotFound)
}

func testRecordsCAS(s *suite) {
	_, err := s.st.PutRecords(s.ctx, "b", store.RecordWrite{Key: "other", Value: []byte("x")}, store.RecordWrite{Key: "k", Value: []byte("x"), IfVersion: ptr(uint64(4))})
	s.is(err, store.ErrConflict)
	if _, seq, _ := s.st.ListRecords(s.ctx, "b", ""); seq != 0 {
		s.Fatalf("a conflict moved the sequence to %d", seq)
	}
	// A one-time token: of many who burn it, one succeeds.
	s.records("tokens", store.RecordWrite{Key: "t", Value: []byte("unused")})
	const racers = 12
	var wg sync.WaitGroup
	won := make(chan int, racers)
	for i := range racers {
		wg.Go(func() {
			_, err := s.st.PutRecords(s.ctx, "tokens", store.RecordWrite{Key: "t", Value: []byte(strconv.Itoa(i)), IfVersion: ptr(uint64(1))})
			switch {
			case err == nil:
				won <- i
			case !errors.Is(err, store.ErrConflict):
				s.Errorf("racer %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	close(won)
	winner := <-won
	if _, more := <-won; more {
		s.Fatal("two racers burnt one token")
	}
	if r, err := s.st.GetRecord(s.ctx, "tokens", "t"); err != nil || string(r.Value) != strconv.Itoa(winner) {
		s.Fatalf("%+v, %v, want %d", r, err, winner)
	}
	// A version never comes back, not even when the record does.
	s.records("tokens", store.RecordWrite{Key: "t", Delete: true})
	s.records("tokens", store.RecordWrite{Key: "t", Value: []byte("new"), IfVersion: ptr(uint64(0))})
	_, err = s.st.PutRecords(s.ctx, "tokens", store.RecordWrite{Key: "t", Value: nil, IfVersion: ptr(uint64(1))})
	s.is(err, store.ErrConflict)
}

func testRecordsWatch(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	status := s.st.WatchRecords(ctx, "status/")
	<-status // once at the start
	s.records("statuses", store.RecordWrite{Key: "k"})
	s.records("proxies/east", store.RecordWrite{Key: "k"})
	select {
	case <-status:
		s.Fatal("signalled for another bucket")
	default:
	}
	for range 3 {
		s.records("status/east", store.RecordWrite{Key: "k"})
	}
	<-status
	select {
	case <-status:
		s.Fatal("three changes that nobody looked at are more than one signal")
	default:
	}
	s.records("status/west", store.RecordWrite{Key: "k"})
	<-status
	cancel()
	for range status { //nolint:revive // until it is closed
	}
}

func testRecordsLeaveRevisions(s *suite) {
	s.put("a", 1)
	w := s.watch(s.head())
	s.records("b", store.RecordWrite{Key: "k", Value: []byte("v")})
	s.put("a", 2)
	s.equal(w.names(s, 1), "[a@2]")
	s.equal(s.head().Revision, 2)
}
