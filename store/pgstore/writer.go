package pgstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/comity-mesh/comity/store"
)

// What one transaction may take: waiting calls, and bytes of what they carry.
const (
	groupMaximum = 256
	groupBytes   = 8 << 20
)

// call is one that writes, as the writer sees it.
type call interface {
	answer(err error)
	context() context.Context
	size() int // in bytes, about
}

// pending is the part that all calls have.
type pending struct {
	ctx  context.Context // the caller's, carried to the writing goroutine
	err  error
	done chan struct{}
}

func (p *pending) context() context.Context { return p.ctx }

func (p *pending) answer(err error) {
	p.err = err
	close(p.done)
}

// writer commits calls in groups over one connection. Its goroutine owns the connection.
type writer[C call] struct {
	store    *Store
	requests chan C
	// group commits what it can, and returns the errors of the calls in order. An error of the second kind is that of
	// all: nothing was committed, or, where the connection broke, nobody knows.
	group func(ctx context.Context, conn *pgx.Conn, calls []C) ([]error, error)
	conn  *pgx.Conn
}

func newWriter[C call](s *Store, group func(context.Context, *pgx.Conn, []C) ([]error, error)) *writer[C] {
	return &writer[C]{store: s, requests: make(chan C), group: group}
}

// do hands a call to the writing goroutine and waits for its commit. When ctx ends while the call is
// being written, whether it was is not known.
func (w *writer[C]) do(p *pending, c C) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	select {
	case w.requests <- c:
	case <-p.ctx.Done():
		return p.ctx.Err()
	case <-w.store.running.Done():
		return store.ErrClosed
	}
	select {
	case <-p.done:
		return p.err
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// run is the writing goroutine.
func (w *writer[C]) run() {
	ctx := context.WithoutCancel(w.store.running) // what was taken is finished
	for {
		select {
		case <-w.store.running.Done():
			w.hangUp(ctx)
			return
		case c := <-w.requests:
			w.commit(ctx, w.more(c))
		}
	}
}

// more takes what is waiting behind the first call.
func (w *writer[C]) more(first C) []C {
	calls, bytes := []C{first}, first.size()
	for len(calls) < groupMaximum && bytes < groupBytes {
		select {
		case c := <-w.requests:
			calls = append(calls, c)
			bytes += c.size()
		default:
			return calls
		}
	}
	return calls
}

// commit commits the calls and answers them.
func (w *writer[C]) commit(ctx context.Context, all []C) {
	calls := make([]C, 0, len(all))
	for _, c := range all {
		if err := c.context().Err(); err != nil {
			c.answer(err) // the caller has left before anything was done
			continue
		}
		calls = append(calls, c)
	}
	if len(calls) == 0 {
		return
	}
	errs, err := w.try(ctx, calls)
	if err != nil && len(calls) > 1 && errors.Is(err, store.ErrInvalid) {
		// The database refused a value of one of them. Alone, each learns whether it is the one.
		for _, c := range calls {
			w.commit(ctx, []C{c})
		}
		return
	}
	for i, c := range calls {
		if err != nil {
			c.answer(err)
			continue
		}
		c.answer(errs[i])
	}
}

// errNotBegun marks a failure from before the transaction held anything: it can be tried again.
var errNotBegun = errors.New("not begun")

// try runs a group, on a new connection if need be. A connection may have died unnoticed while nobody wrote, or the
// database may have been restored under it: then once more.
func (w *writer[C]) try(ctx context.Context, calls []C) (errs []error, err error) {
	for range 2 {
		if w.conn == nil {
			if w.conn, err = w.store.connect(ctx); err != nil {
				return nil, classify(ctx, err)
			}
		}
		errs, err = w.group(ctx, w.conn, calls)
		if err == nil {
			return errs, nil
		}
		err = w.clean(ctx, err)
		if !errors.Is(err, errNotBegun) {
			break
		}
	}
	return nil, classify(ctx, err)
}

// clean makes the connection fit for the next group, or gives it up.
func (w *writer[C]) clean(ctx context.Context, err error) error {
	if errors.Is(err, errAnotherLife) {
		w.hangUp(ctx)
		return fmt.Errorf("%w: %w", errNotBegun, err)
	}
	if !w.conn.IsClosed() {
		ctx, cancel := context.WithTimeout(ctx, writeLimit)
		defer cancel()
		if _, undo := w.conn.Exec(ctx, "ROLLBACK"); undo != nil {
			err = errors.Join(err, undo)
			w.hangUp(ctx)
		}
	}
	if w.conn != nil && w.conn.IsClosed() {
		w.conn = nil
	}
	return err
}

func (w *writer[C]) hangUp(ctx context.Context) {
	if w.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	if err := w.conn.Close(ctx); err != nil {
		w.store.log.DebugContext(ctx, "goodbye to the database", "error", err)
	}
	w.conn = nil
}

// begin sends the first round trip of a group: BEGIN, and what the batch reads. Its failure leaves nothing behind; where
// the connection is the reason, the group may be tried on another one.
func begin(ctx context.Context, conn *pgx.Conn, read *pgx.Batch) error {
	err := send(ctx, conn, read)
	if err == nil || errors.Is(err, errAnotherLife) {
		return err
	}
	if _, ok := errors.AsType[*pgconn.PgError](err); !ok || conn.IsClosed() {
		return fmt.Errorf("%w: %w", errNotBegun, err)
	}
	return err
}

// send sends a batch in one round trip; the batch's own functions read its results.
func send(ctx context.Context, conn *pgx.Conn, b *pgx.Batch) error {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	return conn.SendBatch(ctx, b).Close()
}
