package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// recorded is what the children said.
type recorded struct {
	calls   map[string]*call
	watched [][]event // by child
	clock   int
	mark    int
}

// call is one op as it went.
type call struct {
	op    Op
	begun int // how often it was begun
	first int // when, the first time
	end   *event
	ended int // when
}

func (h *recorded) record(e event) error {
	h.clock++
	switch e.Kind {
	case kindBegin:
		c := h.calls[e.Op.ID]
		if c == nil {
			c = &call{first: h.clock}
			h.calls[e.Op.ID] = c
		}
		c.op = *e.Op
		c.begun++
	case kindEnd:
		c := h.calls[e.ID]
		if c == nil || c.end != nil {
			return fmt.Errorf("%s ended without having begun, or twice", e.ID)
		}
		c.end, c.ended = &e, h.clock
	case kindCommit:
		h.watched[e.Child] = append(h.watched[e.Child], e)
	case kindMark:
		h.mark = e.Mark
	default:
		return fmt.Errorf("an event of kind %q", e.Kind)
	}
	return nil
}

// final is the store after the schedule.
type final struct {
	log       []store.Commit
	resources map[string]mesh.Resource
	histories map[string][]store.HistoryEntry // oldest first
	counter   mesh.Revision
}

func read(ctx context.Context, s store.Store) (*final, error) {
	f := &final{resources: map[string]mesh.Resource{}, histories: map[string][]store.HistoryEntry{}}
	head, err := s.Head(ctx)
	if err != nil {
		return nil, err
	}
	w, err := s.Watch(ctx, mesh.Cursor{})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	for len(f.log) == 0 && head.Revision > 0 || len(f.log) > 0 && f.log[len(f.log)-1].Cursor.Revision < head.Revision {
		c, err := w.Next(ctx)
		if err != nil {
			return nil, err
		}
		f.log = append(f.log, c)
	}
	for i := range names {
		name := fmt.Sprintf("r%d", i)
		r, err := s.Get(ctx, key(name))
		if err == nil {
			f.resources[name] = r
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		h, err := s.History(ctx, key(name), 1000, 0)
		if err != nil {
			return nil, err
		}
		slices.Reverse(h)
		f.histories[name] = h
	}
	rec, err := s.GetRecord(ctx, counterBucket, counterKey)
	if err == nil {
		err = json.Unmarshal(rec.Value, &f.counter)
	} else if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return f, err
}

// check returns everything that is wrong.
func (h *recorded) check(f *final) error {
	taken, err := h.checkLog(f)
	return errors.Join(err, h.checkCalls(f, taken), h.checkOrder(), h.checkWatches(f), h.checkState(f), h.checkCounter(f))
}

// checkLog: the log is dense, and each of its commits is one call's. It returns which revision each call took.
func (h *recorded) checkLog(f *final) (map[string]mesh.Revision, error) {
	var errs []error
	taken := map[string]mesh.Revision{}
	for i, c := range f.log {
		if c.Cursor.Revision != mesh.Revision(i+1) {
			errs = append(errs, fmt.Errorf("the log has revision %d at place %d", c.Cursor.Revision, i+1))
		}
		call := h.calls[c.Actor]
		if before, twice := taken[c.Actor]; twice {
			errs = append(errs, fmt.Errorf("repeated: %s took the revisions %d and %d", c.Actor, before, c.Cursor.Revision))
		} else if call == nil {
			errs = append(errs, fmt.Errorf("revision %d is of %q, which nobody called", c.Cursor.Revision, c.Actor))
		}
		taken[c.Actor] = c.Cursor.Revision
		for _, ch := range c.Changes {
			if !ch.Deleted && ch.Resource.Revision != c.Cursor.Revision {
				errs = append(errs, fmt.Errorf("revision %d has a change of revision %d", c.Cursor.Revision, ch.Resource.Revision))
			}
		}
	}
	return taken, errors.Join(errs...)
}

// checkCalls: what was acknowledged is in the log under the revision that was answered, and what was refused is not.
func (h *recorded) checkCalls(f *final, taken map[string]mesh.Revision) error {
	var errs []error
	for id, c := range h.calls {
		switch {
		case c.op.Count:
			continue
		case c.end == nil:
			errs = append(errs, fmt.Errorf("%s has not ended", id))
			continue
		case c.end.Changed && taken[id] != c.end.Revision:
			errs = append(errs, fmt.Errorf("lost: %s was acknowledged as revision %d, and the log has it at %d", id, c.end.Revision, taken[id]))
			continue
		case !c.end.Changed && taken[id] != 0:
			errs = append(errs, fmt.Errorf("%s was refused or changed nothing, and took revision %d", id, taken[id]))
			continue
		}
		if !c.end.Changed {
			continue
		}
		for _, w := range c.op.Writes {
			if was := before(f.log, w.Name, taken[id]); w.IfRevision != nil && was != *w.IfRevision && !touches(c.op, w) {
				errs = append(errs, fmt.Errorf("%s wrote %s on the condition that it is at %d, and it was at %d", id, w.Name, *w.IfRevision, was))
			}
		}
	}
	return errors.Join(errs...)
}

// touches reports whether a write follows another of the same resource in its call.
func touches(op Op, w Write) bool {
	n := 0
	for _, o := range op.Writes {
		if o.Name == w.Name {
			n++
		}
	}
	return n > 1
}

// before is the revision of a resource before a commit, 0 if there was none.
func before(log []store.Commit, name string, revision mesh.Revision) mesh.Revision {
	var at mesh.Revision
	for _, c := range log {
		if c.Cursor.Revision >= revision {
			break
		}
		for _, ch := range c.Changes {
			if ch.Resource.Name == name {
				if at = c.Cursor.Revision; ch.Deleted {
					at = 0
				}
			}
		}
	}
	return at
}

// checkOrder: a call that began after another had ended has the higher revision.
func (h *recorded) checkOrder() error {
	var errs []error
	for a, x := range h.calls {
		for b, y := range h.calls {
			ordered := x.end != nil && y.end != nil && x.end.Changed && y.end.Changed && !x.op.Count && !y.op.Count && x.ended < y.first
			if ordered && x.end.Revision >= y.end.Revision {
				errs = append(errs, fmt.Errorf("reordered: %s ended as revision %d before %s began, which took %d", a, x.end.Revision, b, y.end.Revision))
			}
		}
	}
	return errors.Join(errs...)
}

// checkWatches: each child's watch, over all of its lives, is the beginning of the log.
func (h *recorded) checkWatches(f *final) error {
	var errs []error
	for child, events := range h.watched {
		for i, e := range events {
			if i >= len(f.log) {
				errs = append(errs, fmt.Errorf("child %d watched %d commits, the log has %d", child, len(events), len(f.log)))
				break
			}
			if c := f.log[i]; e.Cursor != c.Cursor || e.Actor != c.Actor || e.Hash != hashOf(c) {
				errs = append(errs, fmt.Errorf("child %d watched %v of %s where the log has %v of %s", child, e.Cursor, e.Actor, c.Cursor, c.Actor))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// checkState: resources and histories are what the log makes of nothing.
func (h *recorded) checkState(f *final) error {
	var errs []error
	state := map[string]mesh.Resource{}
	seen := map[string]int{}
	for _, c := range f.log {
		for _, ch := range c.Changes {
			name := ch.Resource.Name
			entries := f.histories[name]
			if n := seen[name]; n >= len(entries) || entries[n].Revision != c.Cursor.Revision || entries[n].RequestID != c.Actor || (entries[n].After == nil) != ch.Deleted {
				errs = append(errs, fmt.Errorf("the history of %s lacks revision %d", name, c.Cursor.Revision))
			}
			seen[name]++
			if ch.Deleted {
				delete(state, name)
			} else {
				state[name] = ch.Resource
			}
		}
	}
	for i := range names {
		name := fmt.Sprintf("r%d", i)
		want, wanted := state[name]
		have, had := f.resources[name]
		if wanted != had || want.Revision != have.Revision || want.UID != have.UID || string(want.Spec) != string(have.Spec) {
			errs = append(errs, fmt.Errorf("%s is %d %s, the log says %d %s", name, have.Revision, have.Spec, want.Revision, want.Spec))
		}
		if seen[name] != len(f.histories[name]) {
			errs = append(errs, fmt.Errorf("the history of %s has %d entries, the log %d", name, len(f.histories[name]), seen[name]))
		}
	}
	return errors.Join(errs...)
}

// checkCounter: every acknowledged count counted once; those of unknown end once more at most.
func (h *recorded) checkCounter(f *final) error {
	values := map[mesh.Revision]string{}
	var most mesh.Revision
	var errs []error
	for id, c := range h.calls {
		if !c.op.Count || c.end == nil {
			continue
		}
		if other, twice := values[c.end.Revision]; twice {
			errs = append(errs, fmt.Errorf("lost: %s and %s both counted to %d", id, other, c.end.Revision))
		}
		values[c.end.Revision] = id
		most = max(most, c.end.Revision)
	}
	if f.counter < most {
		errs = append(errs, fmt.Errorf("lost: it was counted to %d, and the counter is at %d", most, f.counter))
	}
	return errors.Join(errs...)
}
