package dataplane

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// admin asks Envoy's admin interface over its Unix socket.
type admin struct{ http *http.Client }

func newAdmin(socket string) admin {
	return admin{&http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
			// Asked seldom; an idle connection would count in Envoy for nothing.
			DisableKeepAlives: true,
		},
	}}
}

func (a admin) get(ctx context.Context, path string, w io.Writer, limit int64) error {
	return a.do(ctx, http.MethodGet, path, w, limit)
}

// tapKey has Envoy tell the agent of that many millionths of what passes through it, as the zone's configuration has it
// (xds/envoy.TapKey).
const tapKey = "comity.tap"

func (a admin) tapShare(ctx context.Context, share uint32) error {
	return a.do(ctx, http.MethodPost, fmt.Sprintf("/runtime_modify?%s=%d", tapKey, share), io.Discard, 1<<10)
}

func (a admin) do(ctx context.Context, method, path string, w io.Writer, limit int64) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://envoy"+path, nil)
	if err != nil {
		return fmt.Errorf("envoy admin: %w", err)
	}
	res, err := a.http.Do(req)
	if err != nil {
		return fmt.Errorf("envoy admin: %w", err)
	}
	defer func() { _ = res.Body.Close() }() // read to its end or given up
	if _, err := io.Copy(w, io.LimitReader(res.Body, limit)); err != nil {
		return fmt.Errorf("envoy admin %s: %w", path, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("envoy admin %s: status %d", path, res.StatusCode)
	}
	return nil
}

// version returns Envoy's version ("1.40.0") if it is LIVE: it has its configuration and serves.
func (a admin) version(ctx context.Context) (string, error) {
	// Asked often while Envoy starts, so first the question with the short answer (503 unless LIVE).
	if err := a.get(ctx, "/ready", io.Discard, 1<<10); err != nil {
		return "", err
	}
	var b strings.Builder
	if err := a.get(ctx, "/server_info", &b, 1<<20); err != nil {
		return "", err
	}
	var info struct{ Version string }
	if err := json.Unmarshal([]byte(b.String()), &info); err != nil {
		return "", fmt.Errorf("envoy admin /server_info: %w", err)
	}
	// <commit>/<version>/<tree>/<build>/<TLS library>
	parts := strings.Split(info.Version, "/")
	if len(parts) < 2 {
		return info.Version, nil
	}
	return parts[1], nil
}

// stats writes what Envoy answers to a question about its counters.
func (a admin) stats(ctx context.Context, path string, w io.Writer) error {
	return a.get(ctx, path, w, 64<<20)
}
