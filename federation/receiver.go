package federation

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
)

// receiver is the half that takes the peer's log. It gathers a revision (or a snapshot) whole before
// it is applied, so that a zone never acts on half of an edit.
type receiver struct {
	allowed func(mesh.Key) error // why the peer may not send the key

	started  bool
	cursor   mesh.Cursor // newest whole batch received
	log      mesh.Incarnation
	open     bool // within a batch or snapshot
	snapshot *mesh.Cursor
	from, to uint64

	puts    map[mesh.Key]mesh.Resource
	order   []mesh.Key
	deletes map[mesh.Key]struct{}
	refused map[mesh.Key]Refusal
	count   uint64
	bytes   int

	applying []applying
	effects  *[]Effect
	reply    func(proto.Message)
}

type applying struct {
	cursor  mesh.Cursor
	refused map[mesh.Key]Refusal
}

// start says where the receiver stands and which log the peer will send. A cursor of another
// incarnation can only be followed by a snapshot.
func (r *receiver) start(cursor mesh.Cursor, log mesh.Incarnation) {
	r.started, r.cursor, r.log = true, cursor, log
}

func (r *receiver) begin(f *federationpb.SnapshotBegin) error {
	c := CursorFromProto(f.GetCursor())
	if !r.started || c.Incarnation != r.log {
		return violation("snapshot of incarnation %q", bounded(string(c.Incarnation), 64))
	}
	r.clear()
	r.open, r.snapshot = true, &c
	return nil
}

func (r *receiver) clear() {
	r.open, r.snapshot, r.count, r.bytes = false, nil, 0, 0
	r.puts, r.deletes, r.refused, r.order = nil, nil, nil, nil
}

func (r *receiver) changes(f *federationpb.Changes) error {
	if !r.started {
		return violation("changes before the handshake")
	}
	if r.snapshot == nil {
		skip, err := r.continues(f)
		if skip || err != nil {
			return err
		}
	} else if len(f.GetDeleted()) > 0 {
		return violation("a deletion within a snapshot")
	}
	for _, p := range f.GetPut() {
		if p == nil {
			return violation("an empty resource")
		}
		r.count++
		r.bytes += wireSize(p)
		if r.bytes > maxBatch {
			return violation("more than %d bytes before an end", maxBatch)
		}
		r.take(p)
	}
	for _, p := range f.GetDeleted() {
		r.bytes += proto.Size(p)
		if r.bytes > maxBatch {
			return violation("more than %d bytes before an end", maxBatch)
		}
		if err := r.drop(KeyFromProto(p)); err != nil {
			return err
		}
	}
	if r.snapshot == nil && !f.GetMore() {
		r.finish(mesh.Cursor{Incarnation: r.log, Revision: mesh.Revision(f.GetRevision())})
	}
	return nil
}

// continues checks that a frame goes on where the last one ended. A frame of what was received
// already is passed over; a gap is an error, because what is in it would be lost.
func (r *receiver) continues(f *federationpb.Changes) (skip bool, err error) {
	if r.open {
		if f.GetFrom() != r.from || f.GetRevision() != r.to {
			return false, violation("revision %d within revision %d", f.GetRevision(), r.to)
		}
		return false, nil
	}
	if r.cursor.Incarnation != r.log {
		return false, violation("changes without a snapshot, after a cursor of another incarnation")
	}
	if f.GetRevision() <= uint64(r.cursor.Revision) {
		return true, nil
	}
	if f.GetFrom() != uint64(r.cursor.Revision) {
		return false, violation("changes from %d, not from %d", f.GetFrom(), r.cursor.Revision)
	}
	r.open, r.from, r.to = true, f.GetFrom(), f.GetRevision()
	return false, nil
}

func (r *receiver) take(p *federationpb.Resource) {
	res := ResourceFromProto(p)
	code, err := CodeNotAllowed, r.allowed(res.Key)
	if err == nil {
		code, err = CodeInvalid, CheckResource(res)
	}
	if err == nil && wireSize(p) > MaxResource {
		code, err = CodeTooLarge, fmt.Errorf("larger than %d bytes", MaxResource)
	}
	delete(r.deletes, res.Key)
	delete(r.refused, res.Key)
	if err != nil {
		if r.refused == nil {
			r.refused = map[mesh.Key]Refusal{}
		}
		r.refused[res.Key] = Refusal{Key: res.Key, Revision: res.Changed, Code: code, Reason: err.Error()}
		delete(r.puts, res.Key)
		return
	}
	if r.puts == nil {
		r.puts = map[mesh.Key]mesh.Resource{}
	}
	if _, again := r.puts[res.Key]; !again {
		r.order = append(r.order, res.Key)
	}
	r.puts[res.Key] = res
}

func (r *receiver) drop(k mesh.Key) error {
	if err := r.allowed(k); err != nil {
		if r.refused == nil {
			r.refused = map[mesh.Key]Refusal{}
		}
		r.refused[k] = Refusal{Key: k, Code: CodeNotAllowed, Reason: err.Error()}
		return nil
	}
	if err := CheckKey(k); err != nil {
		return violation("deletion of a malformed key: %v", err)
	}
	delete(r.puts, k)
	delete(r.refused, k)
	if r.deletes == nil {
		r.deletes = map[mesh.Key]struct{}{}
	}
	r.deletes[k] = struct{}{}
	return nil
}

func (r *receiver) end(f *federationpb.SnapshotEnd) error {
	c := CursorFromProto(f.GetCursor())
	switch {
	case r.snapshot == nil:
		return violation("end of a snapshot that did not begin")
	case c != *r.snapshot:
		return violation("snapshot of %s ends as %s", *r.snapshot, c)
	case f.GetCount() != r.count:
		return violation("snapshot of %d resources announces %d", r.count, f.GetCount())
	}
	r.finish(c)
	return nil
}

func (r *receiver) finish(at mesh.Cursor) {
	b := Batch{Cursor: at, Snapshot: r.snapshot != nil}
	seen := make(map[mesh.Key]struct{}, len(r.order))
	for _, k := range r.order {
		res, ok := r.puts[k]
		if _, twice := seen[k]; !ok || twice {
			continue
		}
		seen[k] = struct{}{}
		b.Puts = append(b.Puts, res)
	}
	for k := range r.deletes {
		b.Deletes = append(b.Deletes, k)
	}
	if b.Snapshot && len(r.refused) > 0 {
		b.Keep = make(map[mesh.Key]struct{}, len(r.refused))
		for k := range r.refused {
			b.Keep[k] = struct{}{}
		}
	}
	r.applying = append(r.applying, applying{cursor: at, refused: r.refused})
	r.cursor = at
	r.clear()
	*r.effects = append(*r.effects, Apply{b})
}

// applied says that the oldest batch handed out is in the store with its cursor, but for the refusals.
func (r *receiver) applied(refusals []Refusal) {
	if len(r.applying) == 0 {
		return
	}
	a := r.applying[0]
	r.applying = r.applying[1:]
	for _, n := range refusals {
		if a.refused == nil {
			a.refused = map[mesh.Key]Refusal{}
		}
		a.refused[n.Key] = n
	}
	for _, n := range a.refused {
		r.reply(&federationpb.Nack{
			Key: KeyToProto(n.Key), Revision: uint64(n.Revision), Code: n.Code, Reason: bounded(n.Reason, 1024),
		})
	}
	r.reply(&federationpb.Ack{Cursor: CursorToProto(a.cursor)})
}
