package lifecycle_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/comity-mesh/comity/internal/lifecycle"
)

// stopped keeps the order in which components stopped.
type stopped struct {
	mu    sync.Mutex
	names []string
}

func (s *stopped) component(name string, result error) lifecycle.Component {
	return lifecycle.Component{Name: name, Run: func(ctx context.Context) error {
		<-ctx.Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.names = append(s.names, name)
		return result
	}}
}

func TestStopsInReverseOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var s stopped
		result := make(chan error)
		go func() {
			result <- lifecycle.Run(ctx, slog.New(slog.DiscardHandler), time.Second,
				s.component("store", nil), s.component("api", context.Canceled), s.component("sessions", nil))
		}()
		synctest.Wait()
		cancel()
		if err := <-result; err != nil {
			t.Errorf("a clean stop gave %v", err)
		}
		if got := strings.Join(s.names, " "); got != "sessions api store" {
			t.Errorf("stopped in order %s", got)
		}
	})
}

func TestFirstErrorStopsAllWithItsCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken, late := errors.New("disk full"), errors.New("could not flush")
		var cause error
		err := lifecycle.Run(t.Context(), slog.New(slog.DiscardHandler), time.Second,
			lifecycle.Component{Name: "api", Run: func(ctx context.Context) error {
				<-ctx.Done()
				cause = context.Cause(ctx)
				return late
			}},
			lifecycle.Component{Name: "store", Run: func(context.Context) error { return broken }},
		)
		if !errors.Is(err, broken) || !errors.Is(err, late) || !strings.Contains(err.Error(), "store: disk full") {
			t.Errorf("got %v", err)
		}
		if !errors.Is(cause, broken) {
			t.Errorf("the cause was %v", cause)
		}
	})
}

func TestAPartThatFinishesEndsTheProgramCleanly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s stopped
		err := lifecycle.Run(t.Context(), slog.New(slog.DiscardHandler), time.Second, s.component("store", nil),
			lifecycle.Component{Name: "story", Run: func(context.Context) error { return nil }})
		if err != nil || len(s.names) != 1 {
			t.Errorf("got %v, stopped %v", err, s.names)
		}
	})
}

func TestGivesUpAfterTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		release := make(chan struct{})
		defer close(release)
		told := make(chan struct{})
		start := time.Now()
		err := lifecycle.Run(ctx, slog.New(slog.DiscardHandler), 3*time.Second,
			lifecycle.Component{Name: "store", Run: func(ctx context.Context) error { <-ctx.Done(); close(told); return nil }},
			lifecycle.Component{Name: "stuck", Run: func(context.Context) error { <-release; return nil }},
		)
		if err == nil || !strings.Contains(err.Error(), "stuck did not stop within 3s") || time.Since(start) != 3*time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		<-told // those that remain are told all the same
	})
}

func TestSignalsEndTheContext(t *testing.T) {
	ctx, stop := lifecycle.WithSignals(t.Context())
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	if cause := context.Cause(ctx).Error(); !strings.Contains(cause, "terminated") {
		t.Errorf("the cause %q does not name the signal", cause)
	}
}

func TestHTTPServerLetsRequestsFinish(t *testing.T) {
	entered, finish := make(chan struct{}), make(chan struct{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-finish
		w.WriteHeader(http.StatusTeapot)
	})}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		result <- lifecycle.Run(ctx, slog.New(slog.DiscardHandler), time.Minute,
			lifecycle.HTTPServer("api", server, listener, time.Minute))
	}()
	answer := make(chan int, 1)
	go func() {
		response, err := http.Get("http://" + listener.Addr().String())
		if err != nil {
			answer <- 0
			return
		}
		_ = response.Body.Close()
		answer <- response.StatusCode
	}()
	<-entered
	cancel()
	close(finish)
	if got := <-answer; got != http.StatusTeapot {
		t.Errorf("the request under way got %d", got)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestHTTPServerReportsAFailure(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	err = lifecycle.Run(t.Context(), slog.New(slog.DiscardHandler), time.Second,
		lifecycle.HTTPServer("api", &http.Server{ReadHeaderTimeout: time.Second}, listener, time.Second))
	if !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
