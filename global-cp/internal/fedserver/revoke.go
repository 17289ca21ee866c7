package fedserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
	"github.com/comity-mesh/comity/store"
)

// By is in whose name a Zone is changed, as the history shows it.
type By struct {
	Actor  string // "user:admin"
	Source string // "api" or "cli"
	Reason string // may be empty
}

// revocation is how a zone's identity was ended for good.
type revocation struct {
	Revision mesh.Revision `json:"revision"` // of global, in which the Zone was revoked
	At       time.Time     `json:"at"`
	Actor    string        `json:"actor,omitempty"`
	Reason   string        `json:"reason,omitempty"`
	// Confirmed are the zones that run without it, as first seen.
	Confirmed map[string]confirmation `json:"confirmed,omitempty"`
}

// confirmation is what a zone has confirmed; At is zero while proxies that have acknowledged are connected still.
type confirmation struct {
	At    time.Time `json:"at"`
	Acked int       `json:"acked"`
	Total int       `json:"total"`
}

// Revoke ends all trust in a zone, for good: it marks the Zone, which every other zone heeds, and ends what
// the zone has at global before it returns. Of a zone that is revoked it reports. ErrNoZone.
func (s *Server) Revoke(ctx context.Context, zone string, by By) (client.Revocation, error) {
	err := s.editZone(ctx, zone, by, func(z *policy.Zone) error {
		if z.Revoked == nil {
			z.Revoked = &policy.Revocation{Reason: by.Reason}
			z.Drain = nil // there is nothing left to move with care
		}
		return nil
	})
	if err != nil {
		return client.Revocation{}, err
	}
	if err := s.enforceRevocation(ctx, zone, by.Actor); err != nil {
		return client.Revocation{}, err
	}
	return s.Revocation(ctx, zone)
}

// editZone changes the spec of a Zone by compare-and-set until nobody came between. A change that changes
// nothing takes no revision.
func (s *Server) editZone(ctx context.Context, zone string, by By, change func(*policy.Zone) error) error {
	for {
		z, err := s.zone(ctx, zone)
		if err != nil {
			return err
		}
		if err := change(&z.Zone); err != nil {
			return err
		}
		next := z.resource
		if next.Spec, err = json.Marshal(z.Zone); err != nil {
			return fmt.Errorf("zone %s: %w", zone, err)
		}
		if next.Spec, err = policy.Canonical(next.Spec); err != nil {
			return fmt.Errorf("zone %s: %w", zone, err)
		}
		if fields := policy.Validate(next); len(fields) > 0 {
			return &policy.InvalidError{Fields: fields}
		}
		_, err = s.cfg.Store.Apply(ctx, store.Batch{
			Writes: []store.Write{{Resource: next, IfRevision: &z.resource.Revision}},
			Actor:  by.Actor, Source: by.Source, Reason: by.Reason,
		})
		if errors.Is(err, store.ErrConflict) && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return fmt.Errorf("change zone %s: %w", zone, err)
		}
		return nil
	}
}

// enforceRevocation ends what a revoked zone has here: its identity first, so that it can't come back
// meanwhile, then its session, then all that it said. It does nothing for a zone that is not revoked, and may
// be repeated: every replica of global does it for the sessions that it holds.
func (s *Server) enforceRevocation(ctx context.Context, zone, actor string) error {
	spec, err := s.zone(ctx, zone)
	if errors.Is(err, ErrNoZone) {
		return nil
	}
	if err != nil || spec.Revoked == nil {
		return errors.Join(err, s.revokedAgain(ctx, zone, spec))
	}
	s.joining.Lock()
	defer s.joining.Unlock()
	const why = "the zone was revoked"
	id, _, joined, err := getJSON[zoneIdentity](ctx, s.cfg.Store, bucketIDs, zone)
	if err != nil || joined && spec.lapsed(id) {
		return err
	}
	if joined && id.Revoked == nil {
		id, err = update(ctx, s.cfg.Store, bucketIDs, zone, func(id *zoneIdentity, _ bool) error {
			if id.Revoked == nil {
				id.Revoked = &revocation{Revision: spec.resource.Changed, At: spec.resource.ChangedAt.UTC(), Actor: actor, Reason: spec.Revoked.Reason}
			}
			return nil
		})
		if err != nil {
			return err
		}
		s.cfg.Log.WarnContext(ctx, "zone revoked", "zone", zone, "trust_domain", id.TrustDomain, "incarnation", id.Incarnation, "actor", actor, "reason", spec.Revoked.Reason)
	}
	if err := s.expel(ctx, zone, id, why); err != nil {
		return err
	}
	if err := s.forgetWords(ctx, zone, why); err != nil {
		return err
	}
	if err := s.forgetTokens(ctx, zone, s.cfg.Now().Add(time.Hour)); err != nil {
		return err
	}
	if !joined {
		return nil
	}
	return s.setZone(ctx, zone, func(z *mesh.ZoneStatus) {
		*z = mesh.ZoneStatus{
			Joined: true, LastSeen: z.LastSeen, Incarnation: z.Incarnation, TrustDomain: z.TrustDomain, Version: z.Version,
			Wanted: z.Wanted, Acked: z.Acked, Message: why,
		}
	})
}

// revokedAgain marks a Zone again whose mark a write took away that had read it before it was revoked. It can't
// be taken away by intent (policy.ValidateChange).
func (s *Server) revokedAgain(ctx context.Context, zone string, spec zoneResource) error {
	id, _, found, err := getJSON[zoneIdentity](ctx, s.cfg.Store, bucketIDs, zone)
	if err != nil || !found || id.Revoked == nil || spec.lapsed(id) {
		return err
	}
	err = s.editZone(ctx, zone, By{Actor: "system:global", Source: "federation", Reason: "a revocation stays"}, func(z *policy.Zone) error {
		z.Revoked = &policy.Revocation{Reason: id.Revoked.Reason}
		return nil
	})
	if errors.Is(err, ErrNoZone) {
		return nil
	}
	return err
}

// Admit says what is wrong with a Zone that would undo a revocation by being made anew under the trust domain
// that was revoked. Zones that were away for all of it hold the old bundle, and go by what the Zone says. (The
// mark itself can't be taken away: policy.ValidateChange.)
func (s *Server) Admit(ctx context.Context, w store.Write) ([]policy.FieldError, error) {
	if w.Delete || w.Resource.Key != zoneKey(w.Resource.Name) {
		return nil, nil
	}
	if _, err := s.zone(ctx, w.Resource.Name); !errors.Is(err, ErrNoZone) {
		return nil, err
	}
	id, _, _, err := getJSON[zoneIdentity](ctx, s.cfg.Store, bucketIDs, w.Resource.Name)
	if err != nil {
		return nil, err
	}
	if id.Revoked, err = s.revokedAtEnd(ctx, w.Resource.Name, id); err != nil {
		return nil, err
	}
	next, err := readZone(w.Resource)
	if err != nil {
		return nil, err
	}
	for _, td := range id.burnt() {
		if next.TrustDomain == "" || next.TrustDomain == td {
			return []policy.FieldError{{
				Pointer: "/spec/trustDomain", Code: policy.CodeInvalid,
				Message: fmt.Sprintf("a zone of this name was revoked: say under which trust domain it comes back, and not %s", td),
			}}, nil
		}
	}
	return nil, nil
}
