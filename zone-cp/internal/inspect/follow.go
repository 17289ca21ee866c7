package inspect

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
)

const (
	// maxFollowed is how many proxies all questions whose answers go on have open.
	maxFollowed = 2048
	// lookAgain is how long a proxy that came later waits to be asked, and one that could not be to be asked again.
	lookAgain = 2 * time.Second
)

// crowd are the proxies of one question whose answers go on.
type crowd struct {
	desk   *Desk
	what   string
	detail []byte // JSON
	most   int    // proxies
	find   func(context.Context) ([]mesh.ProxyID, error)
	take   func(p mesh.ProxyID, part []byte) error

	changed chan struct{} // capacity 1
	running sync.WaitGroup

	mu sync.Mutex
	// state is why a proxy does not answer, empty for one that does, and asking for one that has not begun.
	state map[mesh.ProxyID]string
}

const asking = "it has not answered yet"

func (d *Desk) newCrowd(what string, detail any, most int, find func(context.Context) ([]mesh.ProxyID, error), take func(mesh.ProxyID, []byte) error) (*crowd, error) {
	raw, err := json.Marshal(detail)
	if err != nil {
		return nil, err
	}
	return &crowd{desk: d, what: what, detail: raw, most: most, find: find, take: take, changed: make(chan struct{}, 1), state: map[mesh.ProxyID]string{}}, nil
}

// look asks whoever is there and is not asked.
func (c *crowd) look(ctx context.Context) error {
	list, err := c.find(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, state := range c.state {
		if !underWay(state) && !slices.Contains(list, p) {
			delete(c.state, p)
		}
	}
	asked := 0
	for _, state := range c.state {
		if underWay(state) {
			asked++
		}
	}
	for _, p := range list {
		state, known := c.state[p]
		if known && underWay(state) {
			continue
		}
		if asked == c.most {
			c.state[p] = "as many others as can be are asked already"
			continue
		}
		asked++
		c.state[p] = asking
		c.running.Go(func() { c.ask(ctx, p) })
	}
	c.wake()
	return nil
}

func underWay(state string) bool { return state == "" || state == asking }

// ask asks one proxy until it or ctx ends.
func (c *crowd) ask(ctx context.Context, p mesh.ProxyID) {
	begun := false
	err := c.desk.put(ctx, p, &enrolpb.Ask{What: c.what, Detail: c.detail}, maxFollowed, func(part []byte) error {
		if !begun {
			begun = true
			c.set(p, "")
		}
		if len(part) == 0 {
			return nil
		}
		return c.take(p, part)
	})
	reason := "it has ended"
	if err != nil {
		reason = err.Error()
	}
	c.set(p, reason)
}

func (c *crowd) set(p mesh.ProxyID, state string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state[p] != state {
		c.state[p] = state
		c.wake()
	}
}

func (c *crowd) wake() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// settled reports whether everybody who is asked has said something.
func (c *crowd) settled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !slices.Contains(slices.Collect(maps.Values(c.state)), asking)
}

// standing lists who answers, and why others don't.
func (c *crowd) standing() (answering []string, problems []mesh.TapProblem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range slices.SortedFunc(maps.Keys(c.state), func(a, b mesh.ProxyID) int { return cmp.Compare(a.String(), b.String()) }) {
		if why := c.state[p]; why != "" {
			problems = append(problems, mesh.TapProblem{Proxy: p.String(), Reason: why})
		} else {
			answering = append(answering, p.String())
		}
	}
	return answering, problems
}
