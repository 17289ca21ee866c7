package federation

import (
	"errors"
	"fmt"
	"time"

	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
)

// The protocol ability of this program: one integer. A side never sends what the lower of the two
// abilities does not have.
//
//	1  2026-11  join, renewal, resources both ways, statements, statuses, queries
//	2  2026-11  a zone says which statements it holds by a digest, and one by one only if asked
//	            (an older global does not ask: it sends all of them again)
//	3  2026-11  questions whose answer goes on until they are withdrawn (an older zone is not asked them)
const (
	Protocol    = 3
	MinProtocol = 1 // the oldest ability this program still speaks with

	followProtocol = 3
)

// Bounds of frames and of what may wait.
const (
	MaxFrameResources = 1 << 20   // bytes of resources, keys or statuses in one frame
	MaxMessage        = 4 << 20   // bytes of one message on the wire; gRPC refuses more
	MaxResource       = 900 << 10 // bytes of one resource; a larger one is refused alone
	MaxStatement      = 512 << 10 // bytes of one statement, with its certificates
	MaxStatusValue    = 64 << 10  // bytes of one status

	maxPending     = 4 << 20   // bytes of coalesced changes, after which the log is read no further
	maxBatch       = 256 << 20 // bytes of one revision or snapshot that a receiver gathers
	maxOutstanding = 8         // batches sent and not acknowledged
	maxSaid        = 64        // statements sent and not acknowledged
	maxReplies     = 1024      // replies that wait; beyond it nothing more is received
	maxAsked       = 16        // questions without an answer
	maxParts       = 16        // parts of answers that go on, waiting to be sent
	maxHeads       = 16384     // statement heads in a hello; what is not named there is sent again
	lazyAdvance    = 256       // revisions without anything for the receiver before its cursor is moved
)

// Codes of Refusal.
const (
	CodeUnknownKind = "unknown-kind" // stored and passed over
	CodeInvalid     = "invalid"
	CodeNotAllowed  = "not-allowed"
	CodeTooLarge    = "too-large"
)

// Codes of Ended.
const (
	ByeFenced      = "fenced"       // a newer session of the zone took over
	ByeRevoked     = "revoked"      // the zone or its key is not accepted any more
	ByeProtocol    = "protocol"     // the other side broke the protocol, or is too old or too new
	ByeUnknownZone = "unknown-zone" // there is no such zone
	ByeShutdown    = "shutdown"     // come back later
)

// ErrProtocol: the peer broke the protocol; the stream must end. Wrapped with what it did.
var ErrProtocol = errors.New("federation protocol violated")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// Stream is one direction each of frames. gRPC streams are Streams as they are. Send and Recv are each
// called by one goroutine at a time. An io.EOF of Send says that the stream has ended, and that Recv
// tells why.
type Stream[S, R any] interface {
	Send(S) error
	Recv() (R, error)
}

// Commit is what one revision of the local log changed.
type Commit struct {
	Cursor  mesh.Cursor
	Changes []Change
}

// Change is one resource of a commit: as it became or, for Deleted, as it last was.
type Change struct {
	Resource mesh.Resource
	Deleted  bool
	// Before is the resource as it was before, where known. Global fills it for a resource with a
	// narrowed scope, so that only zones that had the resource are told that it left theirs.
	Before *mesh.Resource
}

// Batch is what a receiver commits at once: writes of copies, then the cursor. Both are idempotent, so a
// crash between them repeats the batch and loses nothing.
type Batch struct {
	Cursor  mesh.Cursor // to be stored once the writes are in
	Puts    []mesh.Resource
	Deletes []mesh.Key
	// Snapshot: every copy of the peer's origin that is neither in Puts nor in Keep is deleted too.
	Snapshot bool
	// Keep names what the snapshot holds but was refused: its last good version stays.
	Keep map[mesh.Key]struct{}
}

// Refusal is one resource that was not taken. With CodeUnknownKind it was stored and passed over.
type Refusal struct {
	Key      mesh.Key
	Revision mesh.Revision // Resource.Changed of what was refused
	Code     string
	Reason   string
}

// Sent is one resource of an acknowledged batch.
type Sent struct {
	Key     mesh.Key
	Changed mesh.Revision // of the resource; 0 for a deletion
	Deleted bool
}

// Effect is something for a session's owner to do. Effects are carried out in order.
type Effect interface{ effect() }

type (
	// Started: the handshake is done; Protocol is what both sides have.
	Started struct {
		Protocol int
		Epoch    uint64
		Peer     mesh.Incarnation // of the peer's store (at global: of the zone)
		Version  string           // of the zone's software; empty at the zone
	}
	// Apply: commit the batch, store its cursor, then call Applied with what was refused.
	Apply struct{ Batch Batch }
	// Acked: the peer holds everything up to the cursor, but for what it refused.
	Acked struct {
		Cursor mesh.Cursor
		Items  []Sent
	}
	// Refused: the peer (or, for too-large, this side on its behalf) did not take one of our resources.
	Refused struct{ Refusal Refusal }
	// StatementArrived: verify and keep the statement, then call StatementKept.
	StatementArrived struct{ Statement *federationpb.Statement }
	// StatementAnswered: the peer holds one of the statements sent to it, or refused it with a reason.
	StatementAnswered struct{ Ack *federationpb.StatementAck }
	// StatementRejected: the peer sent a statement that it may not send; it was refused already.
	StatementRejected struct {
		Statement *federationpb.Statement
		Reason    string
	}
	// StatusArrived: keep the statuses and their position, then call StatusKept. Global only.
	StatusArrived struct{ Report *federationpb.StatusReport }
	// Asked: answer the question with ZoneSession.Answer; one that is followed with any number of ZoneSession.Part before. Zone only.
	Asked struct{ Query *federationpb.Query }
	// Withdrawn: nobody waits for more of the answer; end it with ZoneSession.Answer. Zone only.
	Withdrawn struct{ ID uint64 }
	// Answered: a part of an answer. Global only.
	Answered struct{ Answer *federationpb.Answer }
	// Ended: the peer said goodbye; RetryAfter is its wish, 0 for none.
	Ended struct {
		Code       string
		Reason     string
		RetryAfter time.Duration
	}
)

func (Started) effect()           {}
func (Apply) effect()             {}
func (Acked) effect()             {}
func (Refused) effect()           {}
func (StatementArrived) effect()  {}
func (StatementAnswered) effect() {}
func (StatementRejected) effect() {}
func (StatusArrived) effect()     {}
func (Asked) effect()             {}
func (Withdrawn) effect()         {}
func (Answered) effect()          {}
func (Ended) effect()             {}
