// Package publish turns what a zone knows into what its proxies run: store, discovery and imports
// become a topology, the topology becomes views, and only what differs is sent. It follows every change
// to the proxies that it concerns, and says how far it has come.
//
// One goroutine owns all of it. Events wait only while a build is running, and are then taken
// together; there is no timer in the path of a change.
package publish

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/envoy"
	"github.com/comity-mesh/comity/xds/ir"
	"github.com/comity-mesh/comity/xds/snapshot"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/ads"
	"github.com/comity-mesh/comity/zone-cp/internal/discovery"
	"github.com/comity-mesh/comity/zone-cp/internal/exports"
	"github.com/comity-mesh/comity/zone-cp/internal/failover"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
	"github.com/comity-mesh/comity/zone-cp/internal/keys"
	"github.com/comity-mesh/comity/zone-cp/internal/names"
	"github.com/comity-mesh/comity/zone-cp/internal/peering"
)

// Config is what a Publisher is made of.
type Config struct {
	Zone        string
	TrustDomain mesh.TrustDomain
	Store       store.Store
	Source      discovery.Source
	Book        *imports.Book
	Resolver    *imports.Resolver
	Peers       *peering.Hub
	// Keys fetches those of issuers of tokens.
	Keys *keys.Fetcher
	// TrustUntil is when the other zones stop being believed unless global is heard of before; zero for never.
	TrustUntil func(policy.TrustSettings, time.Time) time.Time
	Ledger     *exports.Ledger
	// Names remembers virtual addresses, and Told tells agents of them; both may be nil.
	Names    *names.Ledger
	Told     *names.Hub
	Identity identity.Source
	// Statuses is what the zone reports to global.
	Statuses *federation.StatusBook
	// Offer hands new statements of the zone to the federation.
	Offer func([]identity.Statement)
	// Sever, when not nil, is told to what no proxy may be connected any more, in full at each change.
	Sever func([]netip.AddrPort)
	// Try, when not nil, has a proxy's Envoy read a bootstrap that it does not run, and returns why it refuses it; empty if it does not.
	// The error is why that proxy could not say.
	Try     func(ctx context.Context, proxy mesh.ProxyID, bootstrap []byte) (refusal string, err error)
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

const lagLimit = 250 * time.Millisecond

// Publisher is made with New, connected to its xDS server with Serve, and run.
type Publisher struct {
	cfg     Config
	metrics *metrics
	server  *ads.Server
	inbox   inbox
	reports *reporter

	withdrawn withdrawn

	// What follows belongs to the goroutine of Run.
	cursor    mesh.Cursor
	resources resources
	specs     specs
	bundle    identity.Bundle
	tracker   *tracker
	failover  *failover.Engine
	connected map[mesh.ProxyID]ads.Proxy
	proxies   map[mesh.ProxyID]mesh.ProxyStatus // as last reported
	touched   map[mesh.ProxyID]struct{}         // proxies whose status may have changed
	// Proxies of which only the acknowledged revision has changed. That is told lagLimit later, once for
	// many changes: somebody waits for the change, and nobody for this.
	lagging  map[mesh.ProxyID]struct{}
	lagSince time.Time
	picture  discovery.Picture
	views    map[snapshot.ViewKey]*view
	shelves  map[*ir.Proxy]*shelf // of the build that is running
	kept     map[string][]*shelf  // of the build before it, by lastOf; nil until somebody asks
	assigned map[mesh.ProxyID]snapshot.ViewKey
	cache    *envoy.Cache
	sound    map[string]bool // versions that were validated in this build
	invalid  []invalidResource
	blamed   map[leftOut]struct{} // for what was invalid in the last whole build
	last     *topology.Input      // of the last build; nil if that failed
	until    time.Time            // when something in the picture ends by itself
	// What Envoys refuse, view by view, and resources as they last were good (isolation).
	isolations map[snapshot.ViewKey]*isolation
	priors     map[mesh.Key]prior
	heldWrites []store.RecordWrite // not yet in the store
	stale      bool                // an isolation or a verdict changed what is to be published
	trials     trials
	trying     sync.WaitGroup // trials that are under way
	judging    chan struct{}  // capacity mostTrials
	// spoil, in tests, breaks resources behind all validation.
	spoil func([]envoy.Resource) []envoy.Resource

	ready chan struct{} // closed after the first build

	severed []netip.AddrPort // as last told
}

// New makes a publisher.
func New(cfg Config) (*Publisher, error) {
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("publisher metrics: %w", err)
	}
	return &Publisher{
		cfg: cfg, metrics: m, inbox: newInbox(), reports: newReporter(cfg),
		resources: resources{}, tracker: newTracker(cfg.Zone), failover: failover.New(cfg.Zone),
		connected: map[mesh.ProxyID]ads.Proxy{}, proxies: map[mesh.ProxyID]mesh.ProxyStatus{}, touched: map[mesh.ProxyID]struct{}{}, lagging: map[mesh.ProxyID]struct{}{},
		cache: envoy.NewCache(), sound: map[string]bool{},
		views: map[snapshot.ViewKey]*view{}, assigned: map[mesh.ProxyID]snapshot.ViewKey{},
		isolations: map[snapshot.ViewKey]*isolation{}, priors: map[mesh.Key]prior{},
		trials: newTrials(), judging: make(chan struct{}, mostTrials), ready: make(chan struct{}),
	}, nil
}

// Serve sets the server that is published to; before Run.
func (p *Publisher) Serve(s *ads.Server) { p.server = s }

// Ready is closed when the first configuration was published.
func (p *Publisher) Ready() <-chan struct{} { return p.ready }

// Observer is for the xDS server: what proxies do comes back to the publisher.
func (p *Publisher) Observer() ads.Observer {
	return ads.Observer{
		OnAck: func(id mesh.ProxyID, v snapshot.ViewKey, rev mesh.Revision) {
			p.inbox.put(func() {
				now := time.Now()
				p.searched(v)
				p.tracker.ack(id, string(v), rev, now)
				if len(p.lagging) == 0 {
					p.lagSince = now
				}
				p.lagging[id] = struct{}{}
			})
		},
		OnReject: func(r ads.Rejection) {
			p.inbox.put(func() { p.rejected(r) })
		},
		OnRefuse: func(x ads.Proxy) {
			p.inbox.put(func() { p.touched[x.ID] = struct{}{} })
		},
		OnLift: func(l snapshot.Lifted) {
			p.inbox.put(func() { p.tracker.lift(string(l.View), l.Type.String()+" "+l.Name) })
		},
		OnConnect: func(x ads.Proxy) {
			p.inbox.put(func() {
				p.connected[x.ID] = x
				p.tracker.connect(x.ID, time.Now())
				p.touched[x.ID] = struct{}{}
			})
		},
		OnDisconnect: func(x ads.Proxy) {
			p.inbox.put(func() {
				if now, ok := p.connected[x.ID]; ok && now.Since.After(x.Since) {
					return // of an older stream
				}
				delete(p.connected, x.ID)
				p.tracker.leave(x.ID, time.Now())
				p.touched[x.ID] = struct{}{}
			})
		},
	}
}

func (p *Publisher) rejected(r ads.Rejection) {
	name := r.Type.String() + " " + r.Name
	p.cfg.Log.Warn("an Envoy refused a resource; the last good one stays", "proxy", r.Proxy.String(), "resource", name, "error", r.Error)
	p.metrics.rejections.Inc()
	said := mesh.Rejection{Proxy: r.Proxy.String(), Resource: name, Error: r.Error}
	if !p.isolateRefused(r, said) {
		p.tracker.reject(r.Sources, string(r.View), said, time.Now())
	}
	p.touched[r.Proxy] = struct{}{}
}

// Refused is told of copies that the federation did not take, or that this zone passes over.
func (p *Publisher) Refused(r federation.Refusal) {
	p.inbox.put(func() {
		state := mesh.StateRejected
		if r.Code == federation.CodeUnknownKind {
			state = mesh.StateUnknown
		}
		p.tracker.refuse(r.Key, r.Revision, state, r.Reason, time.Now())
	})
}

// Turned is told that a session with global began or ended: how long the other zones are believed is another then, even
// if global has nothing else to say.
func (p *Publisher) Turned() {
	p.inbox.put(func() { p.stale = true })
}

// Run publishes until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer p.trying.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bundle, err := p.cfg.Identity.Bundle(ctx)
	if err != nil {
		return err
	}
	p.bundle = bundle
	wg.Go(func() { p.reports.run(ctx) })
	if err := p.restoreStatuses(ctx); err != nil {
		return err
	}
	if err := p.failover.Restore(ctx, p.cfg.Store, time.Now()); err != nil {
		return err
	}
	log, err := p.openLog(ctx)
	if err != nil {
		return err
	}
	p.begin(time.Now())
	if err := errors.Join(p.restoreHeld(ctx), p.restoreTried(ctx)); err != nil {
		return err
	}
	wg.Go(func() { log.run(ctx) })
	if err := p.build(ctx, log.take()); err != nil {
		return err
	}
	p.report()
	close(p.ready)
	return p.loop(ctx, log)
}

func (p *Publisher) loop(ctx context.Context, log *commitLog) error {
	bundles := p.cfg.Identity.Updates(ctx)
	timer := time.NewTimer(0)
	defer timer.Stop()
	retry := time.Time{}
	for {
		timer.Stop()
		var lag time.Time
		if len(p.lagging) > 0 {
			lag = p.lagSince.Add(lagLimit)
		}
		lag = earliest(lag, p.tracker.due)
		at := earliest(p.until, p.cfg.Ledger.RenewAt(), retry, lag)
		if !at.IsZero() {
			timer.Reset(time.Until(at))
		}
		if p.stale {
			timer.Reset(0)
		}
		rebuild := true
		select {
		case <-ctx.Done():
			return nil
		case <-log.signal:
		case <-p.cfg.Source.Changed():
		case <-p.cfg.Book.Changed():
		case <-p.cfg.Resolver.Changed():
		case <-p.cfg.Peers.Changed():
		case <-p.cfg.Keys.Changed():
		case <-timer.C:
			rebuild = at != lag
		case b, ok := <-bundles:
			if !ok {
				return nil
			}
			p.bundle = b
			if err := p.cfg.Book.SetOwn(b, time.Now()); err != nil {
				p.cfg.Log.ErrorContext(ctx, "the zone's own bundle can't be used", "error", err)
			}
		case <-p.inbox.signal:
			rebuild = false
		}
		for _, f := range p.inbox.take() {
			f()
		}
		if rebuild || p.stale {
			batch := log.take()
			if batch.err != nil {
				return fmt.Errorf("follow the store: %w", batch.err)
			}
			retry = time.Time{}
			if err := p.build(ctx, batch); err != nil {
				// What was published stays in force. The store may be back soon.
				p.cfg.Log.ErrorContext(ctx, "not all of a change could be published", "error", err)
				retry = time.Now().Add(time.Second)
			}
		}
		p.saveHeld(ctx)
		p.report()
	}
}

func earliest(times ...time.Time) time.Time {
	var out time.Time
	for _, t := range times {
		if !t.IsZero() && (out.IsZero() || t.Before(out)) {
			out = t
		}
	}
	return out
}

// Authorize is the xDS server's: the certificate's serial says which proxy it was issued to, and Envoy
// must call itself that.
func Authorize(lookup func(serial string) (mesh.ProxyID, bool)) func(context.Context, []*x509.Certificate, string) (mesh.ProxyID, error) {
	return func(_ context.Context, chain []*x509.Certificate, nodeID string) (mesh.ProxyID, error) {
		if len(chain) == 0 {
			return mesh.ProxyID{}, fmt.Errorf("%.128q presented no certificate", nodeID)
		}
		id, ok := lookup(identity.SerialOf(chain[0]))
		if !ok {
			return mesh.ProxyID{}, fmt.Errorf("%.128q presented a certificate that is not in force here", nodeID)
		}
		if id.String() != nodeID {
			return mesh.ProxyID{}, fmt.Errorf("%.128q presented the certificate of %s", nodeID, id)
		}
		return id, nil
	}
}

// zoneUIDs are those of global's Zone resources: a Zone made anew has another one.
func (p *Publisher) zoneUIDs() map[string]string {
	out := map[string]string{}
	for k, r := range p.resources[mesh.KindZone] {
		if k.Origin == mesh.OriginGlobal {
			out[k.Name] = r.UID
		}
	}
	return out
}

// zones reads global's Zone resources.
func (p *Publisher) zones() map[string]policy.Zone {
	out := map[string]policy.Zone{}
	for k, r := range p.resources[mesh.KindZone] {
		if k.Origin != mesh.OriginGlobal {
			continue
		}
		if spec, err := p.specs.decode(r); err == nil {
			if z, ok := spec.(*policy.Zone); ok {
				out[k.Name] = *z
			}
		}
	}
	return out
}

// trust is how long the other zones are believed without word from global: as global's MeshConfig says. One of the
// zone's own, which its API makes for nobody, does not count: global reckons with its own when trust ends.
func (p *Publisher) trust() policy.TrustSettings {
	r, ok := p.resources.get(mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindMeshConfig, Name: "default"})
	if !ok || !r.InScope(p.cfg.Zone) {
		return policy.MeshConfig{}.TrustSettings()
	}
	spec, err := p.specs.decode(r)
	if c, ok := spec.(*policy.MeshConfig); err == nil && ok {
		return c.TrustSettings()
	}
	return policy.MeshConfig{}.TrustSettings()
}

// input is everything the zone knows now.
func (p *Publisher) input(ctx context.Context, now time.Time) (topology.Input, map[string]policy.Zone, imports.Picture) {
	zones := p.zones()
	others := p.cfg.Book.Picture(zones, p.cfg.TrustUntil(p.trust(), now), now)
	p.cfg.Resolver.Fill(others.Remotes)
	if err := p.cfg.Book.Give(ctx, others.Remotes, now); err != nil {
		p.cfg.Log.ErrorContext(ctx, "a restart would forget to which ingresses proxies were connected", "error", err)
	}
	p.cfg.Peers.Fill(others.Remotes)
	p.picture = p.cfg.Source.Picture()
	p.sever(p.cfg.Book.Condemned(), others.Remotes)
	in := topology.Input{
		Zone: p.cfg.Zone, TrustDomain: p.cfg.TrustDomain, Revision: p.cursor.Revision,
		Resources: slices.AppendSeq(make([]mesh.Resource, 0, p.resources.len()), p.resources.all()),
		Workloads: p.picture.Workloads, Egresses: p.picture.Egresses, Remotes: others.Remotes, Roots: others.Roots,
	}
	for _, g := range p.picture.Ingresses {
		in.Ingresses = append(in.Ingresses, g.IngressProxy)
	}
	return in, zones, others
}

// sever has live connections to the lanes of revoked zones ended, but for those that are others' too: a zone states
// as its own what it likes, and must not have others' connections cut.
func (p *Publisher) sever(condemned []netip.AddrPort, believed []topology.Remote) {
	if p.cfg.Sever == nil {
		return
	}
	taken := map[netip.AddrPort]struct{}{}
	if len(condemned) > 0 {
		for a := range lanes(believed) {
			taken[a] = struct{}{}
		}
		p.own(func(address string, port uint16) {
			if a, err := netip.ParseAddr(address); err == nil {
				taken[netip.AddrPortFrom(a.Unmap(), port)] = struct{}{}
			}
		})
	}
	out := slices.DeleteFunc(condemned, func(a netip.AddrPort) bool {
		_, others := taken[a]
		return others
	})
	if !slices.Equal(out, p.severed) {
		p.severed = out
		p.cfg.Sever(out)
	}
}

// own hands over where the zone's own workloads, applications and ingresses listen.
func (p *Publisher) own(each func(address string, port uint16)) {
	var targets []uint16
	for _, r := range p.resources[mesh.KindService] {
		if spec, err := p.specs.decode(r); err == nil {
			if s, ok := spec.(*policy.Service); ok {
				for _, port := range s.Ports {
					targets = append(targets, cmp.Or(port.TargetPort, port.Port))
				}
			}
		}
	}
	const loopback = "127.0.0.1"
	for _, w := range p.picture.Workloads {
		each(w.Spec.Address, w.Spec.InboundPort)
		each(loopback, w.Spec.OutboundPort)
		for _, u := range w.Spec.Upstreams {
			each(loopback, u.LocalPort)
		}
		app := cmp.Or(w.Spec.AppAddress, loopback)
		for _, port := range targets {
			each(app, port)
		}
		if w.Spec.HealthCheck != nil {
			each(app, w.Spec.HealthCheck.Port)
		}
	}
	for _, g := range p.picture.Egresses {
		for _, port := range g.Ports {
			each(g.Address, port)
		}
	}
	for _, g := range p.picture.Ingresses {
		for _, port := range g.BindPorts {
			each(g.BindAddress, port)
		}
		for _, port := range g.Advertised.Ports {
			each(g.Advertised.Host, port)
		}
	}
}

// lanes are the addresses of all ingresses.
func lanes(remotes []topology.Remote) iter.Seq[netip.AddrPort] {
	return func(yield func(netip.AddrPort) bool) {
		for _, r := range remotes {
			for _, in := range r.Ingresses {
				for _, text := range in.Addresses {
					a, err := netip.ParseAddr(text)
					if err != nil {
						continue
					}
					for _, port := range in.Ports {
						if !yield(netip.AddrPortFrom(a.Unmap(), port)) {
							return
						}
					}
				}
			}
		}
	}
}

// inbox is a queue of things to do for the publisher's goroutine.
type inbox struct {
	mu     sync.Mutex
	queue  []func()
	signal chan struct{}
}

func newInbox() inbox { return inbox{signal: make(chan struct{}, 1)} }

func (i *inbox) put(f func()) {
	i.mu.Lock()
	i.queue = append(i.queue, f)
	i.mu.Unlock()
	select {
	case i.signal <- struct{}{}:
	default:
	}
}

func (i *inbox) take() []func() {
	i.mu.Lock()
	defer i.mu.Unlock()
	q := i.queue
	i.queue = nil
	return q
}
