package peering

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/identity"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/topology"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
)

// Config is what a Hub is made of.
type Config struct {
	Zone    string
	Records store.Records
	Book    *imports.Book
	// Statements are all of the zone's own.
	Statements func() []identity.Statement
	// Connected says whether there is a session with global, and TrustUntil when the other zones stop being believed
	// unless global is heard of before; zero for never.
	Connected  func() bool
	TrustUntil func(policy.TrustSettings, time.Time) time.Time
	// Statuses is what the zone reports to global.
	Statuses *federation.StatusBook
	Log      *slog.Logger
}

// Hub joins the zone's ingresses with the rest of its control plane. Safe for concurrent use.
type Hub struct {
	cfg     Config
	changed chan struct{} // capacity 1: a verdict is another
	dirty   chan struct{} // capacity 1: a link status may be another
	inbox   chan struct{} // capacity 1: statements wait
	wanted  chan struct{} // capacity 1: something is to be asked or answered

	mu       sync.Mutex
	agents   map[*Agent]struct{}
	peers    *enrolpb.Peers   // as agents are told
	zones    map[string]known // by name
	trust    policy.TrustSettings
	words    map[name]word            // of probers that are gone
	asks     map[string]route         // by zone: over which session we ask for its statements
	replies  map[route]*reply         // by session: who asked for ours
	talks    map[route]*talk          // by session: all there are
	logged   map[string]*rate.Limiter // by zone
	statuses map[string]mesh.LinkStatus
	informed bool // zones is what a topology said
	urgent   bool // a link became reachable or unreachable
}

// known is another zone that is believed.
type known struct {
	trustDomain mesh.TrustDomain
	ingresses   []string // those that answer peers
}

// name is one ingress of another zone.
type name struct{ zone, ingress string }

// Open reads what was known of links before the restart.
func Open(ctx context.Context, cfg Config) (*Hub, error) {
	h := &Hub{
		cfg: cfg, changed: make(chan struct{}, 1), dirty: make(chan struct{}, 1), inbox: make(chan struct{}, 1), wanted: make(chan struct{}, 1),
		agents: map[*Agent]struct{}{}, peers: &enrolpb.Peers{}, zones: map[string]known{}, words: map[name]word{},
		asks: map[string]route{}, replies: map[route]*reply{}, talks: map[route]*talk{}, logged: map[string]*rate.Limiter{}, statuses: map[string]mesh.LinkStatus{},
	}
	list, _, err := cfg.Records.ListRecords(ctx, linkBucket(cfg.Zone), "")
	if err != nil {
		return nil, fmt.Errorf("read the state of links: %w", err)
	}
	for _, r := range list {
		var s mesh.LinkStatus
		if json.Unmarshal(r.Value, &s) == nil {
			s.Current = false
			h.statuses[s.To] = s
		}
	}
	return h, h.restoreVerdicts(ctx)
}

// Changed signals (coalesced, capacity 1) after a verdict became another.
func (h *Hub) Changed() <-chan struct{} { return h.changed }

// Turned is told that a session with global began or ended: statuses say how long the other zones are believed without one.
func (h *Hub) Turned() { signal(h.dirty) }

// Know takes over who the other zones are, as the newest topology believes them, and tells the zone's ingresses.
func (h *Hub) Know(t *topology.Topology) {
	probe := t.Config.DetectionSettings().Probe
	peers := &enrolpb.Peers{
		IntervalMs: millis(probe.Interval), Failures: probe.Failures, TimeoutMs: millis(probe.Timeout),
	}
	zones := map[string]known{}
	for _, z := range t.Zones {
		if z.Local {
			continue
		}
		p := &enrolpb.PeerZone{Zone: z.Name, TrustDomain: string(z.TrustDomain), Roots: derOf(t.Roots[z.TrustDomain])}
		k := known{trustDomain: z.TrustDomain}
		for _, i := range z.Ingresses {
			if !i.Peers {
				continue // an older release: its silence says nothing
			}
			ports := make([]uint32, len(i.Ports))
			for n, port := range i.Ports {
				ports[n] = uint32(port)
			}
			p.Ingresses = append(p.Ingresses, &enrolpb.PeerIngress{Id: i.ID, Addresses: i.Addresses, Ports: ports})
			k.ingresses = append(k.ingresses, i.ID)
		}
		peers.Zones, zones[z.Name] = append(peers.Zones, p), k
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.trust, h.zones, h.informed = t.Config.TrustSettings(), zones, true
	for at, r := range h.replies {
		if _, believed := zones[r.zone]; !believed {
			delete(h.replies, at)
		}
	}
	maps.DeleteFunc(h.logged, func(zone string, _ *rate.Limiter) bool { _, believed := zones[zone]; return !believed })
	signal(h.dirty)
	if proto.Equal(peers, h.peers) {
		return
	}
	h.peers = peers
	for a := range h.agents {
		a.know(peers)
	}
}

func millis(d time.Duration) uint32 {
	return uint32(min(max(d.Milliseconds(), 1), 1<<31)) //nolint:gosec // bounded
}

func derOf(roots []byte) [][]byte {
	var out [][]byte
	for {
		var b *pem.Block
		if b, roots = pem.Decode(roots); b == nil {
			return out
		}
		out = append(out, b.Bytes)
	}
}

// Run takes statements in and keeps the status of links until ctx ends.
func (h *Hub) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { h.receive(ctx) })
	wg.Go(func() { h.converse(ctx) })
	h.keepStatus(ctx)
	return nil
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
