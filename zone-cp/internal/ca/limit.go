package ca

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// How often one peer may ask. The address limit leaves room for a host with many workloads; the
// instance limit stops one agent from renewing in a loop.
const (
	addressRate   = 20
	addressBurst  = 200
	instanceRate  = 0.2
	instanceBurst = 8
	maxLimiters   = 4096
)

// limits keeps a token bucket per key, at most maxLimiters of them. Buckets that are full again are
// forgotten; when there is no room left, strangers share one bucket, so a flood from many addresses
// does not grow memory and does not hurt peers that have a bucket.
type limits struct {
	now func() time.Time

	mu       sync.Mutex
	buckets  map[string]*rate.Limiter
	overflow *rate.Limiter
}

func newLimits(now func() time.Time) *limits {
	return &limits{now: now, buckets: map[string]*rate.Limiter{}, overflow: rate.NewLimiter(addressRate, addressBurst)}
}

func (l *limits) address(a string) bool {
	return l.allow("address "+a, addressRate, addressBurst)
}

func (l *limits) instance(id string) bool {
	return l.allow("instance "+id, instanceRate, instanceBurst)
}

func (l *limits) allow(key string, r rate.Limit, burst int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	b := l.buckets[key]
	if b == nil {
		if len(l.buckets) >= maxLimiters {
			l.sweep(now)
		}
		if len(l.buckets) >= maxLimiters {
			return l.overflow.AllowN(now, 1)
		}
		b = rate.NewLimiter(r, burst)
		l.buckets[key] = b
	}
	return b.AllowN(now, 1)
}

func (l *limits) sweep(now time.Time) {
	for k, b := range l.buckets {
		if b.TokensAt(now) >= float64(b.Burst()) {
			delete(l.buckets, k)
		}
	}
}
