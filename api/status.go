package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

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

// isFor reports whether a resource is for a zone.
func isFor(r mesh.Resource, zone string) bool {
	return r.Origin == mesh.OriginGlobal && r.InScope(zone) || r.Origin == mesh.Origin(zone)
}

// withStatus composes the statuses of a page: one read per zone and prefix, not per resource.
func (s *server) withStatus(ctx context.Context, items []mesh.Resource) ([]client.Object, error) {
	out := make([]client.Object, 0, len(items))
	zones, err := s.heardZones(ctx)
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
			status = composed(r, zones, words[r.Key])
		}
		if o.Status, err = json.Marshal(status); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// words are what each zone says of each resource.
func (s *server) words(ctx context.Context, items []mesh.Resource, zones []heardZone) (map[mesh.Key]map[string]mesh.ResourceStatus, error) {
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
			list, _, err := s.cfg.Store.ListRecords(ctx, bucketStatus+z.name, p)
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
					return nil, fmt.Errorf("status of %s in %s: %w", rec.Key, z.name, err)
				}
				rs.Zone = z.name
				out[k][z.name] = rs
			}
		}
	}
	return out, nil
}

// composed makes one status of what the zones in scope say. A zone that says nothing is pending. One that is not heard is shown with its last
// word and not counted as in force; one that is no member (it never joined, or is revoked) is not waited for either.
func composed(r mesh.Resource, zones []heardZone, words map[string]mesh.ResourceStatus) client.ResourceObjectStatus {
	out := client.ResourceObjectStatus{}
	members, accepted, programmed := 0, 0, 0
	var away []heardZone
	var rejected *mesh.ResourceStatus
	var newest time.Time
	for _, z := range zones {
		if !isFor(r, z.name) {
			continue
		}
		w, ok := words[z.name]
		if !ok {
			w = mesh.ResourceStatus{Zone: z.name, Wanted: r.Changed, State: mesh.StatePending}
		}
		w.Wanted, w.Unheard = max(w.Wanted, r.Changed), z.unheard
		if w.Applied < r.Changed && w.State == mesh.StateApplied {
			// It speaks of an older edit.
			w.State, w.Acked = mesh.StatePending, 0
		}
		out.Zones = append(out.Zones, w)
		if w.ObservedAt.After(newest) {
			newest = w.ObservedAt
		}
		if z.unheard != nil {
			if z.unheard.Reason == mesh.UnheardAway {
				away = append(away, z)
			}
			continue
		}
		members++
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
	}
	all := members + len(away)
	condition := func(name string, n int) client.Condition {
		c := client.Condition{Type: name, Status: "True", Reason: name, LastTransitionTime: newest, Message: fmt.Sprintf("%d of %d zones", n, all)}
		switch {
		case rejected != nil:
			c.Status, c.Reason, c.Message = "False", "Rejected", "zone "+rejected.Zone+": "+why(*rejected)
		case n < members && name == "Programmed":
			c.Status, c.Reason = "False", "Pending"
			c.Message = fmt.Sprintf("%d of %d zones, %d of %d proxies", n, all, out.Acked, out.Total)
		case n < members:
			c.Status, c.Reason = "Unknown", "Pending"
		case len(away) > 0:
			c.Status, c.Reason = "Unknown", "ZoneNotHeard"
			c.Message = fmt.Sprintf("%d of %d zones; %s", n, all, notHeard(away))
		case all == 0:
			c.Reason, c.Message = "NoZone", "no zone in its scope is a member of the mesh"
		}
		return c
	}
	out.Conditions = []client.Condition{condition("Accepted", accepted), condition("Programmed", programmed)}
	for _, w := range out.Zones {
		if w.Unheard != nil {
			continue
		}
		for _, c := range w.Conditions {
			out.Conditions = noteCondition(out.Conditions, w.Zone, c, newest)
		}
	}
	return out
}

// notHeard says which zones are not heard, and of the first since when.
func notHeard(away []heardZone) string {
	s := "zone " + away[0].name + " is not connected"
	if since := away[0].unheard.Since; !since.IsZero() {
		s = "zone " + away[0].name + " was heard of last at " + since.UTC().Format(time.RFC3339)
	}
	if more := len(away) - 1; more > 0 {
		s += fmt.Sprintf(", and %d more %s not", more, plural(more, "is", "are"))
	}
	return s
}

// noteCondition adds a zone's word on a route: what is False in one zone is False.
func noteCondition(list []client.Condition, zone string, c mesh.Condition, at time.Time) []client.Condition {
	i := slices.IndexFunc(list, func(have client.Condition) bool { return have.Type == c.Type })
	if i < 0 {
		list, i = append(list, client.Condition{Type: c.Type, Status: c.Status, Reason: c.Reason, LastTransitionTime: at}), len(list)
		if c.Status == "False" {
			list[i].Message = "zone " + zone + ": " + c.Message
		}
		return list
	}
	if c.Status == "False" && list[i].Status != "False" {
		list[i].Status, list[i].Reason, list[i].Message = c.Status, c.Reason, "zone "+zone+": "+c.Message
	}
	return list
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
	word := client.ZoneOverview{Name: r.Name, Status: zs}
	_ = json.Unmarshal(r.Spec, &word.Spec) // as in overviewZones
	out.Unheard = unheard(s.cfg.Mode, word)
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
