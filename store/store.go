// Package store is the contract between whoever holds resources and whoever reads them. Global and
// every zone have one Store; engines live in subpackages and pass the one suite in storetest.
//
// A store holds three things:
//
//   - resources with a change log: what users asked for. Every Apply is one transaction and takes the
//     next revision from a counter inside it, so commit order is revision order and no number is
//     missing. The log is compacted.
//   - a history of who changed what and why, with a retention of its own.
//   - records: small values that change often or that no user edits (statuses, sessions, tokens' public
//     halves, signed statements). Each bucket has its own sequence; records never touch the revision
//     counter.
//
// Nothing secret belongs in a store: private keys and tokens stay out of it.
package store

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

// What callers do on each error.
var (
	// ErrNotFound: there is no such resource or record.
	ErrNotFound = errors.New("not found")
	// ErrConflict: a precondition (Write.IfRevision, RecordWrite.IfVersion) does not hold; read again,
	// decide again. Wrapped in *ConflictError for resources.
	ErrConflict = errors.New("conflict")
	// ErrCompacted: the cursor is older than the change log; List and watch from its revision.
	ErrCompacted = errors.New("cursor is compacted")
	// ErrIncarnation: the cursor is of another life of the store; as ErrCompacted, but what was
	// derived from the old life may not exist.
	ErrIncarnation = errors.New("cursor is of another incarnation")
	// ErrFuture: the cursor is beyond the store's head though the incarnation matches: the store
	// lost commits without being told (an unsafe restore). Treat as ErrIncarnation and say so.
	ErrFuture = errors.New("cursor is beyond the store's head")
	// ErrIdempotencyMismatch: the idempotency key was used with another batch.
	ErrIdempotencyMismatch = errors.New("idempotency key was used for another request")
	// ErrUnavailable: the engine can't serve now (disk full, read-only, connection lost). Retry later.
	ErrUnavailable = errors.New("store is unavailable")
)

// ConflictError says which write of a batch met which present state. errors.Is ErrConflict.
type ConflictError struct {
	Key     mesh.Key
	Current *mesh.Resource // nil: it does not exist
}

func (e *ConflictError) Error() string {
	if e.Current == nil {
		return e.Key.String() + " does not exist (any more)"
	}
	return e.Key.String() + " was changed meanwhile"
}

// Unwrap makes errors.Is(err, ErrConflict) true.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// Store is safe for concurrent use. Every method returns ctx.Err() when ctx ends first.
type Store interface {
	// Head is the newest committed revision with the store's incarnation.
	Head(ctx context.Context) (mesh.Cursor, error)

	// Get returns one resource, or ErrNotFound.
	Get(ctx context.Context, key mesh.Key) (mesh.Resource, error)

	// List returns a page of resources in the order of Query.Sort, and the cursor of the state that
	// the *first* page saw: a Watch from it misses nothing.
	List(ctx context.Context, q Query) (Page, error)

	// Apply commits the batch as one revision, or nothing. Writes that change nothing are reported
	// Unchanged; a batch of only those takes no revision and returns the head.
	Apply(ctx context.Context, b Batch) (Result, error)

	// Watch delivers every commit after `from`, in order, each once, then goes on live until ctx ends
	// or the watcher is closed. It returns at once; ErrCompacted, ErrIncarnation and ErrFuture come
	// from Watch itself, and from Watcher.Next if compaction overtakes a slow reader, or another
	// incarnation begins meanwhile. The zero cursor starts at revision 0 of whatever incarnation there is.
	Watch(ctx context.Context, from mesh.Cursor) (Watcher, error)

	// History lists the changes of one resource, newest first.
	History(ctx context.Context, key mesh.Key, limit int, before mesh.Revision) ([]HistoryEntry, error)

	// Compact forgets changes up to and including the revision; resources and history stay.
	Compact(ctx context.Context, upTo mesh.Revision) error

	// ForgetHistory forgets the history of before then; resources and the change log stay.
	ForgetHistory(ctx context.Context, before time.Time) error

	Records

	// Close ends all watches and releases the engine.
	Close() error
}

// Records is the side of a store for small, fast-changing values. A bucket comes into being with its
// first record; its sequence counts its writes.
type Records interface {
	// PutRecords commits the writes of one bucket atomically and returns the bucket's sequence
	// afterwards. Every write of the call gets the same, new sequence as its version. ErrConflict if
	// any IfVersion does not hold; then nothing is written.
	PutRecords(ctx context.Context, bucket string, writes ...RecordWrite) (uint64, error)
	// GetRecord returns one record, or ErrNotFound.
	GetRecord(ctx context.Context, bucket, key string) (Record, error)
	// ListRecords returns the records whose key begins with prefix, ordered by key, and the bucket's
	// sequence at that moment.
	ListRecords(ctx context.Context, bucket, prefix string) ([]Record, uint64, error)
	// WatchRecords signals (coalesced, capacity 1) after every change of a bucket whose name begins
	// with prefix, once at the start too. The channel closes when ctx ends.
	WatchRecords(ctx context.Context, prefix string) <-chan struct{}
}

// Recoverable reports whether the newest writes of a bucket may be lost when the machine loses power
// (never when only the process dies): whoever wrote them writes them again after a restart. Engines need
// not wait for the disk for such a write, nor for an Apply of nothing but copies, which their origin sends
// again; they lose the end of what was written, never something before it.
func Recoverable(bucket string) bool {
	kind, _, _ := strings.Cut(bucket, "/")
	switch kind {
	case "zones", "status", "revisions", "status-positions", "proxies", "services", "failover", "links", "traffic":
		return true
	}
	return bucket == "federation/cursors"
}

// Record is one small value. Value is opaque, at most 1 MiB.
type Record struct {
	Key       string
	Value     []byte
	Version   uint64 // the bucket's sequence when it was written, from 1
	UpdatedAt time.Time
}

// RecordWrite puts or deletes one record.
type RecordWrite struct {
	Key    string
	Value  []byte
	Delete bool // of what is not there: no error
	// IfVersion, when not nil: the record's present version must equal it; 0 means "must not exist".
	IfVersion *uint64
}

// Query selects resources. Zero fields don't select.
type Query struct {
	Origin    mesh.Origin
	Kind      mesh.Kind
	Namespace string
	Name      string            // exact
	Labels    map[string]string // all must match
	// Contains is looked for in the name, case-sensitively.
	Contains string
	Sort     Sort
	Desc     bool
	Limit    int    // 1 to 1000; 0 means 100
	Continue string // opaque, from Page.Continue of the same query
}

// Sort orders a list. Ties are broken by key.
type Sort string

// The orders of a list.
const (
	SortKey     Sort = "" // origin, kind, namespace, name
	SortName    Sort = "name"
	SortChanged Sort = "changed" // by Revision in this store
	SortCreated Sort = "created"
)

// Page is one page of a list.
type Page struct {
	Items    []mesh.Resource
	Continue string // "" at the end
	Cursor   mesh.Cursor
}

// Batch is what one Apply commits.
type Batch struct {
	Writes []Write
	Actor  string // who: "user:admin", "zone:aws-east", "proxy:shop/web-1"
	Source string // by which way: "api", "cli", "federation", "discovery"
	Reason string // why, in the actor's words; may be empty
	// IdempotencyKey, when set, makes a repeated Apply return the first Result (kept at least 24 h).
	IdempotencyKey string
	// DryRun computes the Result and rolls back; Result.Revision is then the head.
	DryRun bool
}

// Write puts or deletes one resource. For a put at the origin the engine fills UID, Generation,
// Created, Changed, CreatedAt, ChangedAt and Revision; whatever the caller put there is ignored, unless
// Copy is set.
type Write struct {
	Resource mesh.Resource // for a delete only Key matters, and Changed of a copy
	Delete   bool
	// IfRevision, when not nil: the resource's Revision in this store must equal it; 0 means "must not
	// exist". Without it the last writer wins.
	IfRevision *mesh.Revision
	// Copy: the resource comes from its origin; everything but Revision is kept as given. For a delete Changed
	// is the origin's revision that deleted it, 0 where that is not known.
	Copy bool
}

// Outcome is what a write did.
type Outcome string

// The outcomes of a write.
const (
	Created   Outcome = "created"
	Updated   Outcome = "configured"
	Unchanged Outcome = "unchanged"
	Deleted   Outcome = "deleted"
	Absent    Outcome = "absent" // deletion of what was not there
)

// Result answers an Apply.
type Result struct {
	Revision mesh.Revision
	Items    []ResultItem // in the order of Batch.Writes
	Replayed bool         // answered from an idempotency key
}

// ResultItem is one write's outcome, with the resource as it now is (the last state for a delete).
type ResultItem struct {
	Outcome  Outcome
	Resource mesh.Resource
}

// Watcher delivers commits.
type Watcher interface {
	// Next blocks for the next commit. After Close or the end of ctx it returns an error.
	Next(ctx context.Context) (Commit, error)
	Close()
}

// Commit is everything one revision changed.
type Commit struct {
	Cursor  mesh.Cursor
	At      time.Time
	Actor   string
	Changes []Change
}

// Change is one resource of a commit: as it became, or, for Deleted, as it last was, but for Changed, which is
// the origin's revision that deleted it.
type Change struct {
	Resource mesh.Resource
	Deleted  bool
}

// HistoryEntry is one change of one resource. Before and After are nil at creation and deletion.
type HistoryEntry struct {
	Revision  mesh.Revision
	At        time.Time
	Actor     string
	Source    string
	Reason    string
	RequestID string
	Before    *mesh.Resource
	After     *mesh.Resource
}
