package federation

import (
	"bytes"
	"container/list"
	"slices"
	"sync"

	"github.com/comity-mesh/comity/federation/federationpb"
)

// Buckets of a status book.
const (
	BucketStatus    = "status"    // mesh.ResourceStatus by mesh.Key.String
	BucketRevisions = "revisions" // mesh.RevisionStatus by mesh.RevisionSlot
	BucketProxies   = "proxies"   // mesh.ProxyStatus by mesh.ProxyID.String
	BucketServices  = "services"  // a zone's own services; for display
	BucketFailover  = "failover"  // mesh.FailoverStatus by <namespace>/<service>
	BucketLinks     = "links"     // mesh.LinkStatus by the other zone's name
	BucketTraffic   = "traffic"   // mesh.TrafficStatus by <namespace>/<service>/<other zone>
)

// Buckets lists them.
func Buckets() []string {
	return []string{BucketStatus, BucketRevisions, BucketProxies, BucketServices, BucketFailover, BucketLinks, BucketTraffic}
}

// StatusBook is what a zone has to report: the newest value of each key, in order of change. It
// outlives sessions: after a reconnect only what changed since the last report that global stored is sent.
// A new book (a new process) begins with a full inventory. Safe for concurrent use.
type StatusBook struct {
	epoch string

	mu      sync.Mutex
	seq     uint64
	floor   uint64 // deletions up to here are forgotten
	entries map[statusKey]*list.Element
	order   *list.List // of *statusEntry, by seq
	gone    int        // entries without a value
	wake    []func()
	// Within Together nobody is woken; untold says that somebody should have been.
	together int
	untold   bool
}

type statusKey struct{ bucket, key string }

type statusEntry struct {
	statusKey
	value []byte // nil: gone
	seq   uint64
}

// NewStatusBook makes an empty book. The epoch must be unique to this book: 128 random bits in hex.
func NewStatusBook(epoch string) *StatusBook {
	return &StatusBook{epoch: epoch, entries: map[statusKey]*list.Element{}, order: list.New()}
}

// Set puts a value, at most MaxStatusValue bytes of JSON; nil removes the key. A value that does not
// differ is no change. A value that is too large is refused.
func (b *StatusBook) Set(bucket, key string, value []byte) bool {
	if len(value) > MaxStatusValue || len(key) > 1024 {
		return false
	}
	k := statusKey{bucket, key}
	b.mu.Lock()
	el, ok := b.entries[k]
	switch {
	case ok && bytes.Equal(el.Value.(*statusEntry).value, value), !ok && len(value) == 0:
		b.mu.Unlock()
		return true
	case ok:
		b.remove(el)
	}
	b.seq++
	b.entries[k] = b.order.PushBack(&statusEntry{k, value, b.seq})
	if value == nil {
		b.gone++
	}
	wake := b.wake
	if b.together > 0 {
		b.untold, wake = true, nil
	}
	b.mu.Unlock()
	for _, f := range wake {
		f()
	}
	return true
}

// Together calls f, and has what it sets go up in as few reports as may be: each costs global a message, an answer and
// a transaction.
func (b *StatusBook) Together(f func()) {
	b.mu.Lock()
	b.together++
	b.mu.Unlock()
	f()
	b.mu.Lock()
	b.together--
	var wake []func()
	if b.together == 0 && b.untold {
		b.untold, wake = false, b.wake
	}
	b.mu.Unlock()
	for _, f := range wake {
		f()
	}
}

// remove takes an entry out; b.mu is held.
func (b *StatusBook) remove(el *list.Element) {
	if el.Value.(*statusEntry).value == nil {
		b.gone--
	}
	b.order.Remove(el)
}

// onChange sets who is told of changes: the link of the present session.
func (b *StatusBook) onChange(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wake = nil
	if f != nil {
		b.wake = []func(){f}
	}
}

// serves reports whether a resume from the position is possible.
func (b *StatusBook) serves(epoch string, seq uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return epoch == b.epoch && seq >= b.floor && seq <= b.seq
}

// after returns the changes after a position, oldest first, at most about MaxFrameResources bytes, the
// position after them, and whether more follow.
func (b *StatusBook) after(seq uint64, full bool) (records []*federationpb.StatusRecord, at uint64, more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := b.order.Back()
	for first != nil && first.Value.(*statusEntry).seq > seq {
		first = first.Prev()
	}
	el := b.order.Front()
	if first != nil {
		el = first.Next()
	}
	at = seq
	size := 0
	for ; el != nil; el = el.Next() {
		e := el.Value.(*statusEntry)
		if size > 0 && size+len(e.value)+len(e.key) > MaxFrameResources/2 {
			return records, at, true
		}
		at = e.seq
		if full && e.value == nil {
			continue
		}
		size += len(e.value) + len(e.key) + len(e.bucket) + 16
		records = append(records, &federationpb.StatusRecord{Bucket: e.bucket, Key: e.key, Value: e.value})
	}
	return records, max(at, b.seq), false
}

// forget drops deletions that global has stored.
func (b *StatusBook) forget(seq uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.floor = max(b.floor, seq)
	for el := b.order.Front(); el != nil && b.gone > 0; {
		e, next := el.Value.(*statusEntry), el.Next()
		if e.seq > seq {
			return
		}
		if e.value == nil {
			b.remove(el)
			delete(b.entries, e.statusKey)
		}
		el = next
	}
}

// checkReport reports why a status report is not well-formed.
func checkReport(r *federationpb.StatusReport) error {
	if r.GetEpoch() == "" || len(r.GetEpoch()) > 64 {
		return violation("status report without an epoch")
	}
	for _, rec := range r.GetRecords() {
		if !slices.Contains(Buckets(), rec.GetBucket()) {
			return violation("status report of bucket %q", bounded(rec.GetBucket(), 64))
		}
		if rec.GetKey() == "" || len(rec.GetKey()) > 1024 || len(rec.GetValue()) > MaxStatusValue {
			return violation("status without a key, or larger than %d bytes", MaxStatusValue)
		}
	}
	return nil
}

// reporter sends a status book, one report at a time.
type reporter struct {
	book        *StatusBook
	started     bool
	at          uint64
	full        bool // within a full inventory
	outstanding uint64
	busy        bool
}

func (r *reporter) start(epoch string, seq uint64) {
	r.started, r.at = true, seq
	if !r.book.serves(epoch, seq) {
		r.at, r.full = 0, true
	}
}

func (r *reporter) next() *federationpb.StatusReport {
	if !r.started || r.busy {
		return nil
	}
	records, at, more := r.book.after(r.at, r.full)
	if len(records) == 0 && !r.full {
		return nil
	}
	rep := &federationpb.StatusReport{Sequence: at, Epoch: r.book.epoch, Full: r.full, Records: records, More: r.full && more}
	r.full = r.full && more
	r.at, r.outstanding, r.busy = at, at, true
	return rep
}

func (r *reporter) ack(a *federationpb.StatusAck) error {
	if !r.busy || a.GetEpoch() != r.book.epoch || a.GetSequence() != r.outstanding {
		return violation("ack of a status report that is not outstanding")
	}
	r.busy = false
	if !r.full {
		r.book.forget(a.GetSequence())
	}
	return nil
}
