package fedserver

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// lagLimit is how old what a laggard holds may become.
const lagLimit = 200 * time.Millisecond

// laggard writes what nobody waits for: the zone's own line, and how far its reports are kept. A change
// that reaches the zone touches both several times; they are written once for many of them, off its path.
// What a crash of global loses of it the zone says again.
type laggard struct {
	server *Server
	zone   string
	signal chan struct{} // capacity 1

	writing sync.Mutex // one flush at a time, so that writes keep their order

	mu      sync.Mutex
	changes []func(*mesh.ZoneStatus)
	at      *statusPosition
}

func newLaggard(s *Server, zone string) *laggard {
	return &laggard{server: s, zone: zone, signal: make(chan struct{}, 1)}
}

// change notes a change of the zone's line. The function runs later, once or more often.
func (l *laggard) change(f func(*mesh.ZoneStatus)) {
	l.mu.Lock()
	l.changes = append(l.changes, f)
	l.mu.Unlock()
	l.wake()
}

// position notes up to where the zone's reports are in the store.
func (l *laggard) position(p statusPosition) {
	l.mu.Lock()
	l.at = &p
	l.mu.Unlock()
	l.wake()
}

func (l *laggard) wake() {
	select {
	case l.signal <- struct{}{}:
	default:
	}
}

// run writes until ctx ends; what is left then is for a last flush.
func (l *laggard) run(ctx context.Context, log *slog.Logger) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.signal:
		}
		timer.Reset(lagLimit)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := l.flush(ctx); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "zone status not kept; trying again", "zone", l.zone, "error", err)
			l.wake()
		}
	}
}

// flush writes what there is now. What could not be written stays.
func (l *laggard) flush(ctx context.Context) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.mu.Lock()
	changes, at := l.changes, l.at
	l.changes, l.at = nil, nil
	l.mu.Unlock()
	var errs []error
	if len(changes) > 0 {
		err := l.server.setZone(ctx, l.zone, func(z *mesh.ZoneStatus) {
			for _, f := range changes {
				f(z)
			}
		})
		if err != nil {
			errs = append(errs, err)
			l.mu.Lock()
			l.changes = append(changes, l.changes...)
			l.mu.Unlock()
		}
	}
	if at != nil {
		if err := putJSON(ctx, l.server.cfg.Store, bucketStatusAt, l.zone, *at, nil); err != nil {
			errs = append(errs, err)
			l.mu.Lock()
			if l.at == nil {
				l.at = at
			}
			l.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}
