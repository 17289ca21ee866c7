package engine

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// KeepIdempotencyKeys is an hour more than the contract asks for, so that a retry at the end of its
// day is not a race.
const KeepIdempotencyKeys = 25 * time.Hour

// Document is a resource as it is stored, with its JSON. The zero value: there is none.
type Document struct {
	Resource *mesh.Resource
	Body     []byte
}

// Effect is what a write does to one resource.
type Effect struct {
	// Change is the entry of the change log, and Body its resource in JSON.
	Change store.Change
	Body   []byte
	// Before and After are the stored JSON; nil at creation and deletion.
	Before, After []byte
	// Labels are After's, a JSON object.
	Labels []byte
}

// Decision is what one Apply does. Without effects it takes no revision.
type Decision struct {
	Result  store.Result
	Effects []Effect
}

// Changes are those of the effects.
func (d Decision) Changes() []store.Change {
	out := make([]store.Change, len(d.Effects))
	for i, e := range d.Effects {
		out[i] = e.Change
	}
	return out
}

// Decide works out what a batch does to a store whose newest revision is head. current reads a resource as it is
// before the batch. The error is a *store.ConflictError, or current's.
func Decide(b store.Batch, head mesh.Revision, now time.Time, current func(mesh.Key) (Document, error)) (Decision, error) {
	d := &decider{batch: b, revision: head + 1, now: now, current: current, meanwhile: map[mesh.Key]Document{}}
	d.Result.Items = []store.ResultItem{}
	for _, w := range b.Writes {
		item, err := d.one(w)
		if err != nil {
			return Decision{}, err
		}
		d.Result.Items = append(d.Result.Items, item)
	}
	if b.DryRun {
		d.Effects = nil
	}
	if d.Result.Revision = head; len(d.Effects) > 0 {
		d.Result.Revision = d.revision
	}
	return d.Decision, nil
}

type decider struct {
	Decision
	batch    store.Batch
	revision mesh.Revision // what the batch takes if it changes anything
	now      time.Time
	current  func(mesh.Key) (Document, error)
	// meanwhile is what the writes so far have made.
	meanwhile map[mesh.Key]Document
}

func (d *decider) one(w store.Write) (store.ResultItem, error) {
	key := w.Resource.Key
	cur, ok := d.meanwhile[key]
	if !ok {
		var err error
		if cur, err = d.current(key); err != nil {
			return store.ResultItem{}, err
		}
	}
	if w.IfRevision != nil {
		var have mesh.Revision
		if cur.Resource != nil {
			have = cur.Resource.Revision
		}
		if have != *w.IfRevision {
			return store.ResultItem{}, &store.ConflictError{Key: key, Current: cur.Resource}
		}
	}
	if w.Delete {
		if cur.Resource == nil {
			return store.ResultItem{Outcome: store.Absent, Resource: mesh.Resource{Key: key}}, nil
		}
		return store.ResultItem{Outcome: store.Deleted, Resource: *cur.Resource}, d.delete(cur, w)
	}
	next := d.next(w, cur.Resource)
	outcome := store.Updated
	switch {
	case cur.Resource == nil:
		outcome = store.Created
	case same(*cur.Resource, next, w.Copy):
		return store.ResultItem{Outcome: store.Unchanged, Resource: *cur.Resource}, nil
	}
	if err := d.put(next, cur); err != nil {
		return store.ResultItem{}, err
	}
	if d.batch.DryRun {
		next = asNeverWritten(next, cur.Resource)
	}
	return store.ResultItem{Outcome: outcome, Resource: next}, nil
}

// asNeverWritten takes from a dry run's resource the numbers that it would only get by being written.
func asNeverWritten(next mesh.Resource, cur *mesh.Resource) mesh.Resource {
	if cur == nil {
		next.UID, next.Created, next.Changed, next.Revision = "", 0, 0, 0
		return next
	}
	next.Changed, next.Revision = cur.Changed, cur.Revision
	return next
}

// next is the resource as the write makes it.
func (d *decider) next(w store.Write, cur *mesh.Resource) mesh.Resource {
	n := w.Resource
	n.Revision = d.revision
	if len(n.Spec) == 0 {
		n.Spec = json.RawMessage("{}")
	}
	if w.Copy {
		return n
	}
	n.Changed, n.ChangedAt = d.revision, d.now
	if cur == nil {
		n.UID, n.Generation, n.Created, n.CreatedAt = RandomID(), 1, d.revision, d.now
		return n
	}
	n.UID, n.Generation, n.Created, n.CreatedAt = cur.UID, cur.Generation, cur.Created, cur.CreatedAt
	if !equalJSON(cur.Spec, n.Spec) {
		n.Generation++
	}
	return n
}

// same reports whether a write changes nothing. A copy must agree in all that its origin gave it.
func same(cur, next mesh.Resource, asCopy bool) bool {
	if cur.APIVersion != next.APIVersion || !maps.Equal(cur.Labels, next.Labels) ||
		!maps.Equal(cur.Annotations, next.Annotations) || !equalJSON(cur.Spec, next.Spec) {
		return false
	}
	return !asCopy || cur.UID == next.UID && cur.Generation == next.Generation && cur.Created == next.Created &&
		cur.Changed == next.Changed && cur.CreatedAt.Equal(next.CreatedAt) && cur.ChangedAt.Equal(next.ChangedAt)
}

// equalJSON compares without regard to white space; specs are small, and most are equal bytes.
func equalJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

func (d *decider) put(next mesh.Resource, before Document) error {
	body, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	labels := []byte("{}")
	if next.Labels != nil {
		if labels, err = json.Marshal(next.Labels); err != nil {
			return fmt.Errorf("%w: %w", store.ErrInvalid, err)
		}
	}
	d.meanwhile[next.Key] = Document{&next, body}
	d.Effects = append(d.Effects, Effect{Change: store.Change{Resource: next}, Body: body, Before: before.Body, After: body, Labels: labels})
	return nil
}

func (d *decider) delete(cur Document, w store.Write) error {
	gone := *cur.Resource
	// The log says which revision of the origin deleted it.
	if gone.Changed = d.revision; w.Copy && w.Resource.Changed != 0 {
		gone.Changed = w.Resource.Changed
	}
	body, err := json.Marshal(gone)
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	d.meanwhile[gone.Key] = Document{}
	d.Effects = append(d.Effects, Effect{Change: store.Change{Resource: gone, Deleted: true}, Body: body, Before: cur.Body})
	return nil
}

// Decode reads a resource that an engine has stored.
func Decode(body []byte) (mesh.Resource, error) {
	var r mesh.Resource
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("%w: a stored resource can't be read: %w", store.ErrUnavailable, err)
	}
	return r, nil
}

// CheckBatch returns store.ErrInvalid for what no engine takes.
func CheckBatch(b store.Batch) error {
	if err := CheckText(b.Actor, b.Source, b.Reason, b.IdempotencyKey); err != nil {
		return err
	}
	for _, w := range b.Writes {
		if err := checkKey(w.Resource.Key); err != nil {
			return err
		}
		for k, v := range w.Resource.Labels {
			if err := CheckText(k, v); err != nil {
				return fmt.Errorf("labels of %s: %w", w.Resource.Key, err)
			}
		}
		if !w.Delete && len(w.Resource.Spec) > 0 && !json.Valid(w.Resource.Spec) {
			return fmt.Errorf("%s: %w: the spec is not JSON", w.Resource.Key, store.ErrInvalid)
		}
	}
	return nil
}

// CheckText returns store.ErrInvalid for what is no text: bytes that are not UTF-8, or a NUL. Not every database keeps
// or compares such, so none is asked.
func CheckText(list ...string) error {
	for _, s := range list {
		if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			return fmt.Errorf("%w: %.100q is no text: it has a NUL, or is not UTF-8", store.ErrInvalid, s)
		}
	}
	return nil
}

// CheckKey is CheckText for the parts of a key that is looked for.
func CheckKey(k mesh.Key) error {
	return CheckText(string(k.Origin), string(k.Kind), k.Namespace, k.Name)
}

func checkKey(k mesh.Key) error {
	if err := CheckKey(k); err != nil {
		return err
	}
	if k.Origin == "" || k.Kind == "" || k.Name == "" {
		return fmt.Errorf("%w: key %q needs origin, kind and name", store.ErrInvalid, k)
	}
	for _, part := range [...]string{string(k.Origin), string(k.Kind), k.Namespace, k.Name} {
		if strings.Contains(part, "/") || len(part) > 512 {
			return fmt.Errorf("%w: a part of key %.100q is too long or has a slash", store.ErrInvalid, k)
		}
	}
	return nil
}

// BatchHash tells one request with an idempotency key from another; nil for a batch that has none, or is a dry
// run. Who asks is part of it: a key is no way to read another's result.
func BatchHash(b store.Batch) ([]byte, error) {
	if b.IdempotencyKey == "" || b.DryRun {
		return nil, nil // no hash is a hash: that of what is not remembered
	}
	data, err := json.Marshal(struct {
		Writes []store.Write
		Actor  string
	}{b.Writes, b.Actor})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrInvalid, err)
	}
	sum := sha256.Sum256(data)
	return sum[:], nil
}

// Replay is the remembered result of a request, if it is the same request: else store.ErrIdempotencyMismatch.
func Replay(had, hash, result []byte) (store.Result, error) {
	var r store.Result
	if !bytes.Equal(had, hash) {
		return r, store.ErrIdempotencyMismatch
	}
	if err := json.Unmarshal(result, &r); err != nil {
		return r, fmt.Errorf("idempotency record: %w", err)
	}
	r.Replayed = true
	return r, nil
}

// maxValue bounds one record, as the contract says.
const maxValue = 1 << 20

// CheckRecords returns store.ErrInvalid for what no engine takes.
func CheckRecords(bucket string, writes []store.RecordWrite) error {
	if bucket == "" || len(bucket) > 512 {
		return fmt.Errorf("%w: a bucket's name has 1 to 512 bytes", store.ErrInvalid)
	}
	if err := CheckText(bucket); err != nil {
		return err
	}
	for _, w := range writes {
		if err := CheckText(w.Key); err != nil {
			return err
		}
		if w.Key == "" || len(w.Key) > 2048 || len(w.Value) > maxValue {
			return fmt.Errorf("%w: the key %.100q is empty or too long, or its value too large", store.ErrInvalid, w.Key)
		}
	}
	return nil
}

// CheckVersion returns store.ErrConflict if a record of this version, 0 for none, is not what the write expects.
func CheckVersion(w store.RecordWrite, version uint64) error {
	if w.IfVersion != nil && version != *w.IfVersion {
		return fmt.Errorf("%w: %s is at version %d, not %d", store.ErrConflict, w.Key, version, *w.IfVersion)
	}
	return nil
}

// FromMicro is the time that stores keep as microseconds since 1970.
func FromMicro(us int64) time.Time { return time.UnixMicro(us).UTC() }

// RandomID is 128 random bits in hex.
func RandomID() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // crypto/rand.Read never fails
	return hex.EncodeToString(b[:])
}
