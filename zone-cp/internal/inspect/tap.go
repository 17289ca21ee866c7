package inspect

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
)

// Bounds of taps.
const (
	maxTapped = 64  // proxies of one tap
	maxTaps   = 256 // proxies of all taps and questions
	// lookAgain is how long a proxy that came after the tap waits to be watched, and one that could not be to be tried again.
	lookAgain = 2 * time.Second
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
	x := &tapping{
		desk: d, tap: t, zone: zone, state: map[mesh.ProxyID]string{}, changed: make(chan struct{}, 1),
		events: make(chan mesh.TapEvent, most), limit: rate.NewLimiter(rate.Limit(most), most),
	}
	defer x.running.Wait()
	defer cancel()
	if err := x.look(ctx, find); err != nil {
		return err
	}
	again, word := time.NewTicker(lookAgain), time.NewTimer(firstWord)
	defer again.Stop()
	defer word.Stop()
	said := false
	for {
		var e mesh.TapEvent
		select {
		case e = <-x.events:
			if l := e.Left; l != nil {
				l.Count += x.dropped()
			}
		case <-x.changed:
			if said || x.settled() {
				word.Reset(settle)
			}
			continue
		case <-word.C:
			said, e.Watching = true, x.watching()
		case <-again.C:
			if err := x.look(ctx, find); err != nil {
				return err
			}
			if n := x.dropped(); n > 0 {
				e.Left = &mesh.TapLeft{Zone: zone, Count: n}
				break
			}
			continue
		case <-ctx.Done():
			return nil
		}
		if err := emit(e); err != nil {
			return err
		}
	}
}

// tapping is one tap under way.
type tapping struct {
	desk    *Desk
	tap     mesh.Tap
	zone    string
	events  chan mesh.TapEvent
	limit   *rate.Limiter
	changed chan struct{} // capacity 1
	running sync.WaitGroup

	mu sync.Mutex
	// state is why a proxy is not watched, empty for one that is, and asking for one that has not said so.
	state map[mesh.ProxyID]string
	left  uint64
}

const asking = "it has not answered yet"

// look watches what is not watched.
func (x *tapping) look(ctx context.Context, find func(context.Context) ([]mesh.ProxyID, error)) error {
	list, err := find(ctx)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for p, state := range x.state {
		if state != "" && state != asking && !slices.Contains(list, p) {
			delete(x.state, p)
		}
	}
	watched := 0
	for _, state := range x.state {
		if state == "" || state == asking {
			watched++
		}
	}
	for _, p := range list {
		if state, ok := x.state[p]; ok && (state == "" || state == asking) {
			continue
		}
		if watched == maxTapped {
			x.state[p] = "as many others as can be are watched for this tap already"
			continue
		}
		watched++
		if _, failed := x.state[p]; !failed { // why it failed stands until it is known to be over
			x.state[p] = asking
		}
		x.running.Go(func() { x.follow(ctx, p) })
	}
	x.wake()
	return nil
}

// follow watches one proxy, until it or ctx ends.
func (x *tapping) follow(ctx context.Context, p mesh.ProxyID) {
	raw, err := json.Marshal(x.tap)
	if err == nil {
		begun := false
		err = x.desk.put(ctx, p, &enrolpb.Ask{What: "tap", Tap: raw}, maxTaps, func(part []byte) error {
			if !begun {
				begun = true
				x.set(p, "")
			}
			return x.take(part)
		})
	}
	reason := "it has ended"
	if err != nil {
		reason = err.Error()
	}
	x.set(p, reason)
}

// take passes on what a proxy says, as far as it is not too much.
func (x *tapping) take(part []byte) error {
	if len(part) == 0 {
		return nil
	}
	var e mesh.TapEvent
	if err := json.Unmarshal(part, &e); err != nil {
		return err
	}
	if e.Request == nil && e.Left == nil {
		return nil
	}
	if e.Request == nil || x.limit.Allow() {
		select {
		case x.events <- e:
			return nil
		default: // emit does not keep up
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.left++; e.Left != nil {
		x.left += e.Left.Count - 1
	}
	return nil
}

// dropped is how many were left out here since the last call.
func (x *tapping) dropped() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := x.left
	x.left = 0
	return n
}

func (x *tapping) set(p mesh.ProxyID, state string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.state[p] != state {
		x.state[p] = state
		x.wake()
	}
}

func (x *tapping) wake() {
	select {
	case x.changed <- struct{}{}:
	default:
	}
}

// settled reports whether everybody who is asked has said something.
func (x *tapping) settled() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return !slices.Contains(slices.Collect(maps.Values(x.state)), asking)
}

func (x *tapping) watching() *mesh.TapWatching {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := &mesh.TapWatching{Zone: x.zone}
	for _, p := range slices.SortedFunc(maps.Keys(x.state), func(a, b mesh.ProxyID) int { return cmp.Compare(a.String(), b.String()) }) {
		if why := x.state[p]; why != "" {
			out.Problems = append(out.Problems, mesh.TapProblem{Proxy: p.String(), Reason: why})
		} else {
			out.Proxies = append(out.Proxies, p.String())
		}
	}
	return out
}
