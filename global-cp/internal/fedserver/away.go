package fedserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// zoneRecord is a zone's status as read, to be written back only if nobody was faster.
type zoneRecord struct {
	zone    string
	status  mesh.ZoneStatus
	version uint64
}

func (s *Server) zoneRecords(ctx context.Context) ([]zoneRecord, error) {
	recs, _, err := s.cfg.Store.ListRecords(ctx, BucketZones, "")
	if err != nil {
		return nil, fmt.Errorf("read the zones' statuses: %w", err)
	}
	out := make([]zoneRecord, 0, len(recs))
	for _, r := range recs {
		z := zoneRecord{zone: r.Key, version: r.Version}
		if json.Unmarshal(r.Value, &z.status) == nil {
			out = append(out, z)
		}
	}
	return out, nil
}

func (z zoneRecord) write() (store.RecordWrite, error) {
	value, err := json.Marshal(z.status)
	if err != nil {
		return store.RecordWrite{}, fmt.Errorf("status of %s: %w", z.zone, err)
	}
	return store.RecordWrite{Key: z.zone, Value: value, IfVersion: &z.version}, nil
}

// disconnectAll makes the statuses tell the truth after a crash, in one go: nobody is connected to a server
// that just started, and each wants at least the newest that concerns it.
func (s *Server) disconnectAll(ctx context.Context) error {
	list, err := s.zoneRecords(ctx)
	if err != nil || len(list) == 0 {
		return err
	}
	newest, err := s.newestFor(ctx, list)
	if err != nil {
		return err
	}
	var writes []store.RecordWrite
	for _, z := range list {
		if !z.status.Connected && z.status.Wanted >= newest[z.zone] {
			continue
		}
		z.status.Connected, z.status.Wanted = false, max(z.status.Wanted, newest[z.zone])
		w, err := z.write()
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	if len(writes) == 0 {
		return nil
	}
	if _, err := s.cfg.Store.PutRecords(ctx, BucketZones, writes...); err != nil {
		return fmt.Errorf("show the zones as away: %w", err)
	}
	return nil
}

// newestFor finds for each zone the newest of global's resources that concerns it, looking at no more of
// them than that takes.
func (s *Server) newestFor(ctx context.Context, zones []zoneRecord) (map[string]mesh.Revision, error) {
	out := map[string]mesh.Revision{}
	q := store.Query{Origin: mesh.OriginGlobal, Sort: store.SortChanged, Desc: true}
	for {
		page, err := s.cfg.Store.List(ctx, q)
		if err != nil {
			return nil, fmt.Errorf("newest resources: %w", err)
		}
		for _, r := range page.Items {
			for _, z := range zones {
				if _, known := out[z.zone]; !known && r.InScope(z.zone) {
					out[z.zone] = r.Revision
				}
			}
			if len(out) == len(zones) {
				return out, nil
			}
		}
		if page.Continue == "" {
			return out, nil
		}
		q.Continue = page.Continue
	}
}

// lag shows, of a commit, to which zones that are away it is still to come. Those that are connected say
// themselves how far they are.
func (s *Server) lag(ctx context.Context, c store.Commit) error {
	concerned := func(zone string) bool {
		for _, ch := range c.Changes {
			if ch.Resource.Origin == mesh.OriginGlobal && ch.Resource.InScope(zone) {
				return true
			}
		}
		return false
	}
	if !slices.ContainsFunc(c.Changes, func(ch store.Change) bool { return ch.Resource.Origin == mesh.OriginGlobal }) {
		return nil // a zone's own, copied
	}
	list, err := s.zoneRecords(ctx)
	if err != nil {
		return err
	}
	for _, z := range list {
		s.mu.Lock()
		_, here := s.sessions[z.zone]
		s.mu.Unlock()
		if here || s.cfg.Shared && z.status.Connected || z.status.Wanted >= c.Cursor.Revision || !concerned(z.zone) {
			continue
		}
		// Not by the version that was read: a session may begin at this moment, and both are right.
		if err := s.raiseWanted(ctx, z.zone, c.Cursor.Revision); err != nil {
			return err
		}
	}
	return nil
}

// raiseWanted leaves the status of a zone that was removed meanwhile removed.
func (s *Server) raiseWanted(ctx context.Context, zone string, to mesh.Revision) error {
	_, err := update(ctx, s.cfg.Store, BucketZones, zone, func(z *mesh.ZoneStatus, found bool) error {
		if !found {
			return errGone
		}
		z.Wanted = max(z.Wanted, to)
		return nil
	})
	if errors.Is(err, errGone) {
		return nil
	}
	return err
}

var errGone = errors.New("the zone was removed")
