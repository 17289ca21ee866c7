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
	proxy  mesh.ProxyID
	answer chan answer // capacity 1
}

type answer struct {
	data []byte
	err  error
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
	id, q, err := d.begin(proxy)
	if err != nil {
		return nil, err
	}
	defer d.end(id)
	if err := d.tell(proxy, &enrolpb.Ask{Id: id, What: what}); err != nil {
		return nil, unanswered(proxy, err)
	}
	select {
	case a := <-q.answer:
		if a.err != nil {
			return nil, unanswered(proxy, a.err)
		}
		return a.data, nil
	case <-ctx.Done():
		return nil, unanswered(proxy, errors.New("it did not answer in time"))
	}
}

func unanswered(p mesh.ProxyID, err error) error {
	return &fault.Error{
		Code: "PROXY-UNANSWERED", What: fmt.Sprintf("%s can't be asked", p), Cause: err.Error(), Err: err,
		Try: "comity describe proxy says whether it is connected; its agent's log says more", Exit: fault.ExitUnreachable,
	}
}

func (d *Desk) begin(proxy mesh.ProxyID) (uint64, *question, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.open) == maxOpen {
		return 0, nil, unanswered(proxy, fmt.Errorf("%d others are being asked already", maxOpen))
	}
	d.last++
	q := &question{proxy, make(chan answer, 1)}
	d.open[d.last] = q
	return d.last, q, nil
}

func (d *Desk) end(id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, id)
}

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
	var out bytes.Buffer
	for part := first; ; {
		if part.GetError() != "" {
			q.finish(answer{err: errors.New(part.GetError())})
			break
		}
		if out.Len()+len(part.GetData()) > maxAnswer {
			q.finish(answer{err: fmt.Errorf("its answer is larger than %d MiB", maxAnswer>>20)})
			break
		}
		out.Write(part.GetData())
		if part, err = stream.Recv(); err != nil {
			break
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		q.finish(answer{err: fmt.Errorf("its answer broke off: %w", err)})
		return err
	}
	q.finish(answer{data: out.Bytes()})
	return nil
}

// finish gives the first answer; what comes after it is passed over.
func (q *question) finish(a answer) {
	select {
	case q.answer <- a:
	default:
	}
}
