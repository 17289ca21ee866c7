package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/store"
)

const (
	// boardSettle lets a burst arrive whole, boardEvery bounds how often an overview is read, and boardShare how
	// much of the time that may take: after a read that took t the next one begins boardShare*t later at least.
	boardSettle = 25 * time.Millisecond
	boardEvery  = 250 * time.Millisecond
	boardShare  = 4
	// boardAlive is how often an idle stream says that it lives.
	boardAlive = 15 * time.Second
	// boardSteps is how many changes can be resumed over.
	boardSteps = 512
)

// board is the overview as all readers of its stream see it. While it has readers, one goroutine reads the overview
// whenever the store says that something was written, and compares; nothing runs while nobody looks.
//
// The id of an event is the hash of the state after it. So an id means the same at every replica and after a restart: a
// board that holds that very state has nothing to send, one that remembers having held it sends what changed since,
// and any other sends everything.
type board struct {
	s *server

	mu      sync.Mutex
	readers int
	end     context.CancelFunc // of the goroutine
	ended   chan struct{}
	// fresh: state was read for the present readers.
	fresh   bool
	state   map[string]json.RawMessage // nil before the first read
	id      string
	steps   []boardStep // the newest last
	changed chan struct{}
	failed  error // why the goroutine ended by itself
}

// boardStep is one change: the id before it, and the paths that it changed.
type boardStep struct {
	from  string
	paths []string
}

// follow sends the state, or what the reader lacks of it, and then every change until ctx ends.
func (b *board) follow(ctx context.Context, e *events, at string) error {
	b.enter(ctx)
	defer b.leave()
	idle := time.NewTicker(boardAlive)
	defer idle.Stop()
	for {
		event, change, id, next, err := b.since(at)
		if err != nil {
			return err
		}
		if event != "" {
			if err := e.send(event, id, change); err != nil {
				return err
			}
			at = id
			idle.Reset(boardAlive)
		}
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return nil
			case <-next:
				waiting = false
			case <-idle.C:
				if err := e.alive(); err != nil {
					return err
				}
			}
		}
	}
}

// since says what a reader lacks that has the state of an id: the event, none if it has everything. next closes
// when there is more.
func (b *board) since(at string) (event string, c client.OverviewChange, id string, next <-chan struct{}, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed != nil {
		return "", c, "", nil, b.failed
	}
	if !b.fresh || at == b.id {
		return "", c, "", b.changed, nil
	}
	c.Records = map[string]any{}
	known := -1
	for i := len(b.steps) - 1; i >= 0 && known < 0; i-- {
		if b.steps[i].from == at {
			known = i
		}
	}
	if known < 0 {
		for path, value := range b.state {
			c.Records[path] = value
		}
		return "snapshot", c, b.id, b.changed, nil
	}
	for _, step := range b.steps[known:] {
		for _, path := range step.paths {
			if value, ok := b.state[path]; ok {
				c.Records[path] = value
			} else {
				c.Records[path] = nil
			}
		}
	}
	return "patch", c, b.id, b.changed, nil
}

// enter counts a reader; the first one starts the goroutine.
func (b *board) enter(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readers++
	if b.readers > 1 {
		return
	}
	// It lives as long as there are readers, not as long as this one.
	ctx, b.end = context.WithCancel(context.WithoutCancel(ctx))
	b.ended, b.failed, b.fresh = make(chan struct{}), nil, false
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	go func(ended chan<- struct{}) {
		defer close(ended)
		err := b.keep(ctx)
		if ctx.Err() != nil {
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.failed = err
		b.announce()
	}(b.ended)
}

// leave ends the goroutine after the last reader. What was read grows old then: the next reader gets nothing
// before it was read again, but resumes over what it was.
func (b *board) leave() {
	b.mu.Lock()
	b.readers--
	if b.readers > 0 {
		b.mu.Unlock()
		return
	}
	b.end()
	ended := b.ended
	b.mu.Unlock()
	<-ended
}

// announce wakes all readers; b.mu is held.
func (b *board) announce() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// keep reads the overview at every write, and when time alone may have changed it, until ctx ends.
func (b *board) keep(ctx context.Context) error {
	records := b.s.cfg.Store.WatchRecords(ctx, "")
	resources, failed := make(chan struct{}, 1), make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { failed <- b.s.signalCommits(ctx, resources) })
	for {
		var uplink <-chan struct{}
		if b.s.cfg.Uplink != nil {
			_, uplink = b.s.cfg.Uplink()
		}
		began := time.Now()
		next, err := b.look(ctx)
		if err != nil {
			return err
		}
		pause := max(boardEvery, boardShare*time.Since(began))
		var due <-chan time.Time
		if !next.IsZero() {
			due = time.After(time.Until(next))
		}
		open := true
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case _, open = <-records:
		case <-resources:
		case <-uplink:
		case <-due:
		}
		if !open {
			return store.ErrClosed
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(boardSettle, pause-time.Since(began))):
		}
	}
}

// look reads the overview and notes how it differs from the last one.
func (b *board) look(ctx context.Context) (next time.Time, err error) {
	o, next, err := b.s.overview(ctx)
	if err != nil {
		return next, err
	}
	state, err := overviewRecords(o)
	if err != nil {
		return next, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if ctx.Err() != nil { // another goroutine may look for later readers already
		return next, ctx.Err()
	}
	paths := differing(b.state, state)
	if b.fresh && len(paths) == 0 {
		return next, nil
	}
	b.fresh = true
	if b.state != nil && len(paths) > 0 {
		b.steps = append(b.steps, boardStep{b.id, paths})
		if drop := len(b.steps) - boardSteps; drop > 0 {
			b.steps = slices.Delete(b.steps, 0, drop)
		}
	}
	b.state, b.id = state, stateID(state)
	b.announce()
	return next, nil
}

// differing lists the paths whose values differ.
func differing(a, b map[string]json.RawMessage) []string {
	var out []string
	for path, value := range b {
		if old, ok := a[path]; !ok || !bytes.Equal(old, value) {
			out = append(out, path)
		}
	}
	for path := range a {
		if _, ok := b[path]; !ok {
			out = append(out, path)
		}
	}
	return out
}

// stateID hashes a state: 128 bits suffice, as nobody gains by two states with one id.
func stateID(state map[string]json.RawMessage) string {
	h := sha256.New()
	var n [8]byte
	for _, path := range slices.Sorted(maps.Keys(state)) {
		binary.BigEndian.PutUint32(n[:4], uint32(len(path)))
		binary.BigEndian.PutUint32(n[4:], uint32(len(state[path])))
		h.Write(n[:])
		h.Write([]byte(path))
		h.Write(state[path])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// signalCommits signals every commit from now on, coalesced, and once at the start, until ctx ends.
func (s *server) signalCommits(ctx context.Context, signal chan<- struct{}) error {
	head, err := s.cfg.Store.Head(ctx)
	if err != nil {
		return err
	}
	w, err := s.cfg.Store.Watch(ctx, head)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		// At the start too: a commit may have come between a first look and the watch.
		select {
		case signal <- struct{}{}:
		default:
		}
		if _, err := w.Next(ctx); err != nil {
			return err
		}
	}
}
