package federation

import (
	"cmp"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
)

// sender is the half that sends the local log. Its owner feeds it from a cursor: commits in order or,
// where the log can't serve the cursor, a snapshot and then commits from the snapshot's cursor.
type sender struct {
	concerns func(mesh.Resource) bool // whether the peer is to have the resource

	started bool
	from    mesh.Cursor // what the peer said it has
	read    mesh.Cursor // newest commit taken in
	sent    mesh.Cursor // newest batch cut

	pending map[mesh.Key]outgoing // coalesced: newest per key
	bytes   int                   // of pending, roughly

	cut     []outgoing // the batch being sent, what is left of it
	cutFrom mesh.Revision
	snap    *sending

	outstanding []sentBatch
	effects     *[]Effect
	flush       bool
}

type outgoing struct {
	key mesh.Key
	put *federationpb.Resource // nil: deleted
}

func (o outgoing) size() int {
	if o.put == nil {
		return len(o.key.String()) + 16
	}
	return wireSize(o.put)
}

type sending struct {
	cursor mesh.Cursor
	begun  bool
	ended  bool
	items  []*federationpb.Resource
	bytes  int
	count  uint64
	keys   []Sent
}

type sentBatch struct {
	cursor  mesh.Cursor
	keys    []Sent
	refused map[mesh.Key]struct{}
}

func (s *sender) start(from mesh.Cursor) { s.started, s.from = true, from }

// wants reports whether more of the log (or of the snapshot) may be fed.
func (s *sender) wants() bool {
	if !s.started {
		return false
	}
	if s.snap != nil {
		return !s.snap.ended && s.snap.bytes < maxPending
	}
	return s.bytes < maxPending
}

// resume says that the log serves the cursor: commits after it follow.
func (s *sender) resume(at mesh.Cursor) { s.read, s.sent = at, at }

// commit takes the next commit of the local log.
func (s *sender) commit(c Commit) {
	if c.Cursor.Revision <= s.read.Revision {
		return // read again after a snapshot
	}
	s.read = c.Cursor
	for _, ch := range c.Changes {
		r := ch.Resource
		switch {
		case !ch.Deleted && s.concerns(r):
			s.put(r)
		case s.concerned(ch):
			s.add(outgoing{key: r.Key})
		}
	}
}

// concerned reports whether the peer may hold the resource from before the change. Where nothing is known it may.
func (s *sender) concerned(ch Change) bool {
	if _, waiting := s.pending[ch.Resource.Key]; waiting {
		return true
	}
	switch {
	case ch.Deleted:
		return s.concerns(ch.Resource)
	case ch.Before != nil:
		return s.concerns(*ch.Before)
	}
	// Whoever filters by origin never sees a resource change it; a scope can narrow, but not of what
	// was made by this very change.
	narrowed := ch.Resource
	narrowed.Annotations = nil
	return s.concerns(narrowed) && ch.Resource.Created != ch.Resource.Changed
}

func (s *sender) put(r mesh.Resource) {
	p := ResourceToProto(r)
	if wireSize(p) > MaxResource {
		s.tooLarge(r)
		return
	}
	s.add(outgoing{key: r.Key, put: p})
}

func (s *sender) tooLarge(r mesh.Resource) {
	*s.effects = append(*s.effects, Refused{Refusal{
		Key: r.Key, Revision: r.Changed, Code: CodeTooLarge, Reason: "the resource is larger than 900 KiB",
	}})
}

func (s *sender) add(o outgoing) {
	if old, ok := s.pending[o.key]; ok {
		s.bytes -= old.size()
	}
	if s.pending == nil {
		s.pending = map[mesh.Key]outgoing{}
	}
	s.pending[o.key] = o
	s.bytes += o.size()
}

func (s *sender) beginSnapshot(at mesh.Cursor) {
	s.snap = &sending{cursor: at}
	s.pending, s.bytes, s.cut = nil, 0, nil // the snapshot holds all of it
	s.read = at
}

func (s *sender) addSnapshot(items []mesh.Resource) {
	for _, r := range items {
		if !s.concerns(r) {
			continue
		}
		p := ResourceToProto(r)
		if wireSize(p) > MaxResource {
			s.tooLarge(r)
			continue
		}
		s.snap.items = append(s.snap.items, p)
		s.snap.bytes += wireSize(p)
	}
}

func (s *sender) endSnapshot() { s.snap.ended = true }

// next is the next frame to send, nil for none now.
func (s *sender) next() proto.Message {
	if s.snap != nil {
		return s.nextOfSnapshot()
	}
	if len(s.cut) > 0 {
		return s.chunk()
	}
	if !s.started || len(s.outstanding) >= maxOutstanding {
		return nil
	}
	if len(s.pending) > 0 {
		s.cut = slices.SortedFunc(maps.Values(s.pending), func(a, b outgoing) int { return a.key.Compare(b.key) })
		s.pending, s.bytes = nil, 0
		s.cutFrom = s.sent.Revision
		s.push(s.read, sentOf(s.cut))
		return s.chunk()
	}
	lag := s.read.Revision - s.sent.Revision
	if lag >= lazyAdvance || s.flush && lag > 0 {
		from := s.sent.Revision
		s.push(s.read, nil)
		return &federationpb.Changes{From: uint64(from), Revision: uint64(s.read.Revision)}
	}
	s.flush = false
	return nil
}

func (s *sender) push(at mesh.Cursor, keys []Sent) {
	s.sent = at
	s.outstanding = append(s.outstanding, sentBatch{cursor: at, keys: keys})
}

func sentOf(list []outgoing) []Sent {
	out := make([]Sent, 0, len(list))
	for _, o := range list {
		out = append(out, Sent{Key: o.key, Changed: mesh.Revision(o.put.GetChanged()), Deleted: o.put == nil})
	}
	return out
}

// chunk is the next frame of the batch that was cut.
func (s *sender) chunk() proto.Message {
	f := &federationpb.Changes{From: uint64(s.cutFrom), Revision: uint64(s.sent.Revision)}
	bytes, n := 0, 0
	for _, o := range s.cut {
		if bytes += o.size(); n > 0 && bytes > MaxFrameResources {
			break
		}
		n++
		if o.put == nil {
			f.Deleted = append(f.Deleted, KeyToProto(o.key))
		} else {
			f.Put = append(f.Put, o.put)
		}
	}
	s.cut = s.cut[n:]
	f.More = len(s.cut) > 0
	return f
}

func (s *sender) nextOfSnapshot() proto.Message {
	p := s.snap
	if !p.begun {
		p.begun = true
		return &federationpb.SnapshotBegin{Cursor: CursorToProto(p.cursor)}
	}
	// A chunk that is not full waits for more, unless there will be none.
	if len(p.items) > 0 && (p.ended || p.bytes >= MaxFrameResources) {
		f := &federationpb.Changes{More: true}
		bytes := 0
		for _, r := range p.items {
			size := wireSize(r)
			if len(f.Put) > 0 && bytes+size > MaxFrameResources {
				break
			}
			bytes += size
			f.Put = append(f.Put, r)
			p.keys = append(p.keys, Sent{Key: KeyFromProto(r.Key), Changed: mesh.Revision(r.Changed)})
		}
		p.items = p.items[len(f.Put):]
		p.bytes -= bytes
		p.count += uint64(len(f.Put))
		return f
	}
	if !p.ended || len(s.outstanding) >= maxOutstanding {
		return nil
	}
	s.snap = nil
	s.push(p.cursor, p.keys)
	return &federationpb.SnapshotEnd{Cursor: CursorToProto(p.cursor), Count: p.count}
}

// ack takes the peer's word that it holds everything up to the cursor.
func (s *sender) ack(c mesh.Cursor) error {
	i := slices.IndexFunc(s.outstanding, func(b sentBatch) bool { return b.cursor == c })
	if i < 0 {
		return violation("ack of %s, which is not outstanding", c)
	}
	if i == len(s.outstanding)-1 && len(s.cut) > 0 {
		return violation("ack of %s before all of it was sent", c)
	}
	e := Acked{Cursor: c}
	for _, b := range s.outstanding[:i+1] {
		for _, k := range b.keys {
			if _, refused := b.refused[k.Key]; !refused {
				e.Items = append(e.Items, k)
			}
		}
	}
	s.outstanding = slices.Delete(s.outstanding, 0, i+1)
	*s.effects = append(*s.effects, e)
	return nil
}

// nack takes the peer's refusal of one resource. It comes before the ack of its batch.
func (s *sender) nack(n *federationpb.Nack) error {
	key := KeyFromProto(n.GetKey())
	for i := range s.outstanding {
		b := &s.outstanding[i]
		j := slices.IndexFunc(b.keys, func(k Sent) bool {
			return k.Key == key && (uint64(k.Changed) == n.GetRevision() || k.Deleted)
		})
		if j < 0 {
			continue
		}
		if b.refused == nil {
			b.refused = map[mesh.Key]struct{}{}
		}
		b.refused[key] = struct{}{}
		*s.effects = append(*s.effects, Refused{Refusal{
			Key: key, Revision: b.keys[j].Changed,
			Code: cmp.Or(n.GetCode(), CodeInvalid), Reason: bounded(n.GetReason(), 1024),
		}})
		return nil
	}
	return violation("nack of %s at %d, which is not outstanding", key, n.GetRevision())
}

// bounded cuts a peer's text and drops what is not printable UTF-8.
func bounded(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
	}
	clean := make([]rune, 0, len(s))
	for _, r := range s {
		if r >= ' ' && r != '\u007f' && r != '\ufffd' {
			clean = append(clean, r)
		}
	}
	return string(clean)
}
