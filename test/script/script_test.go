// Package script plays the CLI's stories (testdata/*.txtar) with the real programs: each script gets a global
// control plane of its own, and a zone's where it asks for one.
package script_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/comity-mesh/comity/internal/freeport"
)

var bin string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "comity-script-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	build := exec.Command("go", "build", "-o", bin, "../../comity", "../../global-cp", "../../zone-cp", "../../ingress", "../../sidecar")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the programs:", err)
		return 1
	}
	return m.Run()
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("NO_COLOR", "1")
			e.Values[running{}] = map[string]func(){}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"global": startGlobal,
			"zone":   startZone,
			"exits":  exits,
			"stop":   stopZone,

			"eventually": eventually,
		},
	})
}

// running is the key of what ends the programs that run, by name.
type running struct{}

// exits CODE PROGRAM ARGS... runs a program and wants that exit code; its output can be asked for with
// stdout and stderr as after exec.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case err == nil && want != 0:
		ts.Fatalf("exited 0, want %d", want)
	case errors.As(err, &exit) && exit.ExitCode() == want:
	case err != nil:
		ts.Fatalf("%v, want exit code %d", err, want)
	}
}

// patience is how long something may take on a machine that is busy with others.
const patience = time.Minute

// eventually PATTERN PROGRAM ARGS... runs a program until its output matches, for what comes by itself.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually PATTERN PROGRAM ARGS...")
	}
	pattern := regexp.MustCompile("(?m)" + args[0])
	limit, tick := time.NewTimer(patience), time.NewTicker(50*time.Millisecond)
	defer limit.Stop()
	defer tick.Stop()
	for {
		ts.Check(ts.Exec(args[1], args[2:]...))
		if pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			ts.Fatalf("no match for %q", args[0])
		}
	}
}

// global starts a global control plane and points comity at it.
func startGlobal(ts *testscript.TestScript, _ bool, _ []string) {
	api, federation := freeAddress(ts), freeAddress(ts)
	token := ts.MkAbs("global.token")
	serve(ts, "global", api, "global-cp", "serve", "--data-dir", ts.MkAbs("global"), "--trust-domain", "global.test.example",
		"--listen-api", api, "--listen-federation", federation, "--admin-token-file", token)
	ts.Setenv("COMITY_SERVER", "http://"+api)
	ts.Setenv("COMITY_TOKEN_FILE", token)
	ts.Setenv("GLOBAL", "http://"+api)
	ts.Setenv("GLOBAL_TOKEN", token)
}

// zone NAME starts a zone's control plane and leaves its address in $NAME and its token file in $NAME_TOKEN.
func startZone(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: zone NAME")
	}
	name := args[0]
	api, proxies := freeAddress(ts), freeAddress(ts)
	token := ts.MkAbs(name + ".admin")
	serve(ts, name, api, "zone-cp", "serve", "--zone", name, "--trust-domain", name+".test.example", "--data-dir", ts.MkAbs(name),
		"--listen-api", api, "--listen-proxies", proxies, "--admin-token-file", token)
	ts.Setenv(name, "http://"+api)
	ts.Setenv(name+"_TOKEN", token)
}

// stop NAME ends a zone's control plane.
func stopZone(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: stop NAME")
	}
	end, ok := ts.Value(running{}).(map[string]func())[args[0]]
	if !ok {
		ts.Fatalf("no zone %s runs", args[0])
	}
	end()
}

// serve runs a program until the script ends or stops it, and returns when it is ready.
func serve(ts *testscript.TestScript, name, api, program string, args ...string) {
	var out bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, program), args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	ts.Check(cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	end := sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
	})
	ts.Value(running{}).(map[string]func())[name] = end
	ts.Defer(end)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+api+"/readyz", nil)
		ts.Check(err)
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case err := <-done:
			done <- err
			ts.Fatalf("%s ended: %v\n%s", program, err, out.String())
		case <-ctx.Done():
			ts.Fatalf("%s is not ready after %s", program, patience)
		case <-tick.C:
		}
	}
}

func freeAddress(ts *testscript.TestScript) string {
	const host = "127.0.0.1"
	port, claim, err := freeport.Find(context.Background(), host)
	ts.Check(err)
	ts.Defer(func() { _ = claim.Close() })
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
