package fedserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// ErrNotRevoked: the zone is as trusted as any.
var ErrNotRevoked = errors.New("the zone is not revoked")

// Revocation reports how far a revocation is. ErrNoZone, ErrNotRevoked.
func (s *Server) Revocation(ctx context.Context, zone string) (client.Revocation, error) {
	spec, err := s.zone(ctx, zone)
	if err != nil {
		return client.Revocation{}, err
	}
	if spec.Revoked == nil {
		return client.Revocation{}, fmt.Errorf("zone %s: %w", zone, ErrNotRevoked)
	}
	id, _, _, err := getJSON[zoneIdentity](ctx, s.cfg.Store, bucketIDs, zone)
	if err != nil {
		return client.Revocation{}, err
	}
	out := client.Revocation{Zone: zone, Revision: spec.resource.Changed, Reason: spec.Revoked.Reason, Done: true, Zones: []client.RevocationZone{}}
	said := id.Revoked
	if said == nil || spec.lapsed(id) {
		return out, nil // nobody joined under this name: there is nothing to cut off
	}
	out.Revision, out.At, out.Actor = said.Revision, said.At, said.Actor
	list, err := s.zoneRecords(ctx)
	if err != nil {
		return client.Revocation{}, err
	}
	fresh := map[string]confirmation{}
	for _, z := range list {
		if z.zone == zone || !z.status.Joined || s.isRevoked(ctx, z.zone) {
			continue
		}
		c, held := said.Confirmed[z.zone]
		one := client.RevocationZone{Zone: z.zone, Connected: z.status.Connected, Confirmed: !c.At.IsZero(), At: c.At, Acked: c.Acked, Total: c.Total}
		if !one.Confirmed {
			if one, err = s.confirmation(ctx, zone, *said, z); err != nil {
				return client.Revocation{}, err
			}
			unsevered, err := s.unsevered(ctx, z.zone)
			if err != nil {
				return client.Revocation{}, err
			}
			switch {
			case unsevered != "":
				one.Confirmed, one.At, one.Message = false, time.Time{}, unsevered
				if !held {
					fresh[z.zone] = confirmation{}
				}
			case one.Confirmed:
				if held { // what it waited for has ended since
					one.At = s.cfg.Now().UTC()
				}
				fresh[z.zone] = confirmation{At: one.At, Acked: one.Acked, Total: one.Total}
			}
		}
		out.Done = out.Done && (one.Confirmed || !one.Connected)
		out.Zones = append(out.Zones, one)
	}
	slices.SortFunc(out.Zones, func(a, b client.RevocationZone) int { return cmp.Compare(a.Zone, b.Zone) })
	return out, s.keepConfirmations(ctx, zone, fresh)
}

// trustSettings are those that a zone goes by: the MeshConfig's, which only global makes, where that is for the zone.
func (s *Server) trustSettings(ctx context.Context, zone string) (policy.TrustSettings, error) {
	var c policy.MeshConfig
	r, err := s.cfg.Store.Get(ctx, mesh.Key{Origin: mesh.OriginGlobal, Kind: mesh.KindMeshConfig, Name: "default"})
	if err == nil && r.InScope(zone) {
		err = json.Unmarshal(r.Spec, &c)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return policy.TrustSettings{}, fmt.Errorf("read the trust lease: %w", err)
	}
	return c.TrustSettings(), nil
}

func (s *Server) isRevoked(ctx context.Context, zone string) bool {
	spec, err := s.zone(ctx, zone)
	return err == nil && spec.Revoked != nil
}

// confirmation reads from a zone's statuses how far it has cut off another one. What it says of the revision as
// a whole is exact; where newer revisions have taken its place, the Zone's own status tells.
func (s *Server) confirmation(ctx context.Context, revoked string, r revocation, z zoneRecord) (client.RevocationZone, error) {
	c := client.RevocationZone{Zone: z.zone, Connected: z.status.Connected}
	done, at, err := s.progressIn(ctx, z.zone, revoked, r.Revision, &c)
	if err != nil {
		return c, err
	}
	if done {
		if c.Total > 0 {
			at = at.Add(mesh.ConnectionEnd)
		}
		c.At = at.UTC()
		c.Confirmed = !s.cfg.Now().Before(c.At)
	}
	if !c.Connected && !c.Confirmed {
		// Without global it believes nobody any more when the lease since it last heard of global has ended.
		trust, err := s.trustSettings(ctx, z.zone)
		if err != nil {
			return c, err
		}
		if trust.Keep {
			c.Message = "it goes on believing the others without global (MeshConfig.spec.trust.afterLease: Keep)"
		} else {
			c.TrustUntil = z.status.LastSeen.Add(trust.Lease)
		}
	}
	return c, nil
}

// unsevered says of which proxies of a zone the agents could not end the connections to revoked zones; empty if of none.
func (s *Server) unsevered(ctx context.Context, zone string) (string, error) {
	list, err := statusesOf[mesh.ProxyStatus](ctx, s.cfg.Store, BucketOf(federation.BucketProxies, zone))
	if err != nil {
		return "", err
	}
	list = slices.DeleteFunc(list, func(p mesh.ProxyStatus) bool { return p.Unsevered == "" })
	if len(list) == 0 {
		return "", nil
	}
	return fmt.Sprintf("%d proxies could not be cut off; %s: %s", len(list), list[0].Proxy, list[0].Unsevered), nil
}

// progressIn reports whether the proxies of a zone that a revision of a Zone concerned have acknowledged it, and
// since when that is known here.
func (s *Server) progressIn(ctx context.Context, zone, subject string, revision mesh.Revision, c *client.RevocationZone) (done bool, at time.Time, err error) {
	rev, _, at, err := statusRecord[mesh.RevisionStatus](ctx, s.cfg.Store, BucketOf(federation.BucketRevisions, zone), mesh.RevisionSlot(mesh.OriginGlobal, revision))
	if err != nil {
		return false, at, err
	}
	if rev.Origin == mesh.OriginGlobal && rev.Revision == revision {
		c.Acked, c.Total, c.Message = rev.Acked, rev.Total, rev.Message
		return rev.Done && rev.State == mesh.StateApplied, at, nil
	}
	res, found, at, err := statusRecord[mesh.ResourceStatus](ctx, s.cfg.Store, BucketOf(federation.BucketStatus, zone), zoneKey(subject).String())
	if err != nil || !found {
		return false, at, err
	}
	c.Acked, c.Total, c.Message = res.Acked, res.Total, res.Message
	return res.State == mesh.StateApplied && res.Applied >= revision && res.Acked >= res.Total, at, nil
}

// statusRecord reads a record with the time when it was written here.
func statusRecord[T any](ctx context.Context, s store.Records, bucket, key string) (v T, found bool, at time.Time, err error) {
	rec, err := s.GetRecord(ctx, bucket, key)
	if errors.Is(err, store.ErrNotFound) {
		return v, false, at, nil
	}
	if err != nil {
		return v, false, at, fmt.Errorf("read %s %s: %w", bucket, key, err)
	}
	if err := json.Unmarshal(rec.Value, &v); err != nil {
		return v, false, at, fmt.Errorf("read %s %s: %w", bucket, key, err)
	}
	return v, true, rec.UpdatedAt, nil
}

// keepConfirmations keeps what was seen for the first time: the statuses that it was read from do not last.
func (s *Server) keepConfirmations(ctx context.Context, zone string, fresh map[string]confirmation) error {
	if len(fresh) == 0 {
		return nil
	}
	errGone := errors.New("the zone is of another life")
	_, err := update(ctx, s.cfg.Store, bucketIDs, zone, func(id *zoneIdentity, _ bool) error {
		if id.Revoked == nil {
			return errGone
		}
		for other, c := range fresh {
			if id.Revoked.Confirmed[other].At.IsZero() {
				if id.Revoked.Confirmed == nil {
					id.Revoked.Confirmed = map[string]confirmation{}
				}
				id.Revoked.Confirmed[other] = c
			}
		}
		return nil
	})
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}
