package pgbin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// superuser is the name that every server here knows.
const superuser = "postgres"

// Server is one Postgres with a folder of its own. It listens on a Unix socket in that folder only, and asks for a
// password. Not safe for concurrent use.
type Server struct {
	programs Programs
	dir      string
	password string
	// as is who runs it: Postgres refuses to be root. Nil means whoever we are.
	as      *syscall.Credential
	process *exec.Cmd
	exited  chan struct{}
	// living is locked as long as we live: what another one finds unlocked is nobody's any more.
	living *os.File
}

// Init makes a server that does not run yet, in a new folder for temporary files, whose path is short enough
// for a socket. Settings are lines of postgresql.conf, such as "fsync = off". Remove it in the end; the folders of those who
// were killed before they could are removed here.
func (p Programs) Init(ctx context.Context, settings ...string) (_ *Server, err error) {
	removeOrphans()
	s := &Server{programs: p, password: rand.Text()}
	if s.dir, err = os.MkdirTemp("", folders); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("init postgres: %w", err), s.Remove())
		}
	}()
	if s.living, err = markLiving(s.dir); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		// nobody, as most systems number it; no entry of the user database is needed.
		s.as = &syscall.Credential{Uid: 65534, Gid: 65534}
		if !reachable(p.dir) {
			if err := s.copyPrograms(); err != nil {
				return nil, err
			}
		}
	}
	secret := filepath.Join(s.dir, "password")
	if err := os.WriteFile(secret, []byte(s.password), 0o600); err != nil {
		return nil, err
	}
	if s.as != nil {
		for _, path := range []string{s.dir, secret} {
			if err := os.Chown(path, int(s.as.Uid), int(s.as.Gid)); err != nil {
				return nil, err
			}
		}
	}
	cmd := exec.CommandContext(ctx, s.programs.Path("initdb"), "--pgdata", s.data(), "--username", superuser, "--pwfile", secret,
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions")
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	if err := os.Remove(secret); err != nil {
		return nil, err
	}
	conf := slices.Concat([]string{"", "listen_addresses = ''", "unix_socket_directories = '" + s.dir + "'", "shared_buffers = 32MB"}, settings)
	return s, s.append("postgresql.conf", strings.Join(conf, "\n")+"\n")
}

// Run finds the programs, makes a server and starts it.
func Run(ctx context.Context, settings ...string) (*Server, error) {
	programs, err := Find()
	if err != nil {
		return nil, err
	}
	s, err := programs.Init(ctx, settings...)
	if err != nil {
		return nil, err
	}
	if err := s.Start(ctx); err != nil {
		return nil, errors.Join(err, s.Remove())
	}
	return s, nil
}

// append adds to a file of the data folder, which stays its owner's.
func (s *Server) append(name, text string) error {
	f, err := os.OpenFile(filepath.Join(s.data(), name), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// Dir is the server's folder: its data are in data, its log is in log.
func (s *Server) Dir() string { return s.dir }

// reachable reports whether everybody may enter the folder.
func reachable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		if target, err := filepath.EvalSymlinks(dir); err == nil && target != dir && !reachable(target) {
			return false
		}
		if info, err := os.Stat(dir); err != nil || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// copyPrograms brings the programs to where the server's user can enter. They find their files by where they lie.
func (s *Server) copyPrograms() error {
	from, err := filepath.EvalSymlinks(s.programs.dir)
	if err != nil {
		return err
	}
	root, sub := filepath.Dir(from), "bin"
	if outer := filepath.Dir(filepath.Dir(root)); strings.HasPrefix(filepath.Base(outer), "postgres-") { // laid out by tools/install
		sub, err = filepath.Rel(outer, from)
		root = outer
	}
	if err != nil {
		return err
	}
	to := filepath.Join(s.dir, "programs")
	if err := os.CopyFS(to, os.DirFS(root)); err != nil {
		return fmt.Errorf("copy the programs: %w", err)
	}
	s.programs = Programs{filepath.Join(to, sub)}
	return os.Chmod(to, 0o755) //nolint:gosec // the server's user must enter
}

// Command is what runs the server in the foreground, and as whom; nil means as whoever we are.
func (s *Server) Command() (argv []string, as *syscall.Credential) {
	return []string{s.programs.Path("postgres"), "-D", s.data()}, s.as
}

// Start runs the server and waits until it takes connections. The kernel kills it when we die.
func (s *Server) Start(ctx context.Context) error {
	for {
		again, err := s.start(ctx)
		if err == nil {
			return s.Await(ctx)
		}
		if !again || ctx.Err() != nil {
			return fmt.Errorf("start postgres: %w", err)
		}
	}
}

// start reports whether another try may help: what a killed server left behind takes a moment to end.
func (s *Server) start(ctx context.Context) (again bool, err error) {
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return false, err
	}
	defer log.Close()
	argv, as := s.Command()
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // it outlives the call
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started, exited := make(chan error), make(chan struct{})
	go func() {
		// The death signal fires when the thread that forked ends.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		return false, err
	}
	s.process, s.exited = cmd, exited
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.ready(cmd.Process.Pid) {
			return false, nil
		}
		select {
		case <-exited:
			text, _ := os.ReadFile(log.Name()) // for the error only
			text = text[max(0, len(text)-2000):]
			return strings.Contains(string(text), "shared memory block"), fmt.Errorf("it ended: %s", text)
		case <-ctx.Done():
			return false, ctx.Err()
		case <-tick.C:
		}
	}
}

// ready reads the file in which a server of the process notes how far it is.
func (s *Server) ready(pid int) bool {
	text, err := os.ReadFile(filepath.Join(s.data(), "postmaster.pid"))
	lines := strings.Split(string(text), "\n")
	return err == nil && len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready" && (pid == 0 || lines[0] == strconv.Itoa(pid))
}

// Await waits until the server takes connections, whoever started it.
func (s *Server) Await(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if s.ready(0) {
			if _, err := s.Run(ctx, "pg_isready", "--quiet"); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("postgres takes no connections: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// Kill ends the server at once, as kill -9 does; its backends notice and end too.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the server in order; whoever is connected is cut off.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

func (s *Server) end(sig syscall.Signal) {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(sig) // ended already: then there is nothing to do
	<-s.exited
	s.process = nil
}

// Signal sends a signal to the server's main process, such as SIGHUP after its configuration changed.
func (s *Server) Signal(sig syscall.Signal) error { return s.process.Process.Signal(sig) }

// Remove stops the server and deletes its folder.
func (s *Server) Remove() error {
	s.end(syscall.SIGQUIT)
	err := os.RemoveAll(s.dir)
	if s.living != nil {
		err = errors.Join(err, s.living.Close())
	}
	return err
}

// URL is that of a database, for the superuser, without the password.
func (s *Server) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + database, RawQuery: url.Values{"host": {s.dir}}.Encode()}
	return u.String()
}

// Password is the superuser's.
func (s *Server) Password() string { return s.password }

// Run runs one of the client programs (createdb, psql, pg_dump, pgbench) against the server, as its superuser, and
// returns what it printed.
func (s *Server) Run(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.programs.Path(program), args...)
	cmd.Env = append(os.Environ(), "PGHOST="+s.dir, "PGPORT=5432", "PGUSER="+superuser, "PGPASSWORD="+s.password)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return string(out), nil
}
