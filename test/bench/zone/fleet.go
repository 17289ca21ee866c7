package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/comity-mesh/comity/identity"
)

// runProxies is the fleet's process. It takes orders, one a line, and answers each with a line of JSON:
//
//	enrol         then a line of JSON, []group: enrols these proxies, and has them attend
//	connect       opens the ADS streams of those that have none
//	disconnect    ends all ADS streams
func runProxies(ctx context.Context, in io.Reader, out io.Writer) error {
	f := &fleet{failed: make(chan error, 1), names: newNames()}
	defer f.close()
	enc, lines := json.NewEncoder(out), bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var answer struct {
			Error string `json:"error,omitempty"`
		}
		if err := f.obey(ctx, strings.TrimSpace(lines.Text()), lines); err != nil {
			answer.Error = err.Error()
		}
		if err := enc.Encode(answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

// atOnce is how many proxies enrol or connect at one time: a machine that comes back brings up a few at once.
const atOnce = 64

type fleet struct {
	proxies []*proxy
	failed  chan error
	names   *names

	open       context.Context    //nolint:containedctx // the life of the ADS streams
	disconnect context.CancelFunc // ends them
	streams    sync.WaitGroup
}

func (f *fleet) obey(ctx context.Context, order string, lines *bufio.Scanner) error {
	select {
	case err := <-f.failed:
		return err
	default:
	}
	life := ctx
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	switch order {
	case "enrol":
		if !lines.Scan() {
			return io.ErrUnexpectedEOF
		}
		var groups []group
		if err := json.Unmarshal(lines.Bytes(), &groups); err != nil {
			return err
		}
		return f.enrol(ctx, groups)
	case "connect":
		return f.connect(ctx, life)
	case "disconnect":
		f.end()
		return nil
	}
	return fmt.Errorf("what is %q", order)
}

func (f *fleet) enrol(ctx context.Context, groups []group) error {
	var fresh []*proxy
	for _, g := range groups {
		token, err := identity.ParseEnrolToken(g.Token)
		if err != nil {
			return err
		}
		for i := range g.Count {
			fresh = append(fresh, newProxy(token, fmt.Sprintf("%s-%d", g.Name, g.First+i), g.First+i, f.names))
		}
	}
	f.proxies = append(f.proxies, fresh...)
	return each(ctx, fresh, func(ctx context.Context, p *proxy) error {
		return errors.Join(again(ctx, func() error { return p.enrol(ctx) }), again(ctx, p.attend))
	})
}

// again does something until it goes well, as an agent and an Envoy do.
func again(ctx context.Context, do func() error) error {
	for {
		err := do()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

func each(ctx context.Context, list []*proxy, do func(context.Context, *proxy) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, p := range list {
		g.Go(func() error { return do(ctx, p) })
	}
	return g.Wait()
}

// connect opens the streams, which last for life.
func (f *fleet) connect(ctx, life context.Context) error {
	if f.disconnect == nil {
		f.open, f.disconnect = context.WithCancel(life)
	}
	open := f.open
	var idle []*proxy
	for _, p := range f.proxies {
		if !p.open.Load() {
			idle = append(idle, p)
		}
	}
	return each(ctx, idle, func(ctx context.Context, p *proxy) error {
		var s *stream
		err := again(ctx, func() (err error) {
			s, err = p.connect(open)
			return err
		})
		if err != nil {
			return fmt.Errorf("connect %s: %w", p.id, err)
		}
		f.streams.Go(func() {
			defer p.open.Store(false)
			if err := s.run(); err != nil && open.Err() == nil {
				select {
				case f.failed <- fmt.Errorf("stream of %s: %w", p.id, err):
				default:
				}
			}
		})
		return nil
	})
}

func (f *fleet) end() {
	if f.disconnect == nil {
		return
	}
	f.disconnect()
	f.streams.Wait()
	f.disconnect = nil
}

func (f *fleet) close() {
	f.end()
	for _, p := range f.proxies {
		p.leave()
	}
}
