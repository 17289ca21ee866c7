package imports

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// heardKey is the record, beside the trust in other zones, of when global was last heard of.
const heardKey = "global-heard"

// noteEvery is how often it is written while global is there. A zone that is killed knows of that much less.
const noteEvery = time.Minute

// Lease is for how long the other zones are believed without word from global, who alone knows which of them were
// removed or revoked. It survives restarts. Safe for concurrent use.
type Lease struct {
	records   store.Records
	connected func() bool

	mu    sync.Mutex
	heard time.Time
}

// OpenLease reads when global was last heard of; a zone that never noted it begins now. connected says whether there
// is a session with global.
func OpenLease(ctx context.Context, records store.Records, connected func() bool, now time.Time) (*Lease, error) {
	l := &Lease{records: records, connected: connected, heard: now}
	r, err := records.GetRecord(ctx, bookBucket, heardKey)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return l, l.note(ctx)
	case err != nil:
		return nil, fmt.Errorf("read when global was last heard of: %w", err)
	}
	var heard time.Time
	if err := heard.UnmarshalText(r.Value); err != nil {
		return nil, fmt.Errorf("read when global was last heard of: %w", err)
	}
	if heard.Before(now) { // a clock that was ahead lengthens no lease
		l.heard = heard
	}
	return l, nil
}

// Heard notes that global is there now. It is written soon.
func (l *Lease) Heard(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.After(l.heard) {
		l.heard = now
	}
}

// Last is when global was last heard of: now while there is a session.
func (l *Lease) Last(now time.Time) time.Time {
	if l.connected() {
		l.Heard(now)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard
}

// Until is when the other zones stop being believed unless global is heard of before; the zero time if they never do.
func (l *Lease) Until(t policy.TrustSettings, now time.Time) time.Time {
	if t.Keep {
		return time.Time{}
	}
	return l.Last(now).Add(t.Lease)
}

// Run notes on disk when global was last heard of, until ctx ends. A disk that is full is tried again.
func (l *Lease) Run(ctx context.Context) error {
	tick := time.NewTicker(noteEvery)
	defer tick.Stop()
	var noted time.Time
	for {
		if last := l.Last(time.Now()); last.After(noted) && l.note(ctx) == nil {
			noted = last
		}
		select {
		case <-ctx.Done():
			return l.note(context.WithoutCancel(ctx))
		case <-tick.C:
		}
	}
}

func (l *Lease) note(ctx context.Context) error {
	l.mu.Lock()
	value, err := l.heard.UTC().MarshalText()
	l.mu.Unlock()
	if err == nil {
		_, err = l.records.PutRecords(ctx, bookBucket, store.RecordWrite{Key: heardKey, Value: value})
	}
	if err != nil {
		return fmt.Errorf("note when global was last heard of: %w", err)
	}
	return nil
}
