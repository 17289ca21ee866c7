package dataplane

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
)

const (
	// plaintextEvery is how often Envoy is asked who speaks plaintext.
	plaintextEvery = 15 * time.Second
	// plaintextNews is how often the zone is told of callers that it knows; of new ones it is told at once.
	plaintextNews = 5 * time.Minute
	// maxPlaintextListed bounds the callers of a port that the zone is told by address.
	maxPlaintextListed = 32

	plaintextPath = `/stats?filter=%5E(comity%5C.plaintext%5C.%7Clistener%5C.plaintext/.*%5C.downstream_cx_total)`
)

// plaintexts keeps in mind who spoke plaintext to this proxy, which Envoy counts by address.
type plaintexts struct {
	clock func() time.Time

	mu    sync.Mutex
	ports map[string]*plaintextPort
	told  time.Time // when the zone was told last
}

type plaintextPort struct {
	since   time.Time
	total   uint64
	last    time.Time
	callers map[string]*plaintextCaller
}

type plaintextCaller struct {
	counted uint64 // by the Envoy that runs now
	total   uint64
	last    time.Time
}

func newPlaintexts() *plaintexts {
	return &plaintexts{clock: time.Now, ports: map[string]*plaintextPort{}}
}

// look takes Envoy's counters, in its text form, and reports whether the zone should be told. Counters that are less than they
// were are those of a new Envoy.
func (p *plaintexts) look(text string) bool {
	now := p.clock()
	p.mu.Lock()
	defer p.mu.Unlock()
	open := map[string]bool{}
	news, more := false, false
	at := func(name string) *plaintextPort {
		open[name] = true
		if p.ports[name] == nil {
			p.ports[name], news = &plaintextPort{since: now, callers: map[string]*plaintextCaller{}}, true
		}
		return p.ports[name]
	}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseUint(value, 10, 64)
		if !ok || err != nil {
			continue
		}
		if port, ok := strings.CutPrefix(name, "listener.plaintext/"); ok {
			at(strings.ReplaceAll(strings.TrimSuffix(port, ".downstream_cx_total"), "_", ":")) // Envoy writes listeners' names so
			continue
		}
		port, source, ok := strings.Cut(strings.TrimPrefix(name, "comity.plaintext.port."), ".source.")
		if !ok || n == 0 {
			continue
		}
		of := at(port)
		c := of.callers[source]
		if c == nil {
			c = &plaintextCaller{}
			of.callers[source], news = c, true
		}
		d := n
		if n >= c.counted {
			d = n - c.counted
		}
		c.counted = n
		if d > 0 {
			c.total, c.last = c.total+d, now
			of.total, of.last = of.total+d, now
			more = true
		}
	}
	for name := range p.ports {
		if !open[name] {
			delete(p.ports, name) // it is strict now; begins anew if it ever is permissive again
			news = true
		}
	}
	if news || more && now.Sub(p.told) >= plaintextNews {
		p.told = now
		return true
	}
	return false
}

// report is what the zone is told.
func (p *plaintexts) report() []*enrolpb.PlaintextPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*enrolpb.PlaintextPort
	for _, name := range slices.Sorted(maps.Keys(p.ports)) {
		port := p.ports[name]
		m := &enrolpb.PlaintextPort{Port: name, SinceMs: port.since.UnixMilli(), Requests: port.total}
		if !port.last.IsZero() {
			m.LastMs = port.last.UnixMilli()
		}
		for address, c := range port.callers {
			m.Callers = append(m.Callers, &enrolpb.PlaintextCaller{Address: address, Requests: c.total, LastMs: c.last.UnixMilli()})
		}
		slices.SortFunc(m.Callers, func(a, b *enrolpb.PlaintextCaller) int {
			return cmp.Or(cmp.Compare(b.GetLastMs(), a.GetLastMs()), cmp.Compare(a.GetAddress(), b.GetAddress()))
		})
		if over := len(m.Callers) - maxPlaintextListed; over > 0 {
			m.Callers, m.Others = m.Callers[:maxPlaintextListed], uint32(over) //nolint:gosec // Envoy counts some thousands at most
		}
		out = append(out, m)
	}
	return out
}

// watchPlaintext asks Envoy again and again until ctx ends.
func (a *agent) watchPlaintext(ctx context.Context) error {
	tick := time.NewTicker(plaintextEvery)
	defer tick.Stop()
	for {
		var text strings.Builder
		// While Envoy is away there is nothing to see; the supervisor says why.
		if err := a.envoy.admin.get(ctx, plaintextPath, &text, 1<<20); err == nil && a.plaintexts.look(text.String()) {
			a.changed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
