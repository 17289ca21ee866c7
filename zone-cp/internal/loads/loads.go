// Package loads sums up what the proxies of a zone report that they send, by service and by the zone that
// serves it, and publishes it as mesh.TrafficStatus: in the zone's records and, through the status book, to
// global. It is for people who look; nothing decides by it.
//
// A proxy's report stands until its next one or the end of its stream, and none comes while nothing is sent:
// without traffic nothing is done here, and steady traffic is written once.
package loads

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/translate"
)

const (
	// maxFlows bounds what is published and counted by itself, in a zone; a sidecar could name any service.
	maxFlows = 1000
	// maxPerProxy bounds what one proxy can have among them.
	maxPerProxy = 256
	// afterglow is how long a flow is shown as nothing after its end, for those who watch.
	afterglow = 10 * time.Second
	// maxCount bounds one count of one report, far beyond what a proxy can send in its window.
	maxCount = 10_000_000
	// minWindow of a report, in seconds: agents report every 2 s at most, and a shorter one would inflate rates.
	minWindow = 1.0
	// countersIdle is how long a flow's counters stay after its last report when room is needed, looked at once in sweepEvery.
	countersIdle = 10 * time.Minute
	sweepEvery   = time.Minute
	// other takes the place of namespace and service in the counters over maxFlows.
	other = "_other"
)

// Config is what a Book is made of.
type Config struct {
	Zone     string
	Records  store.Records
	Statuses *federation.StatusBook
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// Book holds the standing reports of all proxies. It is safe for concurrent use.
type Book struct {
	cfg                Config
	requests, failures *prometheus.CounterVec
	wake               chan struct{} // something was reported; one slot

	mu      sync.Mutex
	sources map[mesh.ProxyID]*Source
	counted map[flow]*counters
	swept   time.Time

	// Of Run alone.
	flows     map[flow]*state
	unwritten map[string][]byte // nil: to be deleted
}

// flow is one direction of traffic.
type flow struct{ to, namespace, service string }

func (f flow) key() string { return f.namespace + "/" + f.service + "/" + f.to }

type counters struct {
	requests, failures prometheus.Counter
	used               time.Time
}

// state is what is known and told of a flow.
type state struct {
	average
	told sample
	over time.Time // when it ended; zero while it lasts
}

// New makes a book without reports; Run publishes.
func New(cfg Config) (*Book, error) {
	labels := []string{"from_zone", "to_zone", "namespace", "service"}
	b := &Book{
		cfg: cfg, wake: make(chan struct{}, 1), sources: map[mesh.ProxyID]*Source{}, counted: map[flow]*counters{},
		flows: map[flow]*state{}, unwritten: map[string][]byte{},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "comity_traffic_requests_total", Help: "Requests that sidecars of this zone began with an endpoint; of TCP, connections. Over 1000 directions of traffic, the rest is service _other.",
		}, labels),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "comity_traffic_failures_total", Help: "Attempts of sidecars of this zone that had a 5xx or no answer, or found no connection; those that were tried again elsewhere, too.",
		}, labels),
	}
	if err := errors.Join(cfg.Metrics.Register(b.requests), cfg.Metrics.Register(b.failures)); err != nil {
		return nil, fmt.Errorf("traffic metrics: %w", err)
	}
	return b, nil
}

// Source is one stream of one proxy's reports.
type Source struct {
	book  *Book
	proxy mesh.ProxyID
	sends map[flow]sample
}

// Open begins a stream of reports; what the proxy reported on an older one no longer stands.
func (b *Book) Open(p mesh.ProxyID) *Source {
	s := &Source{book: b, proxy: p}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sources[p] = s
	return s
}

// Close ends the stream, and with it what was reported on it.
func (s *Source) Close() {
	b := s.book
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sources[s.proxy] == s {
		delete(b.sources, s.proxy)
		b.changed()
	}
}

// Report replaces what stands. What names no service or no zone is passed over.
func (s *Source) Report(r *enrolpb.LoadReport) {
	window := max(float64(r.GetWindowMs())/1000, minWindow)
	now := time.Now()
	sends := make(map[flow]sample, len(r.GetLoads()))
	b := s.book
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range r.GetLoads() {
		name, ok := translate.ServiceOf(l.GetCluster())
		if !ok || mesh.CheckZoneName(l.GetZone()) != nil {
			continue
		}
		f := flow{l.GetZone(), name.Namespace, name.Name}
		x, known := sends[f]
		if !known && len(sends) == maxPerProxy {
			continue
		}
		requests, failures := bounded(l.GetRequests()), bounded(l.GetFailures())
		x.requests += requests / window
		x.failures += failures / window
		x.active += bounded(l.GetActive())
		sends[f] = x
		c := b.counters(f, now)
		c.requests.Add(requests)
		c.failures.Add(failures)
	}
	s.sends = sends
	if b.sources[s.proxy] == s {
		b.changed()
	}
}

// bounded is a count as a sidecar may state it: what is beyond any truth would drown the others' in a sum.
func bounded(n uint64) float64 { return float64(min(n, maxCount)) }

// counters are those of a flow. The caller holds b.mu.
func (b *Book) counters(f flow, now time.Time) *counters {
	if c, ok := b.counted[f]; ok {
		c.used = now
		return c
	}
	if len(b.counted) >= maxFlows {
		b.sweep(now)
	}
	if len(b.counted) >= maxFlows {
		f = flow{other, other, other}
	}
	c := &counters{
		b.requests.WithLabelValues(b.cfg.Zone, f.to, f.namespace, f.service),
		b.failures.WithLabelValues(b.cfg.Zone, f.to, f.namespace, f.service),
		now,
	}
	if f.to != other {
		b.counted[f] = c
	}
	return c
}

// sweep makes room among the counters, at most once in a while: those of flows that ended long ago go, so that names that
// a sidecar made up don't keep others out for ever. The caller holds b.mu.
func (b *Book) sweep(now time.Time) {
	if now.Sub(b.swept) < sweepEvery {
		return
	}
	b.swept = now
	for f, c := range b.counted {
		if now.Sub(c.used) >= countersIdle {
			b.requests.DeleteLabelValues(b.cfg.Zone, f.to, f.namespace, f.service)
			b.failures.DeleteLabelValues(b.cfg.Zone, f.to, f.namespace, f.service)
			delete(b.counted, f)
		}
	}
}

func (b *Book) changed() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Run publishes until ctx ends. It sleeps while there is no traffic.
func (b *Book) Run(ctx context.Context) error {
	if err := b.forget(ctx); err != nil {
		return err
	}
	tick := time.NewTimer(0)
	defer tick.Stop()
	busy := true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
			if !busy { // what comes within a period is looked at together
				busy = true
				tick.Reset(period)
			}
		case now := <-tick.C:
			b.look(now.UTC())
			b.write(ctx)
			if busy = len(b.flows) > 0 || len(b.unwritten) > 0; busy {
				tick.Reset(period)
			}
		}
	}
}

// forget removes what was published before a restart: nobody knows whether it is still so.
func (b *Book) forget(ctx context.Context) error {
	old, _, err := b.cfg.Records.ListRecords(ctx, b.bucket(), "")
	if err != nil {
		return fmt.Errorf("read traffic: %w", err)
	}
	for _, r := range old {
		b.unwritten[r.Key] = nil
	}
	return nil
}

func (b *Book) bucket() string { return federation.BucketTraffic + "/" + b.cfg.Zone }

// sum is what all proxies send now; of too many flows the busiest.
func (b *Book) sum() map[flow]sample {
	out := map[flow]sample{}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sources {
		for f, x := range s.sends {
			y := out[f]
			out[f] = sample{y.requests + x.requests, y.failures + x.failures, y.active + x.active}
		}
	}
	if over := len(out) - maxFlows; over > 0 {
		least := slices.SortedFunc(maps.Keys(out), func(f, g flow) int {
			return cmp.Or(cmp.Compare(out[f].requests, out[g].requests), cmp.Compare(f.key(), g.key()))
		})
		for _, f := range least[:over] {
			delete(out, f)
		}
	}
	return out
}

// look compares what is sent now with what was told.
func (b *Book) look(now time.Time) {
	sent := b.sum()
	for f := range sent {
		if b.flows[f] == nil {
			b.flows[f] = &state{}
		}
	}
	for f, s := range b.flows {
		s.add(sent[f])
		mean := s.mean()
		if differs(s.told, mean, s.window()) {
			s.told = mean
			b.tell(f, s, now)
		}
		switch {
		case !mean.zero():
			s.over = time.Time{}
		case s.over.IsZero():
			s.over = now
		case now.Sub(s.over) >= afterglow:
			delete(b.flows, f)
			b.set(f, nil)
		}
	}
}

func (b *Book) tell(f flow, s *state, now time.Time) {
	value, err := json.Marshal(mesh.TrafficStatus{
		Zone: b.cfg.Zone, To: f.to, Namespace: f.namespace, Service: f.service,
		Requests: significant(s.told.requests), Failures: significant(s.told.failures), Active: int(math.Round(s.told.active)),
		WindowMS: int(s.window().Milliseconds()), ObservedAt: now,
	})
	if err != nil {
		b.cfg.Log.Error("a status can't be encoded", "key", f.key(), "error", err)
		return
	}
	b.set(f, value)
}

func (b *Book) set(f flow, value []byte) {
	b.cfg.Statuses.Set(federation.BucketTraffic, f.key(), value)
	b.unwritten[f.key()] = value
}

// write brings what was told to the records; what fails is tried again with the next look.
func (b *Book) write(ctx context.Context) {
	if len(b.unwritten) == 0 {
		return
	}
	writes := make([]store.RecordWrite, 0, len(b.unwritten))
	for k, v := range b.unwritten {
		writes = append(writes, store.RecordWrite{Key: k, Value: v, Delete: v == nil})
	}
	if _, err := b.cfg.Records.PutRecords(ctx, b.bucket(), writes...); err != nil {
		if ctx.Err() == nil {
			b.cfg.Log.ErrorContext(ctx, "traffic could not be written to the store", "error", err)
		}
		return
	}
	clear(b.unwritten)
}
