package envoy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// held begins n requests whose answers wait, and returns when the app of echo-1 has got them all. ended waits for their answers and counts
// them by status.
func (w *world) held(t *testing.T, n int, c call) (ended func() map[string]int) {
	t.Helper()
	app, answers := w.apps["echo-1"], make(chan []reply, 1)
	app.forget()
	go func() { answers <- w.burst(t, n, n, same(c)) }()
	eventually(t, "requests are under way", func() error {
		if got := len(app.requests()); got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
	return func() map[string]int {
		app.release()
		return byApp(<-answers)
	}
}

// TestTrafficBreakers: what is beyond a bound is refused at once, counted, and marked UO in the caller's log; what is below is served.
func TestTrafficBreakers(t *testing.T) {
	w := newWorld(t)
	web := w.sidecar(t, "web")
	const to, cluster = "echo-v1.shop", "cluster.echo-v1.shop:" // served by echo-1 alone
	waits := call{to: to, header: map[string]string{doHold: "yes"}}
	// policy is for echo-v1, with a log of what was refused.
	policy := func(t *testing.T, log, spec string) {
		t.Helper()
		w.apply(t, `
kind: TrafficPolicy
metadata: {name: bounds}
spec: {targetRef: {kind: Service, name: echo-v1}, `+spec+`}
---
kind: TelemetryPolicy
metadata: {name: refused}
spec: {accessLogs: [{file: {path: `+log+`}, filter: {flags: [UO]}}]}
`)
	}
	// refused checks that the log has so many lines, and a counter the same.
	refused := func(t *testing.T, log string, n int, counter string) {
		t.Helper()
		eventually(t, "what is refused is logged", func() error {
			text, err := os.ReadFile(log)
			if err != nil {
				return err
			}
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			if len(lines) != n {
				return fmt.Errorf("%d lines, not %d: %s", len(lines), n, text)
			}
			for _, line := range lines {
				var l struct{ Flags, Reporter string }
				if err := json.Unmarshal([]byte(line), &l); err != nil {
					return fmt.Errorf("%w: %s", err, line)
				}
				if l.Flags != "UO" || l.Reporter != "client" {
					return fmt.Errorf("it does not tell of what was refused: %s", line)
				}
			}
			return nil
		})
		if got := web.stat(t, counter); got != n {
			t.Errorf("%s is %d, not %d", counter, got, n)
		}
	}

	t.Run("requests", func(t *testing.T) {
		log := filepath.Join(t.TempDir(), "log")
		policy(t, log, `circuitBreaker: {maxRequests: 5}`)
		ended := w.held(t, 5, waits)
		if got := byApp(w.burst(t, 3, 3, same(call{to: to}))); got["503"] != 3 {
			t.Errorf("beyond the fifth: %v", got)
		}
		if got := ended(); got["echo-1"] != 5 {
			t.Errorf("the first five: %v", got)
		}
		refused(t, log, 3, cluster+"80.upstream_rq_active_overflow")
		if got := w.tally(t, 8, call{to: to}); got["echo-1"] != 8 {
			t.Errorf("one at a time: %v", got)
		}
	})
	t.Run("requests that wait for a connection", func(t *testing.T) {
		log := filepath.Join(t.TempDir(), "log")
		policy(t, log, `circuitBreaker: {maxConnections: 1, maxPendingRequests: 1}, connectionPool: {maxRequestsPerConnection: 1}`)
		ended := w.held(t, 1, waits)
		second := make(chan []reply, 1)
		go func() { second <- w.burst(t, 1, 1, same(call{to: to})) }()
		eventually(t, "one waits", func() error {
			if n := web.stat(t, cluster+"80.upstream_rq_pending_active"); n != 1 {
				return fmt.Errorf("%d do", n)
			}
			return nil
		})
		if r := w.call(t, call{to: to}); r.status != http.StatusServiceUnavailable {
			t.Errorf("a third is answered %d", r.status)
		}
		if n := len(w.apps["echo-1"].requests()); n != 1 {
			t.Errorf("the app has got %d requests over one connection for one", n)
		}
		if got := ended(); got["echo-1"] != 1 {
			t.Errorf("the first: %v", got)
		}
		if got := byApp(<-second); got["echo-1"] != 1 {
			t.Errorf("the one that waited: %v", got)
		}
		refused(t, log, 1, cluster+"80.upstream_rq_pending_overflow")
	})
	t.Run("retries", func(t *testing.T) {
		log := filepath.Join(t.TempDir(), "log")
		policy(t, log, `circuitBreaker: {maxRetries: 1}, retry: {attempts: 1}`)
		again := func(key string) call {
			return call{to: to, header: map[string]string{doStatus: "503", doFail: "1", doKey: key, doHold: "yes"}}
		}
		first := make(chan []reply, 1)
		w.forget()
		go func() { first <- w.burst(t, 1, 1, same(again("first"))) }()
		eventually(t, "one is tried again", func() error {
			if n := len(w.apps["echo-1"].requests()); n != 2 {
				return fmt.Errorf("%d tries", n)
			}
			return nil
		})
		if r := w.call(t, again("second")); r.status != http.StatusServiceUnavailable {
			t.Errorf("a second one: %d", r.status)
		}
		w.apps["echo-1"].release()
		if got := byApp(<-first); got["echo-1"] != 1 {
			t.Errorf("the first: %v", got)
		}
		refused(t, log, 1, cluster+"80.upstream_rq_retry_overflow")
	})
	t.Run("connections", func(t *testing.T) {
		w.apply(t, echoPolicy(`circuitBreaker: {maxConnections: 2}`))
		first, _, err := w.dialTCP(t, "web", "echo")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.dialTCP(t, "web", "echo"); err != nil {
			t.Fatal(err)
		}
		if _, app, err := w.dialTCP(t, "web", "echo"); err == nil {
			t.Errorf("a third connection leads to %s", app)
		}
		if n := web.stat(t, "cluster.echo.shop:7070.upstream_cx_overflow"); n == 0 {
			t.Error("it is not counted")
		}
		_ = first.Close()
		eventually(t, "there is room again", func() error {
			_, _, err := w.dialTCP(t, "web", "echo")
			return err
		})
	})
}

// TestTrafficConnections: connections are replaced as the policy says.
func TestTrafficConnections(t *testing.T) {
	w := newWorld(t)
	web := w.sidecar(t, "web")
	const cluster = "cluster.echo.shop:80."
	w.apply(t, echoPolicy(`connectionPool: {maxRequestsPerConnection: 2}`))
	before := web.stat(t, cluster+"upstream_cx_total")
	w.tally(t, 20, call{})
	if n := web.stat(t, cluster+"upstream_cx_total") - before; n < 10 || n > 12 {
		t.Errorf("%d connections for 20 requests, two each", n)
	}

	w.apply(t, echoPolicy(`connectionPool: {idle: 100ms}`))
	w.tally(t, 4, call{})
	eventually(t, "idle connections are closed", func() error {
		if n := web.stat(t, cluster+"upstream_cx_active"); n > 0 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})

	w.apply(t, echoPolicy(`connectionPool: {maxConnectionAge: 1s}`))
	eventually(t, "old connections are replaced", func() error {
		if got := w.tally(t, 2, call{}); got["echo-1"] != 1 {
			t.Fatalf("a request failed: %v", got)
		}
		if web.stat(t, cluster+"upstream_cx_max_duration_reached") == 0 {
			return errors.New("none is")
		}
		return nil
	})
}
