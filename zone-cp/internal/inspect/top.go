package inspect

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// maxCounted is how many proxies of a zone tell what passes.
const maxCounted = 1000

// Top tells in each interval what passed between pairs, of all proxies that find gives added up, until ctx ends, with nil, or emit fails.
// The first word is who tells; from then on everything that passes is in one of the next.
func (d *Desk) Top(ctx context.Context, zone string, t mesh.Top, find func(context.Context) ([]mesh.ProxyID, error), emit func(mesh.Flows) error) error {
	ctx, cancel := context.WithTimeout(ctx, mesh.TopMaxTime)
	defer cancel()
	c, err := d.newCrowd("top", t, maxCounted, find)
	if err != nil {
		return err
	}
	x := &counting{byProxy: t.ByProxy, flows: map[mesh.FlowKey]*mesh.Flow{}}
	c.take = x.take
	defer c.running.Wait()
	defer cancel()
	if err := c.look(ctx); err != nil {
		return err
	}
	again, word := time.NewTicker(lookAgain), time.NewTimer(firstWord)
	defer again.Stop()
	defer word.Stop()
	began := time.Time{} // of the interval; zero before the first word
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
		if !began.IsZero() {
			f.Milliseconds = now.Sub(began).Milliseconds()
		}
		began = now
		answering, problems := c.standing()
		f.Proxies, f.Problems = len(answering), problems
		if err := emit(f); err != nil {
			return err
		}
		word.Reset(t.Interval())
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
	for f := range maps.Values(x.flows) {
		out = append(out, *f)
	}
	x.flows = map[mesh.FlowKey]*mesh.Flow{}
	slices.SortFunc(out, func(a, b mesh.Flow) int { return a.Compare(b.FlowKey) })
	return out
}
