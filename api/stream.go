package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

const (
	// writeLimit is how long a reader may leave one event unread before it is dropped. What it missed
	// it gets by resuming.
	writeLimit = 15 * time.Second
	// keepAlive is how often an idle stream says that it lives, so that both ends notice the end of
	// the other.
	keepAlive = 20 * time.Second
	// bookmarkEvery bounds how many commits without a matching change go by untold.
	bookmarkEvery = 64
)

// events writes server-sent events (WHATWG HTML, 9.2).
type events struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

// send writes one event; the id may be empty, the data must be one line.
func (e *events) send(event, id string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return e.sendText(event, id, text)
}

// sendText is send for data that are JSON already, in one line.
func (e *events) sendText(event, id string, text []byte) error {
	var b bytes.Buffer
	if id != "" {
		fmt.Fprintf(&b, "id: %s\n", id)
	}
	fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", event, text)
	return e.write(b.Bytes())
}

func (e *events) write(b []byte) error {
	if err := e.rc.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	if _, err := e.w.Write(b); err != nil {
		return err
	}
	return e.rc.Flush()
}

// alive sends a comment.
func (e *events) alive() error { return e.write([]byte(": alive\n\n")) }

// streams counts the open ones of each token.
type streams struct {
	most, each int

	mu   sync.Mutex
	all  int
	open map[string]int // by the token's id
}

// enter takes a place, or is the 429 that says why there is none.
func (s *streams) enter(token string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := func(format string, n int) error {
		return fail(http.StatusTooManyRequests, CodeTooMany, "close others, or ask later", format, n).with("Retry-After", "5")
	}
	switch {
	case s.open[token] >= s.each:
		return full("%d streams of this token are open already", s.each)
	case s.all >= s.most:
		return full("%d streams are open already", s.most)
	}
	s.all++
	s.open[token]++
	return nil
}

func (s *streams) leave(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.open[token]--; s.open[token] == 0 {
		delete(s.open, token)
	}
}

// stream answers with events until run returns. An error of run is the last event.
func (s *server) stream(ctx context.Context, run func(ctx context.Context, e *events) error) (*huma.StreamResponse, error) {
	p, _ := s.authz.Principal(ctx)
	if err := s.streams.enter(p.token); err != nil {
		return nil, err
	}
	s.metrics.streams.Inc()
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer func() {
			s.streams.leave(p.token)
			s.metrics.streams.Dec()
		}()
		_, w := humago.Unwrap(hc)
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("X-Accel-Buffering", "no") // proxies must not hold events back
		w.WriteHeader(http.StatusOK)
		e := &events{w: w, rc: http.NewResponseController(w)}
		ctx, cancel := context.WithCancel(hc.Context())
		defer cancel()
		if s.cfg.Stopping != nil {
			go func() {
				select {
				case <-s.cfg.Stopping:
					cancel()
				case <-ctx.Done():
				}
			}()
		}
		if e.rc.Flush() != nil {
			return
		}
		err := run(ctx, e)
		if err == nil || ctx.Err() != nil {
			return
		}
		_ = e.send("error", "", problemOf(ctx, s.cfg.Log, err)) // the reader may be why it ends
	}}, nil
}

// watch streams the changes of a selection. Without a cursor it begins with everything there is, as
// added, and a bookmark.
//
//	added, modified   data: the object, without status
//	deleted           data: the object as it last was. Also sent for a resource that no longer matches the
//	                  labels, so it may name one that the reader never saw
//	bookmark          data: {"cursor"}. Nothing before the cursor is missing
//	error             data: a problem; the stream ends
//
// Every id is a cursor to resume from.
func (s *server) watch(ctx context.Context, q store.Query, sel SelectInput) (*huma.StreamResponse, error) {
	at := sel.LastEventID
	if at == "" {
		at = sel.Cursor
	}
	from, err := mesh.ParseCursor(at)
	if err != nil {
		return nil, fail(http.StatusBadRequest, CodeMalformed, "send a cursor that a list or an event gave", "%.80q is no cursor", at)
	}
	if q.Limit != 0 || q.Continue != "" || q.Sort != store.SortKey || q.Desc {
		return nil, fail(http.StatusBadRequest, CodeMalformed, "leave them out", "a watch has no limit, continue or sort")
	}
	if at != "" {
		// A cursor that can't be resumed is an answer, not an event.
		w, err := s.cfg.Store.Watch(ctx, from)
		if err != nil {
			return nil, err
		}
		return s.stream(ctx, func(ctx context.Context, e *events) error {
			defer w.Close()
			return s.follow(ctx, e, w, q)
		})
	}
	return s.stream(ctx, func(ctx context.Context, e *events) error {
		cursor, err := s.snapshot(ctx, e, q)
		if err != nil {
			return err
		}
		w, err := s.cfg.Store.Watch(ctx, cursor)
		if err != nil {
			return err
		}
		defer w.Close()
		return s.follow(ctx, e, w, q)
	})
}

type bookmark struct {
	Cursor string `json:"cursor"`
}

// snapshot sends what there is and returns the cursor that belongs to it.
func (s *server) snapshot(ctx context.Context, e *events, q store.Query) (mesh.Cursor, error) {
	q.Limit = 500
	for {
		page, err := s.cfg.Store.List(ctx, q)
		if err != nil {
			return mesh.Cursor{}, err
		}
		for _, r := range page.Items {
			// Without an id: half a snapshot is nothing to resume from.
			if err := e.send("added", "", toObject(r)); err != nil {
				return mesh.Cursor{}, err
			}
		}
		if q.Continue = page.Continue; q.Continue == "" {
			c := page.Cursor.String()
			return page.Cursor, e.send("bookmark", c, bookmark{c})
		}
	}
}

// follow sends commits until the reader or the store ends it.
func (s *server) follow(ctx context.Context, e *events, w store.Watcher, q store.Query) error {
	type next struct {
		commit store.Commit
		err    error
	}
	commits := make(chan next)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for {
			c, err := w.Next(ctx)
			select {
			case commits <- next{c, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	idle := time.NewTicker(keepAlive)
	defer idle.Stop()
	skipped := 0
	for {
		var n next
		select {
		case <-ctx.Done():
			return nil
		case <-idle.C:
			if err := e.alive(); err != nil {
				return err
			}
			continue
		case n = <-commits:
		}
		if n.err != nil {
			return n.err
		}
		sent, err := s.sendCommit(e, n.commit, q)
		if err != nil {
			return err
		}
		if sent {
			skipped = 0
		} else if skipped++; skipped == bookmarkEvery {
			skipped = 0
			c := n.commit.Cursor.String()
			if err := e.send("bookmark", c, bookmark{c}); err != nil {
				return err
			}
		}
	}
}

// sendCommit sends the changes that match. Only the last of a commit has an id: resuming in the middle
// of one would lose the rest.
func (s *server) sendCommit(e *events, c store.Commit, q store.Query) (bool, error) {
	type event struct {
		name string
		obj  client.Object
	}
	var out []event
	for _, ch := range c.Changes {
		r := ch.Resource
		if !concerns(r, q) {
			continue
		}
		name := "modified"
		switch {
		case ch.Deleted || !hasLabels(r, q.Labels):
			name = "deleted"
		case r.Created == r.Changed:
			name = "added"
		}
		out = append(out, event{name, toObject(r)})
	}
	for i, ev := range out {
		id := ""
		if i == len(out)-1 {
			id = c.Cursor.String()
		}
		if err := e.send(ev.name, id, ev.obj); err != nil {
			return false, err
		}
	}
	return len(out) > 0, nil
}
