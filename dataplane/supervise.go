package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
)

const (
	// stableRun is after how long an Envoy that ends is restarted as promptly as the first time.
	stableRun = 30 * time.Second
	// maxFalseStarts is how often an Envoy that was never ready may end before the agent gives up: it
	// is then its program or its bootstrap, which no restart mends.
	maxFalseStarts = 5
	// endWithin is how long Envoy may take to end when asked, before it is killed.
	endWithin = 5 * time.Second
)

// envoyState is what others may know of Envoy.
type envoyState struct {
	Running bool
	Ready   bool   // LIVE: has its configuration and serves
	Version string // "1.40.0", empty before the first readiness
	PID     int
	Starts  uint64
}

// supervisor runs one Envoy at a time until it is told to stop.
type supervisor struct {
	path        string // Envoy's program
	dir         string // where it runs
	bootstrap   string // path of the bootstrap
	concurrency int
	logLevel    string
	admin       admin
	log         *slog.Logger
	changed     func() // called after every change of state; must not block

	mu    sync.Mutex
	state envoyState
}

func (s *supervisor) current() envoyState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

func (s *supervisor) update(f func(*envoyState)) {
	s.mu.Lock()
	f(&s.state)
	s.mu.Unlock()
	s.changed()
}

// run keeps an Envoy running until ctx ends, then ends it: SIGTERM, and SIGKILL after endWithin. It
// returns nil then, and an error when Envoy can't be got to run at all.
func (s *supervisor) run(ctx context.Context) error {
	wait := &backoff.ExponentialBackOff{InitialInterval: 100 * time.Millisecond, Multiplier: 2, RandomizationFactor: 0.2, MaxInterval: 10 * time.Second}
	wait.Reset()
	falseStarts := 0
	for {
		began := time.Now()
		tail, err := s.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if s.current().Version != "" {
			falseStarts = 0
		} else if falseStarts++; falseStarts == maxFalseStarts {
			return &fault.Error{
				Code: "ENVOY-START", What: "Envoy ends before it is ready", Cause: err.Error() + tail.indented(),
				Try: "read Envoy's last words above; check that the program is Envoy 1.40", Docs: `CONTRIBUTING.md, "Tools"`, Err: err,
			}
		}
		if time.Since(began) > stableRun {
			wait.Reset()
		}
		delay := wait.NextBackOff()
		s.log.Error("Envoy ended and is restarted", "reason", err, "ran", time.Since(began).Round(time.Millisecond), "retry_in", delay.Round(time.Millisecond))
		if !sleep(ctx, delay) {
			return nil
		}
	}
}

// once runs Envoy to its end, which is an error unless ctx asked for it.
func (s *supervisor) once(ctx context.Context) (*tail, error) {
	out := newEnvoyLog(s.log.With("from", "envoy"))
	cmd := exec.Command(s.path, s.arguments()...) //nolint:gosec // the operator names Envoy's program
	cmd.Dir = s.dir
	// Nothing of the agent's environment is Envoy's business; it may hold the token.
	cmd.Env = []string{}
	// Access logs to /dev/stdout go to the agent's own; Envoy's log goes through the agent's.
	cmd.Stdout, cmd.Stderr = os.Stdout, out
	// Its own process group, so that Ctrl-C in a terminal reaches the agent alone, which ends Envoy in
	// order; and death with the agent's, so that kill -9 of the agent leaves none.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	exited, err := startLocked(cmd)
	if err != nil {
		return &out.tail, fmt.Errorf("start Envoy: %w", err)
	}
	watch, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	s.update(func(st *envoyState) { st.Running, st.Ready, st.PID = true, false, cmd.Process.Pid; st.Starts++ })
	defer s.update(func(st *envoyState) { st.Running, st.Ready, st.PID = false, false, 0 })
	watched := make(chan struct{})
	go func() { defer close(watched); s.awaitReady(watch) }()
	defer func() { stopWatch(); <-watched }()

	select {
	case err := <-exited:
		out.flush()
		return &out.tail, exitReason(err)
	case <-ctx.Done():
		return &out.tail, s.end(cmd, exited)
	}
}

func (s *supervisor) arguments() []string {
	return []string{
		"-c", s.bootstrap,
		// Another agent replaces an Envoy, not another epoch: without hot restart there is no shared
		// memory outside the run directory, no abstract socket, and no base id to collide on.
		"--disable-hot-restart",
		"--concurrency", strconv.Itoa(s.concurrency),
		// Connections of a removed filter chain end that much later, all at once: that is how the end of a
		// zone's trust reaches live connections.
		"--drain-time-s", strconv.Itoa(int(mesh.ConnectionDrain.Seconds())), "--drain-strategy", "immediate",
		"--log-level", s.logLevel, "--log-format", envoyLogFormat, "--log-format-escaped",
	}
}

// startLocked starts and awaits the command on one thread of its own: the kernel sends Pdeathsig when
// the *thread* that started the process ends, so it must live as long.
func startLocked(cmd *exec.Cmd) (<-chan error, error) {
	started, exited := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	return exited, <-started
}

// end asks Envoy to end, then makes it.
func (s *supervisor) end(cmd *exec.Cmd, exited <-chan error) error {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		s.log.Warn("could not ask Envoy to end", "reason", err)
	}
	t := time.NewTimer(endWithin)
	defer t.Stop()
	select {
	case err := <-exited:
		return exitReason(err)
	case <-t.C:
	}
	s.log.Warn("Envoy did not end when asked and is killed", "after", endWithin)
	// The whole group: nothing that Envoy might have started stays.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // an error means that it is gone
	return exitReason(<-exited)
}

func exitReason(err error) error {
	var e *exec.ExitError
	switch {
	case err == nil:
		return errors.New("exit code 0")
	case !errors.As(err, &e):
		return fmt.Errorf("wait for Envoy: %w", err)
	}
	if st, ok := e.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		return fmt.Errorf("ended by signal %d (%s)", int(st.Signal()), st.Signal())
	}
	return fmt.Errorf("exit code %d", e.ExitCode())
}

// awaitReady asks until Envoy is LIVE; after that nothing needs to be asked, as only its end changes it.
func (s *supervisor) awaitReady(ctx context.Context) {
	for pause := 10 * time.Millisecond; sleep(ctx, pause); pause = min(pause*3/2, 250*time.Millisecond) {
		version, err := s.admin.version(ctx)
		if err != nil {
			continue
		}
		s.update(func(st *envoyState) { st.Ready, st.Version = true, version })
		s.log.Info("Envoy is ready", "version", version, "pid", s.current().PID)
		return
	}
}

// sleep waits, and reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
