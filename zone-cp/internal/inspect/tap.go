package inspect

import (
	"context"
	"encoding/json"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/comity-mesh/comity/mesh"
)

const (
	maxTapped = 64 // proxies of one tap
	// firstWord is how long the first word about who is watched waits for all of them.
	firstWord = 500 * time.Millisecond
	settle    = 50 * time.Millisecond
)

// Tap shows what matches at proxies of the zone, as find gives them from time to time, until the tap's time is over or ctx ends,
// with nil, or emit fails. It says first, and when it changes, who is watched. emit is called by one goroutine at a time; while it
// blocks, what does not fit is left out and counted.
func (d *Desk) Tap(ctx context.Context, zone string, t mesh.Tap, find func(context.Context) ([]mesh.ProxyID, error), emit func(mesh.TapEvent) error) error {
	most, length := t.Limits()
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	x := &tapping{events: make(chan mesh.TapEvent, most), limit: rate.NewLimiter(rate.Limit(most), most)}
	c, err := d.newCrowd("tap", t, maxTapped, find, x.take)
	if err != nil {
		return err
	}
	defer c.running.Wait()
	defer cancel()
	if err := c.look(ctx); err != nil {
		return err
	}
	again, word := time.NewTicker(lookAgain), time.NewTimer(firstWord)
	defer again.Stop()
	defer word.Stop()
	said, watching := false, mesh.TapWatching{} // what was said last of who is watched
	for {
		var e mesh.TapEvent
		select {
		case e = <-x.events:
			if l := e.Left; l != nil {
				l.Count += x.left.Swap(0)
			}
		case <-c.changed:
			if said || c.settled() {
				word.Reset(settle)
			}
			continue
		case <-word.C:
			now := mesh.TapWatching{Zone: zone}
			now.Proxies, now.Problems = c.standing()
			if said && slices.Equal(now.Proxies, watching.Proxies) && slices.Equal(now.Problems, watching.Problems) {
				continue // some were asked again, with the same answer
			}
			said, watching, e.Watching = true, now, &now
		case <-again.C:
			if err := c.look(ctx); err != nil {
				return err
			}
			n := x.left.Swap(0)
			if n == 0 {
				continue
			}
			e.Left = &mesh.TapLeft{Zone: zone, Count: n}
		case <-ctx.Done():
			return nil
		}
		if err := emit(e); err != nil {
			return err
		}
	}
}

// tapping is what the proxies of a tap tell, as far as it is not too much.
type tapping struct {
	events chan mesh.TapEvent
	limit  *rate.Limiter
	left   atomic.Uint64
}

func (x *tapping) take(_ mesh.ProxyID, part []byte) error {
	var e mesh.TapEvent
	if err := json.Unmarshal(part, &e); err != nil {
		return err
	}
	n := uint64(1)
	switch {
	case e.Left != nil:
		n = e.Left.Count
	case e.Request == nil:
		return nil // of a newer agent
	case !x.limit.Allow():
		x.left.Add(n)
		return nil
	}
	select {
	case x.events <- e:
	default: // emit does not keep up
		x.left.Add(n)
	}
	return nil
}
