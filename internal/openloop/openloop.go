// Package openloop sends requests on a fixed schedule, whatever becomes of the earlier ones, and records every one.
//
// A loop that waits for its answers sends nothing while nothing answers, so what it measures of an outage is
// one slow request (coordinated omission). Here a request is due at its time, and its latency counts from then.
package openloop

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Send makes request n, counted from 0, and says who answered. It bounds its own time: the schedule
// never waits for it.
type Send func(ctx context.Context, n int) (by string, err error)

// Request is one request that has ended.
type Request struct {
	Due  time.Time
	Took time.Duration // from Due, not from when it was really sent
	By   string        // who answered
	Err  error
}

// Done is when it ended.
func (r Request) Done() time.Time { return r.Due.Add(r.Took) }

// Load is a running schedule.
type Load struct {
	begin    time.Time
	rate     float64
	stop     context.CancelFunc
	finished chan struct{}

	mu   sync.Mutex
	sent Record
	done []bool // by request
}

// Start begins to send rate requests a second, until Stop or the end of ctx. Requests get ctx: its end ends
// them, Stop does not.
func Start(ctx context.Context, rate float64, send Send) *Load {
	schedule, stop := context.WithCancel(ctx)
	l := &Load{begin: time.Now(), rate: rate, stop: stop, finished: make(chan struct{})}
	go func() {
		defer close(l.finished)
		var underWay sync.WaitGroup
		defer underWay.Wait()
		timer := time.NewTimer(0)
		defer timer.Stop()
		for n := 0; ; n++ {
			due := l.begin.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
			// Late ones are sent at once, all of them.
			timer.Reset(time.Until(due))
			select {
			case <-schedule.Done():
				return
			case <-timer.C:
			}
			l.mu.Lock()
			l.sent, l.done = append(l.sent, Request{Due: due}), append(l.done, false)
			l.mu.Unlock()
			underWay.Go(func() {
				by, err := send(ctx, n)
				took := time.Since(due)
				l.mu.Lock()
				defer l.mu.Unlock()
				l.sent[n], l.done[n] = Request{Due: due, Took: took, By: by, Err: err}, true
			})
		}
	}()
	return l
}

// Stop sends no more, waits for what is under way, and returns all requests.
func (l *Load) Stop() Record {
	l.stop()
	<-l.finished
	return l.SoFar()
}

// SoFar returns the requests up to the first that is still under way: what came after it is not told before its end
// is known.
func (l *Load) SoFar() Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := slices.Index(l.done, false)
	if n < 0 {
		n = len(l.sent)
	}
	return slices.Clone(l.sent[:n])
}

// Record is a series of requests in the order in which they were due.
type Record []Request

// Since returns the requests that were due at t or later.
func (r Record) Since(t time.Time) Record {
	i, _ := slices.BinarySearchFunc(r, t, func(q Request, t time.Time) int { return q.Due.Compare(t) })
	return r[i:]
}

// Until returns the requests that were due before t.
func (r Record) Until(t time.Time) Record { return r[:len(r)-len(r.Since(t))] }

// Failed returns the requests that ended with an error.
func (r Record) Failed() Record {
	var out Record
	for _, q := range r {
		if q.Err != nil {
			out = append(out, q)
		}
	}
	return out
}

// Longest is the longest time that a request took, failed ones included.
func (r Record) Longest() time.Duration {
	var longest time.Duration
	for _, q := range r {
		longest = max(longest, q.Took)
	}
	return longest
}

// Percentile is the time within which p percent of the requests ended; 0 if there are none.
func (r Record) Percentile(p float64) time.Duration {
	if len(r) == 0 {
		return 0
	}
	took := make([]time.Duration, len(r))
	for i, q := range r {
		took[i] = q.Took
	}
	slices.Sort(took)
	return took[min(int(p/100*float64(len(took))), len(took)-1)]
}

// By counts who answered.
func (r Record) By() map[string]int {
	out := map[string]int{}
	for _, q := range r {
		if q.Err == nil {
			out[q.By]++
		}
	}
	return out
}

// SteadyFrom is the first time, at t or later, from which on ok holds of every request for as long as window: the end
// of the last request of which it does not hold. It reports false if r does not reach so far.
func (r Record) SteadyFrom(t time.Time, window time.Duration, ok func(Request) bool) (time.Time, bool) {
	from := t
	for _, q := range r.Since(t) {
		switch {
		case !ok(q):
			if q.Done().After(from) {
				from = q.Done()
			}
		case q.Due.Sub(from) >= window:
			return from, true
		}
	}
	return from, false
}
