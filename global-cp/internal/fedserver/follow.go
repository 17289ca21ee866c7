package fedserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
	"github.com/comity-mesh/comity/mesh"
)

// maxParts is how many parts of an answer that goes on wait for whoever asked; a zone's session does not wait for him.
const maxParts = 64

// Tap shows live requests in a zone, until there are no more to come, with nil, or ctx or the session ends, or emit fails. What
// emit does not take in time is left out and counted. The error is for people.
func (s *Server) Tap(ctx context.Context, zone string, t mesh.Tap, emit func(mesh.TapEvent) error) error {
	return follow(ctx, s, zone, "tap", t, emit, func(n uint64) mesh.TapEvent {
		return mesh.TapEvent{Left: &mesh.TapLeft{Zone: zone, Count: n}}
	})
}

// Top tells what passes between pairs in a zone, as Tap does. What emit does not take in time is said among the problems.
func (s *Server) Top(ctx context.Context, zone string, t mesh.Top, emit func(mesh.Flows) error) error {
	return follow(ctx, s, zone, "top", t, emit, func(n uint64) mesh.Flows {
		return mesh.Flows{Zone: zone, Problems: []mesh.TapProblem{{Reason: fmt.Sprintf("%d answers came too fast to be shown", n)}}}
	})
}

// follow puts a question whose answer goes on in lines of JSON, each an E; left makes one of how many were left out.
func follow[E any](ctx context.Context, s *Server, zone, what string, of any, emit func(E) error, left func(uint64) E) error {
	x, err := s.sessionOf(zone)
	if err != nil {
		return err
	}
	subject, err := json.Marshal(of)
	if err != nil {
		return err
	}
	id, q := x.questions.begin(&question{parts: make(chan []byte, maxParts), answer: make(chan error, 1)})
	defer x.questions.end(id)
	follows, asked := false, false
	x.link.Do(func(g *federation.GlobalSession) {
		if follows = g.Follows(); follows {
			asked = g.Ask(&federationpb.Query{Id: id, What: what, Subject: string(subject), Follow: true})
		}
	})
	switch {
	case !follows:
		return fmt.Errorf("zone %s is of a release that shows nothing live", zone)
	case !asked:
		return fmt.Errorf("zone %s is asked too much at once", zone)
	}
	defer x.link.Do(func(g *federation.GlobalSession) { g.Withdraw(id) })
	for {
		select {
		case part := <-q.parts:
			err := emitLines(part, emit)
			if n := q.left.Swap(0); n > 0 && err == nil {
				err = emit(left(n))
			}
			if err != nil {
				return err
			}
		case err := <-q.answer:
			for err == nil && len(q.parts) > 0 { // nobody adds to them any more
				err = emitLines(<-q.parts, emit)
			}
			return err
		case <-x.done:
			return fmt.Errorf("the session of zone %s has ended", zone)
		case <-ctx.Done():
			return nil
		}
	}
}

func emitLines[E any](part []byte, emit func(E) error) error {
	for line := range bytes.Lines(part) {
		var e E
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("what the zone tells can't be read: %w", err)
		}
		if err := emit(e); err != nil {
			return err
		}
	}
	return nil
}

// part takes a part of an answer that is followed. It is called by one goroutine at a time.
func (q *question) part(a *federationpb.Answer) {
	if len(a.GetData()) > 0 {
		select {
		case q.parts <- a.GetData():
		default: // whoever asked does not keep up
			q.left.Add(uint64(bytes.Count(a.GetData(), []byte("\n")))) //nolint:gosec // not negative
		}
	}
	if !a.GetMore() {
		q.answer <- nil
	}
}
