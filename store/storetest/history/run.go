package history

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/store"
)

// Config is one schedule.
type Config struct {
	Seed uint64
	Dir  string // for the children's tasks
	// Store is what the children open, as Child's open understands it; Open opens it for the check.
	Store string
	Open  func(ctx context.Context, store string) (store.Store, error)
	// Replicas is how many children work at once; engines in a file have one.
	Replicas int
	// Fault breaks something besides a child, and mends it; nil: there is nothing.
	Fault func(ctx context.Context, rng *rand.Rand) error
}

// Report says how much a schedule was.
type Report struct {
	Kills, Faults, Calls, Unknown, Commits int
}

// Add adds another schedule's.
func (r *Report) Add(o Report) {
	r.Kills += o.Kills
	r.Faults += o.Faults
	r.Calls += o.Calls
	r.Unknown += o.Unknown
	r.Commits += o.Commits
}

// limit is how long a schedule may take before it counts as stuck.
const limit = 60 * time.Second

type runner struct {
	Config
	rng      *rand.Rand
	history  recorded
	children []*process
	lines    chan event
	out      *os.File // what the children write to
	marks    int
	report   Report
}

type process struct {
	cmd  *exec.Cmd
	done chan error
	at   mesh.Cursor // of its watch
	plan [][]Op
}

// Run runs a schedule and checks it. The error says what is wrong with the history.
func Run(ctx context.Context, c Config) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r := &runner{Config: c, rng: rand.New(rand.NewPCG(c.Seed, 1)), lines: make(chan event)} //nolint:gosec // a schedule is to be repeatable
	r.history.calls = map[string]*call{}
	r.history.watched = make([][]event, c.Replicas)
	in, out, err := os.Pipe()
	if err != nil {
		return r.report, err
	}
	defer in.Close()
	r.out = out
	go func() {
		defer close(r.lines)
		for lines := bufio.NewScanner(in); lines.Scan(); {
			var e event
			if json.Unmarshal(lines.Bytes(), &e) != nil {
				e = event{Kind: kindFailed, Error: "not an event: " + lines.Text()}
			}
			select {
			case r.lines <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	err = r.play(ctx)
	for _, p := range r.children {
		p.kill()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return r.report, fmt.Errorf("seed %d: %w", c.Seed, err)
	}
	if err := r.check(ctx); err != nil {
		return r.report, fmt.Errorf("seed %d: %w", c.Seed, err)
	}
	return r.report, nil
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // ended already: then there is nothing to do
	<-p.done
	p.done <- nil // for whoever asks again
}

// play starts the children and lets accidents happen until all calls have ended.
func (r *runner) play(ctx context.Context) error {
	ops := plan(r.rng)
	for i := range r.Replicas {
		p := &process{}
		for w := i; w < len(ops); w += r.Replicas {
			p.plan = append(p.plan, ops[w])
		}
		r.children = append(r.children, p)
		if err := r.start(ctx, i); err != nil {
			return err
		}
	}
	accidents := 1 + r.rng.IntN(3)
	next := 3 + r.rng.IntN(40)
	for n := 0; !r.finished(); n++ {
		if n >= next && accidents > 0 {
			accidents--
			next = n + 3 + r.rng.IntN(60)
			if err := r.accident(ctx); err != nil {
				return err
			}
			continue
		}
		if err := r.hear(ctx); err != nil {
			return err
		}
	}
	// What they still watch is theirs to say before they go.
	for _, p := range r.children {
		for ended := false; !ended; {
			select {
			case err := <-p.done:
				p.done <- err
				ended = true
			case e, ok := <-r.lines:
				if err := r.record(ctx, e, ok); err != nil {
					return err
				}
			case <-ctx.Done():
				return fmt.Errorf("a child does not end: %w", ctx.Err())
			}
		}
	}
	if err := r.drain(ctx); err != nil {
		return err
	}
	for i, p := range r.children {
		err := <-p.done
		if p.done <- err; err != nil {
			return fmt.Errorf("child %d: %w", i, err)
		}
	}
	return nil
}

func (r *runner) finished() bool {
	ended := 0
	for _, c := range r.history.calls {
		if c.end != nil {
			ended++
		}
	}
	return ended == writers*each
}

// start runs a child with what is left to do for it.
func (r *runner) start(ctx context.Context, i int) error {
	p := r.children[i]
	t := task{Store: r.Store, Child: i, From: p.at}
	for _, ops := range p.plan {
		var left []Op
		for _, op := range ops {
			c := r.history.calls[op.ID]
			if c != nil && c.end != nil {
				continue
			}
			if c != nil {
				op = c.op // with the revisions that it names
			}
			left = append(left, op)
		}
		t.Ops = append(t.Ops, left)
	}
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	file := filepath.Join(r.Dir, fmt.Sprintf("task-%d", i))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	p.cmd = exec.Command(os.Args[0]) //nolint:noctx,gosec // killed by us; it is the test itself
	p.cmd.Env = append(os.Environ(), Env+"="+file)
	p.cmd.ExtraFiles = []*os.File{r.out}
	p.cmd.Stdout, p.cmd.Stderr = os.Stderr, os.Stderr
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan<- error) { done <- cmd.Wait() }(p.cmd, p.done)
	return ctx.Err()
}

// accident kills a child and starts another in its place, or breaks something else.
func (r *runner) accident(ctx context.Context) error {
	if r.Fault != nil && r.rng.IntN(2) == 0 {
		r.report.Faults++
		// What the children say meanwhile must not fill the pipe.
		broken := make(chan error, 1)
		go func() { broken <- r.Fault(ctx, r.rng) }()
		for {
			select {
			case err := <-broken:
				return err
			case e, ok := <-r.lines:
				if err := r.record(ctx, e, ok); err != nil {
					return err
				}
			}
		}
	}
	r.report.Kills++
	i := r.rng.IntN(r.Replicas)
	r.children[i].kill()
	if err := r.drain(ctx); err != nil {
		return err
	}
	return r.start(ctx, i)
}

// drain records all that was said until now.
func (r *runner) drain(ctx context.Context) error {
	r.marks++
	line, err := json.Marshal(event{Kind: kindMark, Mark: r.marks})
	if err != nil {
		return err
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := r.out.Write(append(line, '\n'))
		wrote <- err
	}()
	for r.history.mark < r.marks {
		if err := r.hear(ctx); err != nil {
			return err
		}
	}
	return <-wrote
}

func (r *runner) hear(ctx context.Context) error {
	select {
	case e, ok := <-r.lines:
		return r.record(ctx, e, ok)
	case <-ctx.Done():
		return fmt.Errorf("stuck: %w", ctx.Err())
	}
}

func (r *runner) record(ctx context.Context, e event, ok bool) error {
	if !ok {
		return errors.Join(errors.New("the children's lines ended"), ctx.Err())
	}
	if e.Kind == kindFailed {
		return fmt.Errorf("a child failed: %s", e.Error)
	}
	if e.Kind == kindCommit {
		r.children[e.Child].at = e.Cursor
	}
	return r.history.record(e)
}

// check reads the store as it is now, and holds the history against it.
func (r *runner) check(ctx context.Context) error {
	s, err := r.Open(ctx, r.Store)
	if err != nil {
		return err
	}
	defer s.Close()
	f, err := read(ctx, s)
	if err != nil {
		return err
	}
	for _, c := range r.history.calls {
		r.report.Calls++
		if c.begun > 1 {
			r.report.Unknown++
		}
	}
	r.report.Commits = len(f.log)
	return r.history.check(f)
}

// Schedules is how many schedules a test runs: n, times COMITY_SOAK if that is set (make soak).
func Schedules(n int) int {
	if times, err := strconv.Atoi(os.Getenv("COMITY_SOAK")); err == nil && times > 0 {
		return n * times
	}
	return n
}
