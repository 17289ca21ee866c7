package fedserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/fedstore"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Several replicas of global may serve one store, each the zones that dialled it. What they share is in records: a
// session's epoch ends the zone's older session wherever it is, statements are relayed to the sessions of all, the book
// of bundles is merged, and a replica that has died is noticed by its silence, so that its zones are shown as away.

const (
	// bucketReplicas holds one record of each replica that lives, by id; only that it changes matters.
	bucketReplicas = "replicas"
	// bucketDomains says which zone a trust domain belongs to, for good, by trust domain.
	bucketDomains = "trust-domains"

	replicaBeat = 5 * time.Second
	// replicaSilence is how long a replica may be silent before others take it for dead. Clocks are not compared.
	replicaSilence = 20 * time.Second
	// relayPause bounds how often it is looked for other replicas' statements.
	relayPause = 100 * time.Millisecond
)

// retried runs a part that follows the store again and again until ctx ends: an outage of the store ends it.
func (s *Server) retried(ctx context.Context, what string, part func(context.Context) error) {
	for ctx.Err() == nil {
		err := part(ctx)
		if ctx.Err() != nil {
			return
		}
		s.cfg.Log.ErrorContext(ctx, "a chore was interrupted; trying again", "chore", what, "error", err)
		again := time.NewTimer(retryAfter)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
		}
	}
}

// fenceOlder ends sessions here whose zone has opened a newer one at another replica.
func (s *Server) fenceOlder(ctx context.Context) error {
	for range s.cfg.Store.WatchRecords(ctx, bucketSessions) {
		recs, _, err := s.cfg.Store.ListRecords(ctx, bucketSessions, "")
		if err != nil {
			return fmt.Errorf("read sessions: %w", err)
		}
		for _, r := range recs {
			var rec sessionRecord
			if json.Unmarshal(r.Value, &rec) != nil {
				continue
			}
			s.mu.Lock()
			x := s.sessions[r.Key]
			s.mu.Unlock()
			if x != nil && rec.Epoch > x.epoch {
				x.end(federation.ByeFenced, "a newer session of the zone took over", 0)
			}
		}
	}
	return ctx.Err()
}

// overtaken reports whether a newer session of the zone has begun at another replica.
func (x *session) overtaken(ctx context.Context) (bool, error) {
	if !x.server.cfg.Shared {
		return false, nil // the one that begins here ends this one first
	}
	rec, _, _, err := getJSON[sessionRecord](ctx, x.server.cfg.Store, bucketSessions, x.zone)
	return rec.Epoch > x.epoch, err
}

var errFenced = errors.New("a newer session of the zone took over")

// relayOthers hands statements that other replicas kept to the sessions here. What this one kept itself was relayed
// already, and is not sent twice.
func (s *Server) relayOthers(ctx context.Context) error {
	seen := map[string]uint64{}
	for range s.cfg.Store.WatchRecords(ctx, fedstore.StatementBucket("")) {
		recs, _, err := s.cfg.Store.ListRecords(ctx, bucketIDs, "")
		if err != nil {
			return fmt.Errorf("read identities: %w", err)
		}
		for _, r := range recs {
			// A prefix that no key has: only the sequence is wanted.
			_, sequence, err := s.cfg.Store.ListRecords(ctx, fedstore.StatementBucket(r.Key), "/")
			if err != nil {
				return err
			}
			if sequence == seen[r.Key] {
				continue
			}
			list, err := fedstore.Statements(ctx, s.cfg.Store, r.Key)
			if err != nil {
				return err
			}
			for _, st := range list {
				s.relay(st)
			}
			seen[r.Key] = sequence
		}
		pause := time.NewTimer(relayPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
	return ctx.Err()
}

// replicaWatch is how long the others have been silent.
type replicaWatch struct {
	version uint64
	since   time.Time
}

// keepAlive shows that this replica lives, and looks after the zones of those that don't.
func (s *Server) keepAlive(ctx context.Context) error {
	others := map[string]replicaWatch{}
	tick := time.NewTicker(replicaBeat)
	defer tick.Stop()
	for {
		if err := s.beat(ctx); err != nil {
			return err
		}
		if err := s.buryReplicas(ctx, others); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Server) beat(ctx context.Context) error {
	_, err := s.cfg.Store.PutRecords(ctx, bucketReplicas, store.RecordWrite{Key: s.id, Value: []byte("{}")})
	if err != nil {
		return fmt.Errorf("show that this replica lives: %w", err)
	}
	return nil
}

// leave says that this replica is gone, so that nobody waits for its silence.
func (s *Server) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := s.cfg.Store.PutRecords(ctx, bucketReplicas, store.RecordWrite{Key: s.id, Delete: true}); err != nil {
		s.cfg.Log.WarnContext(ctx, "other replicas will notice late that this one is gone", "error", err)
	}
}

// buryReplicas forgets replicas that are silent, then shows the zones of all that are gone as away.
func (s *Server) buryReplicas(ctx context.Context, others map[string]replicaWatch) error {
	recs, _, err := s.cfg.Store.ListRecords(ctx, bucketReplicas, "")
	if err != nil {
		return fmt.Errorf("read replicas: %w", err)
	}
	alive := map[string]bool{s.id: true}
	now := time.Now() // monotonic: a replica's own patience
	for _, r := range recs {
		o, known := others[r.Key]
		if !known || o.version != r.Version {
			o = replicaWatch{r.Version, now}
			others[r.Key] = o
		}
		if alive[r.Key] = r.Key == s.id || now.Sub(o.since) < replicaSilence; alive[r.Key] {
			continue
		}
		_, err := s.cfg.Store.PutRecords(ctx, bucketReplicas, store.RecordWrite{Key: r.Key, Delete: true, IfVersion: &r.Version})
		if errors.Is(err, store.ErrConflict) {
			alive[r.Key] = true
		} else if err != nil {
			return fmt.Errorf("forget a replica: %w", err)
		}
	}
	maps.DeleteFunc(others, func(id string, _ replicaWatch) bool { return !alive[id] })
	return s.disconnect(ctx, func(zone string, r sessionRecord) bool {
		return !alive[r.Replica] || r.Replica == s.id && !s.holds(zone, r.Epoch)
	})
}

// holds reports whether a session is one of this replica. One that ended while the store was away could not say so.
func (s *Server) holds(zone string, epoch uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.sessions[zone]
	return x != nil && x.epoch == epoch
}

// disconnect shows zones as away that are shown as connected while their session is gone.
func (s *Server) disconnect(ctx context.Context, gone func(zone string, r sessionRecord) bool) error {
	list, err := s.zoneRecords(ctx)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(z zoneRecord) bool { return !z.status.Connected })
	for _, z := range list {
		rec, _, _, err := getJSON[sessionRecord](ctx, s.cfg.Store, bucketSessions, z.zone)
		if err != nil {
			return err
		}
		if !gone(z.zone, rec) {
			continue
		}
		z.status.Connected = false
		w, err := z.write()
		if err != nil {
			return err
		}
		// By the version that was read: a session that has begun since is right.
		if _, err := s.cfg.Store.PutRecords(ctx, BucketZones, w); err != nil && !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("show zone %s as away: %w", z.zone, err)
		}
	}
	return nil
}

// claimDomain takes a trust domain for a zone: of replicas that admit at the same time two zones with the same one, only
// one does.
func (s *Server) claimDomain(ctx context.Context, td mesh.TrustDomain, zone string) error {
	none := uint64(0)
	_, err := s.cfg.Store.PutRecords(ctx, bucketDomains, store.RecordWrite{Key: string(td), Value: []byte(zone), IfVersion: &none})
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	rec, err := s.cfg.Store.GetRecord(ctx, bucketDomains, string(td))
	if err != nil {
		return fmt.Errorf("read whose trust domain %s is: %w", td, err)
	}
	if string(rec.Value) != zone {
		return refuse(codes.AlreadyExists, "trust-domain", "trust domain %s belongs to another zone", td)
	}
	return nil
}
