package sqlitestore

import (
	"context"
	"sync"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// catchUp is how many revisions a watcher that is behind reads from the disk at a time.
const catchUp = 64

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, from mesh.Cursor) (store.Watcher, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	switch {
	case s.hub.closed:
		return nil, store.ErrClosed
	case from != (mesh.Cursor{}) && from.Incarnation != s.hub.incarnation:
		return nil, store.ErrIncarnation
	case from.Revision > s.hub.head:
		return nil, store.ErrFuture
	case from.Revision < s.hub.compacted:
		return nil, store.ErrCompacted
	}
	return &watcher{s: s, ctx: ctx, done: make(chan struct{}), at: from.Revision}, nil
}

type watcher struct {
	s     *Store
	ctx   context.Context // the watch's life, as the contract says
	done  chan struct{}
	close sync.Once

	mu    sync.Mutex // one Next at a time
	at    mesh.Revision
	ahead []store.Commit // read from the disk, not yet delivered
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
			w.at = c.Cursor.Revision
			return c, nil
		}
		moved, behind, err := w.look()
		if err != nil {
			return store.Commit{}, err
		}
		switch {
		case len(w.ahead) > 0:
		case behind:
			if w.ahead, err = w.s.readCommits(ctx, w.at, catchUp); err != nil {
				return store.Commit{}, err
			}
		default:
			select {
			case <-moved:
			case <-ctx.Done():
			case <-w.ctx.Done():
			case <-w.done:
			}
		}
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

// look takes what the hub remembers after w.at into w.ahead. behind: there is more, on the disk only.
func (w *watcher) look() (moved <-chan struct{}, behind bool, err error) {
	h := &w.s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed:
		return nil, false, store.ErrClosed
	case w.at < h.compacted:
		return nil, false, store.ErrCompacted
	case w.at == h.head:
		return h.moved, false, nil
	}
	if len(h.recent) == 0 || h.recent[0].Cursor.Revision > w.at+1 {
		return nil, true, nil
	}
	i := int(w.at + 1 - h.recent[0].Cursor.Revision)
	w.ahead = append([]store.Commit(nil), h.recent[i:min(i+catchUp, len(h.recent))]...)
	return nil, false, nil
}

// WatchRecords implements store.Records.
func (s *Store) WatchRecords(ctx context.Context, prefix string) <-chan struct{} {
	return s.hub.watchRecords(ctx, prefix)
}
