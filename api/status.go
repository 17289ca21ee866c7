package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Buckets of statuses (package mesh, status.go).
const (
	bucketZones     = "zones"
	bucketStatus    = "status/"    // + zone
	bucketRevisions = "revisions/" // + zone
)

// concerns reports whether a query selects a resource, labels aside.
func concerns(r mesh.Resource, q store.Query) bool {
	return (q.Origin == "" || r.Origin == q.Origin) && (q.Kind == "" || r.Kind == q.Kind) &&
		(q.Namespace == "" || r.Namespace == q.Namespace) && (q.Contains == "" || strings.Contains(r.Name, q.Contains))
}

func hasLabels(r mesh.Resource, labels map[string]string) bool {
	for k, v := range labels {
		if have, ok := r.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// zones names the zones that this control plane knows: all at global, itself at a zone.
func (s *server) zones(ctx context.Context) ([]string, error) {
	if s.cfg.Mode == ModeZone {
		return []string{s.cfg.ZoneName}, nil
	}
	out := []string{}
	q := store.Query{Origin: mesh.OriginGlobal, Kind: mesh.KindZone, Limit: 1000}
	for {
		page, err := s.cfg.Store.List(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Items {
			out = append(out, r.Name)
		}
		if q.Continue = page.Continue; q.Continue == "" {
			return out, nil
		}
	}
}

// scope is which of the zones a resource is for.
func scope(r mesh.Resource, zones []string) []string {
	var out []string
	for _, z := range zones {
		if r.Origin == mesh.OriginGlobal && r.InScope(z) || r.Origin == mesh.Origin(z) {
			out = append(out, z)
		}
	}
	return out
}

// withStatus composes the statuses of a page: one read per zone and prefix, not per resource.
func (s *server) withStatus(ctx context.Context, items []mesh.Resource) ([]client.Object, error) {
	out := make([]client.Object, 0, len(items))
	zones, err := s.zones(ctx)
	if err != nil || len(items) == 0 {
		return out, err
	}
	words, err := s.words(ctx, items, zones)
	if err != nil {
		return nil, err
	}
	for _, r := range items {
		o := toObject(r)
		var status any
		if r.Kind == mesh.KindZone {
			if status, err = s.zoneStatus(ctx, r); err != nil {
				return nil, err
			}
		} else {
			status = composed(r, scope(r, zones), words[r.Key])
		}
		if o.Status, err = json.Marshal(status); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// words are what each zone says of each resource.
func (s *server) words(ctx context.Context, items []mesh.Resource, zones []string) (map[mesh.Key]map[string]mesh.ResourceStatus, error) {
	out := map[mesh.Key]map[string]mesh.ResourceStatus{}
	prefixes := map[string]bool{}
	for _, r := range items {
		out[r.Key] = map[string]mesh.ResourceStatus{}
		prefix := string(r.Origin) + "/" + string(r.Kind) + "/"
		if len(items) == 1 {
			prefix = r.Key.String()
		}
		prefixes[prefix] = true
	}
	for _, z := range zones {
		for p := range prefixes {
			list, _, err := s.cfg.Store.ListRecords(ctx, bucketStatus+z, p)
			if err != nil {
				return nil, err
			}
			for _, rec := range list {
				k, err := mesh.ParseKey(rec.Key)
				if err != nil || out[k] == nil {
					continue
				}
				var rs mesh.ResourceStatus
				if err := json.Unmarshal(rec.Value, &rs); err != nil {
					return nil, fmt.Errorf("status of %s in %s: %w", rec.Key, z, err)
				}
				rs.Zone = z
				out[k][z] = rs
			}
		}
	}
	return out, nil
}

// composed makes one status of what the zones in scope say. A zone that says nothing is pending.
func composed(r mesh.Resource, zones []string, words map[string]mesh.ResourceStatus) client.ResourceObjectStatus {
	out := client.ResourceObjectStatus{}
	accepted, programmed := 0, 0
	var rejected *mesh.ResourceStatus
	var newest time.Time
	for _, z := range zones {
		w, ok := words[z]
		if !ok {
			w = mesh.ResourceStatus{Zone: z, Wanted: r.Changed, State: mesh.StatePending}
		}
		w.Wanted = max(w.Wanted, r.Changed)
		if w.Applied < r.Changed && w.State == mesh.StateApplied {
			// It speaks of an older edit.
			w.State, w.Acked = mesh.StatePending, 0
		}
		out.Zones = append(out.Zones, w)
		out.Acked, out.Total = out.Acked+w.Acked, out.Total+w.Total
		switch w.State {
		case mesh.StateRejected:
			rejected = &w
		case mesh.StateApplied, mesh.StateUnknown:
			accepted++
			if w.Acked >= w.Total {
				programmed++
			}
		case mesh.StatePending:
		}
		if w.ObservedAt.After(newest) {
			newest = w.ObservedAt
		}
	}
	condition := func(name string, n int) client.Condition {
		c := client.Condition{Type: name, Status: "True", Reason: name, LastTransitionTime: newest, Message: fmt.Sprintf("%d of %d zones", n, len(zones))}
		switch {
		case rejected != nil:
			c.Status, c.Reason, c.Message = "False", "Rejected", "zone "+rejected.Zone+": "+why(*rejected)
		case n < len(zones) && name == "Programmed":
			c.Status, c.Reason = "False", "Pending"
			c.Message = fmt.Sprintf("%d of %d zones, %d of %d proxies", n, len(zones), out.Acked, out.Total)
		case n < len(zones):
			c.Status, c.Reason = "Unknown", "Pending"
		case len(zones) == 0:
			c.Reason, c.Message = "NoZone", "no zone is in its scope"
		}
		return c
	}
	out.Conditions = []client.Condition{condition("Accepted", accepted), condition("Programmed", programmed)}
	return out
}

// why is the most telling word of a refusal.
func why(w mesh.ResourceStatus) string {
	if w.Message == "" && len(w.Rejections) > 0 {
		return w.Rejections[0].Proxy + " refused " + w.Rejections[0].Resource + ": " + w.Rejections[0].Error
	}
	return w.Message
}

// zoneStatus composes the status of a Zone.
func (s *server) zoneStatus(ctx context.Context, r mesh.Resource) (client.ZoneObjectStatus, error) {
	var out client.ZoneObjectStatus
	zs, at, err := s.zoneWord(ctx, r.Name)
	if err != nil {
		return out, err
	}
	out.ZoneStatus = zs
	condition := func(name string, is bool, otherwise, message string) client.Condition {
		c := client.Condition{Type: name, Status: "True", Reason: name, LastTransitionTime: at}
		if !is {
			c.Status, c.Reason, c.Message = "False", otherwise, message
		}
		return c
	}
	out.Conditions = []client.Condition{
		condition("Joined", zs.Joined, "NotJoined", "no zone control plane has joined under this name"),
		condition("Connected", zs.Connected, "Offline", zs.Message),
		condition("Synced", zs.Joined && zs.Acked >= zs.Wanted, "Behind", fmt.Sprintf("applied %d of %d", zs.Acked, zs.Wanted)),
	}
	return out, nil
}

// zoneWord reads a zone's record; a zone that never joined has the zero status.
func (s *server) zoneWord(ctx context.Context, zone string) (mesh.ZoneStatus, time.Time, error) {
	var zs mesh.ZoneStatus
	rec, err := s.cfg.Store.GetRecord(ctx, bucketZones, zone)
	if errors.Is(err, store.ErrNotFound) {
		return zs, time.Time{}, nil
	}
	if err != nil {
		return zs, time.Time{}, err
	}
	if err := json.Unmarshal(rec.Value, &zs); err != nil {
		return zs, time.Time{}, fmt.Errorf("status of zone %s: %w", zone, err)
	}
	return zs, rec.UpdatedAt, nil
}

// progress streams how far a revision has come: an event "progress" at the start and after every
// change, the last one with done set.
func (s *server) progress(ctx context.Context, revision mesh.Revision) (*huma.StreamResponse, error) {
	head, err := s.cfg.Store.Head(ctx)
	if err != nil {
		return nil, err
	}
	if revision == 0 || revision > head.Revision {
		return nil, fail(http.StatusNotFound, CodeNotFound, "", "there is no revision %d; the newest is %d", revision, head.Revision)
	}
	w, err := s.cfg.Store.Watch(ctx, mesh.Cursor{Incarnation: head.Incarnation, Revision: revision - 1})
	if err != nil {
		return nil, err
	}
	commit, err := w.Next(ctx)
	w.Close()
	if err != nil {
		return nil, err
	}
	zones, err := s.zones(ctx)
	if err != nil {
		return nil, err
	}
	return s.stream(func(ctx context.Context, e *events) error { return s.sendProgress(ctx, e, commit, zones) })
}

func (s *server) sendProgress(ctx context.Context, e *events, commit store.Commit, zones []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	revisions := s.cfg.Store.WatchRecords(ctx, bucketRevisions)
	statuses := s.cfg.Store.WatchRecords(ctx, bucketStatus)
	sessions := s.cfg.Store.WatchRecords(ctx, bucketZones)
	idle := time.NewTicker(keepAlive)
	defer idle.Stop()
	last := ""
	done := map[string]client.ZoneProgress{}
	for {
		var open bool
		select {
		case _, open = <-revisions:
		case _, open = <-statuses:
		case _, open = <-sessions:
		case <-idle.C:
			if err := e.alive(); err != nil {
				return err
			}
			continue
		}
		if !open {
			if ctx.Err() != nil {
				return nil
			}
			return store.ErrClosed
		}
		p, err := s.measure(ctx, commit, zones, done)
		if err != nil {
			return err
		}
		text, err := json.Marshal(p)
		if err != nil {
			return err
		}
		if string(text) == last {
			continue
		}
		last = string(text)
		if err := e.send("progress", "", p); err != nil || p.Done {
			return err
		}
	}
}

// measure looks how far a commit has come in every zone that it concerns. A zone where it has come all the
// way is not looked at again, and is noted in done.
func (s *server) measure(ctx context.Context, commit store.Commit, zones []string, done map[string]client.ZoneProgress) (client.Progress, error) {
	out := client.Progress{Revision: commit.Cursor.Revision, Done: true, Zones: []client.ZoneProgress{}}
	for _, z := range zones {
		zp, known := done[z]
		if !known {
			concerned, err := s.measureZone(ctx, commit, z, &zp)
			if err != nil {
				return out, err
			}
			if !concerned {
				continue
			}
			if zp.Done && zp.State == string(mesh.StateApplied) {
				done[z] = zp
			}
		}
		out.Done = out.Done && zp.Done
		out.Acked, out.Total = out.Acked+zp.Acked, out.Total+zp.Total
		out.Zones = append(out.Zones, zp)
	}
	return out, nil
}

// stateOffline is of a zone that can't be waited for; it may come back at any time.
const stateOffline = "Offline"

// source names a revision of the store where resources were made.
type source struct {
	origin   mesh.Origin
	revision mesh.Revision
}

// measureZone looks how far a commit is in one zone. What the zone says of the revision as a whole is
// exact. Where it says nothing, or not of all the changes, their resources tell whether it is done: a newer
// revision overtook this one on the way, or it is so old that the zone has forgotten.
func (s *server) measureZone(ctx context.Context, commit store.Commit, zone string, zp *client.ZoneProgress) (concerned bool, err error) {
	*zp = client.ZoneProgress{Zone: zone, State: string(mesh.StateApplied), Done: true}
	parts := map[source][]store.Change{} // one, but for copies that arrived together
	for _, ch := range commit.Changes {
		if len(scope(ch.Resource, []string{zone})) > 0 {
			from := source{ch.Resource.Origin, ch.Resource.Changed}
			parts[from] = append(parts[from], ch)
			concerned = true
		}
	}
	for from, changes := range parts {
		if err := s.measurePart(ctx, zp, from, commit.At, changes); err != nil {
			return false, err
		}
	}
	if !concerned || zp.Done || s.cfg.Mode != ModeGlobal {
		return concerned, nil
	}
	zs, _, err := s.zoneWord(ctx, zone)
	if err == nil && !zs.Connected {
		zp.State, zp.Done = stateOffline, true
		zp.Message = "not connected; it will get the change when it is back"
	}
	return true, err
}

// measurePart adds a revision's changes to a zone's progress.
func (s *server) measurePart(ctx context.Context, zp *client.ZoneProgress, from source, at time.Time, changes []store.Change) error {
	word, found, err := s.revisionWord(ctx, zp.Zone, from, at)
	if err != nil {
		return err
	}
	if !found || word.Changes < len(changes) {
		most := mesh.ResourceStatus{}
		for _, ch := range changes {
			if err := s.measureOne(ctx, zp, ch, &most); err != nil {
				return err
			}
		}
		if !found {
			zp.Acked, zp.Total = zp.Acked+most.Acked, zp.Total+most.Total
			return nil
		}
	}
	zp.Acked, zp.Total = zp.Acked+word.Acked, zp.Total+word.Total
	if word.State == mesh.StateRejected {
		zp.State, zp.Message = string(word.State), why(mesh.ResourceStatus{Message: word.Message, Rejections: word.Rejections})
		zp.Rejections = append(zp.Rejections, word.Rejections...)
	}
	if !word.Done {
		behind(zp)
	}
	return nil
}

// behind notes that a zone is not done.
func behind(zp *client.ZoneProgress) {
	zp.Done = false
	if zp.State != string(mesh.StateRejected) {
		zp.State = string(mesh.StatePending)
	}
}

// revisionWord reads what a zone says of a revision that was committed here at the time. What was written
// before that is of an earlier life of the origin, with the same number.
func (s *server) revisionWord(ctx context.Context, zone string, from source, at time.Time) (mesh.RevisionStatus, bool, error) {
	var word mesh.RevisionStatus
	rec, err := s.cfg.Store.GetRecord(ctx, bucketRevisions+zone, mesh.RevisionSlot(from.origin, from.revision))
	if errors.Is(err, store.ErrNotFound) {
		return word, false, nil
	}
	if err != nil {
		return word, false, err
	}
	if err := json.Unmarshal(rec.Value, &word); err != nil {
		return word, false, fmt.Errorf("revision %d in %s: %w", from.revision, zone, err)
	}
	return word, word.Origin == from.origin && word.Revision == from.revision && !rec.UpdatedAt.Before(at), nil
}

// measureOne adds what one resource's own status says of its change to a zone's progress. Its counts are of
// the resource as it is now; most is the largest of several.
func (s *server) measureOne(ctx context.Context, zp *client.ZoneProgress, ch store.Change, most *mesh.ResourceStatus) error {
	var w mesh.ResourceStatus
	rec, err := s.cfg.Store.GetRecord(ctx, bucketStatus+zp.Zone, ch.Resource.Key.String())
	switch {
	case errors.Is(err, store.ErrNotFound):
		// A zone forgets the status of what it deleted; that and its ack are all there is to see.
		if ch.Deleted && s.cfg.Mode == ModeGlobal {
			zs, _, err := s.zoneWord(ctx, zp.Zone)
			if err != nil || zs.Acked >= ch.Resource.Changed {
				return err
			}
		}
		if !ch.Deleted || s.cfg.Mode == ModeGlobal {
			behind(zp)
		}
		return nil
	case err != nil:
		return err
	}
	if err := json.Unmarshal(rec.Value, &w); err != nil {
		return fmt.Errorf("status of %s in %s: %w", rec.Key, zp.Zone, err)
	}
	wanted := ch.Resource.Changed
	switch {
	case w.State == mesh.StateRejected && w.Wanted >= wanted:
		zp.State, zp.Message, zp.Rejections = string(w.State), why(w), append(zp.Rejections, w.Rejections...)
	case w.Applied < wanted:
		behind(zp)
		return nil
	case w.Acked < w.Total:
		behind(zp)
	}
	if w.Total > most.Total {
		*most = w
	}
	return nil
}
