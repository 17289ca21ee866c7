// Package inspect asks the zone's proxies what they run now: the question goes out on the stream on which their agent
// attends, the answer comes back in a call of its own.
package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/comity-mesh/comity/dataplane/enrolpb"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
)

// Bounds of questions and answers.
const (
	maxOpen   = 8
	maxAnswer = 32 << 20
	patience  = 20 * time.Second
)

// Desk takes questions to agents and their answers back. It is safe for concurrent use.
type Desk struct {
	// tell passes a question to the agent; an error says why that can't be.
	tell func(mesh.ProxyID, *enrolpb.Ask) error

	mu   sync.Mutex
	last uint64
	open map[uint64]*question
}

type question struct {
	proxy mesh.ProxyID
	most  int                     // bound under which it is counted
	take  func(part []byte) error // called by one goroutine at a time
	ended chan error              // capacity 1: the answer is whole, with nil, or why it is not
	gone  chan struct{}           // closed when nobody waits any more
}

// NewDesk makes a desk.
func NewDesk(tell func(mesh.ProxyID, *enrolpb.Ask) error) *Desk {
	return &Desk{tell: tell, open: map[uint64]*question{}}
}

// Ask asks a proxy for "config" (Envoy's configuration, JSON), "stats" (its counters, text) or "clusters" (its endpoints and
// how they do, JSON). The error is for people.
func (d *Desk) Ask(ctx context.Context, proxy mesh.ProxyID, what string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var data bytes.Buffer
	err := d.put(ctx, proxy, &enrolpb.Ask{What: what}, maxOpen, func(part []byte) error {
		if data.Len()+len(part) > maxAnswer {
			return fmt.Errorf("its answer is larger than %d MiB", maxAnswer>>20)
		}
		data.Write(part)
		return nil
	})
	switch {
	case ctx.Err() != nil:
		return nil, unanswered(proxy, errors.New("it did not answer in time"))
	case err != nil:
		return nil, unanswered(proxy, err)
	}
	return data.Bytes(), nil
}

// put puts a question, unless so many of the same bound are open already, and waits for the end of the answer, or of ctx.
func (d *Desk) put(ctx context.Context, proxy mesh.ProxyID, ask *enrolpb.Ask, most int, take func([]byte) error) error {
	id, q, err := d.begin(proxy, most, take)
	if err != nil {
		return err
	}
	defer d.end(id)
	ask.Id = id
	if err := d.tell(proxy, ask); err != nil {
		return err
	}
	select {
	case err := <-q.ended:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func unanswered(p mesh.ProxyID, err error) error {
	return &fault.Error{
		Code: "PROXY-UNANSWERED", What: fmt.Sprintf("%s can't be asked", p), Cause: err.Error(), Err: err,
		Try: "comity describe proxy says whether it is connected; its agent's log says more", Exit: fault.ExitUnreachable,
	}
}

func (d *Desk) begin(proxy mesh.ProxyID, most int, take func([]byte) error) (uint64, *question, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	others := 0
	for _, q := range d.open { // each bound counts its own: who follows a thousand proxies keeps nobody from trying a patch
		if q.most == most {
			others++
		}
	}
	if others >= most {
		return 0, nil, fmt.Errorf("%d others are being asked already", others)
	}
	d.last++
	q := &question{proxy: proxy, most: most, take: take, ended: make(chan error, 1), gone: make(chan struct{})}
	d.open[d.last] = q
	return d.last, q, nil
}

func (d *Desk) end(id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.open[id].gone)
	delete(d.open, id)
}

// saidError is what an agent says instead of an answer.
type saidError string

func (e saidError) Error() string { return string(e) }

// ErrUnasked is the error of an answer for which nobody waits.
var ErrUnasked = errors.New("nobody waits for this answer")

// Parts are those of an answer, in order, until io.EOF.
type Parts interface {
	Recv() (*enrolpb.AnswerPart, error)
}

// Answer takes the answer of an agent, which its certificate named.
func (d *Desk) Answer(from mesh.ProxyID, stream Parts) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	d.mu.Lock()
	q := d.open[first.GetId()]
	d.mu.Unlock()
	if q == nil || q.proxy != from {
		return ErrUnasked
	}
	done := make(chan error, 1)
	go func() { done <- q.read(first, stream) }() // ends with the call, and so with this function
	select {
	case err := <-done:
		return err
	case <-q.gone:
		return nil
	}
}

// read takes the parts of an answer until it ends.
func (q *question) read(part *enrolpb.AnswerPart, stream Parts) error {
	for {
		if part.GetError() != "" {
			q.end(saidError(part.GetError()))
			return nil
		}
		if err := q.take(part.GetData()); err != nil {
			q.end(err)
			return nil
		}
		var err error
		if part, err = stream.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				q.end(nil)
				return nil
			}
			q.end(fmt.Errorf("its answer broke off: %w", err))
			return err
		}
	}
}

// end gives the first end; what comes after it is passed over.
func (q *question) end(err error) {
	select {
	case q.ended <- err:
	default:
	}
}
