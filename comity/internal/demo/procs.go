package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// procs runs the demo's processes so that none outlives it: each leads a process group, and the kernel
// kills it when the demo itself dies (PR_SET_PDEATHSIG).
type procs struct {
	logs  string // folder of one log file per process
	start chan func()
	// lost hears of a process that ended though nobody here asked it to.
	lost func(name, how string)

	mu  sync.Mutex
	all map[string]*process
}

type process struct {
	name string
	argv []string
	env  []string
	as   *syscall.Credential // nil: as we are
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	// asked to end
	asked atomic.Bool
}

func (pr *process) ended() bool {
	select {
	case <-pr.done:
		return true
	default:
		return false
	}
}

func newProcs(logs string, lost func(name, how string)) *procs {
	p := &procs{logs: logs, lost: lost, start: make(chan func()), all: map[string]*process{}}
	// The death signal fires when the *thread* that forked ends, so one locked thread forks them all.
	go func() {
		runtime.LockOSThread()
		for f := range p.start {
			f()
		}
	}()
	return p
}

// run starts a process, or starts it again under the same name; its output is appended to its log.
func (p *procs) run(name string, env []string, argv ...string) error {
	return p.runAs(nil, name, env, argv...)
}

// runAs is run as somebody else.
func (p *procs) runAs(as *syscall.Credential, name string, env []string, argv ...string) error {
	log, err := os.OpenFile(filepath.Join(p.logs, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: as}
	started := make(chan error)
	p.start <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	pr := &process{name: name, argv: argv, env: env, as: as, cmd: cmd, done: make(chan struct{})}
	p.mu.Lock()
	p.all[name] = pr
	p.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended is in its ProcessState
		if !pr.asked.Load() {
			p.lost(name, cmd.ProcessState.String())
		}
		close(pr.done)
	}()
	return nil
}

func (p *procs) get(name string) *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all[name]
}

// alive lists the processes that still run.
func (p *procs) alive() []*process {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*process
	for _, pr := range p.all {
		if !pr.ended() {
			out = append(out, pr)
		}
	}
	return out
}

// exited returns an error if the process has ended, with the tail of its log.
func (p *procs) exited(name string) error {
	pr := p.get(name)
	if pr == nil || !pr.ended() {
		return nil
	}
	return fmt.Errorf("%s ended (%s)\n%s", name, pr.cmd.ProcessState, tail(filepath.Join(p.logs, name+".log"), 1500))
}

// kill ends processes and their groups at once, as kill -9 does, and waits until they are gone. Those that never
// ran, or have ended, are passed over; it returns the names of the others.
func (p *procs) kill(names ...string) []string {
	var killed []*process
	for _, name := range names {
		if pr := p.get(name); pr != nil && !pr.ended() {
			pr.asked.Store(true)
			_ = syscall.Kill(-pr.cmd.Process.Pid, syscall.SIGKILL)
			killed = append(killed, pr)
		}
	}
	var out []string
	for _, pr := range killed {
		<-pr.done
		out = append(out, pr.name)
	}
	return out
}

// restart starts an ended process again with its old arguments; one that runs stays as it is.
func (p *procs) restart(name string) error {
	pr := p.get(name)
	if pr == nil {
		return fmt.Errorf("no process %q", name)
	}
	if !pr.ended() {
		return nil
	}
	return p.runAs(pr.as, name, pr.env, pr.argv...)
}

// stop asks the named processes to end, all at once, and kills what has not ended when ctx does.
func stop(ctx context.Context, all []*process) {
	for _, pr := range all {
		pr.asked.Store(true)
		_ = pr.cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, pr := range all {
		select {
		case <-pr.done:
		case <-ctx.Done():
			_ = syscall.Kill(-pr.cmd.Process.Pid, syscall.SIGKILL)
			<-pr.done
		}
	}
}

// stopAll ends everything: applications and dataplanes first, then zones, then global.
// It goes on when ctx has ended, which is how a demo is told to end.
func (p *procs) stopAll(ctx context.Context, order func(name string) int) {
	groups := map[int][]*process{}
	for _, pr := range p.alive() {
		groups[order(pr.name)] = append(groups[order(pr.name)], pr)
	}
	for i := range 5 {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 8*time.Second)
		stop(limit, groups[i])
		cancel()
	}
}

func tail(path string, n int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > n {
		if _, err := f.Seek(-n, 2); err != nil {
			return ""
		}
	}
	buf := make([]byte, n)
	k, err := f.Read(buf)
	if err != nil && !errors.Is(err, os.ErrClosed) && k == 0 {
		return ""
	}
	return string(buf[:k])
}
