package fedserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/failover"
)

// CapacityError refuses a drain: without the zone the others could not carry these services.
type CapacityError struct {
	Zone    string
	Missing []client.Shortage
}

func (e *CapacityError) Error() string {
	return fmt.Sprintf("without zone %s the others lack capacity for %d services", e.Zone, len(e.Missing))
}

// offer is one zone's capacity for a service, in hundredths of an endpoint.
type offer struct {
	zone         string
	ready, whole uint64
	excluded     string // why it does not count
}

// shortage compares what is presumed to be asked of a service, threshold percent of what all zones have of it
// when whole, with what the zones but one have ready. All capacities are exact; nil if it suffices.
func shortage(threshold uint32, offers []offer, without string) *client.Shortage {
	var whole, available uint64
	out := client.Shortage{Threshold: threshold, Zones: []client.CapacityOfZone{}}
	for _, o := range offers {
		whole += o.whole
		if o.zone == without {
			continue
		}
		if o.excluded == "" {
			available += o.ready
		}
		out.Zones = append(out.Zones, client.CapacityOfZone{Zone: o.zone, Ready: endpoints(o.ready), Whole: endpoints(o.whole), Excluded: o.excluded})
	}
	if available*100 >= whole*uint64(threshold) {
		return nil
	}
	out.Needed, out.Available = float64(whole*uint64(threshold))/10_000, endpoints(available)
	return &out
}

func endpoints(hundredths uint64) float64 { return float64(hundredths) / 100 }

// picture is what global knows of all zones at one moment: who is there, what each offers, and how the others see
// it.
type picture struct {
	zones    []zoneRecord // that joined and are trusted, by name
	specs    map[string]policy.Zone
	exports  map[serviceName]map[string]mesh.Export // by zone
	failover map[string][]mesh.FailoverStatus       // by the zone that says it
	traffic  map[string][]mesh.TrafficStatus
	policies []policy.Failover
}

type serviceName struct{ namespace, name string }

func (s *Server) picture(ctx context.Context) (*picture, error) {
	list, err := s.zoneRecords(ctx)
	if err != nil {
		return nil, err
	}
	p := &picture{
		specs: map[string]policy.Zone{}, exports: map[serviceName]map[string]mesh.Export{},
		failover: map[string][]mesh.FailoverStatus{}, traffic: map[string][]mesh.TrafficStatus{},
	}
	for _, z := range list {
		spec, err := s.zone(ctx, z.zone)
		if errors.Is(err, ErrNoZone) || err == nil && (spec.Revoked != nil || !z.status.Joined) {
			continue
		}
		if err != nil {
			return nil, err
		}
		p.zones = append(p.zones, z)
		p.specs[z.zone] = spec.Zone
		if err := s.readZoneWords(ctx, p, z.zone); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(p.zones, func(a, b zoneRecord) int { return cmp.Compare(a.zone, b.zone) })
	p.policies, err = s.failoverPolicies(ctx)
	return p, err
}

func (s *Server) readZoneWords(ctx context.Context, p *picture, zone string) error {
	said, err := fedstore.Statements(ctx, s.cfg.Store, zone)
	if err != nil {
		return err
	}
	for _, st := range said {
		var e mesh.Export
		if st.GetKind() != federation.StatementExport || st.GetWithdrawn() || json.Unmarshal(st.GetPayload(), &e) != nil {
			continue
		}
		n := serviceName{e.Namespace, e.Service}
		if p.exports[n] == nil {
			p.exports[n] = map[string]mesh.Export{}
		}
		p.exports[n][zone] = e
	}
	if p.failover[zone], err = statusesOf[mesh.FailoverStatus](ctx, s.cfg.Store, BucketOf(federation.BucketFailover, zone)); err != nil {
		return err
	}
	p.traffic[zone], err = statusesOf[mesh.TrafficStatus](ctx, s.cfg.Store, BucketOf(federation.BucketTraffic, zone))
	return err
}

// statusesOf reads a bucket of a zone's statuses; what can't be read is passed over, as it is for display.
func statusesOf[T any](ctx context.Context, s store.Records, bucket string) ([]T, error) {
	recs, _, err := s.ListRecords(ctx, bucket, "")
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", bucket, err)
	}
	out := make([]T, 0, len(recs))
	for _, r := range recs {
		var v T
		if json.Unmarshal(r.Value, &v) == nil {
			out = append(out, v)
		}
	}
	return out, nil
}

func (s *Server) failoverPolicies(ctx context.Context) ([]policy.Failover, error) {
	var out []policy.Failover
	q := store.Query{Kind: mesh.KindFailoverPolicy, Limit: 1000}
	for {
		page, err := s.cfg.Store.List(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("list failover policies: %w", err)
		}
		for _, r := range page.Items {
			if spec, err := policy.DecodeAs[policy.FailoverPolicy](r); err == nil {
				out = append(out, policy.Failover{Resource: r, Spec: spec})
			}
		}
		if q.Continue = page.Continue; q.Continue == "" {
			return out, nil
		}
	}
}

// threshold is the strictest under which any zone sends requests to the service.
func (p *picture) threshold(n serviceName) uint32 {
	var most uint32
	for _, z := range p.zones {
		mine := slices.DeleteFunc(slices.Clone(p.policies), func(f policy.Failover) bool {
			return f.Resource.Origin != mesh.Origin(z.zone) && !(f.Resource.Origin == mesh.OriginGlobal && f.Resource.InScope(z.zone))
		})
		var spec policy.FailoverPolicy
		if won, _ := policy.FailoverFor(mine, policy.ServiceRef{Namespace: n.namespace, Name: n.name}); won != nil {
			spec = *won.Spec
		}
		most = max(most, *spec.WithDefaults().Threshold)
	}
	return most
}

// target is how one zone sees another one as a backend of a service.
func (p *picture) target(by string, n serviceName, zone string) (mesh.FailoverTarget, bool) {
	for _, f := range p.failover[by] {
		if f.Namespace != n.namespace || f.Service != n.name {
			continue
		}
		for _, t := range f.Targets {
			if t.Zone == zone {
				return t, true
			}
		}
	}
	return mesh.FailoverTarget{}, false
}

// offers is what each zone has of a service. What a zone says itself counts while it is connected; else what the
// others, whom it tells without global, say of it.
func (p *picture) offers(n serviceName) []offer {
	var out []offer
	for _, z := range p.zones {
		e, exported := p.exports[n][z.zone]
		o := offer{zone: z.zone, ready: failover.Hundredths(e.ReadyCapacity), whole: failover.Hundredths(e.Capacity)}
		reports, reachable, elsewhere := 0, 0, uint64(0)
		for _, by := range p.zones {
			t, ok := p.target(by.zone, n, z.zone)
			if !ok || !by.status.Connected {
				continue
			}
			o.whole = max(o.whole, failover.Hundredths(t.Whole))
			if by.zone == z.zone {
				continue
			}
			reports++
			if t.Reachable {
				reachable++
				elsewhere = max(elsewhere, failover.Hundredths(t.Ready))
			}
		}
		if !exported && o.whole == 0 {
			continue
		}
		if !z.status.Connected {
			o.ready = elsewhere
		}
		switch {
		case p.specs[z.zone].Drain != nil:
			o.excluded = "it is drained itself"
		case reports > 0 && reachable == 0:
			o.excluded = "no zone reaches it"
		case !z.status.Connected && reachable == 0:
			o.excluded = "it is not connected, and no zone says that it reaches it"
		}
		out = append(out, o)
	}
	return out
}

// shortages lists the services of a zone that the others could not carry, by name.
func (p *picture) shortages(without string) []client.Shortage {
	var out []client.Shortage
	for n, by := range p.exports {
		if e, ok := by[without]; !ok || failover.Hundredths(e.Capacity) == 0 {
			continue
		}
		if m := shortage(p.threshold(n), p.offers(n), without); m != nil {
			m.Namespace, m.Service = n.namespace, n.name
			out = append(out, *m)
		}
	}
	slices.SortFunc(out, func(a, b client.Shortage) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Service, b.Service))
	})
	return out
}
