package proxyless

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/net/netutil"
)

const (
	// maxConnections of applications; a gRPC client opens one for every target.
	maxConnections = 256
	// dialFor is how long a connection waits for a zone that is away. gRPC gives up after 20 s, and
	// waits longer from time to time before it tries again; so it finds the zone as soon as that is back.
	dialFor = 20 * time.Second
)

// Relay passes the bytes of applications on to the zone's xDS server, each connection over one of its own. It closes l
// when ctx ends.
func (c *Client) Relay(ctx context.Context, l net.Listener, dial func(context.Context) (*tls.Conn, error)) error {
	l = netutil.LimitListener(l, maxConnections)
	defer context.AfterFunc(ctx, func() { _ = l.Close() })() // ends Accept; an error means that it is closed
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		near, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("the socket of the application: %w", err)
		}
		wg.Go(func() { c.pass(ctx, near, dial) })
	}
}

func (c *Client) pass(ctx context.Context, near net.Conn, dial func(context.Context) (*tls.Conn, error)) {
	defer func() { _ = near.Close() }()
	far, err := reach(ctx, dial)
	if err != nil {
		if ctx.Err() == nil {
			c.conf.Log.Warn("the zone's xDS server is away; the application goes on with what it knows", "reason", err)
		}
		return
	}
	// Whichever ends first ends both: HTTP/2 has no half.
	var once sync.Once
	end := func() {
		once.Do(func() { _ = errors.Join(near.Close(), far.Close()) }) // nobody is left to be told
	}
	defer context.AfterFunc(ctx, end)()
	var wg sync.WaitGroup
	for _, way := range [2][2]net.Conn{{near, far}, {far, near}} {
		wg.Go(func() {
			defer end()
			_, _ = io.Copy(way[0], way[1]) // its error is the end of a connection
		})
	}
	wg.Wait()
}

// reach dials until it works, for a while.
func reach(ctx context.Context, dial func(context.Context) (*tls.Conn, error)) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialFor)
	defer cancel()
	wait := &backoff.ExponentialBackOff{InitialInterval: 50 * time.Millisecond, Multiplier: 1.6, RandomizationFactor: 0.3, MaxInterval: time.Second}
	wait.Reset()
	for {
		far, err := dial(ctx)
		if err == nil {
			return far, nil
		}
		t := time.NewTimer(wait.NextBackOff())
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, err
		}
	}
}
