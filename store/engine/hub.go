package engine

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Hub is what readers know without asking the database: where the store stands, the newest commits, and
// whom to wake.
type Hub struct {
	// read reads up to n commits after a revision of the present life, store.ErrCompacted if the next one is gone.
	read func(ctx context.Context, after mesh.Revision, n int) ([]store.Commit, error)
	// patience is how long a watcher waits before it reads again what could not be read; 0: it returns the error.
	patience time.Duration

	mu          sync.Mutex
	incarnation mesh.Incarnation
	past        []mesh.Incarnation // lives before this one
	head        mesh.Revision
	compacted   mesh.Revision
	closed      bool
	moved       chan struct{} // closed and replaced when anything above changes

	// recent are the newest commits, ascending and dense up to head, so that watchers that keep up
	// never read the disk. It may be empty.
	recent      []store.Commit
	recentBytes int

	records map[*recordWatch]struct{}
}

// The memory spent on recent commits.
const (
	recentCommits = 512
	recentMaximum = 8 << 20 // bytes of specs
)

type recordWatch struct {
	prefix string
	signal chan struct{}
}

// NewHub makes a hub that knows nothing yet: Begin comes first. Watchers that are behind use read, in the life that
// the hub knows, and wait for patience where it returns store.ErrUnavailable; with patience 0 they return that.
func NewHub(read func(ctx context.Context, after mesh.Revision, n int) ([]store.Commit, error), patience time.Duration) *Hub {
	return &Hub{read: read, patience: patience, moved: make(chan struct{}), records: map[*recordWatch]struct{}{}}
}

// Begin says where the store stands. If that is another life, watchers of the one before end with
// store.ErrIncarnation; a life that was left does not come back by late word of it.
func (h *Hub) Begin(at mesh.Cursor, compacted mesh.Revision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at.Incarnation == h.incarnation || slices.Contains(h.past, at.Incarnation) {
		return
	}
	if h.incarnation != "" {
		h.past = append(h.past, h.incarnation)
	}
	h.incarnation, h.head, h.compacted = at.Incarnation, at.Revision, compacted
	h.recent, h.recentBytes = nil, 0
	h.wake()
}

// Advance says that the store stands there, of commits that are not at hand: watchers read them.
func (h *Hub) Advance(at mesh.Cursor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if at.Incarnation == h.incarnation && at.Revision > h.head {
		h.head, h.recent, h.recentBytes = at.Revision, nil, 0
		h.wake()
	}
}

// Publish makes committed revisions known, in order. What is known already is passed over. If some before them
// are not known, watchers read those from the database.
func (h *Hub) Publish(commits []store.Commit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.head
	for _, c := range commits {
		if c.Cursor.Revision <= h.head || c.Cursor.Incarnation != h.incarnation {
			continue
		}
		if c.Cursor.Revision > h.head+1 {
			h.recent, h.recentBytes = nil, 0
		}
		h.head = c.Cursor.Revision
		h.recent = append(h.recent, c)
		h.recentBytes += commitBytes(c)
	}
	drop := 0
	for len(h.recent)-drop > recentCommits || h.recentBytes > recentMaximum && drop < len(h.recent) {
		h.recentBytes -= commitBytes(h.recent[drop])
		drop++
	}
	if drop > 0 {
		h.recent = append([]store.Commit(nil), h.recent[drop:]...)
	}
	if h.head != known {
		h.wake()
	}
}

// Touch wakes those who watch one of the buckets.
func (h *Hub) Touch(buckets map[string]struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.records {
		for b := range buckets {
			if strings.HasPrefix(b, w.prefix) {
				w.wake()
				break
			}
		}
	}
}

func commitBytes(c store.Commit) int {
	n := 256
	for _, ch := range c.Changes {
		n += 512 + len(ch.Resource.Spec)
	}
	return n
}

func (h *Hub) wake() {
	close(h.moved)
	h.moved = make(chan struct{})
}

// Compact says up to where the change log is forgotten.
func (h *Hub) Compact(upTo mesh.Revision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if upTo > h.compacted {
		h.compacted = upTo
		h.wake()
	}
}

// Cursor is the newest commit known.
func (h *Hub) Cursor() mesh.Cursor {
	h.mu.Lock()
	defer h.mu.Unlock()
	return mesh.Cursor{Incarnation: h.incarnation, Revision: h.head}
}

// Close ends all watches.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.closed = true
	h.wake()
	for w := range h.records {
		close(w.signal)
	}
	h.records = nil
}

func (w *recordWatch) wake() {
	select {
	case w.signal <- struct{}{}:
	default: // one is waiting already; it will see this change too
	}
}

// WatchRecords is store.Records.WatchRecords.
func (h *Hub) WatchRecords(ctx context.Context, prefix string) <-chan struct{} {
	w := &recordWatch{prefix: prefix, signal: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(w.signal)
		return w.signal
	}
	w.wake()
	h.records[w] = struct{}{}
	context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, ok := h.records[w]; ok {
			delete(h.records, w)
			close(w.signal)
		}
	})
	return w.signal
}
