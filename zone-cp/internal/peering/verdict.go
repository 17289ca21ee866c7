package peering

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/store"
	"github.com/comity-mesh/comity/xds/topology"
)

// wordHolds is how long the word of a prober that is gone counts where no other has one: it may have restarted, or its
// control plane has.
const wordHolds = 15 * time.Second

// Bucket of the records in which what can't be reached survives a restart, keyed by <zone>/<ingress>.
const Bucket = "unreachable"

// word is the last of a prober that is gone.
type word struct {
	reason string
	until  time.Time
}

// Fill says of each ingress whether it can be reached: it can't if somebody probes it and nobody finds it. That is the
// data path's evidence alone; a control path that is gone is none.
func (h *Hub) Fill(remotes []topology.Remote) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range remotes {
		for i := range r.Ingresses {
			_, r.Ingresses[i].Unreachable = h.verdict(name{r.Zone, r.Ingresses[i].ID}, time.Now())
		}
	}
}

// verdict is what the probers agree on: whether anybody has a word on the ingress, and whether all say that it can't
// be reached. h.mu is held.
func (h *Hub) verdict(n name, now time.Time) (probed, unreachable bool) {
	for a := range h.agents {
		for _, l := range a.links.GetLinks() {
			if l.GetZone() != n.zone || l.GetIngress() != n.ingress || l.GetState() == enrolpb.PeerLink_UNKNOWN {
				continue
			}
			if l.GetState() == enrolpb.PeerLink_REACHABLE {
				return true, false
			}
			probed, unreachable = true, true
		}
	}
	if w, ok := h.words[n]; ok && !probed && now.Before(w.until) {
		return true, true
	}
	return probed, unreachable
}

// unreachable lists what can't be reached now. h.mu is held.
func (h *Hub) unreachable() map[name]bool {
	out := map[name]bool{}
	now := time.Now()
	for n := range h.words {
		if _, un := h.verdict(n, now); un {
			out[n] = true
		}
	}
	for a := range h.agents {
		for _, l := range a.links.GetLinks() {
			n := name{l.GetZone(), l.GetIngress()}
			if l.GetState() == enrolpb.PeerLink_UNREACHABLE {
				if _, un := h.verdict(n, now); un {
					out[n] = true
				}
			}
		}
	}
	return out
}

// keepWords notes what an agent that goes found unreachable. h.mu is held.
func (h *Hub) keepWords(a *Agent) {
	until := time.Now().Add(wordHolds)
	for _, l := range a.links.GetLinks() {
		if l.GetState() == enrolpb.PeerLink_UNREACHABLE {
			h.words[name{l.GetZone(), l.GetIngress()}] = word{l.GetReason(), until}
		}
	}
}

// settle follows a change of what agents say: sessions that are gone, who is asked, and whether a verdict is another
// than before. h.mu is held.
func (h *Hub) settle(before map[name]bool) {
	h.dropSessions()
	h.choose()
	if !maps.Equal(before, h.unreachable()) {
		h.urgent = true
		signal(h.changed)
	}
	signal(h.dirty)
}

// expire drops words that no longer hold and returns when the next one ends; zero for none.
func (h *Hub) expire(now time.Time) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	var next time.Time
	for n, w := range h.words {
		switch {
		case !now.Before(w.until):
			delete(h.words, n)
			h.urgent = true
			signal(h.changed)
		case next.IsZero() || w.until.Before(next):
			next = w.until
		}
	}
	return next
}

// restoreVerdicts reads what could not be reached before the restart; it holds until a prober says otherwise, or
// for as long as the word of one that is gone.
func (h *Hub) restoreVerdicts(ctx context.Context) error {
	list, _, err := h.cfg.Records.ListRecords(ctx, Bucket, "")
	if err != nil {
		return fmt.Errorf("read what can't be reached: %w", err)
	}
	until := time.Now().Add(wordHolds)
	for _, r := range list {
		var v record
		if json.Unmarshal(r.Value, &v) == nil {
			h.words[name{v.Zone, v.Ingress}] = word{"as before the restart", until}
		}
	}
	return nil
}

type record struct {
	Zone    string `json:"zone"`
	Ingress string `json:"ingress"`
}

// saveVerdicts writes what became unreachable and what did so no more. kept is what is on disk already, and becomes
// what is then.
func (h *Hub) saveVerdicts(ctx context.Context, kept map[name]bool) error {
	h.mu.Lock()
	now := h.unreachable()
	h.mu.Unlock()
	var writes []store.RecordWrite
	for n := range now {
		if !kept[n] {
			value, err := json.Marshal(record{n.zone, n.ingress})
			if err != nil {
				return err
			}
			writes = append(writes, store.RecordWrite{Key: n.zone + "/" + n.ingress, Value: value})
		}
	}
	for n := range kept {
		if !now[n] {
			writes = append(writes, store.RecordWrite{Key: n.zone + "/" + n.ingress, Delete: true})
		}
	}
	if len(writes) == 0 {
		return nil
	}
	if _, err := h.cfg.Records.PutRecords(ctx, Bucket, writes...); err != nil {
		return fmt.Errorf("keep what can't be reached: %w", err)
	}
	clear(kept)
	maps.Copy(kept, now)
	return nil
}
