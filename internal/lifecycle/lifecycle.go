// Package lifecycle runs the parts of a program together: they start in order, the first that ends
// stops the others, and they stop in the reverse of that order within a deadline.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Component is one long-lived part of a program.
type Component struct {
	Name string
	// Run works until ctx ends, cleans up and returns. ctx.Err() or nil after that is a clean stop; any
	// other error is a failure, whenever it comes. Returning nil before ctx ended stops the program cleanly.
	Run func(ctx context.Context) error
}

// WithSignals returns a context that ends with the first SIGINT or SIGTERM; its cause names the
// signal. From then on signals have their default effect, so that a second one kills the program.
func WithSignals(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Run runs the components until ctx ends or one of them returns. Then it stops them, the last one
// first: each is told by its context, whose cause is what ended the program, and has returned before
// the one listed ahead of it is told. All together have `grace` for that; after it Run gives up
// waiting, tells all that remain, and returns at once. List a component after those it uses.
//
// The result joins the errors of all components that failed, each with its component's name, and one
// for those that did not stop in time. It is nil when ctx ended and everything stopped cleanly.
func Run(ctx context.Context, log *slog.Logger, grace time.Duration, components ...Component) error {
	parts := make([]*part, len(components))
	ended := make(chan *part, len(components)) // one slot each: nobody waits for a Run that gave up
	var group errgroup.Group
	for i, c := range components {
		p := &part{Component: c, done: make(chan struct{})}
		// Not the end of ctx itself stops a part but its turn in the order.
		var own context.Context
		own, p.stop = context.WithCancelCause(context.WithoutCancel(ctx))
		parts[i] = p
		group.Go(func() error {
			p.err = p.clean(own, p.Run(own))
			close(p.done)
			ended <- p
			return nil
		})
	}

	var cause error
	select {
	case <-ctx.Done():
		cause = context.Cause(ctx)
		log.Info("stopping", "reason", cause.Error())
	case p := <-ended:
		if cause = p.err; cause == nil {
			cause = fmt.Errorf("%s has finished: %w", p.Name, context.Canceled)
			log.Info("stopping", "reason", p.Name+" has finished")
		} else {
			log.Error("stopping", "reason", p.Name+" failed", "error", p.err)
		}
	}
	return stop(parts, cause, grace)
}

type part struct {
	Component
	stop context.CancelCauseFunc
	done chan struct{} // closed when err is set
	err  error
}

// clean leaves of a component's error only what is one: a part that was told to stop may say so.
func (p *part) clean(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return nil
	}
	return fmt.Errorf("%s: %w", p.Name, err)
}

func stop(parts []*part, cause error, grace time.Duration) error {
	deadline := time.NewTimer(grace)
	defer deadline.Stop()
	var errs []error
	late := false
	for _, p := range slices.Backward(parts) {
		p.stop(cause)
		if !late {
			select {
			case <-p.done:
			case <-deadline.C:
				late = true
			}
		}
		select {
		case <-p.done:
			errs = append(errs, p.err)
		default:
			errs = append(errs, fmt.Errorf("%s did not stop within %v", p.Name, grace))
		}
	}
	return errors.Join(errs...)
}

// HTTPServer is a component that serves on the listener: TLS if the server has a TLSConfig, HTTP
// otherwise. When it is told to stop it takes no new connections, gives the requests under way
// `drain`, then closes what is left. Requests' contexts end when the drain does.
func HTTPServer(name string, server *http.Server, listener net.Listener, drain time.Duration) Component {
	return Component{Name: name, Run: func(ctx context.Context) error {
		served := make(chan error, 1)
		go func() {
			if server.TLSConfig != nil {
				served <- server.ServeTLS(listener, "", "")
			} else {
				served <- server.Serve(listener)
			}
		}()
		select {
		case err := <-served:
			return err
		case <-ctx.Done():
		}
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		if err := server.Shutdown(limit); err != nil {
			// Long answers (watches) are cut: their clients resume.
			if err := server.Close(); err != nil {
				return err
			}
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}}
}
