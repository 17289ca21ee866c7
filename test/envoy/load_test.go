package envoy

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// load is callers that ask on and on, each when it has its answer. They ask no more than 200 times a second together, and fewer times
// where the machine is busy: callers that don't wait would only pile up there.
type load struct {
	stop  context.CancelFunc
	ended sync.WaitGroup

	mu     sync.Mutex
	all    int
	failed map[string]int
}

// load begins requests to a host. Half of them are POST, which is not tried again once it may have been seen.
func (w *world) load(t *testing.T, host string) *load {
	t.Helper()
	const callers, pace = 8, 40 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	l := &load{stop: stop, failed: map[string]int{}}
	for range callers {
		h := client(t, false)
		l.ended.Go(func() {
			next := time.NewTicker(pace)
			defer next.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				c := call{to: host, method: http.MethodGet}
				if n%2 == 1 {
					c.method = http.MethodPost
				}
				r, err := w.tryWith(t, h, c)
				l.note(c, r, err)
				select {
				case <-next.C:
				case <-ctx.Done():
				}
			}
		})
	}
	t.Cleanup(func() { stop(); l.ended.Wait() })
	return l
}

func (l *load) note(c call, r reply, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all++
	if err != nil {
		l.failed[c.method+" "+err.Error()]++
	} else if r.status != http.StatusOK {
		l.failed[fmt.Sprintf("%s %d %.200s", c.method, r.status, r.body)]++
	}
}

func (l *load) soFar() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all
}

// more waits until so many requests more have ended.
func (l *load) more(t *testing.T, n int) {
	t.Helper()
	seen := l.soFar()
	eventually(t, "requests go on", func() error {
		if more := l.soFar() - seen; more < n {
			return fmt.Errorf("%d more", more)
		}
		return nil
	})
}

// unharmed ends the load and fails the test if a request failed.
func (l *load) unharmed(t *testing.T) {
	t.Helper()
	l.stop()
	l.ended.Wait()
	t.Logf("%d requests", l.all)
	if len(l.failed) > 0 {
		t.Errorf("of %d requests failed: %v", l.all, l.failed)
	}
}
