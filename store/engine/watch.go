package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// catchUp is how many revisions a watcher that is behind reads from the database at a time.
const catchUp = 64

// Watch is store.Store.Watch, as far as the hub knows the store.
func (h *Hub) Watch(ctx context.Context, from mesh.Cursor) (store.Watcher, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, store.ErrClosed
	case from != (mesh.Cursor{}) && from.Incarnation != h.incarnation:
		return nil, store.ErrIncarnation
	case from.Revision > h.head:
		return nil, store.ErrFuture
	case from.Revision < h.compacted:
		return nil, store.ErrCompacted
	}
	return &watcher{hub: h, ctx: ctx, done: make(chan struct{}), at: mesh.Cursor{Incarnation: h.incarnation, Revision: from.Revision}}, nil
}

type watcher struct {
	hub   *Hub
	ctx   context.Context // the watch's life, as the contract says
	done  chan struct{}
	close sync.Once

	mu    sync.Mutex // one Next at a time
	at    mesh.Cursor
	ahead []store.Commit // known, not yet delivered
}

// Close implements store.Watcher.
func (w *watcher) Close() { w.close.Do(func() { close(w.done) }) }

// Next implements store.Watcher.
func (w *watcher) Next(ctx context.Context) (store.Commit, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if err := w.ended(ctx); err != nil {
			return store.Commit{}, err
		}
		if len(w.ahead) > 0 {
			c := w.ahead[0]
			w.ahead = w.ahead[1:]
			w.at = c.Cursor
			return c, nil
		}
		moved, behind, err := w.look()
		if err != nil {
			return store.Commit{}, err
		}
		switch {
		case len(w.ahead) > 0:
		case behind:
			if err := w.catchUp(ctx, moved); err != nil {
				return store.Commit{}, err
			}
		default:
			w.wait(ctx, moved, nil)
		}
	}
}

// catchUp reads what the hub does not remember.
func (w *watcher) catchUp(ctx context.Context, moved <-chan struct{}) error {
	commits, err := w.hub.read(ctx, w.at.Revision, catchUp)
	switch {
	case err == nil && commits[0].Cursor.Incarnation != w.at.Incarnation:
		return store.ErrIncarnation
	case err == nil:
		w.ahead = commits
		return nil
	case w.hub.patience == 0 || !errors.Is(err, store.ErrUnavailable):
		return err
	}
	again := time.NewTimer(w.hub.patience)
	defer again.Stop()
	w.wait(ctx, moved, again.C)
	return nil
}

func (w *watcher) wait(ctx context.Context, moved <-chan struct{}, again <-chan time.Time) {
	select {
	case <-moved:
	case <-again:
	case <-ctx.Done():
	case <-w.ctx.Done():
	case <-w.done:
	}
}

func (w *watcher) ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	select {
	case <-w.done:
		return store.ErrClosed
	default:
		return nil
	}
}

// look takes what the hub remembers after w.at into w.ahead. behind: there is more, in the database only.
func (w *watcher) look() (moved <-chan struct{}, behind bool, err error) {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	at := w.at.Revision
	switch {
	case h.closed:
		return nil, false, store.ErrClosed
	case h.incarnation != w.at.Incarnation:
		return nil, false, store.ErrIncarnation
	case at < h.compacted:
		return nil, false, store.ErrCompacted
	case at >= h.head: // what was read from the database may be ahead of what was published
		return h.moved, false, nil
	}
	if len(h.recent) == 0 || h.recent[0].Cursor.Revision > at+1 {
		return h.moved, true, nil
	}
	i := int(at + 1 - h.recent[0].Cursor.Revision)
	w.ahead = append([]store.Commit(nil), h.recent[i:min(i+catchUp, len(h.recent))]...)
	return nil, false, nil
}
