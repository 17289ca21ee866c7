package fedserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
)

// Bounds of what a zone answers.
const (
	maxAnswerBytes = 32 << 20
	askPatience    = 25 * time.Second
)

// questions are those that a session has put to its zone.
type questions struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*question
}

type question struct {
	data   bytes.Buffer
	parts  chan []byte   // of one that is followed, instead of data
	left   atomic.Uint64 // lines of parts that were left out
	answer chan error    // capacity 1: the answer is whole, or why there is none
}

// Ask asks a zone about a proxy: what is "config", "stats" or "clusters", subject a mesh.ProxyID. The error is for people.
func (s *Server) Ask(ctx context.Context, zone, what, subject string) ([]byte, error) {
	x, err := s.sessionOf(zone)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	id, q := x.questions.begin(&question{answer: make(chan error, 1)})
	defer x.questions.end(id)
	asked := false
	x.link.Do(func(g *federation.GlobalSession) {
		asked = g.Ask(&federationpb.Query{Id: id, What: what, Subject: subject})
	})
	if !asked {
		return nil, fmt.Errorf("zone %s is asked too much at once", zone)
	}
	select {
	case err := <-q.answer:
		return q.data.Bytes(), err
	case <-x.done:
		return nil, fmt.Errorf("the session of zone %s has ended", zone)
	case <-ctx.Done():
		return nil, fmt.Errorf("zone %s did not answer in time", zone)
	}
}

func (s *Server) sessionOf(zone string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.sessions[zone]; x != nil {
		return x, nil
	}
	return nil, fmt.Errorf("zone %s has no session with this replica of global", zone)
}

func (q *questions) begin(one *question) (uint64, *question) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open == nil {
		q.open = map[uint64]*question{}
	}
	q.last++
	q.open[q.last] = one
	return q.last, one
}

func (q *questions) end(id uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.open, id)
}

// take adds a part of an answer; of one that nobody waits for any more nothing is kept.
func (q *questions) take(a *federationpb.Answer) {
	q.mu.Lock()
	one := q.open[a.GetId()]
	if one != nil && (!a.GetMore() || a.GetError() != "" || one.parts == nil && one.data.Len()+len(a.GetData()) > maxAnswerBytes) {
		delete(q.open, a.GetId())
	}
	q.mu.Unlock()
	switch {
	case one == nil:
	case a.GetError() != "":
		one.answer <- errors.New(a.GetError())
	case one.parts != nil:
		one.part(a)
	case one.data.Len()+len(a.GetData()) > maxAnswerBytes:
		one.answer <- fmt.Errorf("the answer is larger than %d MiB", maxAnswerBytes>>20)
	default:
		one.data.Write(a.GetData())
		if !a.GetMore() {
			one.answer <- nil
		}
	}
}
