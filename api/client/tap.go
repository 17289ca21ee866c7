package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/comity-mesh/comity/mesh"
)

// Tap calls each with live requests in the zones, all if none is named, and with what is to be known of them, until the last event,
// each fails or ctx ends. A stream that breaks before its last event is an error.
func (c *Client) Tap(ctx context.Context, zones []string, t mesh.Tap, each func(mesh.TapEvent) error) error {
	q := url.Values{"zone": zones, "method": t.Filter.Methods, "status": t.Filter.Status}
	for k, v := range map[string]string{
		"namespace": t.Namespace, "service": t.Service, "side": string(t.Side), "proxy": t.Proxy, "path": t.Filter.Path, "from": t.Filter.From, "to": t.Filter.To,
	} {
		if v != "" {
			q.Set(k, v)
		}
	}
	for k, v := range t.Filter.Headers {
		q.Add("header", k+":"+v)
	}
	for k, n := range map[string]int{"rate": t.Rate, "seconds": t.Seconds} {
		if n != 0 {
			q.Set(k, strconv.Itoa(n))
		}
	}
	res, err := c.send(ctx, request{method: http.MethodGet, path: "/api/v1/tap", query: q, header: map[string]string{"Accept": "text/event-stream"}})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	ended := false
	err = c.events(ctx, res.Body, func(name, _, data string) error {
		var e mesh.TapEvent
		var into any
		switch name {
		case "error":
			return problemEvent(data)
		case "request":
			e.Request = new(mesh.TapRequest)
			into = e.Request
		case "left":
			e.Left = new(mesh.TapLeft)
			into = e.Left
		case "watching":
			e.Watching = new(mesh.TapWatching)
			into = e.Watching
		case "end":
			ended, e.End = true, new(mesh.TapEnd)
			into = e.End
		default:
			return nil // of a newer server
		}
		if err := json.Unmarshal([]byte(data), into); err != nil {
			return fmt.Errorf("event of a tap: %w", err)
		}
		return each(e)
	})
	if err == nil && !ended {
		return c.unreachable(fmt.Errorf("the stream ended early"))
	}
	return err
}

// Top calls each with what passed between pairs in the zones, all if none is named, interval by interval and zone by zone, until each
// fails or ctx ends.
func (c *Client) Top(ctx context.Context, zones []string, t mesh.Top, each func(mesh.Flows) error) error {
	q := url.Values{"zone": zones}
	if t.Milliseconds != 0 {
		q.Set("ms", strconv.Itoa(t.Milliseconds))
	}
	if t.ByProxy {
		q.Set("byProxy", "true")
	}
	res, err := c.send(ctx, request{method: http.MethodGet, path: "/api/v1/top", query: q, header: map[string]string{"Accept": "text/event-stream"}})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	return c.events(ctx, res.Body, func(name, _, data string) error {
		switch name {
		case "error":
			return problemEvent(data)
		case "flows":
			var f mesh.Flows
			if err := json.Unmarshal([]byte(data), &f); err != nil {
				return fmt.Errorf("event of a top: %w", err)
			}
			return each(f)
		}
		return nil // of a newer server
	})
}
