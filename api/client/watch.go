package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/comity-mesh/comity/policy"
)

// EventType says what an Event is.
type EventType string

// The types of events. Deleted may name an object that was never seen: one that no longer matches the
// labels is told like this too.
const (
	EventAdded    EventType = "added"
	EventModified EventType = "modified"
	EventDeleted  EventType = "deleted"
	EventBookmark EventType = "bookmark"
)

// Event is one step of a watch.
type Event struct {
	Type   EventType
	Object Object // as it is now, or last was; without status; empty in a bookmark
	// Cursor resumes after this event; empty in the middle of a commit or of the first state.
	Cursor string
}

// Watch calls each with every change of what the options select, until each or the server ends it or ctx
// ends. With an empty cursor the first events add all there is, ended by a bookmark; with the cursor of
// an earlier event it goes on after it. A cursor that is too old is a *fault.Error of code
// cursor_compacted or other_incarnation: begin again with none.
func (c *Client) Watch(ctx context.Context, kind policy.KindInfo, o ListOptions, cursor string, each func(Event) error) error {
	q := url.Values{"watch": {"true"}}
	for k, v := range map[string]string{"origin": o.Origin, "labelSelector": o.Selector, "contains": o.Contains} {
		if v != "" {
			q.Set(k, v)
		}
	}
	res, err := c.send(ctx, request{method: http.MethodGet, path: path(kind, o.Namespace, ""), query: q,
		header: map[string]string{"Accept": "text/event-stream", "Last-Event-ID": cursor}})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return c.events(ctx, res.Body, func(name, id, data string) error { return c.deliver(name, id, data, each) })
}

// events calls each with every server-sent event, until each fails, the server ends them or ctx ends.
func (c *Client) events(ctx context.Context, body io.Reader, each func(name, id, data string) error) error {
	in := bufio.NewScanner(body)
	in.Buffer(nil, 4<<20)
	var name, id, data string
	for in.Scan() {
		field, value, _ := strings.Cut(in.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "id":
			id = value
		case "data":
			data = value
		case "":
			if in.Text() != "" || name == "" {
				continue // a comment, or nothing since the last event
			}
			if err := each(name, id, data); err != nil {
				return err
			}
			name, id, data = "", "", ""
		}
	}
	if err := in.Err(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return c.unreachable(err)
	}
	return ctx.Err()
}

func (c *Client) deliver(name, id, data string, each func(Event) error) error {
	if name == "error" {
		return problemEvent(data)
	}
	ev := Event{Type: EventType(name), Cursor: id}
	if ev.Type != EventBookmark {
		if err := json.Unmarshal([]byte(data), &ev.Object); err != nil {
			return fmt.Errorf("event of a watch: %w", err)
		}
	}
	return each(ev)
}

// problemEvent is the error that ends a stream of events.
func problemEvent(data string) error {
	var p Problem
	if err := json.Unmarshal([]byte(data), &p); err != nil {
		return fmt.Errorf("the stream ended: %w", err)
	}
	return fromProblem(p, p.Status)
}
