package fedclient

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/comity-mesh/comity/federation"
	"github.com/comity-mesh/comity/federation/federationpb"
)

const (
	maxLines = 64 << 10
	// retryPart is how long a part waits that the session did not take, because what matters more goes first.
	retryPart = 20 * time.Millisecond
)

// following are the questions of a session whose answers go on.
type following struct {
	mu     sync.Mutex
	cancel map[uint64]context.CancelFunc
}

// follow answers a question whose answer goes on, in lines of JSON. What global or the session does not take holds up the one who
// tells, who leaves out what is too much.
func (h *host) follow(ctx context.Context, link *federation.ZoneLink, q *federationpb.Query) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h.following.mu.Lock()
	h.following.cancel[q.GetId()] = cancel
	h.following.mu.Unlock()
	defer func() {
		h.following.mu.Lock()
		delete(h.following.cancel, q.GetId())
		h.following.mu.Unlock()
	}()
	lines := make(chan []byte)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		defer cancel()
		sendLines(ctx, link, q.GetId(), lines)
	}()
	problem := ""
	err := h.client.cfg.Follow(ctx, q.GetWhat(), q.GetSubject(), func(v any) error {
		line, err := json.Marshal(v)
		if err != nil {
			return err
		}
		select {
		case lines <- append(line, '\n'):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err != nil && ctx.Err() == nil {
		problem = err.Error()
	}
	close(lines)
	<-sent
	link.Do(func(s *federation.ZoneSession) { s.Answer(q.GetId(), nil, problem) })
}

// sendLines sends what comes, in parts, until nothing more comes, or nobody wants more.
func sendLines(ctx context.Context, link *federation.ZoneLink, id uint64, lines <-chan []byte) {
	for line := range lines {
		part := bytes.NewBuffer(line)
		for more := true; more && part.Len() < maxLines; {
			select {
			case next, ok := <-lines:
				part.Write(next)
				more = ok
			default:
				more = false
			}
		}
		for {
			var taken, ended bool
			link.Do(func(s *federation.ZoneSession) { taken, ended = s.Part(id, part.Bytes()) })
			if ended {
				return
			}
			if taken {
				break
			}
			select {
			case <-time.After(retryPart):
			case <-ctx.Done():
				return
			}
		}
	}
}

// withdrawn ends the answer to a question for which nobody waits any more.
func (h *host) withdrawn(id uint64) {
	h.following.mu.Lock()
	defer h.following.mu.Unlock()
	if cancel := h.following.cancel[id]; cancel != nil {
		cancel()
	}
}
