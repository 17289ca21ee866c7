// Package fedstore joins a federation session to a store: it reads the local log for the sender, and
// commits what the receiver got as copies with the cursor beside them. Both ends use it.
package fedstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// BucketCursors holds, keyed by the peer ("global", or a zone's name), the cursor of the newest batch
// applied, as mesh.Cursor.String.
const BucketCursors = "federation/cursors"

const pageSize = 500

// Cursor reads the cursor of the newest batch applied from a peer, zero if there was none.
func Cursor(ctx context.Context, s store.Records, peer string) (mesh.Cursor, error) {
	rec, err := s.GetRecord(ctx, BucketCursors, peer)
	if errors.Is(err, store.ErrNotFound) {
		return mesh.Cursor{}, nil
	}
	if err != nil {
		return mesh.Cursor{}, fmt.Errorf("read the cursor of %s: %w", peer, err)
	}
	c, err := mesh.ParseCursor(string(rec.Value))
	if err != nil {
		return mesh.Cursor{}, fmt.Errorf("read the cursor of %s: %w", peer, err)
	}
	return c, nil
}

// Follow reads the store's log after the cursor, live. Where narrow is set, a resource of origin global
// with a narrowed scope carries what it was before, for the sender to know who had it.
func Follow(ctx context.Context, s store.Store, from mesh.Cursor, narrow bool) (federation.Log, error) {
	w, err := s.Watch(ctx, from)
	if err != nil {
		return nil, gone(err)
	}
	return &log{store: s, watcher: w, narrow: narrow}, nil
}

type log struct {
	store   store.Store
	watcher store.Watcher
	narrow  bool
}

func (l *log) Close() { l.watcher.Close() }

func (l *log) Next(ctx context.Context) (federation.Commit, error) {
	c, err := l.watcher.Next(ctx)
	if err != nil {
		return federation.Commit{}, gone(err)
	}
	out := federation.Commit{Cursor: c.Cursor, Changes: make([]federation.Change, 0, len(c.Changes))}
	for _, ch := range c.Changes {
		n := federation.Change{Resource: ch.Resource, Deleted: ch.Deleted}
		r := ch.Resource
		if l.narrow && !ch.Deleted && r.Origin == mesh.OriginGlobal && r.Created != r.Changed && r.Annotations[mesh.AnnotationZones] != "" {
			if n.Before, err = l.before(ctx, r.Key, c.Cursor.Revision); err != nil {
				return federation.Commit{}, err
			}
		}
		out.Changes = append(out.Changes, n)
	}
	return out, nil
}

// before is the resource as it was before the revision, nil where the history does not reach.
func (l *log) before(ctx context.Context, k mesh.Key, rev mesh.Revision) (*mesh.Resource, error) {
	h, err := l.store.History(ctx, k, 1, rev+1)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("history of %s: %w", k, err)
	}
	if len(h) == 0 || h[0].Revision != rev {
		return nil, nil
	}
	return h[0].Before, nil
}

func gone(err error) error {
	if errors.Is(err, store.ErrCompacted) || errors.Is(err, store.ErrIncarnation) || errors.Is(err, store.ErrFuture) {
		return fmt.Errorf("%w: %w", federation.ErrLogGone, err)
	}
	return err
}

// Snapshot hands out every resource of one origin, page by page.
func Snapshot(ctx context.Context, s store.Store, origin mesh.Origin, begin func(mesh.Cursor), add func([]mesh.Resource) error) error {
	q := store.Query{Origin: origin, Limit: pageSize}
	for first := true; first || q.Continue != ""; first = false {
		page, err := s.List(ctx, q)
		if err != nil {
			return fmt.Errorf("list resources of %s: %w", origin, err)
		}
		if first {
			begin(page.Cursor)
		}
		if err := add(page.Items); err != nil {
			return err
		}
		q.Continue = page.Continue
	}
	return nil
}

// Applier commits batches of one peer. Its store's copies of Origin belong to it alone.
type Applier struct {
	Store  store.Store
	Origin mesh.Origin
	Peer   string // key of the cursor
	Actor  string // "zone:<name>", "global"
	// Check decides about one resource: nil takes it; a Refusal refuses it, but with
	// federation.CodeUnknownKind it is stored all the same. May be nil.
	Check func(mesh.Resource) *federation.Refusal
}

// Apply commits the batch as one revision, then the cursor. A crash between them repeats the batch, which then
// changes nothing.
func (a *Applier) Apply(ctx context.Context, b federation.Batch) ([]federation.Refusal, error) {
	var refusals []federation.Refusal
	batch := store.Batch{Actor: a.Actor, Source: "federation", Reason: "copy of " + b.Cursor.String()}
	named := make(map[mesh.Key]struct{}, len(b.Puts))
	for _, r := range b.Puts {
		named[r.Key] = struct{}{}
		if a.Check != nil {
			if n := a.Check(r); n != nil {
				refusals = append(refusals, *n)
				if n.Code != federation.CodeUnknownKind {
					continue
				}
			}
		}
		batch.Writes = append(batch.Writes, store.Write{Resource: r, Copy: true})
	}
	for _, k := range b.Deletes {
		batch.Writes = append(batch.Writes, store.Write{Resource: mesh.Resource{Key: k, Changed: b.Cursor.Revision}, Delete: true, Copy: true})
	}
	if b.Snapshot {
		extra, err := a.surplus(ctx, named, b.Keep)
		if err != nil {
			return nil, err
		}
		batch.Writes = append(batch.Writes, extra...)
	}
	if len(batch.Writes) > 0 {
		if _, err := a.Store.Apply(ctx, batch); err != nil {
			return nil, fmt.Errorf("apply copies of %s: %w", a.Origin, err)
		}
	}
	_, err := a.Store.PutRecords(ctx, BucketCursors, store.RecordWrite{Key: a.Peer, Value: []byte(b.Cursor.String())})
	if err != nil {
		return nil, fmt.Errorf("store the cursor of %s: %w", a.Peer, err)
	}
	return refusals, nil
}

// surplus deletes the copies that a snapshot does not name.
func (a *Applier) surplus(ctx context.Context, named, keep map[mesh.Key]struct{}) ([]store.Write, error) {
	var out []store.Write
	err := Snapshot(ctx, a.Store, a.Origin, func(mesh.Cursor) {}, func(items []mesh.Resource) error {
		for _, r := range items {
			_, inSnapshot := named[r.Key]
			_, kept := keep[r.Key]
			if !inSnapshot && !kept {
				out = append(out, store.Write{Resource: mesh.Resource{Key: r.Key}, Delete: true, Copy: true})
			}
		}
		return nil
	})
	return out, err
}

// Forget deletes every copy of the origin and the cursor, as when a zone was removed.
func (a *Applier) Forget(ctx context.Context, reason string) error {
	writes, err := a.surplus(ctx, nil, nil)
	if err != nil {
		return err
	}
	if len(writes) > 0 {
		if _, err := a.Store.Apply(ctx, store.Batch{Writes: writes, Actor: a.Actor, Source: "federation", Reason: reason}); err != nil {
			return fmt.Errorf("delete copies of %s: %w", a.Origin, err)
		}
	}
	if _, err := a.Store.PutRecords(ctx, BucketCursors, store.RecordWrite{Key: a.Peer, Delete: true}); err != nil {
		return fmt.Errorf("delete the cursor of %s: %w", a.Peer, err)
	}
	return nil
}
