package sqlitestore

import (
	"context"
	"strings"
	"sync"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// hub is what readers know without asking SQLite: where the store stands, the newest commits, and
// whom to wake.
type hub struct {
	mu          sync.Mutex
	incarnation mesh.Incarnation
	head        mesh.Revision
	compacted   mesh.Revision
	closed      bool
	moved       chan struct{} // closed and replaced when head, compacted or closed change

	// recent are the newest commits, ascending and dense up to head, so that watchers that keep up
	// never read the disk.
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

func (h *hub) init() {
	h.moved = make(chan struct{})
	h.records = map[*recordWatch]struct{}{}
}

func (h *hub) start(incarnation mesh.Incarnation, head, compacted mesh.Revision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.incarnation, h.head, h.compacted = incarnation, head, compacted
}

// publish makes committed revisions and touched buckets known.
func (h *hub) publish(commits []store.Commit, buckets map[string]struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range commits {
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
	if len(commits) > 0 {
		h.wake()
	}
	if len(buckets) == 0 {
		return
	}
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

func (h *hub) wake() {
	close(h.moved)
	h.moved = make(chan struct{})
}

func (h *hub) compact(upTo mesh.Revision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.compacted = max(h.compacted, upTo)
	h.wake()
}

func (h *hub) cursor() mesh.Cursor {
	h.mu.Lock()
	defer h.mu.Unlock()
	return mesh.Cursor{Incarnation: h.incarnation, Revision: h.head}
}

func (h *hub) close() {
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

// watchRecords registers until ctx ends.
func (h *hub) watchRecords(ctx context.Context, prefix string) <-chan struct{} {
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
