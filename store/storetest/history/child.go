package history

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Env, when set, makes the test binary a child: it holds the file that the task is in. The lines go to file 3.
const Env = "COMITY_TEST_HISTORY"

// task is what a child has to do.
type task struct {
	Store string // as Config.Store
	Child int
	From  mesh.Cursor // of the watch
	Ops   [][]Op      // of each writer
}

// event is one line.
type event struct {
	Kind string `json:"kind"`
	// begin, end
	Op       *Op           `json:"op,omitempty"` // begin
	ID       string        `json:"id,omitempty"`
	Revision mesh.Revision `json:"revision,omitempty"` // end: of the result; of a count: the record's value. commit: its own
	Changed  bool          `json:"changed,omitempty"`  // the call took a revision
	Conflict bool          `json:"conflict,omitempty"`
	// commit
	Child  int         `json:"child,omitempty"`
	Cursor mesh.Cursor `json:"cursor,omitzero"`
	Actor  string      `json:"actor,omitempty"`
	Hash   string      `json:"hash,omitempty"`
	// failed: the child can't go on
	Error string `json:"error,omitempty"`
	// mark
	Mark int `json:"mark,omitempty"`
}

// The kinds of events.
const (
	kindBegin  = "begin"
	kindEnd    = "end"
	kindCommit = "commit"
	kindFailed = "failed"
	kindMark   = "mark"
)

// The record that Op.Count counts in.
const counterBucket, counterKey = "history", "counter"

func key(name string) mesh.Key {
	return mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindService, Namespace: "shop", Name: name}
}

// hashOf tells one commit's content from another's.
func hashOf(c store.Commit) string {
	h := sha256.New()
	for _, ch := range c.Changes {
		fmt.Fprintf(h, "%s %v %d %s %d\n", ch.Resource.Key, ch.Deleted, ch.Resource.Revision, ch.Resource.Spec, ch.Resource.Changed)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

type child struct {
	task
	store store.Store
	mu    sync.Mutex
	out   io.Writer
}

// Child does what its parent asked for in the environment, and returns the exit code.
func Child(ctx context.Context, open func(ctx context.Context, store string) (store.Store, error)) int {
	c := &child{out: os.NewFile(3, "events")}
	err := c.run(ctx, open)
	if err != nil {
		c.say(event{Kind: kindFailed, Error: err.Error()})
		return 1
	}
	return 0
}

func (c *child) say(e event) {
	line, err := json.Marshal(e)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.out.Write(append(line, '\n')) // a parent that is gone hears nothing
}

func (c *child) run(ctx context.Context, open func(context.Context, string) (store.Store, error)) error {
	text, err := os.ReadFile(os.Getenv(Env))
	if err == nil {
		err = json.Unmarshal(text, &c.task)
	}
	if err != nil {
		return err
	}
	err = c.persist(ctx, func() (err error) {
		c.store, err = open(ctx, c.Store)
		return err
	})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer c.store.Close()
	seen := make(chan mesh.Revision, 1)
	watching, stop := context.WithCancel(ctx)
	var wg, watch sync.WaitGroup
	errs := make(chan error, len(c.Ops)+1)
	watch.Go(func() { errs <- c.watch(watching, seen) })
	for _, ops := range c.Ops {
		wg.Go(func() {
			for _, op := range ops {
				if err := c.do(ctx, op); err != nil {
					errs <- fmt.Errorf("%s: %w", op.ID, err)
					return
				}
			}
		})
	}
	wg.Wait()
	// The watch is to see all of it before we go.
	var head mesh.Cursor
	err = c.persist(ctx, func() (err error) {
		head, err = c.store.Head(ctx)
		return err
	})
	for at := c.From.Revision; err == nil && at < head.Revision; {
		select {
		case at = <-seen:
		case err = <-errs:
		}
	}
	stop()
	watch.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	return err
}

// watch follows the log from where the child before it stopped.
func (c *child) watch(ctx context.Context, seen chan mesh.Revision) error {
	var w store.Watcher
	err := c.persist(ctx, func() (err error) {
		w, err = c.store.Watch(ctx, c.From)
		return err
	})
	switch {
	case ctx.Err() != nil:
		return nil // it was stopped before there was anything to see
	case err != nil:
		return fmt.Errorf("watch: %w", err)
	}
	defer w.Close()
	for {
		commit, err := w.Next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("next: %w", err)
		}
		c.say(event{Kind: kindCommit, Child: c.Child, Cursor: commit.Cursor, Revision: commit.Cursor.Revision, Actor: commit.Actor, Hash: hashOf(commit)})
		select {
		case <-seen:
		default:
		}
		seen <- commit.Cursor.Revision
	}
}

// persist repeats a call while the store is unavailable.
func (c *child) persist(ctx context.Context, call func() error) error {
	const pause = 10 * time.Millisecond
	for {
		err := call()
		if !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return ctx.Err()
		}
	}
}

// do makes one call, again while nobody knows how it went.
func (c *child) do(ctx context.Context, op Op) error {
	if op.Count {
		c.say(event{Kind: kindBegin, Op: &op})
		value, err := c.count(ctx)
		if err != nil {
			return err
		}
		c.say(event{Kind: kindEnd, ID: op.ID, Revision: value})
		return nil
	}
	if err := c.resolve(ctx, &op); err != nil {
		return err
	}
	c.say(event{Kind: kindBegin, Op: &op})
	batch := store.Batch{Actor: op.ID, IdempotencyKey: op.ID, Source: "history"}
	for _, w := range op.Writes {
		batch.Writes = append(batch.Writes, store.Write{
			Resource: mesh.Resource{Key: key(w.Name), APIVersion: "v1", Spec: json.RawMessage(strconv.Quote(op.ID))},
			Delete:   w.Delete, IfRevision: w.IfRevision,
		})
	}
	var r store.Result
	err := c.persist(ctx, func() (err error) {
		r, err = c.store.Apply(ctx, batch)
		return err
	})
	end := event{Kind: kindEnd, ID: op.ID, Revision: r.Revision}
	switch {
	case errors.Is(err, store.ErrConflict):
		end.Conflict = true
	case err != nil:
		return err
	}
	for _, it := range r.Items {
		end.Changed = end.Changed || it.Outcome != store.Unchanged && it.Outcome != store.Absent
	}
	c.say(end)
	return nil
}

// resolve looks up the revisions that conditional writes expect, once in the life of the op.
func (c *child) resolve(ctx context.Context, op *Op) error {
	for i := range op.Writes {
		w := &op.Writes[i]
		if !w.Conditional || w.IfRevision != nil {
			continue
		}
		var r mesh.Resource
		err := c.persist(ctx, func() (err error) {
			r, err = c.store.Get(ctx, key(w.Name))
			return err
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		w.IfRevision = &r.Revision
	}
	return nil
}

// count adds one to the counter. A call of unknown end may have counted.
func (c *child) count(ctx context.Context) (value mesh.Revision, err error) {
	err = c.persist(ctx, func() error {
		for {
			var at uint64
			value = 0
			rec, err := c.store.GetRecord(ctx, counterBucket, counterKey)
			switch {
			case err == nil:
				at = rec.Version
				if err := json.Unmarshal(rec.Value, &value); err != nil {
					return err
				}
			case !errors.Is(err, store.ErrNotFound):
				return err
			}
			value++
			_, err = c.store.PutRecords(ctx, counterBucket, store.RecordWrite{Key: counterKey, Value: []byte(strconv.FormatUint(uint64(value), 10)), IfVersion: &at})
			if !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
	})
	return value, err
}
