// Package ready says whether a store takes writes now. A store that still answers reads hides that its disk is full
// or read-only; who runs it should learn that from /readyz.
package ready

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/comity-mesh/comity/store"
)

const (
	// remembered is how long a failed write counts. A store in trouble fails again within it; one that has room
	// again says so after it.
	remembered = 10 * time.Second
	// probeEvery bounds how often Check writes, however often it is asked.
	probeEvery = 5 * time.Second

	bucket = "readiness"
	key    = "probe"
)

// Store is a store whose writes are looked at. Safe for concurrent use.
type Store struct {
	store.Store
	now func() time.Time

	probing sync.Mutex // one probe at a time

	mu       sync.Mutex
	failed   error // of the newest write that the engine could not serve
	failedAt time.Time
	probedAt time.Time // of the newest probe that went well
}

// Watch looks at the writes of a store. now nil means time.Now.
func Watch(s store.Store, now func() time.Time) *Store {
	if now == nil {
		now = time.Now
	}
	return &Store{Store: s, now: now}
}

// Apply implements store.Store.
func (s *Store) Apply(ctx context.Context, b store.Batch) (store.Result, error) {
	r, err := s.Store.Apply(ctx, b)
	s.note(err)
	return r, err
}

// PutRecords implements store.Records.
func (s *Store) PutRecords(ctx context.Context, bucket string, writes ...store.RecordWrite) (uint64, error) {
	n, err := s.Store.PutRecords(ctx, bucket, writes...)
	s.note(err)
	return n, err
}

func (s *Store) note(err error) {
	if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrClosed) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed, s.failedAt = err, s.now()
}

// Check returns nil if the store takes writes: none has failed for lack of the engine lately, and one of its own, made
// at most every few seconds, goes well. Both are needed: a small write may find room where others find none.
func (s *Store) Check(ctx context.Context) error {
	if err := s.lately(); err != nil {
		return err
	}
	s.probing.Lock()
	defer s.probing.Unlock()
	s.mu.Lock()
	fresh := s.now().Sub(s.probedAt) < probeEvery
	s.mu.Unlock()
	if fresh {
		return nil
	}
	if _, err := s.PutRecords(ctx, bucket, store.RecordWrite{Key: key, Value: []byte("{}")}); err != nil {
		return fmt.Errorf("the store takes no writes: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probedAt = s.now()
	return nil
}

func (s *Store) lately() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ago := s.now().Sub(s.failedAt); s.failed != nil && ago < remembered {
		return fmt.Errorf("a write failed %s ago: %w", ago.Round(time.Second), s.failed)
	}
	return nil
}
