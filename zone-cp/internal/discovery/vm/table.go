package vm

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
)

const (
	// DefaultLease is how long a silent agent counts as running.
	DefaultLease = 15 * time.Second
	// DefaultForgetAfter is how long a workload that was lost is still part of what there should be: long enough for
	// somebody to bring it back or to take it away in order.
	DefaultForgetAfter = 10 * time.Minute
	// lostAfter is how long an agent whose stream broke may take to open another one before its
	// workload counts as unhealthy: a few of its quick first retries.
	lostAfter = time.Second
	// graceLeases is the lease, in leases, of what a restarted zone reads from its disk.
	graceLeases = 2
)

var (
	// ErrFenced: a newer stream of the same proxy took over.
	ErrFenced = errors.New("a newer stream of the same proxy took over")
	// ErrUnknown: there is no such proxy here.
	ErrUnknown = errors.New("no such proxy is known here")
)

// Table holds the leases of a zone's agents. It is safe for concurrent use and implements
// discovery.Source.
type Table struct {
	lease   time.Duration
	forget  time.Duration // after a workload was lost
	changed chan struct{} // capacity 1: the picture changed
	dirty   chan struct{} // capacity 1: something is to be written to the store
	rearm   chan struct{} // capacity 1: the earliest deadline moved forward

	mu       sync.Mutex
	entries  map[mesh.ProxyID]*entry
	checks   deadlines
	sessions uint64
	unsaved  map[mesh.ProxyID]bool
	picture  *discovery.Picture // nil after a change
	word     word
}

// known is what survives a restart: the value of a record.
type known struct {
	Proxy    mesh.ProxyID       `json:"proxy"`
	Identity string             `json:"identity"`
	Labels   map[string]string  `json:"labels,omitempty"`
	Workload *policy.Workload   `json:"workload,omitempty"`
	Ingress  *discovery.Ingress `json:"ingress,omitempty"`
	Healthy  bool               `json:"healthy"`
	// Draining: it is to get no new requests, until it leaves or is undrained.
	Draining bool `json:"draining,omitempty"`
	// Lost is when the lease of a workload ran out that did not leave; zero if it did not.
	Lost time.Time `json:"lost,omitzero"`
}

type entry struct {
	known
	session      uint64 // 0: no stream
	fence        context.CancelCauseFunc
	reason       string
	envoyVersion string
	unsevered    string
	plaintext    []mesh.PlaintextPort
	secrets      map[string]string // of its machine that are not as they should be, by name, with the reason
	answers      bool              // its agent answers questions
	tries        bool              // and has an Envoy read what it is shown
	asks         []*enrolpb.Ask    // that it was not told yet
	staleAt      time.Time         // unhealthy from then on, unless renewed
	goneAt       time.Time

	// When the entry is looked at next. Renewals don't touch the heap: a check that finds its deadline
	// moved just goes back into it.
	checkAt time.Time
	index   int
}

// NewTable makes an empty table; Restore fills it and Run keeps time.
func NewTable(lease, forgetAfter time.Duration) *Table {
	return &Table{
		lease:   lease,
		forget:  forgetAfter,
		changed: make(chan struct{}, 1),
		dirty:   make(chan struct{}, 1),
		rearm:   make(chan struct{}, 1),
		entries: make(map[mesh.ProxyID]*entry),
		unsaved: make(map[mesh.ProxyID]bool),
		word:    word{changed: make(chan struct{})},
	}
}

// Lease is how long a silent agent stays known.
func (t *Table) Lease() time.Duration { return t.lease }

// Changed implements discovery.Source.
func (t *Table) Changed() <-chan struct{} { return t.changed }

// Picture implements discovery.Source.
func (t *Table) Picture() discovery.Picture {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.picture == nil {
		p := t.draw()
		t.picture = &p
	}
	return *t.picture
}

func (t *Table) draw() discovery.Picture {
	p := discovery.Picture{Agents: make(map[mesh.ProxyID]discovery.Agent, len(t.entries))}
	ids := slices.SortedFunc(maps.Keys(t.entries), compareIDs)
	for _, id := range ids {
		e := t.entries[id]
		switch {
		case e.Workload != nil:
			p.Workloads = append(p.Workloads, topology.Workload{
				Namespace: id.Namespace, Name: id.Name, Labels: e.Labels,
				Spec: *e.Workload, Healthy: e.Healthy, Draining: e.Draining, Lost: !e.Lost.IsZero(), Identity: e.Identity,
			})
		case e.Ingress != nil:
			in := *e.Ingress
			in.Ready, in.Secrets = e.Healthy && !e.Draining, e.secrets
			if id.Role == mesh.RoleEgress {
				p.Egresses = append(p.Egresses, in.Egress())
			} else {
				p.Ingresses = append(p.Ingresses, in)
			}
		}
		p.Agents[id] = discovery.Agent{
			Attending: e.session != 0, Tries: e.session != 0 && e.tries, Healthy: e.Healthy, Draining: e.Draining, Reason: e.reason,
			EnvoyVersion: e.envoyVersion, Identity: e.Identity, Unsevered: e.unsevered, Plaintext: e.plaintext,
		}
	}
	return p
}

func compareIDs(a, b mesh.ProxyID) int {
	if c := strings.Compare(string(a.Role), string(b.Role)); c != 0 {
		return c
	}
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// Session is one agent's stream. Its methods return ErrFenced once a newer one took over.
type Session struct {
	table *Table
	id    mesh.ProxyID
	n     uint64

	// What its agent was told; of the stream's goroutine.
	severed []netip.AddrPort
	drained bool
}

// open begins a stream of the proxy and fences the one before; fence is called when a newer stream
// does the same to this one.
func (t *Table) open(id mesh.ProxyID, identity string, fence context.CancelCauseFunc) *Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[id]
	if e == nil {
		e = &entry{known: known{Proxy: id}, index: -1}
		t.entries[id] = e
	}
	if e.fence != nil {
		e.fence(ErrFenced)
	}
	t.sessions++
	e.session, e.fence = t.sessions, fence
	if !e.Lost.IsZero() {
		e.Lost = time.Time{}
		t.save(id)
	}
	if e.Identity != identity {
		e.Identity = identity
		t.save(id)
	}
	t.renew(e)
	t.touchPicture()
	return &Session{table: t, id: id, n: t.sessions}
}

// with runs f on the session's entry unless the session was fenced. f reports whether the picture changed.
func (s *Session) with(f func(*entry) bool) error {
	t := s.table
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[s.id]
	if e == nil || e.session != s.n {
		return ErrFenced
	}
	t.renew(e)
	if f(e) {
		t.save(s.id)
		t.touchPicture()
	}
	return nil
}

// workload states what the agent's workload is.
func (s *Session) workload(spec policy.Workload, labels map[string]string) error {
	return s.with(func(e *entry) bool {
		e.Workload, e.Labels, e.Ingress = &spec, labels, nil
		return true
	})
}

// ingress states where the agent's ingress listens and how it is reached.
func (s *Session) ingress(in discovery.Ingress) error {
	return s.with(func(e *entry) bool {
		e.Ingress, e.Workload = &in, nil
		return true
	})
}

// health states how the application and its Envoy do, why what should be severed is not, and what is wrong with secrets; it is also the heartbeat.
func (s *Session) health(healthy bool, reason, envoyVersion, unsevered string, secrets map[string]string, plaintext []mesh.PlaintextPort) error {
	return s.with(func(e *entry) bool {
		changed := e.Healthy != healthy || e.reason != reason || e.envoyVersion != envoyVersion || e.unsevered != unsevered ||
			!maps.Equal(e.secrets, secrets) || !reflect.DeepEqual(e.plaintext, plaintext)
		e.Healthy, e.reason, e.envoyVersion, e.unsevered = healthy, reason, envoyVersion, unsevered
		e.secrets, e.plaintext = secrets, plaintext
		if changed {
			s.table.schedule(e, e.next()) // one that is healthy has an earlier deadline
		}
		return changed
	})
}

// Drain says that a proxy is to get no new requests, or that it may have them again: a workload leaves the endpoints
// and the capacity of its services, an ingress is not advertised while there is another. It holds until the proxy leaves.
// ErrUnknown if there is none.
func (t *Table) Drain(id mesh.ProxyID, draining bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[id]
	if e == nil || e.Workload == nil && e.Ingress == nil {
		return ErrUnknown
	}
	if e.Draining != draining {
		e.Draining = draining
		t.save(id)
		t.touchPicture()
		t.spread()
	}
	return nil
}

// leave withdraws the proxy at once.
func (s *Session) leave() error {
	return s.with(func(e *entry) bool {
		s.table.drop(e)
		return true
	})
}

// Expel ends a proxy's stream and forgets it. It may come back unless it can't authenticate any more.
func (t *Table) Expel(id mesh.ProxyID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.entries[id]; e != nil {
		t.drop(e)
		t.save(id)
		t.touchPicture()
	}
}

// lost says that the stream broke. The lease runs on.
func (s *Session) lost() {
	t := s.table
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.entries[s.id]
	if e == nil || e.session != s.n {
		return
	}
	e.session, e.fence = 0, nil
	if soon := time.Now().Add(lostAfter); soon.Before(e.staleAt) {
		e.staleAt = soon
	}
	t.schedule(e, e.next())
	t.touchPicture()
}

func (t *Table) renew(e *entry) {
	now := time.Now()
	e.staleAt, e.goneAt = now.Add(t.lease/2), now.Add(t.lease)
	if e.index < 0 || e.checkAt.After(e.goneAt) { // new, or it was lost
		t.schedule(e, e.next())
	}
}

// next is the entry's next deadline.
func (e *entry) next() time.Time {
	if e.Healthy && e.staleAt.Before(e.goneAt) {
		return e.staleAt
	}
	return e.goneAt
}

func (t *Table) drop(e *entry) {
	if e.fence != nil {
		e.fence(nil)
	}
	delete(t.entries, e.Proxy)
	if e.index >= 0 {
		heap.Remove(&t.checks, e.index)
	}
}

func (t *Table) save(id mesh.ProxyID) {
	t.unsaved[id] = true
	signal(t.dirty)
}

func (t *Table) touchPicture() {
	t.picture = nil
	signal(t.changed)
}

// schedule makes the entry's next check no later than at.
func (t *Table) schedule(e *entry, at time.Time) {
	switch {
	case e.index < 0:
		e.checkAt = at
		heap.Push(&t.checks, e)
	case at.Before(e.checkAt):
		e.checkAt = at
		heap.Fix(&t.checks, e.index)
	default:
		return
	}
	if t.checks[0] == e {
		signal(t.rearm)
	}
}

// expire applies every deadline that has passed and returns when the next one does; the zero time
// when there is none.
func (t *Table) expire(now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.checks) > 0 && !t.checks[0].checkAt.After(now) {
		e := t.checks[0]
		switch {
		case !e.goneAt.After(now) && e.Workload != nil && e.Lost.IsZero() && t.forget > 0:
			e.Lost, e.Healthy, e.reason, e.goneAt = now, false, "lost: its lease ran out and it did not leave", now.Add(t.forget)
			t.save(e.Proxy)
			t.touchPicture()
		case !e.goneAt.After(now):
			t.drop(e)
			t.save(e.Proxy)
			t.touchPicture()
			continue
		case e.Healthy && !e.staleAt.After(now):
			e.Healthy, e.reason = false, fmt.Sprintf("no word from its agent for %s", now.Sub(e.goneAt.Add(-t.lease)).Round(time.Millisecond))
			t.save(e.Proxy)
			t.touchPicture()
		}
		e.checkAt = e.next()
		heap.Fix(&t.checks, e.index)
	}
	if len(t.checks) == 0 {
		return time.Time{}
	}
	return t.checks[0].checkAt
}

// keepTime runs deadlines until ctx ends: one timer for the whole table.
func (t *Table) keepTime(ctx context.Context) {
	timer := time.NewTimer(t.lease)
	defer timer.Stop()
	for {
		if next := t.expire(time.Now()); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-t.rearm:
		}
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// deadlines is a heap of entries by checkAt.
type deadlines []*entry

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].checkAt.Before(d[j].checkAt) }
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

// Push implements heap.Interface.
func (d *deadlines) Push(x any) {
	e, ok := x.(*entry)
	if !ok {
		return
	}
	e.index = len(*d)
	*d = append(*d, e)
}

// Pop implements heap.Interface.
func (d *deadlines) Pop() any {
	old := *d
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	e.index = -1
	return e
}
