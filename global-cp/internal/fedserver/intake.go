package fedserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// What a zone reports is shown to people and counted for drains, so what is kept of it has bounds: no number, text or
// list of one zone may make an overview that can't be sent, or one that nobody can read.
const (
	// maxAmount bounds rates, capacities and times in milliseconds: sums of so many are far from overflow.
	maxAmount = 1e9
	// maxWord bounds a name, maxReason one sentence for people, maxError what software says of itself, maxTargets the
	// zones of one service.
	maxWord    = 64
	maxReason  = 256
	maxError   = 1024
	maxTargets = 256
	// maxRejections is what mesh.ResourceStatus promises.
	maxRejections = 8
	// shareSlack is how far above 1 a share may be by rounding.
	shareSlack = 1e-6
)

// Why a status is refused; the reasons of the metric.
var (
	errStatusKey   = errors.New("a key is text without a NUL")
	errStatusShape = errors.New("it is not what its bucket holds")
	errStatusRange = errors.New("a number is negative or too large, or a time out of all bounds")
	errStatusFull  = errors.New("the zone reports more than global keeps")
)

// room is what one bucket of one zone may hold.
type room struct{ records, bytes int }

// roomOf is several times what the largest zone that Comity is made for reports.
func roomOf(bucket string) room {
	switch bucket {
	case federation.BucketStatus:
		return room{records: 100_000, bytes: 64 << 20}
	case federation.BucketProxies:
		return room{records: 20_000, bytes: 32 << 20}
	case federation.BucketTraffic:
		return room{records: 20_000, bytes: 8 << 20}
	case federation.BucketLinks:
		return room{records: 1000, bytes: 1 << 20}
	}
	return room{records: 5000, bytes: 8 << 20}
}

// shelf is how full one bucket of a zone is.
type shelf struct {
	sizes map[string]int // of each record, its key included
	bytes int
}

// shelf reads how full a bucket is at its first write in a session; later it is counted.
func (x *session) shelf(ctx context.Context, bucket string) (*shelf, error) {
	if s := x.shelves[bucket]; s != nil {
		return s, nil
	}
	recs, _, err := x.server.cfg.Store.ListRecords(ctx, BucketOf(bucket, x.zone), "")
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", bucket, x.zone, err)
	}
	s := &shelf{sizes: make(map[string]int, len(recs))}
	for _, r := range recs {
		s.set(r.Key, len(r.Key)+len(r.Value))
	}
	x.shelves[bucket] = s
	return s, nil
}

// set notes a record's size; 0 for none.
func (s *shelf) set(key string, size int) {
	s.bytes += size - s.sizes[key]
	if s.sizes[key] = size; size == 0 {
		delete(s.sizes, key)
	}
}

// fits reports whether a record finds room. What makes the bucket smaller always does.
func (s *shelf) fits(r room, key string, size int) bool {
	old, known := s.sizes[key]
	return (known || len(s.sizes) < r.records) && (size <= old || s.bytes+size-old <= r.bytes)
}

// take is what is kept of one reported record, or why nothing is. A failure of the store is not a refusal.
func (x *session) take(ctx context.Context, rec *federationpb.StatusRecord) (w store.RecordWrite, refused, err error) {
	if !plainText(rec.GetKey()) {
		return w, errStatusKey, nil
	}
	s, err := x.shelf(ctx, rec.GetBucket())
	if err != nil {
		return w, nil, err
	}
	w, refused = x.statusRecord(rec)
	if refused != nil {
		return w, refused, nil
	}
	if w.Delete {
		s.set(w.Key, 0)
		return w, nil, nil
	}
	size := len(w.Key) + len(w.Value)
	if !s.fits(roomOf(rec.GetBucket()), w.Key, size) {
		return w, errStatusFull, nil
	}
	s.set(w.Key, size)
	return w, nil, nil
}

// settleStatuses says what became of a report, by bucket: in the zone's message until a report of the bucket is taken
// whole, and in the log when the reason is a new one. It is for people: the zone goes on.
func (x *session) settleStatuses(ctx context.Context, refusals map[string]error) {
	for bucket, why := range refusals {
		what, reason := "status "+bucket, ""
		if why != nil {
			reason = why.Error()
		}
		if reason != "" && x.complaints[what] != reason {
			x.server.cfg.Log.WarnContext(ctx, "statuses refused", "zone", x.zone, "bucket", bucket, "reason", reason)
		}
		x.settle(what, reason)
	}
}

// plainText reports whether every store can keep a text.
func plainText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// clipped is a text of at most n bytes, cut between characters.
func clipped(s string, n int) string {
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}

// amounts reports whether all are numbers that can be added up: finite, from 0 to maxAmount.
func amounts(list ...float64) bool {
	for _, v := range list {
		if !(v >= 0 && v <= maxAmount) { // NaN too
			return false
		}
	}
	return true
}

// moments reports whether all are times that can be written in any time zone; none at all is one.
func moments(list ...time.Time) bool {
	for _, t := range list {
		if !t.IsZero() && (t.Year() < 1970 || t.Year() > 9000) {
			return false
		}
	}
	return true
}

func clippedRejections(list []mesh.Rejection) []mesh.Rejection {
	list = list[:min(len(list), maxRejections)]
	for i, r := range list {
		list[i] = mesh.Rejection{Proxy: clipped(r.Proxy, maxReason), Resource: clipped(r.Resource, maxReason), Error: clipped(r.Error, maxError)}
	}
	return list
}

// readFailover, readLink and readTraffic read a status of the zone under the key that it belongs to, and make sure that
// its numbers can be counted with.
func (x *session) readFailover(key string, value []byte) (v mesh.FailoverStatus, refused error) {
	if json.Unmarshal(value, &v) != nil || key != v.Namespace+"/"+v.Service || len(v.Targets) > maxTargets {
		return v, errStatusShape
	}
	if !moments(v.Since, v.ObservedAt) {
		return v, errStatusRange
	}
	v.Zone, v.Mode, v.Reason = x.zone, clipped(v.Mode, maxWord), clipped(v.Reason, maxReason)
	v.State = mesh.FailoverState(clipped(string(v.State), maxWord))
	for i := range v.Targets {
		t := &v.Targets[i]
		if !amounts(t.Ready, t.Whole, t.Share, t.Would, float64(t.Tier)) || max(t.Share, t.Would) > 1+shareSlack {
			return v, errStatusRange
		}
		t.Share, t.Would = min(t.Share, 1), min(t.Would, 1)
		t.Zone, t.Name, t.Reason = clipped(t.Zone, maxWord), clipped(t.Name, maxWord), clipped(t.Reason, maxReason)
	}
	return v, nil
}

func (x *session) readLink(key string, value []byte) (v mesh.LinkStatus, refused error) {
	if json.Unmarshal(value, &v) != nil || key != v.To {
		return v, errStatusShape
	}
	if !amounts(v.RTTMillis) || !moments(v.Since, v.HeardAt, v.TrustUntil, v.ObservedAt) {
		return v, errStatusRange
	}
	v.Zone, v.Reason, v.HeardBy = x.zone, clipped(v.Reason, maxReason), clipped(v.HeardBy, maxWord)
	return v, nil
}

func (x *session) readTraffic(key string, value []byte) (v mesh.TrafficStatus, refused error) {
	if json.Unmarshal(value, &v) != nil || key != v.Namespace+"/"+v.Service+"/"+v.To {
		return v, errStatusShape
	}
	if !amounts(v.Requests, v.Failures, float64(v.Active), float64(v.WindowMS)) || !moments(v.ObservedAt) {
		return v, errStatusRange
	}
	v.Zone = x.zone
	return v, nil
}
