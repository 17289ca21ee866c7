package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

func testGetList(s *suite) {
	_, err := s.st.Get(s.ctx, res("none", 0).Key)
	s.is(err, store.ErrNotFound)
	if p := s.list(store.Query{}); p.Items == nil || len(p.Items) != 0 || p.Cursor != s.head() {
		s.Fatalf("an empty store lists %+v", p)
	}
	for i, name := range []string{"web", "cart", "pay", "web-2"} {
		r := res(name, i)
		r.Labels = map[string]string{"app": name[:3], "x.example/odd \"key": "v"}
		if name == "pay" {
			r.Origin, r.Namespace = "aws-east", "bank"
		}
		s.apply(store.Batch{Writes: []store.Write{{Resource: r}}})
	}
	s.put("cart", 9)
	for _, c := range []struct {
		q    store.Query
		want string
	}{
		{store.Query{}, "[pay cart web web-2]"},
		{store.Query{Desc: true}, "[web-2 web cart pay]"},
		{store.Query{Sort: store.SortName}, "[cart pay web web-2]"},
		{store.Query{Sort: store.SortChanged}, "[web pay web-2 cart]"},
		{store.Query{Sort: store.SortChanged, Desc: true, Limit: 1}, "[cart]"},
		{store.Query{Origin: "aws-east"}, "[pay]"},
		{store.Query{Kind: mesh.KindZone}, "[]"},
		{store.Query{Kind: mesh.KindService, Namespace: "shop", Name: "web"}, "[web]"},
		{store.Query{Contains: "e"}, "[web web-2]"},
		{store.Query{Contains: "%"}, "[]"},
		{store.Query{Labels: map[string]string{"app": "web"}}, "[web web-2]"},
		{store.Query{Labels: map[string]string{"app": "web", "x.example/odd \"key": "v"}, Contains: "2"}, "[web-2]"},
		{store.Query{Labels: map[string]string{"app": "none"}}, "[]"},
	} {
		if got := fmt.Sprint(names(s.list(c.q).Items)); got != c.want {
			s.Errorf("%+v lists %s, want %s", c.q, got, c.want)
		}
	}
}

func testPages(s *suite) {
	var all []string
	for i := range 25 {
		name := fmt.Sprintf("s%02d", (i*7)%25)
		all = append(all, name)
		s.put(name, i)
	}
	byName := slices.Sorted(slices.Values(all))
	for _, c := range []struct {
		sort store.Sort
		want []string
	}{{store.SortKey, byName}, {store.SortName, byName}, {store.SortChanged, all}, {store.SortCreated, nil}} {
		for _, desc := range []bool{false, true} {
			var got []string
			q := store.Query{Sort: c.sort, Desc: desc, Limit: 7}
			for {
				p := s.list(q)
				got = append(got, names(p.Items)...)
				if q.Continue = p.Continue; q.Continue == "" {
					break
				}
			}
			want := slices.Clone(c.want)
			if want == nil { // equal times may be ordered by key
				want, got = byName, slices.Sorted(slices.Values(got))
			} else if desc {
				slices.Reverse(want)
			}
			if !slices.Equal(got, want) {
				s.Errorf("sort %q desc %v: %v", c.sort, desc, got)
			}
		}
	}
	if p := s.list(store.Query{Limit: 25}); p.Continue != "" {
		s.Errorf("a page that holds everything has a next one")
	}
	p := s.list(store.Query{Limit: 3})
	for _, q := range []store.Query{
		{Limit: 1001}, {Limit: -1}, {Sort: "size"}, {Continue: "rubbish!"}, {Continue: "e30"},
		{Continue: p.Continue, Desc: true}, {Continue: p.Continue, Contains: "s"},
	} {
		_, err := s.st.List(s.ctx, q)
		s.is(err, store.ErrInvalid)
	}
}

// testPagesUnderWrites: what is not changed meanwhile appears once; the first page's cursor, watched,
// tells the rest.
func testPagesUnderWrites(s *suite) {
	for i := range 20 {
		s.put(fmt.Sprintf("s%02d", i), 1)
	}
	seen := map[string]int{}
	q := store.Query{Limit: 6}
	var first mesh.Cursor
	for page := 0; ; page++ {
		p := s.list(q)
		if page == 0 {
			first = p.Cursor
		} else if p.Cursor != first {
			s.Errorf("page %d has cursor %v, the first had %v", page, p.Cursor, first)
		}
		for _, n := range names(p.Items) {
			seen[n]++
		}
		if q.Continue = p.Continue; q.Continue == "" {
			break
		}
		s.put("a-before", page)
		s.put(fmt.Sprintf("s%02d-between", page), 1)
		s.delete(fmt.Sprintf("s%02d", 10+page))
	}
	for i := range 20 {
		n := fmt.Sprintf("s%02d", i)
		if deleted := i >= 10 && i < 13; !deleted && seen[n] != 1 {
			s.Errorf("%s was listed %d times", n, seen[n])
		}
	}
	w := s.watch(first)
	s.equal(w.names(s, 3), "[a-before@21 s00-between@22 -s10@23]")
}

func testOneRevision(s *suite) {
	w := s.watch(mesh.Cursor{})
	r := s.apply(store.Batch{Actor: "user:a", Writes: []store.Write{{Resource: res("a", 1)}, {Resource: res("b", 1)}, {Resource: res("none", 1), Delete: true}}})
	if r.Revision != 1 || r.Items[0].Outcome != store.Created || r.Items[2].Outcome != store.Absent || len(r.Items) != 3 {
		s.Fatalf("result %+v", r)
	}
	if got := s.get("a"); got.Revision != 1 || got.UID == "" || got.Created != 1 || got.Changed != 1 || got.Generation != 1 || got.CreatedAt.IsZero() {
		s.Fatalf("resource %+v", got)
	}
	s.apply(store.Batch{Writes: []store.Write{{Resource: res("a", 2)}, {Resource: res("b", 1), Delete: true}}})
	c, err := w.Next(s.ctx)
	if err != nil || c.Actor != "user:a" || c.At.IsZero() || len(c.Changes) != 2 || c.Cursor.Revision != 1 {
		s.Fatalf("commit %+v, %v", c, err)
	}
	s.equal(w.names(s, 2), "[a@2 -b@2]")
	if got := s.delete("none"); got.Revision != 2 {
		s.Errorf("deleting what is absent took revision %d", got.Revision)
	}
}

func testGeneration(s *suite) {
	uid := s.put("a", 1).Items[0].Resource.UID
	again := res("a", 1)
	again.UID, again.Generation, again.Created = "forged", 99, 7
	if r := s.apply(store.Batch{Writes: []store.Write{{Resource: again}}}); r.Revision != 1 || r.Items[0].Outcome != store.Unchanged || r.Items[0].Resource.UID != uid {
		s.Fatalf("the same again: %+v", r)
	}
	again.Labels = map[string]string{"a": "b"}
	if r := s.apply(store.Batch{Writes: []store.Write{{Resource: again}}}).Items[0]; r.Outcome != store.Updated || r.Resource.Generation != 1 || r.Resource.Revision != 2 || r.Resource.UID != uid {
		s.Fatalf("labels changed: %+v", r)
	}
	if r := s.put("a", 2).Items[0]; r.Resource.Generation != 2 || r.Resource.Created != 1 || r.Resource.Changed != 3 {
		s.Fatalf("spec changed: %+v", r)
	}
	s.delete("a")
	if r := s.put("a", 2).Items[0]; r.Resource.UID == uid || r.Resource.Generation != 1 || r.Resource.Created != 5 {
		s.Fatalf("made again: %+v", r)
	}
}

func testCopies(s *suite) {
	s.put("first", 1)
	at := time.Date(2020, 1, 2, 3, 4, 5, 6000, time.UTC)
	c := res("a", 1)
	c.UID, c.Generation, c.Created, c.Changed, c.CreatedAt, c.ChangedAt = "u", 7, 40, 41, at, at
	s.apply(store.Batch{Writes: []store.Write{{Resource: c, Copy: true}}})
	got := s.get("a")
	if got.UID != "u" || got.Generation != 7 || got.Created != 40 || got.Changed != 41 || !got.CreatedAt.Equal(at) || !got.ChangedAt.Equal(at) || got.Revision != 2 {
		s.Fatalf("copy %+v", got)
	}
	if r := s.apply(store.Batch{Writes: []store.Write{{Resource: c, Copy: true}}}); r.Items[0].Outcome != store.Unchanged || r.Revision != 2 {
		s.Fatalf("the same copy: %+v", r)
	}
	c.UID = "another"
	if r := s.apply(store.Batch{Writes: []store.Write{{Resource: c, Copy: true}}}); r.Items[0].Outcome != store.Updated || r.Revision != 3 {
		s.Fatalf("recreated at the origin: %+v", r)
	}
}

func testConflicts(s *suite) {
	put := func(name string, port int, rev mesh.Revision) error {
		_, err := s.st.Apply(s.ctx, store.Batch{Writes: []store.Write{{Resource: res("other", port)}, {Resource: res(name, port), IfRevision: &rev}}})
		return err
	}
	s.is(put("a", 1, 3), store.ErrConflict)
	if s.head().Revision != 0 {
		s.Fatal("a conflict wrote something")
	}
	if err := put("a", 1, 0); err != nil {
		s.Fatal(err)
	}
	err := put("a", 2, 0)
	conflict, ok := asConflict(err)
	if !ok || conflict.Current == nil || conflict.Current.Revision != 1 || conflict.Key.Name != "a" {
		s.Fatalf("conflict %v", err)
	}
	if err := put("a", 2, 1); err != nil {
		s.Fatal(err)
	}
	del := func(rev mesh.Revision) error {
		_, err := s.st.Apply(s.ctx, store.Batch{Writes: []store.Write{{Resource: res("a", 0), Delete: true, IfRevision: &rev}}})
		return err
	}
	s.is(del(1), store.ErrConflict)
	if err := del(2); err != nil {
		s.Fatal(err)
	}
	if conflict, ok := asConflict(del(2)); !ok || conflict.Current != nil {
		s.Fatalf("deleting again: %+v", conflict)
	}
}

func testIdempotency(s *suite) {
	b := store.Batch{Writes: []store.Write{{Resource: res("a", 1)}}, Actor: "user:a", IdempotencyKey: "k1"}
	first := s.apply(b)
	s.put("a", 2)
	again := s.apply(b)
	if !again.Replayed || again.Revision != 1 || again.Items[0].Resource.UID != first.Items[0].Resource.UID || again.Items[0].Outcome != store.Created {
		s.Fatalf("replay %+v", again)
	}
	if got := s.get("a"); got.Revision != 2 {
		s.Fatalf("the replay wrote: %+v", got)
	}
	other := b
	other.Writes = []store.Write{{Resource: res("a", 3)}}
	_, err := s.st.Apply(s.ctx, other)
	s.is(err, store.ErrIdempotencyMismatch)
	other = b
	other.Actor = "user:b"
	_, err = s.st.Apply(s.ctx, other)
	s.is(err, store.ErrIdempotencyMismatch)
	// A call that failed did nothing, so its key is free.
	failing := store.Batch{Writes: []store.Write{{Resource: res("z", 1), IfRevision: ptr(mesh.Revision(9))}}, IdempotencyKey: "k2"}
	_, err = s.st.Apply(s.ctx, failing)
	s.is(err, store.ErrConflict)
	if r := s.apply(store.Batch{Writes: []store.Write{{Resource: res("z", 1)}}, IdempotencyKey: "k2"}); r.Replayed {
		s.Fatalf("a failed call was remembered: %+v", r)
	}
}

func testDryRun(s *suite) {
	s.put("a", 1)
	r := s.apply(store.Batch{DryRun: true, IdempotencyKey: "k", Writes: []store.Write{{Resource: res("a", 2)}, {Resource: res("b", 1)}, {Resource: res("a", 0), Delete: true}}})
	if r.Revision != 1 || r.Items[0].Outcome != store.Updated || r.Items[0].Resource.Generation != 2 || r.Items[1].Outcome != store.Created || r.Items[2].Outcome != store.Deleted {
		s.Fatalf("dry run %+v", r)
	}
	s.equal(names(s.list(store.Query{}).Items), "[a]")
	if r := s.put("c", 1); r.Revision != 2 || r.Replayed {
		s.Fatalf("after the dry run: %+v", r)
	}
	_, err := s.st.Apply(s.ctx, store.Batch{DryRun: true, Writes: []store.Write{{Resource: res("a", 2), IfRevision: ptr(mesh.Revision(9))}}})
	s.is(err, store.ErrConflict)
}

func testHistory(s *suite) {
	s.apply(store.Batch{Writes: []store.Write{{Resource: res("a", 1)}}, Actor: "user:a", Source: "cli", Reason: "because"})
	s.put("b", 1)
	s.put("a", 2)
	s.delete("a")
	if err := s.st.Compact(s.ctx, 4); err != nil {
		s.Fatal(err)
	}
	h, err := s.st.History(s.ctx, res("a", 0).Key, 0, 0)
	if err != nil || len(h) != 3 {
		s.Fatalf("history %+v, %v", h, err)
	}
	if h[0].After != nil || h[0].Before == nil || h[0].Revision != 4 || h[2].Before != nil || h[2].Actor != "user:a" || h[2].Source != "cli" || h[2].Reason != "because" || h[2].At.IsZero() {
		s.Fatalf("history %+v", h)
	}
	if string(h[1].Before.Spec) != `{"port":1}` || string(h[1].After.Spec) != `{"port":2}` {
		s.Fatalf("history %+v", h[1])
	}
	if page, err := s.st.History(s.ctx, res("a", 0).Key, 1, 4); err != nil || len(page) != 1 || page[0].Revision != 3 {
		s.Fatalf("second page %+v, %v", page, err)
	}
	if err := s.st.ForgetHistory(s.ctx, h[2].At); err != nil {
		s.Fatal(err)
	}
	if kept, err := s.st.History(s.ctx, res("a", 0).Key, 0, 0); err != nil || len(kept) != 3 {
		s.Fatalf("forgot too much: %+v, %v", kept, err)
	}
	if err := s.st.ForgetHistory(s.ctx, h[0].At.Add(time.Second)); err != nil {
		s.Fatal(err)
	}
	if kept, err := s.st.History(s.ctx, res("a", 0).Key, 0, 0); err != nil || len(kept) != 0 {
		s.Fatalf("forgot too little: %+v, %v", kept, err)
	}
	if _, err := s.st.Get(s.ctx, res("b", 0).Key); err != nil {
		s.Fatal(err)
	}
}

func testInvalid(s *suite) {
	for _, r := range []mesh.Resource{
		{}, {Key: mesh.Key{Origin: "global", Kind: "Zone"}},
		{Key: mesh.Key{Origin: "global", Kind: "Zone", Name: "a/b"}},
		{Key: mesh.Key{Origin: "global", Kind: "Zone", Name: strings.Repeat("x", 600)}},
		{Key: mesh.Key{Origin: "global", Kind: "Zone", Name: "a"}, Spec: []byte(`{"a":`)},
	} {
		_, err := s.st.Apply(s.ctx, store.Batch{Writes: []store.Write{{Resource: r}}})
		s.is(err, store.ErrInvalid)
	}
	_, err := s.st.PutRecords(s.ctx, "", store.RecordWrite{Key: "k"})
	s.is(err, store.ErrInvalid)
	_, err = s.st.PutRecords(s.ctx, "b", store.RecordWrite{Key: ""})
	s.is(err, store.ErrInvalid)
	_, err = s.st.PutRecords(s.ctx, "b", store.RecordWrite{Key: "k", Value: make([]byte, 1<<20+1)})
	s.is(err, store.ErrInvalid)
	s.records("b", store.RecordWrite{Key: "k", Value: make([]byte, 1<<20)})
	for _, bad := range []string{"a\x00b", "a\xffb"} {
		testNoText(s, bad)
	}
	if s.head().Revision != 0 {
		s.Fatal("an invalid call took a revision")
	}
}

// testNoText: what some engine can't keep as text no engine takes, in any place, and it says so in the same words.
func testNoText(s *suite, bad string) {
	key := mesh.Key{Origin: "global", Kind: "Zone", Name: bad}
	named := mesh.Resource{Key: key}
	labelled := res("a", 1)
	labelled.Labels = map[string]string{"a": bad}
	apply := func(b store.Batch) error { _, err := s.st.Apply(s.ctx, b); return err }
	list := func(q store.Query) error { _, err := s.st.List(s.ctx, q); return err }
	_, get := s.st.Get(s.ctx, key)
	_, history := s.st.History(s.ctx, key, 1, 0)
	_, put := s.st.PutRecords(s.ctx, "b", store.RecordWrite{Key: bad, Value: []byte("{}")})
	_, bucket := s.st.PutRecords(s.ctx, bad, store.RecordWrite{Key: "k", Value: []byte("{}")})
	_, record := s.st.GetRecord(s.ctx, "b", bad)
	_, _, records := s.st.ListRecords(s.ctx, "b", bad)
	for what, err := range map[string]error{
		"get": get, "history": history, "put": put, "bucket": bucket, "record": record, "records": records,
		"name":        apply(store.Batch{Writes: []store.Write{{Resource: named}}}),
		"label":       apply(store.Batch{Writes: []store.Write{{Resource: labelled}}}),
		"reason":      apply(store.Batch{Writes: []store.Write{{Resource: res("a", 1)}}, Reason: bad}),
		"idempotency": apply(store.Batch{Writes: []store.Write{{Resource: res("a", 1)}}, IdempotencyKey: bad}),
		"contains":    list(store.Query{Contains: bad}),
		"namespace":   list(store.Query{Namespace: bad}),
		"selector":    list(store.Query{Labels: map[string]string{"a": bad}}),
	} {
		if !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "is no text") {
			s.Errorf("%s of %q: %v", what, bad, err)
		}
	}
}

func testContext(s *suite) {
	ctx, cancel := context.WithCancel(s.ctx)
	cancel()
	_, err := s.st.Apply(ctx, store.Batch{Writes: []store.Write{{Resource: res("a", 1)}}})
	s.is(err, context.Canceled)
	_, err = s.st.Get(ctx, res("a", 0).Key)
	s.is(err, context.Canceled)
	_, err = s.st.List(ctx, store.Query{})
	s.is(err, context.Canceled)
	_, err = s.st.Head(ctx)
	s.is(err, context.Canceled)
	_, err = s.st.Watch(ctx, mesh.Cursor{})
	s.is(err, context.Canceled)
	_, err = s.st.PutRecords(ctx, "b", store.RecordWrite{Key: "k"})
	s.is(err, context.Canceled)
	if s.head().Revision != 0 {
		s.Fatal("a call without a context wrote")
	}
}
