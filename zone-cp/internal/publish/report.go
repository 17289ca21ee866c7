package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/internal/telemetry"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/zone-cp/internal/failover"
)

// Buckets of the zone's statuses in its own store.
func statusBucket(zone string) string { return federation.BucketStatus + "/" + zone }
func proxyBucket(zone string) string  { return federation.BucketProxies + "/" + zone }
func revisionBucket(zone string) string {
	return federation.BucketRevisions + "/" + zone
}

// restoreStatuses reads what was known of resources before the zone stopped.
func (p *Publisher) restoreStatuses(ctx context.Context) error {
	list, _, err := p.cfg.Store.ListRecords(ctx, statusBucket(p.cfg.Zone), "")
	if err != nil {
		return fmt.Errorf("read statuses: %w", err)
	}
	for _, r := range list {
		k, err := mesh.ParseKey(r.Key)
		if err != nil {
			continue
		}
		var s mesh.ResourceStatus
		if json.Unmarshal(r.Value, &s) == nil {
			p.tracker.restore(k, s)
		}
	}
	proxies, _, err := p.cfg.Store.ListRecords(ctx, proxyBucket(p.cfg.Zone), "")
	if err != nil {
		return fmt.Errorf("read statuses: %w", err)
	}
	for _, r := range proxies {
		var s mesh.ProxyStatus
		if json.Unmarshal(r.Value, &s) == nil {
			p.proxies[s.Proxy] = s
			p.touched[s.Proxy] = struct{}{}
		}
	}
	return p.restoreRevisions(ctx)
}

// restoreRevisions reads how far revisions had come. Of those that were under way nobody will know any more
// which proxies they concerned.
func (p *Publisher) restoreRevisions(ctx context.Context) error {
	list, _, err := p.cfg.Store.ListRecords(ctx, revisionBucket(p.cfg.Zone), "")
	if err != nil {
		return fmt.Errorf("read statuses: %w", err)
	}
	var lost []store.RecordWrite
	for _, r := range list {
		var s mesh.RevisionStatus
		if json.Unmarshal(r.Value, &s) == nil && s.Done {
			p.tracker.revisions.restore(s)
		} else {
			lost = append(lost, store.RecordWrite{Key: r.Key, Delete: true})
		}
	}
	if len(lost) > 0 {
		if _, err := p.cfg.Store.PutRecords(ctx, revisionBucket(p.cfg.Zone), lost...); err != nil {
			return fmt.Errorf("forget revisions under way: %w", err)
		}
	}
	return nil
}

// begin tracks what the store holds at the start: a resource that was in force before the restart
// keeps its status, one that changed while nobody looked is new.
func (p *Publisher) begin(now time.Time) {
	for r := range p.resources.all() {
		if !p.tracker.known(r.Key, r.Changed) {
			p.tracker.begin(r.Key, r.Changed, p.cursor.Revision, now)
		}
	}
	p.tracker.forget(func(k mesh.Key) bool { _, ok := p.resources.get(k); return ok })
}

// report hands on the statuses that changed: revisions first, because somebody may be waiting for them, and
// because a resource's status must not be seen before that of the revision that made it so.
func (p *Publisher) report() { p.cfg.Statuses.Together(p.reportChanges) }

func (p *Publisher) reportChanges() {
	now := time.Now()
	resources := p.tracker.take(now)
	for _, s := range p.tracker.takeRevisions(now) {
		// Of a revision of the zone's own nobody asks global; there may be one for every workload that comes.
		p.reports.tell(federation.BucketRevisions, mesh.RevisionSlot(s.Origin, s.Revision), s, false, s.Origin == mesh.OriginGlobal)
	}
	for k, s := range resources {
		if s != nil && s.Total > 0 {
			p.cfg.Log.Debug("acknowledged", "resource", k.String(), telemetry.KeyRevision, s.Wanted, "acked", s.Acked, "total", s.Total)
		}
		p.reports.set(federation.BucketStatus, k.String(), s, s == nil)
	}
	if len(p.lagging) > 0 && now.Sub(p.lagSince) >= lagLimit {
		maps.Copy(p.touched, p.lagging)
		clear(p.lagging)
	}
	if len(p.touched) == 0 {
		return
	}
	live := map[mesh.ProxyID]struct{}{}
	acked := map[mesh.ProxyID]int{}
	list := p.server.Proxies()
	for i, x := range list {
		live[x.ID] = struct{}{}
		acked[x.ID] = i
	}
	ids := slices.SortedFunc(maps.Keys(p.touched), func(a, b mesh.ProxyID) int { return strings.Compare(a.String(), b.String()) })
	clear(p.touched)
	addresses := sync.OnceValue(p.atAddresses)
	for _, id := range ids {
		agent, known := p.picture.Agents[id]
		_, up := live[id]
		if !known && !up {
			if _, told := p.proxies[id]; told {
				delete(p.proxies, id)
				p.reports.set(federation.BucketProxies, id.String(), nil, true)
			}
			continue
		}
		s := mesh.ProxyStatus{
			Proxy: id, Zone: p.cfg.Zone, Connected: up, Identity: agent.Identity, Version: agent.EnvoyVersion, Healthy: agent.Healthy, Draining: agent.Draining, LastError: agent.Reason,
			Unsevered: agent.Unsevered, Plaintext: named(agent.Plaintext, addresses),
		}
		if up {
			x := list[acked[id]]
			s.Since, s.Applied, s.Nacks, s.CertExpires = x.Since.UTC(), x.Acked, x.Nacks, x.CertExpires.UTC()
			if x.LastError != "" {
				s.LastError = x.LastError
			}
			if x.NodeVersion != "" {
				s.Version = x.NodeVersion
			}
		} else {
			s.Applied = p.proxies[id].Applied
		}
		old := p.proxies[id]
		s.ObservedAt = old.ObservedAt
		if reflect.DeepEqual(old, s) {
			continue
		}
		s.ObservedAt = time.Now().UTC()
		p.proxies[id] = s
		p.reports.set(federation.BucketProxies, id.String(), s, false)
	}
}

// tellFailover reports where traffic goes, and keeps what must be remembered.
func (p *Publisher) tellFailover(v failover.View) {
	for _, st := range v.Statuses {
		p.reports.set(federation.BucketFailover, st.Namespace+"/"+st.Service, st, false)
	}
	for _, n := range v.Gone {
		p.reports.set(federation.BucketFailover, n.Namespace+"/"+n.Name, nil, true)
	}
	for key, m := range v.Memory {
		p.reports.tell(failover.BucketMemory, key, m, m == nil, false)
	}
}

// reporter gives statuses to the federation at once, and to the zone's own store as fast as that takes
// them; of each key only the newest waits.
type reporter struct {
	cfg    Config
	signal chan struct{}

	mu      sync.Mutex
	pending map[string]map[string][]byte // bucket, key; nil: gone
}

func newReporter(cfg Config) *reporter {
	return &reporter{cfg: cfg, signal: make(chan struct{}, 1), pending: map[string]map[string][]byte{}}
}

func (r *reporter) set(bucket, key string, v any, gone bool) { r.tell(bucket, key, v, gone, true) }

// tell keeps a value in the zone's own store and, where it is to go up, reports it to global.
func (r *reporter) tell(bucket, key string, v any, gone, up bool) {
	var value []byte
	if !gone {
		var err error
		if value, err = json.Marshal(v); err != nil {
			r.cfg.Log.Error("a status can't be encoded", "key", key, "error", err)
			return
		}
	}
	if up {
		r.cfg.Statuses.Set(bucket, key, value)
	}
	r.mu.Lock()
	name := bucket + "/" + r.cfg.Zone
	if r.pending[name] == nil {
		r.pending[name] = map[string][]byte{}
	}
	r.pending[name][key] = value
	r.mu.Unlock()
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

const storeRetry = time.Second

func (r *reporter) run(ctx context.Context) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
		case <-r.signal:
		}
		if err := r.flush(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Log.ErrorContext(ctx, "statuses could not be written to the store", "error", err)
			retry.Reset(storeRetry)
		}
	}
}

func (r *reporter) flush(ctx context.Context) error {
	r.mu.Lock()
	pending := r.pending
	r.pending = map[string]map[string][]byte{}
	r.mu.Unlock()
	var failed error
	for _, bucket := range slices.Sorted(maps.Keys(pending)) { // "revisions" before "status", as they were told
		values := pending[bucket]
		writes := make([]store.RecordWrite, 0, len(values))
		for k, v := range values {
			writes = append(writes, store.RecordWrite{Key: k, Value: v, Delete: v == nil})
		}
		if _, err := r.cfg.Store.PutRecords(ctx, bucket, writes...); err != nil {
			failed = errors.Join(failed, err)
			r.mu.Lock()
			for k, v := range values {
				if r.pending[bucket] == nil {
					r.pending[bucket] = map[string][]byte{}
				}
				if _, newer := r.pending[bucket][k]; !newer {
					r.pending[bucket][k] = v
				}
			}
			r.mu.Unlock()
		}
	}
	return failed
}

type metrics struct {
	builds     *prometheus.CounterVec
	duration   prometheus.Histogram
	rejections prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		builds:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "comity_publish_builds_total", Help: "Configurations built, by how much was built anew."}, []string{"what"}),
		duration:   prometheus.NewHistogram(prometheus.HistogramOpts{Name: "comity_publish_seconds", Help: "From the first event to everything handed to the xDS server.", Buckets: prometheus.ExponentialBuckets(0.0002, 2, 14)}),
		rejections: prometheus.NewCounter(prometheus.CounterOpts{Name: "comity_publish_rejections_total", Help: "Resources that an Envoy refused."}),
	}
	return m, errors.Join(r.Register(m.builds), r.Register(m.duration), r.Register(m.rejections))
}
