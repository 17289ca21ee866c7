package peering

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/zone-cp/internal/imports"
)

func linkBucket(zone string) string { return federation.BucketLinks + "/" + zone }

const (
	// statusEvery bounds how often what is not urgent is written.
	statusEvery = time.Second
	// statusRetry is how soon a failed write is tried again.
	statusRetry = time.Second
)

// Links is the state of the way to every other zone, sorted by its name.
func (h *Hub) Links() []mesh.LinkStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]mesh.LinkStatus, 0, len(h.statuses))
	for _, zone := range slices.Sorted(maps.Keys(h.statuses)) {
		out = append(out, h.statuses[zone])
	}
	return out
}

// keepStatus writes statuses that changed, to the zone's store and for global, until ctx ends: at once when a zone
// became reachable or unreachable, else at most every second.
func (h *Hub) keepStatus(ctx context.Context) {
	kept := map[name]bool{} // on disk
	h.mu.Lock()
	for n := range h.words {
		kept[n] = true
	}
	h.mu.Unlock()
	unsaved := map[string]bool{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.dirty:
		case <-timer.C:
		}
		now := time.Now()
		next := h.expire(now)
		h.mu.Lock()
		urgent := h.urgent
		h.urgent = false
		h.mu.Unlock()
		if due := last.Add(statusEvery); !urgent && now.Before(due) {
			timer.Reset(due.Sub(now))
			continue
		}
		last = now
		for zone := range h.refresh(now) {
			unsaved[zone] = true
		}
		if err := h.save(ctx, unsaved, kept); err != nil && ctx.Err() == nil {
			h.cfg.Log.ErrorContext(ctx, "the state of links could not be written to the store", "error", err)
			next = now.Add(statusRetry)
		}
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// refresh makes the statuses anew and returns the zones whose changed.
func (h *Hub) refresh(now time.Time) map[string]bool {
	heard := h.heard()
	h.mu.Lock()
	defer h.mu.Unlock()
	changed := map[string]bool{}
	if !h.informed {
		return changed
	}
	connected := h.cfg.Connected()
	for zone, k := range h.zones {
		old, had := h.statuses[zone]
		s := h.linkStatus(zone, k, old, heard[zone], connected, now)
		s.ObservedAt = old.ObservedAt
		if had && s == old {
			continue
		}
		s.ObservedAt = now.UTC()
		h.statuses[zone] = s
		changed[zone] = true
	}
	for zone := range h.statuses {
		if _, still := h.zones[zone]; !still {
			delete(h.statuses, zone)
			changed[zone] = true
		}
	}
	return changed
}

// heard is when the other zones were last heard of. The book may be writing to a slow store: what h.mu guards, as
// reports of what can be reached, must not wait for that.
func (h *Hub) heard() map[string]imports.Heard {
	h.mu.Lock()
	zones := slices.Collect(maps.Keys(h.zones))
	h.mu.Unlock()
	out := make(map[string]imports.Heard, len(zones))
	for _, zone := range zones {
		out[zone] = h.cfg.Book.Heard(zone)
	}
	return out
}

// linkStatus is how the zone stands to another. h.mu is held.
func (h *Hub) linkStatus(zone string, k known, old mesh.LinkStatus, heard imports.Heard, connected bool, now time.Time) mesh.LinkStatus {
	s := mesh.LinkStatus{Zone: h.cfg.Zone, To: zone, Reachable: true, Since: old.Since, HeardAt: old.HeardAt, HeardBy: old.HeardBy}
	reachable := false
	for _, in := range k.ingresses {
		probed, unreachable := h.verdict(name{zone, in}, now)
		s.Probed = s.Probed || probed
		reachable = reachable || !unreachable
	}
	s.Reachable = reachable || !s.Probed
	if s.Since.IsZero() || s.Reachable != old.Reachable {
		s.Since = now.UTC()
	}
	var rtt uint32
	for a := range h.agents {
		for _, l := range a.links.GetLinks() {
			if l.GetZone() != zone {
				continue
			}
			if us := l.GetRttUs(); us > 0 && l.GetState() == enrolpb.PeerLink_REACHABLE && (rtt == 0 || us < rtt) {
				rtt = us
			}
			if ms := l.GetClockAheadMs(); ms != 0 && s.Reachable {
				s.Reason = fmt.Sprintf("its clock differs from ours by %s; certificates and statements bear 5m", (time.Duration(ms) * time.Millisecond).Round(time.Second))
			}
			if l.GetState() == enrolpb.PeerLink_UNREACHABLE && !s.Reachable {
				s.Reason = l.GetReason()
			}
			if h.asks[zone] == (route{a, l.GetSession()}) && l.GetAttended() {
				s.Current = true
			}
		}
	}
	if !s.Reachable && s.Reason == "" {
		s.Reason = "no answer, when it was last asked"
	}
	s.RTTMillis = math.Round(float64(rtt)/10) / 100
	if heard.At.After(s.HeardAt) {
		s.HeardAt, s.HeardBy = heard.At.UTC(), string(heard.By)
	}
	if old.Current && !s.Current {
		s.HeardAt, s.HeardBy = now.UTC(), string("peer") // until now what is held was its newest word
	}
	if !connected {
		s.TrustUntil = h.cfg.TrustUntil(h.trust, now).UTC()
		if s.TrustUntil.Sub(old.TrustUntil).Abs() < time.Second {
			s.TrustUntil = old.TrustUntil
		}
	}
	return s
}

// save writes the statuses of the zones in unsaved and takes them out, and what can't be reached.
func (h *Hub) save(ctx context.Context, unsaved map[string]bool, kept map[name]bool) error {
	if err := h.saveVerdicts(ctx, kept); err != nil {
		return err
	}
	var writes []store.RecordWrite
	h.mu.Lock()
	for zone := range unsaved {
		s, ok := h.statuses[zone]
		if !ok {
			writes = append(writes, store.RecordWrite{Key: zone, Delete: true})
			h.cfg.Statuses.Set(federation.BucketLinks, zone, nil)
			continue
		}
		value, err := json.Marshal(s)
		if err != nil {
			h.mu.Unlock()
			return err
		}
		writes = append(writes, store.RecordWrite{Key: zone, Value: value})
		h.cfg.Statuses.Set(federation.BucketLinks, zone, value)
	}
	h.mu.Unlock()
	if len(writes) == 0 {
		return nil
	}
	if _, err := h.cfg.Records.PutRecords(ctx, linkBucket(h.cfg.Zone), writes...); err != nil {
		return err
	}
	clear(unsaved)
	return nil
}
