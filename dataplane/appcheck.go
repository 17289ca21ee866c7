package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	"github.com/comity-mesh/comity/mesh"
)

const (
	defaultInterval = time.Second
	defaultTimeout  = 500 * time.Millisecond
	// failuresToFall is how many checks in a row must fail, other than by a refused connection, which
	// is certain at once. One good check raises.
	failuresToFall = 2
)

// appCheck asks the application how it does.
type appCheck struct {
	address           string // host:port
	path              string // HTTP; empty: a TCP connection is enough
	interval, timeout time.Duration
	client            *http.Client
}

func newAppCheck(c mesh.HealthCheck, appAddress string) *appCheck {
	out := &appCheck{
		address: net.JoinHostPort(appAddress, strconv.Itoa(int(c.Port))), path: c.Path,
		interval: time.Duration(c.IntervalMS) * time.Millisecond, timeout: time.Duration(c.TimeoutMS) * time.Millisecond,
	}
	if out.interval == 0 {
		out.interval = defaultInterval
	}
	if out.timeout == 0 {
		out.timeout = defaultTimeout
	}
	out.client = &http.Client{
		// One kept connection; no proxy of the environment between an agent and its application.
		Transport:     &http.Transport{MaxIdleConns: 1, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return out
}

// run checks until ctx ends and tells every change, the first result included. The application is
// unhealthy until it has answered once.
func (c *appCheck) run(ctx context.Context, tell func(healthy bool, reason string)) error {
	defer c.client.CloseIdleConnections()
	healthy, told, failures := false, false, 0
	for {
		err := c.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case err == nil:
			failures = 0
			if !healthy {
				healthy, told = true, true
				tell(true, "")
			}
		default:
			failures++
			certain := errors.Is(err, syscall.ECONNREFUSED) || failures >= failuresToFall
			if !told || healthy && certain {
				healthy, told = false, true
				tell(false, err.Error())
			}
		}
		if !sleep(ctx, c.interval) {
			return nil
		}
	}
}

func (c *appCheck) once(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if c.path == "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.address)
		if err != nil {
			return fmt.Errorf("connect to the application: %w", err)
		}
		return ignoreClosed(conn.Close())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.address+c.path, nil)
	if err != nil {
		return fmt.Errorf("ask the application: %w", err)
	}
	req.Header.Set("User-Agent", "comity-health-check")
	res, err := c.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the application: %w", err)
	}
	// Read, within bounds, so that the connection can be kept.
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10)
	_ = res.Body.Close()
	if res.StatusCode < 200 || res.StatusCode > 399 {
		return fmt.Errorf("the application answers status %d", res.StatusCode)
	}
	return nil
}
