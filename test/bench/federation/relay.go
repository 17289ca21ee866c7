package main

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// relay forwards connections and counts their bytes.
type relay struct {
	listener net.Listener
	to       string
	up, down atomic.Int64

	mu    sync.Mutex
	conns []net.Conn
	wait  sync.WaitGroup
}

func listenRelay(ctx context.Context, to string) (*relay, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{listener: l, to: to}
	r.wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.wait.Go(func() { r.forward(ctx, c) })
		}
	})
	return r, nil
}

func (r *relay) address() string { return r.listener.Addr().String() }

func (r *relay) bytes() int64 { return r.up.Load() + r.down.Load() }

func (r *relay) forward(ctx context.Context, zone net.Conn) {
	defer zone.Close()
	global, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.to)
	if err != nil {
		return
	}
	defer global.Close()
	r.mu.Lock()
	r.conns = append(r.conns, zone, global)
	r.mu.Unlock()
	var both sync.WaitGroup
	pipe := func(to, from net.Conn, n *atomic.Int64) {
		both.Go(func() {
			_, _ = io.Copy(counter{to, n}, from)
			_ = to.Close()
		})
	}
	pipe(global, zone, &r.up)
	pipe(zone, global, &r.down)
	both.Wait()
}

func (r *relay) close() {
	_ = r.listener.Close()
	r.mu.Lock()
	for _, c := range r.conns {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.wait.Wait()
}

// counter counts what is written.
type counter struct {
	io.Writer
	n *atomic.Int64
}

func (c counter) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n.Add(int64(n))
	return n, err
}
