package fedserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// lagLimit is how old what a laggard holds may become.
const lagLimit = 200 * time.Millisecond

// laggard writes what nobody waits for: the zones' own lines, and how far their reports are kept. A change
// that reaches a zone touches both several times, and concerns many zones at once; they are written once for all of it,
// off its path. What a crash of global loses of it the zones say again.
type laggard struct {
	server *Server
	signal chan struct{} // capacity 1

	writing sync.Mutex // one flush at a time, so that writes keep their order

	mu    sync.Mutex
	zones map[string]late
}

// late is what is still to be written of one zone.
type late struct {
	changes []func(*mesh.ZoneStatus)
	at      *statusPosition
}

func newLaggard(s *Server) *laggard {
	return &laggard{server: s, signal: make(chan struct{}, 1), zones: map[string]late{}}
}

// change notes a change of a zone's line. The function runs later, once or more often.
func (l *laggard) change(zone string, f func(*mesh.ZoneStatus)) {
	l.mu.Lock()
	x := l.zones[zone]
	x.changes = append(x.changes, f)
	l.zones[zone] = x
	l.mu.Unlock()
	l.wake()
}

// position notes up to where a zone's reports are in the store.
func (l *laggard) position(zone string, p statusPosition) {
	l.mu.Lock()
	x := l.zones[zone]
	x.at = &p
	l.zones[zone] = x
	l.mu.Unlock()
	l.wake()
}

func (l *laggard) wake() {
	select {
	case l.signal <- struct{}{}:
	default:
	}
}

// run writes until ctx ends; what is left then is for a last flush of each zone.
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
		if err := l.flush(ctx, func(string) bool { return true }); err != nil && ctx.Err() == nil {
			log.WarnContext(ctx, "zone statuses not kept; trying again", "error", err)
			l.wake()
		}
	}
}

// drop forgets what is still to be written of a zone whose newer session another replica holds.
func (l *laggard) drop(zone string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.zones, zone)
}

// flushZone writes what there is now of one zone.
func (l *laggard) flushZone(ctx context.Context, zone string) error {
	return l.flush(ctx, func(z string) bool { return z == zone })
}

// flush writes what there is now of some zones. What could not be written stays.
func (l *laggard) flush(ctx context.Context, of func(zone string) bool) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	taken := map[string]late{}
	l.mu.Lock()
	for zone, x := range l.zones {
		if of(zone) {
			taken[zone] = x
			delete(l.zones, zone)
		}
	}
	l.mu.Unlock()
	lines := l.writeLines(ctx, taken)
	positions := l.writePositions(ctx, taken)
	if lines != nil || positions != nil {
		l.putBack(taken, lines != nil, positions != nil)
	}
	return errors.Join(lines, positions)
}

// putBack keeps what was not written, before what has come since.
func (l *laggard) putBack(taken map[string]late, lines, positions bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for zone, x := range taken {
		now := l.zones[zone]
		if lines {
			now.changes = append(x.changes, now.changes...)
		}
		if positions && now.at == nil {
			now.at = x.at
		}
		if len(now.changes) > 0 || now.at != nil {
			l.zones[zone] = now
		}
	}
}

// writeLines changes the lines of all zones in one transaction, unless somebody else changes one at this moment. A
// removed zone has no line, and gets none by this.
func (l *laggard) writeLines(ctx context.Context, taken map[string]late) error {
	changed := maps.Clone(taken)
	maps.DeleteFunc(changed, func(_ string, x late) bool { return len(x.changes) == 0 })
	if len(changed) == 0 {
		return nil
	}
	for {
		list, err := l.zoneRecords(ctx, changed)
		if err != nil {
			return err
		}
		writes := make([]store.RecordWrite, 0, len(list))
		for _, z := range list {
			for _, f := range changed[z.zone].changes {
				f(&z.status)
			}
			w, err := z.write()
			if err != nil {
				return err
			}
			writes = append(writes, w)
		}
		if len(writes) == 0 {
			return nil
		}
		_, err = l.server.cfg.Store.PutRecords(ctx, BucketZones, writes...)
		if !errors.Is(err, store.ErrConflict) || ctx.Err() != nil {
			return err
		}
	}
}

// zoneRecords reads the lines of some zones.
func (l *laggard) zoneRecords(ctx context.Context, zones map[string]late) ([]zoneRecord, error) {
	if len(zones) > 1 {
		all, err := l.server.zoneRecords(ctx)
		out := all[:0]
		for _, z := range all {
			if _, ok := zones[z.zone]; ok {
				out = append(out, z)
			}
		}
		return out, err
	}
	var out []zoneRecord
	for zone := range zones {
		line, version, found, err := getJSON[mesh.ZoneStatus](ctx, l.server.cfg.Store, BucketZones, zone)
		if err != nil {
			return nil, err
		}
		if found {
			out = append(out, zoneRecord{zone: zone, status: line, version: version})
		}
	}
	return out, nil
}

func (l *laggard) writePositions(ctx context.Context, taken map[string]late) error {
	var writes []store.RecordWrite
	for zone, x := range taken {
		if x.at == nil {
			continue
		}
		w, err := jsonWrite(zone, *x.at)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	if len(writes) == 0 {
		return nil
	}
	if _, err := l.server.cfg.Store.PutRecords(ctx, bucketStatusAt, writes...); err != nil {
		return fmt.Errorf("keep how far reports are: %w", err)
	}
	return nil
}
