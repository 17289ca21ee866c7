package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

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
	return s.stream(ctx, func(ctx context.Context, e *events) error {
		f := s.followed(commit, zones)
		return f.send(ctx, e)
	})
}

// followed is a commit on its way to the zones that it concerns. A zone is looked at when it has said something since
// it was looked at last: of many zones, each says a few words, and everybody waits for all of them.
type followed struct {
	server *server
	commit store.Commit
	zones  []string                   // in the order of the answer
	parts  map[string][]part          // by zone
	lines  map[string]mesh.ZoneStatus // global's word about each zone, nil before it was read; empty at a zone
	seen   map[string]client.ZoneProgress
}

// part is what came of one revision of the store where it was made: one for each commit, but for copies that
// arrived together.
type part struct {
	origin   mesh.Origin
	revision mesh.Revision
	changes  []store.Change
}

func (s *server) followed(commit store.Commit, zones []string) *followed {
	f := &followed{server: s, commit: commit, parts: map[string][]part{}, seen: map[string]client.ZoneProgress{}}
	for _, z := range zones {
		for _, ch := range commit.Changes {
			if isFor(ch.Resource, z) {
				f.parts[z] = with(f.parts[z], ch)
			}
		}
		if len(f.parts[z]) > 0 {
			f.zones = append(f.zones, z)
		}
	}
	return f
}

func with(parts []part, ch store.Change) []part {
	for i, p := range parts {
		if p.origin == ch.Resource.Origin && p.revision == ch.Resource.Changed {
			parts[i].changes = append(p.changes, ch)
			return parts
		}
	}
	return append(parts, part{ch.Resource.Origin, ch.Resource.Changed, []store.Change{ch}})
}

// linesEvery bounds how often global's words about the zones are read: they change several times for each
// commit, and only that a zone has gone or come matters here.
const linesEvery = 50 * time.Millisecond

// send tells of every step until the commit is everywhere.
func (f *followed) send(ctx context.Context, e *events) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n := f.listen(ctx)
	n.wake()
	lines := f.server.cfg.Store.WatchRecords(ctx, bucketZones)
	if err := f.readLines(ctx); err != nil {
		return err
	}
	again := time.NewTimer(linesEvery) // until then the lines are not heard
	defer again.Stop()
	var heard <-chan struct{}
	idle := time.NewTicker(keepAlive)
	defer idle.Stop()
	var last []byte
	for {
		before := f.lines
		select {
		case <-n.signal:
		case <-n.ended:
			if ctx.Err() != nil {
				return nil
			}
			return store.ErrClosed
		case <-heard: // closed: so are the others, and n.ended says it
			heard = nil
			again.Reset(linesEvery)
			if err := f.readLines(ctx); err != nil {
				return err
			}
		case <-again.C:
			heard = lines
			continue
		case <-idle.C:
			if err := e.alive(); err != nil {
				return err
			}
			continue
		}
		p, err := f.look(ctx, n.take(), before)
		if err != nil {
			return err
		}
		text, err := json.Marshal(p)
		if err != nil {
			return err
		}
		if bytes.Equal(text, last) {
			continue
		}
		last = text
		if err := e.sendText("progress", "", text); err != nil || p.Done {
			return err
		}
	}
}

// news are the zones that have said something.
type news struct {
	signal chan struct{} // capacity 1
	ended  chan struct{} // closed when nothing more is heard

	mu    sync.Mutex
	zones map[string]struct{}
}

// listen hears of every zone what it says of revisions and of resources, until ctx ends.
func (f *followed) listen(ctx context.Context) *news {
	n := &news{signal: make(chan struct{}, 1), ended: make(chan struct{}), zones: map[string]struct{}{}}
	end := sync.OnceFunc(func() { close(n.ended) })
	for _, z := range f.zones {
		for _, bucket := range []string{bucketRevisions + z, bucketStatus + z} {
			heard := f.server.cfg.Store.WatchRecords(ctx, bucket)
			<-heard // the signal that there is at the start: the first look comes later, and is at all zones
			go func() {
				for range heard {
					n.add(z)
				}
				end()
			}()
		}
	}
	return n
}

func (n *news) add(zone string) {
	n.mu.Lock()
	n.zones[zone] = struct{}{}
	n.mu.Unlock()
	n.wake()
}

func (n *news) wake() {
	select {
	case n.signal <- struct{}{}:
	default:
	}
}

func (n *news) take() map[string]struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.zones
	n.zones = map[string]struct{}{}
	return out
}

// look finds out how far the commit has come, asking the zones of which there is news, or of which global's word is
// another than before.
func (f *followed) look(ctx context.Context, news map[string]struct{}, before map[string]mesh.ZoneStatus) (client.Progress, error) {
	out := client.Progress{Revision: f.commit.Cursor.Revision, Done: true, Zones: []client.ZoneProgress{}}
	for _, z := range f.zones {
		zp, known := f.seen[z]
		_, told := news[z]
		was, is := before[z], f.lines[z]
		if done := known && zp.Done && zp.State == string(mesh.StateApplied); !done && (!known || told || was.Connected != is.Connected || was.Acked != is.Acked) {
			if err := f.measure(ctx, z, &zp); err != nil {
				return out, err
			}
			f.seen[z] = zp
		}
		out.Done = out.Done && zp.Done
		out.Acked, out.Total = out.Acked+zp.Acked, out.Total+zp.Total
		out.Zones = append(out.Zones, zp)
	}
	return out, nil
}

// readLines reads global's word about all zones at once.
func (f *followed) readLines(ctx context.Context) error {
	f.lines = map[string]mesh.ZoneStatus{}
	if f.server.cfg.Mode != ModeGlobal {
		return nil
	}
	list, _, err := f.server.cfg.Store.ListRecords(ctx, bucketZones, "")
	if err != nil {
		return err
	}
	for _, r := range list {
		var zs mesh.ZoneStatus
		if err := json.Unmarshal(r.Value, &zs); err != nil {
			return fmt.Errorf("status of zone %s: %w", r.Key, err)
		}
		f.lines[r.Key] = zs
	}
	return nil
}

// stateOffline is of a zone that can't be waited for; it may come back at any time.
const stateOffline = "Offline"

// measure looks how far the commit is in one zone. What the zone says of the revision as a whole is
// exact. Where it says nothing, or not of all the changes, their resources tell whether it is done: a newer
// revision overtook this one on the way, or it is so old that the zone has forgotten.
func (f *followed) measure(ctx context.Context, zone string, zp *client.ZoneProgress) error {
	*zp = client.ZoneProgress{Zone: zone, State: string(mesh.StateApplied), Done: true}
	for _, p := range f.parts[zone] {
		if err := f.measurePart(ctx, zp, p); err != nil {
			return err
		}
	}
	if !zp.Done && f.server.cfg.Mode == ModeGlobal && !f.lines[zone].Connected {
		zp.State, zp.Done = stateOffline, true
		zp.Message = "not connected; it will get the change when it is back"
	}
	return nil
}

// measurePart adds a revision's changes to a zone's progress.
func (f *followed) measurePart(ctx context.Context, zp *client.ZoneProgress, p part) error {
	word, found, err := f.revisionWord(ctx, zp.Zone, p)
	if err != nil {
		return err
	}
	if !found || word.Changes < len(p.changes) {
		most := mesh.ResourceStatus{}
		for _, ch := range p.changes {
			if err := f.measureOne(ctx, zp, ch, &most); err != nil {
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

// revisionWord reads what a zone says of a revision. What was written before the commit is of an earlier life of the
// origin, with the same number.
func (f *followed) revisionWord(ctx context.Context, zone string, p part) (mesh.RevisionStatus, bool, error) {
	var word mesh.RevisionStatus
	rec, err := f.server.cfg.Store.GetRecord(ctx, bucketRevisions+zone, mesh.RevisionSlot(p.origin, p.revision))
	if errors.Is(err, store.ErrNotFound) {
		return word, false, nil
	}
	if err != nil {
		return word, false, err
	}
	if err := json.Unmarshal(rec.Value, &word); err != nil {
		return word, false, fmt.Errorf("revision %d in %s: %w", p.revision, zone, err)
	}
	return word, word.Origin == p.origin && word.Revision == p.revision && !rec.UpdatedAt.Before(f.commit.At), nil
}

// measureOne adds what one resource's own status says of its change to a zone's progress. Its counts are of
// the resource as it is now; most is the largest of several.
func (f *followed) measureOne(ctx context.Context, zp *client.ZoneProgress, ch store.Change, most *mesh.ResourceStatus) error {
	var w mesh.ResourceStatus
	rec, err := f.server.cfg.Store.GetRecord(ctx, bucketStatus+zp.Zone, ch.Resource.Key.String())
	switch {
	case errors.Is(err, store.ErrNotFound):
		// A zone forgets the status of what it deleted; that and its ack are all there is to see.
		atGlobal := f.server.cfg.Mode == ModeGlobal
		if atGlobal && !(ch.Deleted && f.lines[zp.Zone].Acked >= ch.Resource.Changed) || !atGlobal && !ch.Deleted {
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
