package ads

import (
	"runtime"
	"sync"
	"time"
)

// pool sends what was published to the streams it concerns, with a few goroutines that exist only
// while there is something to send. A stream that blocks a worker for longer than a moment no longer
// counts against their number; one that blocks until the timeout is closed.
type pool struct {
	timeout time.Duration
	limit   int

	mu      sync.Mutex
	queue   []*stream
	head    int
	workers int
	blocked int
	sending map[*stream]time.Time
	watch   *time.Timer
	stopped bool
}

// moment is how long a send may take before another worker takes its place.
const moment = 250 * time.Millisecond

func newPool(timeout time.Duration) *pool {
	return &pool{timeout: timeout, limit: 2 * runtime.GOMAXPROCS(0), sending: make(map[*stream]time.Time)}
}

// add queues streams; one that is already queued is queued once.
func (p *pool) add(streams []*stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	for _, st := range streams {
		if !st.queued.Swap(true) {
			p.queue = append(p.queue, st)
		}
	}
	p.grow()
}

// grow starts workers up to the limit. The caller holds p.mu.
func (p *pool) grow() {
	for p.workers-p.blocked < p.limit && p.workers-p.blocked < len(p.queue)-p.head {
		p.workers++
		go p.work()
	}
}

func (p *pool) work() {
	for {
		p.mu.Lock()
		if p.head == len(p.queue) || p.workers-p.blocked > p.limit {
			if p.head == len(p.queue) {
				p.queue, p.head = nil, 0
			}
			p.workers--
			p.mu.Unlock()
			return
		}
		st := p.queue[p.head]
		p.queue[p.head] = nil
		p.head++
		p.mu.Unlock()
		st.queued.Store(false)
		st.refresh()
	}
}

// begin and end frame the sending of a stream, so that one that takes nothing is found.
func (p *pool) begin(st *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sending[st] = time.Now()
	if p.watch == nil && !p.stopped {
		p.watch = time.AfterFunc(moment, p.look)
	}
}

func (p *pool) end(st *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sending, st)
}

// look runs only while something is being sent.
func (p *pool) look() {
	var dead []*stream
	p.mu.Lock()
	now := time.Now()
	p.blocked = 0
	for st, since := range p.sending {
		if took := now.Sub(since); took > p.timeout {
			dead = append(dead, st)
		} else if took < moment {
			continue
		}
		p.blocked++
	}
	p.blocked = min(p.blocked, p.workers)
	p.grow()
	if p.watch = nil; len(p.sending) > 0 && !p.stopped {
		p.watch = time.AfterFunc(moment, p.look)
	}
	p.mu.Unlock()
	for _, st := range dead {
		st.tooSlow()
	}
}

func (p *pool) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	if p.watch != nil {
		p.watch.Stop()
	}
}
