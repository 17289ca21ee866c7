package inspect

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// lagging is the part of an interval by which a zone tells later than it counts. Its proxies end their intervals when it does, and what they
// counted has to be read from their Envoys and to come here: without it some would be in an interval twice, and others not at all.
const lagging = 4

// maxCounted is how many proxies of a zone tell what passes.
const maxCounted = 1000

// Top tells in each interval what passed between pairs, of all proxies that find gives added up, until ctx ends, with nil, or emit fails.
// The first word is who tells; from then on everything that passes is in one of the next, each of which has one word of every proxy.
func (d *Desk) Top(ctx context.Context, zone string, t mesh.Top, find func(context.Context) ([]mesh.ProxyID, error), emit func(mesh.Flows) error) error {
	ctx, cancel := context.WithTimeout(ctx, mesh.TopMaxTime)
	defer cancel()
	x := &counting{byProxy: t.ByProxy, flows: map[mesh.FlowKey]*mesh.Flow{}}
	c, err := d.newCrowd("top", t, maxCounted, find, x.take)
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
	var began, due time.Time // of the interval, zero before the first word; of the next word
	for {
		select {
		case <-c.changed:
			if began.IsZero() && c.settled() {
				word.Reset(0)
			}
			continue
		case <-again.C:
			if err := c.look(ctx); err != nil {
				return err
			}
			continue
		case <-word.C:
		case <-ctx.Done():
			return nil
		}
		now := time.Now()
		f := mesh.Flows{Zone: zone, Flows: x.taken()}
		if began.IsZero() {
			began, due = now, now.Add(t.Interval()/lagging)
		} else {
			end := now.Add(-t.Interval() / lagging)
			f.Milliseconds = end.Sub(began).Milliseconds()
			began = end
		}
		for due.Sub(now) < t.Interval()/2 { // in step with the proxies, also after a word that was late
			due = due.Add(t.Interval())
		}
		answering, problems := c.standing()
		f.Proxies, f.Problems = len(answering), problems
		if err := emit(f); err != nil {
			return err
		}
		word.Reset(due.Sub(now))
	}
}

// counting adds up what proxies tell.
type counting struct {
	byProxy bool

	mu    sync.Mutex
	flows map[mesh.FlowKey]*mesh.Flow
}

func (x *counting) take(p mesh.ProxyID, part []byte) error {
	var told mesh.Flows
	if err := json.Unmarshal(part, &told); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, f := range told.Flows {
		key := f.FlowKey
		if key.Proxy = ""; x.byProxy {
			key.Proxy = p.String()
		}
		sum := x.flows[key]
		if sum == nil {
			sum = &mesh.Flow{FlowKey: key}
			x.flows[key] = sum
		}
		sum.Add(f)
	}
	return nil
}

// taken is what was told since the last call, in the order of the pairs.
func (x *counting) taken() []mesh.Flow {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []mesh.Flow
	for _, f := range x.flows {
		out = append(out, *f)
	}
	x.flows = map[mesh.FlowKey]*mesh.Flow{}
	slices.SortFunc(out, func(a, b mesh.Flow) int { return a.Compare(b.FlowKey) })
	return out
}
