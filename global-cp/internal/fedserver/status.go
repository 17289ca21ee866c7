package fedserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// recordChunk is how many records one write takes.
const recordChunk = 1000

// inventory is a full report being received.
type inventory struct{ seen map[[2]string]struct{} }

func (x *session) loadProxies(ctx context.Context) error {
	recs, _, err := x.server.cfg.Store.ListRecords(ctx, BucketOf(federation.BucketProxies, x.zone), "")
	if err != nil {
		return fmt.Errorf("read the proxies of %s: %w", x.zone, err)
	}
	x.proxies = make(map[string]bool, len(recs))
	for _, r := range recs {
		var p mesh.ProxyStatus
		if json.Unmarshal(r.Value, &p) == nil {
			x.proxies[r.Key] = p.Connected
		}
	}
	return nil
}

// Status implements federation.Host: the zone's statuses, and later how far they are kept. A crash in between
// repeats the report, or all of them.
func (x *session) Status(ctx context.Context, r *federationpb.StatusReport) error {
	writes, refusals := map[string][]store.RecordWrite{}, map[string]error{} // by bucket
	if r.GetFull() && x.full == nil {
		x.full = &inventory{seen: map[[2]string]struct{}{}}
	}
	proxies := false
	for _, rec := range r.GetRecords() {
		bucket := rec.GetBucket()
		w, why, err := x.take(ctx, rec)
		if err != nil {
			return err
		}
		if refusals[bucket] == nil {
			refusals[bucket] = why
		}
		if why != nil {
			x.server.metrics.refusedStatuses.WithLabelValues(x.zone, bucket).Inc()
			continue
		}
		if x.full != nil {
			x.full.seen[[2]string{bucket, rec.GetKey()}] = struct{}{}
		}
		proxies = proxies || bucket == federation.BucketProxies
		of := BucketOf(bucket, x.zone)
		writes[of] = append(writes[of], w)
	}
	x.settleStatuses(ctx, refusals)
	if x.full != nil && !r.GetMore() {
		if err := x.endInventory(ctx, writes); err != nil {
			return err
		}
		proxies = true
	}
	// In the order of their names: how far a revision is must be seen before what it made of its resources.
	for _, bucket := range slices.Sorted(maps.Keys(writes)) {
		if err := x.put(ctx, bucket, writes[bucket]); err != nil {
			return err
		}
	}
	if proxies {
		x.showProxies()
	}
	if !r.GetMore() { // the position counts when the inventory is whole
		x.server.late.position(x.zone, statusPosition{r.GetEpoch(), r.GetSequence()})
	}
	return nil
}

func (x *session) put(ctx context.Context, bucket string, list []store.RecordWrite) error {
	for len(list) > 0 {
		n := min(len(list), recordChunk)
		if _, err := x.server.cfg.Store.PutRecords(ctx, bucket, list[:n]...); err != nil {
			return fmt.Errorf("keep statuses of %s: %w", x.zone, err)
		}
		list = list[n:]
	}
	return nil
}

// statusRecord reads one record and makes sure that it speaks of this zone only. What is refused is passed over:
// statuses are for display, and the next one may be well-formed.
func (x *session) statusRecord(rec *federationpb.StatusRecord) (w store.RecordWrite, refused error) {
	w.Key = rec.GetKey()
	if len(rec.GetValue()) == 0 {
		if rec.GetBucket() == federation.BucketProxies {
			delete(x.proxies, rec.GetKey())
		}
		w.Delete = true
		return w, nil
	}
	doc, refused := x.statusDocument(rec)
	if refused != nil {
		return w, refused
	}
	value, err := json.Marshal(doc)
	if err != nil {
		return w, errStatusShape
	}
	w.Value = value
	return w, nil
}

// statusDocument is a record's value as it is kept.
func (x *session) statusDocument(rec *federationpb.StatusRecord) (doc any, refused error) {
	switch rec.GetBucket() {
	case federation.BucketStatus:
		var v mesh.ResourceStatus
		k, err := mesh.ParseKey(rec.GetKey())
		if err != nil || json.Unmarshal(rec.GetValue(), &v) != nil {
			return nil, errStatusShape
		}
		if !moments(v.ObservedAt) {
			return nil, errStatusRange
		}
		v.Zone, v.Message, v.Rejections = x.zone, clipped(v.Message, maxError), clippedRejections(v.Rejections)
		x.judged(k, v.State)
		return v, nil
	case federation.BucketProxies:
		var v mesh.ProxyStatus
		if _, err := mesh.ParseProxyID(rec.GetKey()); err != nil || json.Unmarshal(rec.GetValue(), &v) != nil {
			return nil, errStatusShape
		}
		if !moments(v.Since, v.CertExpires, v.ObservedAt) {
			return nil, errStatusRange
		}
		v.Zone, v.LastError = x.zone, clipped(v.LastError, maxError)
		x.proxies[rec.GetKey()] = v.Connected
		return v, nil
	case federation.BucketRevisions:
		var v mesh.RevisionStatus
		if json.Unmarshal(rec.GetValue(), &v) != nil || rec.GetKey() != mesh.RevisionSlot(v.Origin, v.Revision) {
			return nil, errStatusShape
		}
		if !moments(v.ObservedAt) {
			return nil, errStatusRange
		}
		v.Zone, v.Message, v.Rejections = x.zone, clipped(v.Message, maxError), clippedRejections(v.Rejections)
		return v, nil
	case federation.BucketFailover:
		return x.readFailover(rec.GetKey(), rec.GetValue())
	case federation.BucketLinks:
		return x.readLink(rec.GetKey(), rec.GetValue())
	case federation.BucketTraffic:
		return x.readTraffic(rec.GetKey(), rec.GetValue())
	}
	if !json.Valid(rec.GetValue()) {
		return nil, errStatusShape
	}
	return json.RawMessage(rec.GetValue()), nil
}

// endInventory deletes what a full report did not name. A resource's status stays while the resource does:
// global's own word about it (applied, refused) may be all there is.
func (x *session) endInventory(ctx context.Context, writes map[string][]store.RecordWrite) error {
	seen := x.full.seen
	x.full = nil
	for _, kind := range federation.Buckets() {
		recs, _, err := x.server.cfg.Store.ListRecords(ctx, BucketOf(kind, x.zone), "")
		if err != nil {
			return fmt.Errorf("read statuses of %s: %w", x.zone, err)
		}
		for _, r := range recs {
			if _, ok := seen[[2]string{kind, r.Key}]; ok {
				continue
			}
			if kind == federation.BucketStatus && x.stillWanted(ctx, r.Key) {
				continue
			}
			if kind == federation.BucketProxies {
				delete(x.proxies, r.Key)
			}
			if held := x.shelves[kind]; held != nil {
				held.set(r.Key, 0)
			}
			bucket := BucketOf(kind, x.zone)
			writes[bucket] = append(writes[bucket], store.RecordWrite{Key: r.Key, Delete: true})
		}
	}
	return nil
}

func (x *session) stillWanted(ctx context.Context, key string) bool {
	k, err := mesh.ParseKey(key)
	if err != nil {
		return false
	}
	r, err := x.server.cfg.Store.Get(ctx, k)
	if errors.Is(err, store.ErrNotFound) {
		return false
	}
	return err != nil || r.InScope(x.zone)
}

func (x *session) showProxies() {
	connected := 0
	for _, c := range x.proxies {
		if c {
			connected++
		}
	}
	total := len(x.proxies)
	x.server.late.change(x.zone, func(z *mesh.ZoneStatus) { z.Proxies, z.ProxiesConnected = total, connected })
}

// acked notes how far the zone is. What an ack means for a resource the zone says itself, with its proxies
// counted; only a refusal that a newer edit has overtaken is taken back here.
func (x *session) acked(ctx context.Context, e federation.Acked) error {
	bucket := BucketOf(federation.BucketStatus, x.zone)
	var writes []store.RecordWrite
	deleted := false
	for _, it := range e.Items {
		deleted = deleted || it.Deleted
		if _, sound := x.sound[it.Key]; sound || it.Deleted {
			continue
		}
		v, _, found, err := getJSON[mesh.ResourceStatus](ctx, x.server.cfg.Store, bucket, it.Key.String())
		if err != nil {
			return err
		}
		x.judged(it.Key, v.State)
		if !found || v.Wanted >= it.Changed || !refusedAs(v.State) {
			continue
		}
		doc, err := json.Marshal(mesh.ResourceStatus{
			Zone: x.zone, Wanted: it.Changed, Applied: v.Applied, State: mesh.StatePending, ObservedAt: x.server.cfg.Now().UTC(),
		})
		if err != nil {
			return fmt.Errorf("status of %s: %w", it.Key, err)
		}
		writes = append(writes, store.RecordWrite{Key: it.Key.String(), Value: doc})
	}
	if err := x.put(ctx, bucket, writes); err != nil {
		return err
	}
	wanted, sent, now := mesh.Revision(x.wanted.Load()), x.sentBytes.Load(), x.server.cfg.Now().UTC()
	x.server.late.change(x.zone, func(z *mesh.ZoneStatus) {
		z.Wanted = max(wanted, z.Wanted)
		z.Acked, z.SentBytes, z.LastSeen = e.Cursor.Revision, sent, now
	})
	if deleted { // the ack is all that there may be to see of it
		return x.server.late.flushZone(ctx, x.zone)
	}
	return nil
}

// refusedAs reports whether a state is a refusal, which a newer edit may overtake.
func refusedAs(s mesh.ResourceState) bool { return s == mesh.StateRejected || s == mesh.StateUnknown }

// maxSound bounds what a session remembers of resources.
const maxSound = 4096

// judged notes how a resource does in the zone.
func (x *session) judged(k mesh.Key, s mesh.ResourceState) {
	if refusedAs(s) {
		delete(x.sound, k)
		return
	}
	if len(x.sound) >= maxSound {
		clear(x.sound)
	}
	x.sound[k] = struct{}{}
}

// refused notes that the zone did not take a resource; what it held before stays in force.
func (x *session) refused(ctx context.Context, n federation.Refusal) error {
	if !plainText(n.Key.String()) {
		x.settleStatuses(ctx, map[string]error{federation.BucketStatus: errStatusKey})
		return nil
	}
	x.judged(n.Key, mesh.StateRejected)
	x.server.metrics.nacks.WithLabelValues(x.zone, codeLabel(n.Code)).Inc()
	x.server.cfg.Log.WarnContext(ctx, "zone refused a resource", "zone", x.zone, "key", n.Key.String(), "revision", n.Revision, "code", codeLabel(n.Code), "reason", n.Reason)
	_, err := update(ctx, x.server.cfg.Store, BucketOf(federation.BucketStatus, x.zone), n.Key.String(), func(v *mesh.ResourceStatus, _ bool) error {
		v.Zone, v.Wanted, v.State, v.Message = x.zone, n.Revision, mesh.StateRejected, n.Code+": "+n.Reason
		if n.Code == federation.CodeUnknownKind {
			v.State, v.Applied = mesh.StateUnknown, n.Revision
		}
		v.ObservedAt = x.server.cfg.Now().UTC()
		return nil
	})
	return err
}

func codeLabel(code string) string {
	switch code {
	case federation.CodeUnknownKind, federation.CodeInvalid, federation.CodeNotAllowed, federation.CodeTooLarge:
		return code
	}
	return "other"
}
