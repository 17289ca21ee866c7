package fedserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// ErrRevoked: a revoked zone has no traffic to move, nor anything else to be asked of.
var ErrRevoked = errors.New("the zone is revoked")

// leaveEvery is how often it is looked whether a zone that leaves has lost its last request; only while one
// does.
const leaveEvery = 500 * time.Millisecond

// leaveAfter is how long nothing must go to a zone before it is removed: requests under way have that much to
// end, and Envoys mesh.ConnectionDrain more.
const leaveAfter = 5 * time.Second

// Drain moves traffic away from a zone, and with leave removes it afterwards. Repeated, it changes no more than
// what is different. ErrNoZone, ErrRevoked, *CapacityError, *policy.InvalidError.
func (s *Server) Drain(ctx context.Context, zone string, r client.DrainRequest, leave bool, by By) (client.Drain, error) {
	err := s.editZone(ctx, zone, by, func(z *policy.Zone) error {
		if z.Revoked != nil {
			return fmt.Errorf("zone %s: %w", zone, ErrRevoked)
		}
		if z.Drain == nil && !r.Force {
			p, err := s.picture(ctx)
			if err != nil {
				return err
			}
			if missing := p.shortages(zone); len(missing) > 0 {
				return &CapacityError{Zone: zone, Missing: missing}
			}
		}
		z.Drain = &policy.Drain{Over: gatewayv1.Duration(r.Over), Reason: r.Reason, Leave: leave, Force: leave && r.Force}
		return nil
	})
	if err != nil {
		return client.Drain{}, err
	}
	return s.DrainOf(ctx, zone)
}

// Undrain takes a drain back, and the leaving that it was for. ErrNoZone.
func (s *Server) Undrain(ctx context.Context, zone string, by By) (client.Drain, error) {
	err := s.editZone(ctx, zone, by, func(z *policy.Zone) error {
		z.Drain = nil
		return nil
	})
	if err != nil {
		return client.Drain{}, err
	}
	return s.DrainOf(ctx, zone)
}

// DrainOf reports what still goes to a zone, and who is waited for: every zone that has not said that it heeds the drain
// and sends nothing there. One that is away is waited for, too, for its data path may still send; by force it is not,
// unless all are away: then nobody has said anything since this server began. ErrNoZone.
func (s *Server) DrainOf(ctx context.Context, zone string) (client.Drain, error) {
	spec, err := s.zone(ctx, zone)
	if err != nil {
		return client.Drain{}, err
	}
	p, err := s.picture(ctx)
	if err != nil {
		return client.Drain{}, err
	}
	out := client.Drain{Zone: zone, State: client.DrainNone, Zones: []client.DrainZone{}, Services: []client.DrainService{}}
	if spec.Drain != nil {
		out.State, out.Since, out.Over, out.Reason, out.Done = client.DrainRunning, spec.resource.ChangedAt, string(spec.Drain.Over), spec.Drain.Reason, true
		if spec.Drain.Leave {
			out.State = client.DrainLeaving
		}
	}
	sent := p.sentTo(zone)
	skipAway := spec.Drain != nil && spec.Drain.Leave && spec.Drain.Force &&
		slices.ContainsFunc(p.zones, func(z zoneRecord) bool { return z.status.Connected })
	for _, z := range p.zones {
		one := client.DrainZone{Zone: z.zone, Connected: z.status.Connected}
		var acked client.RevocationZone
		if one.Heeds, _, err = s.progressIn(ctx, z.zone, zone, spec.resource.Changed, &acked); err != nil {
			return client.Drain{}, err
		}
		blocked := 0.0
		for _, svc := range sent {
			one.Share = max(one.Share, svc.Shares[z.zone])
			if !svc.Last {
				blocked = max(blocked, svc.Shares[z.zone])
			}
		}
		for _, t := range p.traffic[z.zone] {
			if t.To == zone {
				one.Requests += t.Requests
			}
		}
		if spec.Drain != nil && (one.Connected || !skipAway) {
			one.Awaited = !one.Heeds || blocked > 0
		}
		out.Done = out.Done && !one.Awaited
		out.Zones = append(out.Zones, one)
	}
	out.Services = append(out.Services, sent...)
	if out.Done && out.State == client.DrainRunning {
		out.State = client.DrainDone
	}
	return out, nil
}

// sentTo lists the services of which requests go to a zone, by name.
func (p *picture) sentTo(zone string) []client.DrainService {
	byName := map[serviceName]*client.DrainService{}
	for _, z := range p.zones {
		for _, f := range p.failover[z.zone] {
			n := serviceName{f.Namespace, f.Service}
			t, ok := p.target(z.zone, n, zone)
			if !ok || t.Share <= 0 {
				continue
			}
			if byName[n] == nil {
				byName[n] = &client.DrainService{Namespace: n.namespace, Service: n.name, Shares: map[string]float64{}, Last: true}
			}
			byName[n].Shares[z.zone] = t.Share
			// Whoever could send its requests elsewhere is waited for.
			if slices.ContainsFunc(f.Targets, func(o mesh.FailoverTarget) bool { return o.Zone != zone && o.Ready > 0 && o.Reachable }) {
				byName[n].Last = false
			}
		}
	}
	out := make([]client.DrainService, 0, len(byName))
	for _, svc := range byName {
		out = append(out, *svc)
	}
	slices.SortFunc(out, func(a, b client.DrainService) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Service, b.Service))
	})
	return out
}

// keepLeaving removes the zones that leave when nothing goes to them any more. What it waits for is in the Zones,
// so it survives a restart; several replicas do it at once, and one of them removes.
func (s *Server) keepLeaving(ctx context.Context) {
	since := map[string]time.Time{} // nothing goes there
	for {
		waiting, err := s.removeLeft(ctx, since)
		if err != nil && ctx.Err() == nil {
			s.cfg.Log.WarnContext(ctx, "zones that leave are not removed; trying again", "error", err)
			waiting = true
		}
		again := time.NewTimer(leaveEvery)
		if !waiting {
			again.Stop()
		}
		select {
		case <-s.leaving:
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (s *Server) wakeLeaving() {
	select {
	case s.leaving <- struct{}{}:
	default:
	}
}

// removeLeft removes what can be; waiting says that there are more.
func (s *Server) removeLeft(ctx context.Context, since map[string]time.Time) (waiting bool, err error) {
	q := store.Query{Origin: mesh.OriginGlobal, Kind: mesh.KindZone, Limit: 1000}
	for {
		page, err := s.cfg.Store.List(ctx, q)
		if err != nil {
			return waiting, fmt.Errorf("list zones: %w", err)
		}
		for _, r := range page.Items {
			z, err := readZone(r)
			if err != nil {
				return true, err
			}
			if z.Drain == nil || !z.Drain.Leave {
				delete(since, r.Name)
				continue
			}
			waiting = true
			d, err := s.DrainOf(ctx, r.Name)
			switch {
			case errors.Is(err, ErrNoZone):
			case err != nil:
				return true, err
			case !d.Done:
				delete(since, r.Name)
			case since[r.Name].IsZero():
				since[r.Name] = s.cfg.Now()
			case s.cfg.Now().Sub(since[r.Name]) >= leaveAfter:
				if err := s.removeLeaver(ctx, z); err != nil {
					return true, err
				}
				delete(since, r.Name)
			}
		}
		if q.Continue = page.Continue; q.Continue == "" {
			return waiting, nil
		}
	}
}

// removeLeaver deletes the Zone in the name of who ordered it, unless it was changed meanwhile.
func (s *Server) removeLeaver(ctx context.Context, z zoneResource) error {
	b := store.Batch{
		Writes: []store.Write{{Resource: mesh.Resource{Key: z.resource.Key}, Delete: true, IfRevision: &z.resource.Revision}},
		Actor:  "system:global", Source: "federation", Reason: "it left, and nothing goes to it any more",
	}
	if z.Drain.Reason != "" {
		b.Reason += ": " + z.Drain.Reason
	}
	if h, err := s.cfg.Store.History(ctx, z.resource.Key, 1, 0); err == nil && len(h) == 1 {
		b.Actor = h[0].Actor
	}
	if _, err := s.cfg.Store.Apply(ctx, b); err != nil && !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("remove zone %s: %w", z.resource.Name, err)
	}
	return nil
}
