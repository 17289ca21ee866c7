package fedserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// followZones ends zones whose Zone is deleted or revoked: what was missed first, then live.
func (s *Server) followZones(ctx context.Context) error {
	for {
		head, err := s.cfg.Store.Head(ctx)
		if err != nil {
			return fmt.Errorf("head of the store: %w", err)
		}
		if err := s.endMissed(ctx); err != nil {
			return err
		}
		w, err := s.cfg.Store.Watch(ctx, head)
		if err == nil {
			err = s.watchZones(ctx, w)
			w.Close()
		}
		if !errors.Is(err, store.ErrCompacted) {
			return err
		}
	}
}

func (s *Server) watchZones(ctx context.Context, w store.Watcher) error {
	for {
		c, err := w.Next(ctx)
		if err != nil {
			return fmt.Errorf("watch zones: %w", err)
		}
		if err := s.lag(ctx, c); err != nil {
			return err
		}
		for _, ch := range c.Changes {
			r := ch.Resource
			if r.Kind != mesh.KindZone || r.Origin != mesh.OriginGlobal {
				continue
			}
			if ch.Deleted {
				err = s.removeZone(ctx, r.Name, c.Actor)
			} else {
				s.wakeLeaving()
				err = s.enforceRevocation(ctx, r.Name, c.Actor)
			}
			if err != nil {
				return err
			}
		}
	}
}

// endMissed ends zones whose Zone was deleted or revoked while nobody watched.
func (s *Server) endMissed(ctx context.Context) error {
	recs, _, err := s.cfg.Store.ListRecords(ctx, bucketIDs, "")
	if err != nil {
		return fmt.Errorf("read identities: %w", err)
	}
	for _, r := range recs {
		var id zoneIdentity
		if err := json.Unmarshal(r.Value, &id); err != nil {
			return fmt.Errorf("read identity of %s: %w", r.Key, err)
		}
		switch spec, err := s.zone(ctx, r.Key); {
		case errors.Is(err, ErrNoZone) && !id.Removed:
			err = s.removeZone(ctx, r.Key, "")
			if err != nil {
				return err
			}
		case errors.Is(err, ErrNoZone):
		case err != nil:
			return err
		case !id.Removed && spec.lapsed(id): // and made anew
			if err := s.removeZone(ctx, r.Key, ""); err != nil {
				return err
			}
		default:
			if err := s.enforceRevocation(ctx, r.Key, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeZone ends a zone for good: its identity becomes a tombstone first, so that it can't come back
// meanwhile, then its session ends, then everything of it is forgotten. The other zones learn it by the
// deletion of the Zone. Repeating it is harmless.
func (s *Server) removeZone(ctx context.Context, zone, actor string) error {
	s.joining.Lock()
	defer s.joining.Unlock()
	// The zone may have been made anew since the deletion that is acted on here, and may even have joined
	// again: only what is older goes.
	until := s.cfg.Now().Add(time.Hour)
	spec, err := s.zone(ctx, zone)
	switch {
	case err == nil:
		until = spec.resource.CreatedAt
		id, _, found, err := getJSON[zoneIdentity](ctx, s.cfg.Store, bucketIDs, zone)
		if err != nil || !found || !spec.lapsed(id) {
			return errors.Join(err, s.forgetTokens(ctx, zone, until))
		}
	case !errors.Is(err, ErrNoZone):
		return err
	}
	errNothing := errors.New("nothing to do")
	old, _, _, err := getJSON[zoneIdentity](ctx, s.cfg.Store, bucketIDs, zone)
	if err != nil {
		return err
	}
	revoked, err := s.revokedAtEnd(ctx, zone, old)
	if err != nil {
		return err
	}
	id, err := update(ctx, s.cfg.Store, bucketIDs, zone, func(id *zoneIdentity, found bool) error {
		if !found {
			return errNothing
		}
		id.Removed, id.RemovedAt = true, s.cfg.Now().UTC()
		if id.Incarnation == old.Incarnation {
			id.Revoked = cmp.Or(id.Revoked, revoked)
		}
		return nil
	})
	if err != nil && !errors.Is(err, errNothing) {
		return err
	}
	joined := err == nil
	if err := s.expel(ctx, zone, id, "the zone was removed"); err != nil {
		return err
	}
	if err := s.forgetZone(ctx, zone, "the zone was removed"); err != nil {
		return err
	}
	if err := s.forgetTokens(ctx, zone, until); err != nil {
		return err
	}
	if joined {
		s.cfg.Log.InfoContext(ctx, "zone removed", "zone", zone, "incarnation", id.Incarnation, "actor", actor)
	}
	return nil
}

// revokedAtEnd is the revocation that a life of a zone ended with, nil for none: where its Zone was revoked and deleted
// before anybody acted on the revocation, only the history knows of it.
func (s *Server) revokedAtEnd(ctx context.Context, zone string, id zoneIdentity) (*revocation, error) {
	if id.Incarnation == "" || id.Revoked != nil {
		return id.Revoked, nil
	}
	list, err := s.cfg.Store.History(ctx, zoneKey(zone), 100, 0)
	if err != nil {
		return nil, fmt.Errorf("read how zone %s ended: %w", zone, err)
	}
	for _, e := range list {
		if e.After != nil || e.Before == nil || e.Before.CreatedAt.After(id.JoinedAt) || e.At.Before(id.JoinedAt) {
			continue // no deletion, or that of another life
		}
		last, err := readZone(*e.Before)
		if err != nil || last.Revoked == nil {
			return nil, err
		}
		return &revocation{Revision: e.Before.Changed, At: e.Before.ChangedAt.UTC(), Actor: e.Actor, Reason: last.Revoked.Reason}, nil
	}
	return nil, nil // it was never revoked
}

// expel ends the session of a zone whose identity has ended, and the trust in it; id is zero for a zone that
// never joined.
func (s *Server) expel(ctx context.Context, zone string, id zoneIdentity, reason string) error {
	s.mu.Lock()
	x := s.sessions[zone]
	s.mu.Unlock()
	if x != nil {
		x.end(federation.ByeRevoked, reason, time.Hour)
		select {
		case <-x.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if id.TrustDomain == "" {
		return nil
	}
	s.cfg.Trust.Book().Remove(id.TrustDomain)
	return s.cfg.Trust.SaveBook(ctx, s.cfg.Store, id.TrustDomain)
}

// forgetZone deletes what the zone said, and what is shown of it.
func (s *Server) forgetZone(ctx context.Context, zone, reason string) error {
	if err := s.forgetWords(ctx, zone, reason); err != nil {
		return err
	}
	if _, err := s.cfg.Store.PutRecords(ctx, BucketZones, store.RecordWrite{Key: zone, Delete: true}); err != nil {
		return fmt.Errorf("forget zone %s: %w", zone, err)
	}
	return nil
}

// forgetWords deletes what the zone said: copies of its resources, statements, statuses.
func (s *Server) forgetWords(ctx context.Context, zone, reason string) error {
	a := fedstore.Applier{Store: s.cfg.Store, Origin: mesh.Origin(zone), Peer: zone, Actor: "zone:" + zone}
	if err := a.Forget(ctx, reason); err != nil {
		return err
	}
	if err := fedstore.ForgetStatements(ctx, s.cfg.Store, zone); err != nil {
		return err
	}
	for _, kind := range federation.Buckets() {
		if err := clearBucket(ctx, s.cfg.Store, BucketOf(kind, zone)); err != nil {
			return err
		}
	}
	if _, err := s.cfg.Store.PutRecords(ctx, bucketStatusAt, store.RecordWrite{Key: zone, Delete: true}); err != nil {
		return fmt.Errorf("forget zone %s: %w", zone, err)
	}
	s.metrics.forget(zone)
	return nil
}

// forgetTokens deletes the zone's tokens made until then: one made for the old zone must not admit into
// a new one.
func (s *Server) forgetTokens(ctx context.Context, zone string, until time.Time) error {
	tokens, err := s.Tokens(ctx, zone)
	if err != nil || len(tokens) == 0 {
		return err
	}
	writes := make([]store.RecordWrite, 0, len(tokens))
	for _, t := range tokens {
		if t.Created.Before(until) {
			writes = append(writes, store.RecordWrite{Key: t.ID, Delete: true})
		}
	}
	if len(writes) == 0 {
		return nil
	}
	if _, err := s.cfg.Store.PutRecords(ctx, bucketTokens, writes...); err != nil {
		return fmt.Errorf("forget tokens of %s: %w", zone, err)
	}
	return nil
}
