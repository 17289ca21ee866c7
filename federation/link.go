package federation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
)

// ErrLogGone: the local log can't serve a cursor (compacted, of another incarnation, beyond the head). A
// snapshot follows.
var ErrLogGone = errors.New("the log does not serve the cursor")

// ErrEnded: the session ended with a goodbye. Wrapped in *EndedError.
var ErrEnded = errors.New("the session ended")

// EndedError carries the goodbye. errors.Is ErrEnded.
type EndedError struct{ Ended }

func (e *EndedError) Error() string { return "session ended (" + e.Code + "): " + e.Reason }

// Unwrap makes errors.Is(err, ErrEnded) true.
func (e *EndedError) Unwrap() error { return ErrEnded }

// Host is the side of the machine on which a session runs: its store, mostly. Its methods are called
// from the goroutines of one Link; Log and Snapshot from one, Apply and Handle from another, one call at a time
// each. An error ends the session; a refusal does not.
type Host interface {
	// Follow reads the local log after the cursor, live. ErrLogGone if it can't.
	Follow(ctx context.Context, from mesh.Cursor) (Log, error)
	// Snapshot calls begin once with the cursor of the state, then add for each part of it.
	Snapshot(ctx context.Context, begin func(mesh.Cursor), add func([]mesh.Resource) error) error
	// Apply commits the batch as copies, then stores the cursor. It returns what was refused.
	Apply(ctx context.Context, b Batch) ([]Refusal, error)
	// Statement verifies and keeps a statement; refused says why it was not kept.
	Statement(ctx context.Context, st *federationpb.Statement) (refused string, err error)
	// Status keeps a report and its position (global only; a zone's is never called).
	Status(ctx context.Context, r *federationpb.StatusReport) error
	// Handle is told of every other effect.
	Handle(ctx context.Context, e Effect) error
}

// Log delivers commits of the local store. ErrLogGone: compaction overtook the reader.
type Log interface {
	Next(ctx context.Context) (Commit, error)
	Close()
}

type session[S, R any] interface {
	Receive(R) error
	Next() (S, bool)
	Effects() []Effect
	Congested() bool
	LogFrom() (mesh.Cursor, bool)
	WantsLog() bool
	Resume()
	Commit(Commit)
	BeginSnapshot(mesh.Cursor)
	AddSnapshot([]mesh.Resource)
	EndSnapshot()
	Applied([]Refusal)
	StatementKept(*federationpb.Statement, string)
	over() error       // the error of a session that said goodbye itself
	giveUp(error) bool // say goodbye because the peer broke the protocol; false where this end can't
}

// Link runs one session over one stream. Do is how others reach the session meanwhile.
type Link[S, R any, T session[S, R]] struct {
	host Host

	mu      sync.Mutex
	session T
	changed chan struct{} // closed and replaced at every event
	saidBye bool
}

// ZoneLink and GlobalLink are the two kinds of Link.
type (
	ZoneLink   = Link[*federationpb.ZoneFrame, *federationpb.GlobalFrame, *ZoneSession]
	GlobalLink = Link[*federationpb.GlobalFrame, *federationpb.ZoneFrame, *GlobalSession]
)

// NewZoneLink makes the zone's link. Changes of the session's status book wake it.
func NewZoneLink(s *ZoneSession, h Host) *ZoneLink {
	l := &ZoneLink{host: h, session: s, changed: make(chan struct{})}
	s.cfg.Statuses.onChange(func() { l.Do(func(*ZoneSession) {}) })
	return l
}

// NewGlobalLink makes global's link.
func NewGlobalLink(s *GlobalSession, h Host) *GlobalLink {
	return &GlobalLink{host: h, session: s, changed: make(chan struct{})}
}

// Do calls f with the session locked, then sends what follows from it. f must not block.
func (l *Link[S, R, T]) Do(f func(T)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l.session)
	l.wake()
}

// wake tells everybody who waits that something changed; the lock is held.
func (l *Link[S, R, T]) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// await blocks until cond holds; it is called with the lock held.
func (l *Link[S, R, T]) await(ctx context.Context, cond func(T) bool) error {
	l.mu.Lock()
	for !cond(l.session) {
		ch := l.changed
		l.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		l.mu.Lock()
	}
	l.mu.Unlock()
	return nil
}

// Run carries the session out until the stream ends, the peer says goodbye, ctx ends or something
// fails; it never returns nil. The goroutine that is in Recv or Send ends when the stream does, which the
// caller sees to right after (a gRPC handler by returning, a client by cancelling the stream's context).
func (l *Link[S, R, T]) Run(ctx context.Context, stream Stream[S, R]) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	part := func(f func() error) {
		wg.Go(func() { cancel(f()) })
	}
	frames := make(chan received[R])
	go l.read(ctx, stream, frames)
	go l.write(ctx, stream, cancel)
	part(func() error { return l.pump(ctx) })
	part(func() error { return l.receive(ctx, frames) })
	wg.Wait()
	return context.Cause(ctx)
}

// received is a frame, or how the stream ended. Both come in order: a goodbye before the end counts.
type received[R any] struct {
	frame R
	err   error
}

func (l *Link[S, R, T]) read(ctx context.Context, stream Stream[S, R], frames chan<- received[R]) {
	for {
		f, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("the peer closed the stream: %w", err)
		}
		select {
		case frames <- received[R]{f, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (l *Link[S, R, T]) write(ctx context.Context, stream Stream[S, R], cancel context.CancelCauseFunc) {
	for {
		l.mu.Lock()
		f, ok := l.session.Next()
		ch := l.changed
		if ok {
			l.wake() // room was made
		}
		over := l.session.over()
		l.mu.Unlock()
		if ok {
			if err := stream.Send(f); err != nil {
				if !errors.Is(err, io.EOF) { // the end of the stream: Recv knows why
					cancel(err)
				}
				return
			}
		}
		if over != nil {
			l.Do(func(T) { l.saidBye = true })
			cancel(over)
			return
		}
		if ok && ctx.Err() == nil {
			continue
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return
		}
	}
}

// receive carries out what frames and other events cause, one after the other.
func (l *Link[S, R, T]) receive(ctx context.Context, frames <-chan received[R]) error {
	for {
		if err := l.carryOut(ctx); err != nil {
			return err
		}
		l.mu.Lock()
		ch, in := l.changed, frames
		if l.session.Congested() {
			in = nil
		}
		l.mu.Unlock()
		select {
		case f := <-in:
			if f.err != nil {
				return f.err
			}
			l.mu.Lock()
			err := l.session.Receive(f.frame)
			l.wake()
			l.mu.Unlock()
			if err != nil {
				// What came before a violation was right and is carried out.
				err = errors.Join(err, l.carryOut(ctx))
				l.refuse(ctx, err)
				return err
			}
		case <-ch:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// refuse tells the peer why the session ends, where this end can, and gives the writer a moment for it. A
// peer that does not read sees the stream end.
func (l *Link[S, R, T]) refuse(ctx context.Context, why error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	over := true
	l.Do(func(s T) { over = !s.giveUp(why) })
	if !over {
		_ = l.await(ctx, func(T) bool { return l.saidBye })
	}
}

func (l *Link[S, R, T]) carryOut(ctx context.Context) error {
	for {
		l.mu.Lock()
		effects := l.session.Effects()
		l.mu.Unlock()
		if len(effects) == 0 {
			return nil
		}
		for _, e := range effects {
			if err := l.one(ctx, e); err != nil {
				return err
			}
		}
	}
}

func (l *Link[S, R, T]) one(ctx context.Context, e Effect) error {
	switch e := e.(type) {
	case Apply:
		refusals, err := l.host.Apply(ctx, e.Batch)
		if err != nil {
			return fmt.Errorf("apply %s: %w", e.Batch.Cursor, err)
		}
		l.Do(func(s T) { s.Applied(refusals) })
	case StatementArrived:
		refused, err := l.host.Statement(ctx, e.Statement)
		if err != nil {
			return fmt.Errorf("keep a statement: %w", err)
		}
		l.Do(func(s T) { s.StatementKept(e.Statement, refused) })
	case StatusArrived:
		if err := l.host.Status(ctx, e.Report); err != nil {
			return fmt.Errorf("keep statuses: %w", err)
		}
		l.Do(func(s T) {
			if g, ok := any(s).(*GlobalSession); ok {
				g.StatusKept(e.Report)
			}
		})
	case Ended:
		if err := l.host.Handle(ctx, e); err != nil {
			return err
		}
		return &EndedError{e}
	default:
		return l.host.Handle(ctx, e)
	}
	return nil
}

// pump feeds the local log to the session, no faster than it is taken.
func (l *Link[S, R, T]) pump(ctx context.Context) error {
	var from mesh.Cursor
	err := l.await(ctx, func(s T) bool {
		var ok bool
		from, ok = s.LogFrom()
		return ok
	})
	if err != nil {
		return err
	}
	snapshot := from == (mesh.Cursor{}) // from nothing, the state is shorter than how it came to be
	for {
		if snapshot {
			if from, err = l.snapshot(ctx); err != nil {
				return fmt.Errorf("snapshot: %w", err)
			}
		}
		log, err := l.host.Follow(ctx, from)
		if err == nil {
			if !snapshot {
				l.Do(func(s T) { s.Resume() })
			}
			err = l.follow(ctx, log)
			log.Close()
		}
		if !errors.Is(err, ErrLogGone) {
			return err
		}
		snapshot = true
	}
}

func (l *Link[S, R, T]) follow(ctx context.Context, log Log) error {
	for {
		c, err := log.Next(ctx)
		if err != nil {
			return err
		}
		l.Do(func(s T) { s.Commit(c) })
		if err := l.await(ctx, T.WantsLog); err != nil {
			return err
		}
	}
}

func (l *Link[S, R, T]) snapshot(ctx context.Context) (at mesh.Cursor, err error) {
	err = l.host.Snapshot(ctx,
		func(c mesh.Cursor) { at = c; l.Do(func(s T) { s.BeginSnapshot(c) }) },
		func(items []mesh.Resource) error {
			l.Do(func(s T) { s.AddSnapshot(items) })
			return l.await(ctx, T.WantsLog)
		})
	if err == nil {
		l.Do(func(s T) { s.EndSnapshot() })
	}
	return at, err
}
