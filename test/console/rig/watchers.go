package main

import (
	"context"
	"sync"
)

// watchers are those who watch zones at present.
type watchers[E any] struct {
	mu   sync.Mutex
	next int
	open map[int]watcher[E]
}

type watcher[E any] struct {
	zone string
	told chan E
	gone <-chan struct{}
}

func newWatchers[E any]() *watchers[E] { return &watchers[E]{open: map[int]watcher[E]{}} }

// watch gives what is told of a zone to emit, until ctx ends or emit fails.
func (w *watchers[E]) watch(ctx context.Context, zone string, emit func(E) error) error {
	me := watcher[E]{zone: zone, told: make(chan E), gone: ctx.Done()}
	w.mu.Lock()
	id := w.next
	w.next++
	w.open[id] = me
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.open, id)
		w.mu.Unlock()
	}()
	for {
		select {
		case e := <-me.told:
			if err := emit(e); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// tell tells all who watch the zone, and returns when they have it or are gone.
func (w *watchers[E]) tell(zone string, e E) {
	w.mu.Lock()
	var to []watcher[E]
	for _, one := range w.open {
		if one.zone == zone {
			to = append(to, one)
		}
	}
	w.mu.Unlock()
	for _, one := range to {
		select {
		case one.told <- e:
		case <-one.gone:
		}
	}
}

func (w *watchers[E]) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open)
}
