package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

const pageSize = 1000

// commitLog gathers the store's commits while the publisher is busy.
type commitLog struct {
	watcher store.Watcher
	signal  chan struct{} // capacity 1

	mu   sync.Mutex
	next batch
}

// batch is what was committed since the last take.
type batch struct {
	cursor  mesh.Cursor
	changes []store.Change
	err     error // the watch ended
}

// openLog reads the state and begins to follow it.
func (p *Publisher) openLog(ctx context.Context) (*commitLog, error) {
	q := store.Query{Limit: pageSize}
	first := true
	for {
		page, err := p.cfg.Store.List(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("read the store: %w", err)
		}
		if first {
			p.cursor, first = page.Cursor, false
		}
		for _, r := range page.Items {
			p.resources.put(r)
		}
		if page.Continue == "" {
			break
		}
		q.Continue = page.Continue
	}
	w, err := p.cfg.Store.Watch(ctx, p.cursor)
	if err != nil {
		return nil, fmt.Errorf("follow the store: %w", err)
	}
	return &commitLog{watcher: w, signal: make(chan struct{}, 1), next: batch{cursor: p.cursor}}, nil
}

func (l *commitLog) run(ctx context.Context) {
	defer l.watcher.Close()
	for {
		c, err := l.watcher.Next(ctx)
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		if err != nil {
			l.next.err = errors.Join(l.next.err, err)
		} else {
			l.next.cursor = c.Cursor
			l.next.changes = append(l.next.changes, c.Changes...)
		}
		l.mu.Unlock()
		select {
		case l.signal <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// take empties the log.
func (l *commitLog) take() batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.next
	l.next.changes = nil
	return b
}
