package rig

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Child is a process that answers each line of its input with one of JSON. It ends when its input does.
type Child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// Start runs a program of ours; what it says on standard error is seen.
func Start(name string, args ...string) (*Child, error) {
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &Child{cmd, in, bufio.NewReader(out)}, nil
}

// PID of the process.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Stop ends the child by ending its input.
func (c *Child) Stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// Read decodes the child's next line into v.
func (c *Child) Read(v any) error {
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("%s ended: %w", filepath.Base(c.cmd.Path), err)
	}
	return json.Unmarshal(line, v)
}

// Ask sends an order and decodes the answer into v.
func (c *Child) Ask(order string, v any) error {
	if _, err := fmt.Fprintln(c.in, order); err != nil {
		return err
	}
	return c.Read(v)
}

// Build compiles a program of the module that is not in bin/.
func Build(dir, pkg string) (string, error) {
	path := filepath.Join(dir, filepath.Base(pkg))
	out, err := exec.Command("go", "build", "-o", path, pkg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building %s: %w: %s", pkg, err, out)
	}
	return path, nil
}

// Server is a control plane of its own.
type Server struct {
	cmd  *exec.Cmd
	done chan error
}

// Serve runs a program with a log file, and returns when http://api/readyz says that it is ready.
func Serve(ctx context.Context, log, api, program string, args ...string) (*Server, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &Server{cmd, make(chan error, 1)}
	go func() { s.done <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+api+"/readyz", nil)
		if err != nil {
			return nil, err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return s, nil
			}
		}
		select {
		case err := <-s.done:
			s.done <- err
			text, _ := os.ReadFile(log)
			return nil, fmt.Errorf("%s ended: %w\n%s", filepath.Base(program), err, text)
		case <-ctx.Done():
			s.Stop()
			return nil, fmt.Errorf("%s is not ready: %w", filepath.Base(program), ctx.Err())
		case <-tick.C:
		}
	}
}

// PID of the process.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Stop ends it in order, or after ten seconds without.
func (s *Server) Stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}

// FreeAddress is one on loopback that nobody listens on now. Its port is none of those that the kernel gives to
// connections (from 32768 on): one of them could be taken before somebody listens.
func FreeAddress() (string, error) {
	for range 100 {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(10_000+rand.IntN(22_000)))) //nolint:gosec // a port to try, not a secret
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String(), nil
	}
	return "", errors.New("no port is free")
}
