package envoybin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxReason bounds what is kept of Envoy's words, in bytes.
	maxReason = 1 << 10
	// maxWords bounds what is read of them: a script can write without end.
	maxWords = 64 << 10
	// maxMemory bounds the data of the process, in bytes. Envoy needs 65 MB to begin, and some for each cluster.
	maxMemory = 1 << 30
	// maxFile bounds each file that it writes, in bytes: a script could fill the disk.
	maxFile = 16 << 20
	// behind is its priority (nice): what else runs there comes first.
	behind = 10
)

// Validate has an Envoy read a configuration (a bootstrap, JSON) without running it, in a process of its own in a fresh folder below dir
// ("" for the system's), with no environment. It returns why Envoy refuses the configuration, and "" if it does not. A configuration
// that crashes Envoy or keeps it from coming to an end before ctx does is refused, too: it would do the same to one that serves.
// The error says why Envoy could not be asked.
//
// Envoy runs what the configuration says while it reads it, scripts for one: give it none that you would not run.
func Validate(ctx context.Context, program, dir string, bootstrap []byte) (refusal string, err error) {
	own, err := os.MkdirTemp(dir, "trial")
	if err != nil {
		return "", fmt.Errorf("a folder for the trial: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(own)) }()
	const file = "trial.json"
	if err := os.WriteFile(filepath.Join(own, file), bootstrap, 0o600); err != nil {
		return "", err
	}
	began := time.Now()
	out := &words{}
	cmd := exec.CommandContext(ctx, program, "--mode", "validate", "-c", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "error") //nolint:gosec // the caller's Envoy
	cmd.Dir, cmd.Env, cmd.Stderr = own, []string{}, out
	// What it starts ends with it, but what leaves the process group (setsid); and it ends with us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	// The kernel sends Pdeathsig when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start %s: %w", program, err)
	}
	limit := func(what int, most uint64) error {
		return unix.Prlimit(cmd.Process.Pid, what, &unix.Rlimit{Cur: most, Max: most}, nil)
	}
	if err := errors.Join(limit(unix.RLIMIT_DATA, maxMemory), limit(unix.RLIMIT_FSIZE, maxFile), unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, behind)); err != nil && !errors.Is(err, unix.ESRCH) {
		return "", errors.Join(fmt.Errorf("bound the trial: %w", err), cmd.Cancel(), cmd.Wait())
	}
	err = cmd.Wait()
	switch status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus); {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Sprintf("Envoy did not come to an end of reading it within %s", time.Since(began).Round(100*time.Millisecond)), nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err == nil:
		return "", nil
	case status.Signaled():
		return fmt.Sprintf("Envoy crashes when it reads it (signal %d, %s)", int(status.Signal()), status.Signal()), nil
	}
	if reason, ok := out.reason(); ok {
		return reason, nil
	}
	return "", fmt.Errorf("%s --mode validate: %w: %s", program, err, out.tail())
}

// words keeps the beginning of what Envoy writes.
type words struct{ bytes.Buffer }

func (w *words) Write(b []byte) (int, error) {
	_, _ = w.Buffer.Write(b[:min(len(b), maxWords-w.Len())]) // never fails
	return len(b), nil
}

// reason is what follows Envoy's words about its bootstrap, which is not the user's.
func (w *words) reason() (string, bool) {
	_, reason, ok := strings.Cut(w.String(), "error initializing configuration '")
	if !ok {
		return "", false
	}
	_, reason, _ = strings.Cut(reason, "': ")
	return clip(reason), true
}

func (w *words) tail() string { return clip(w.String()) }

func clip(s string) string {
	if s = strings.TrimSpace(s); len(s) > maxReason {
		s = s[:maxReason]
	}
	return strings.ToValidUTF8(s, "?")
}
