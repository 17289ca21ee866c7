// Package demo runs the demo as a stranger does: the story must hold, and nothing may be left behind however it
// ends.
package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var bin string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "comity-demo-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	build := exec.Command("go", "build", "-o", bin, "../../comity", "../../global-cp", "../../zone-cp", "../../ingress", "../../sidecar", "../../deploy/demo/shop")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the programs:", err)
		return 1
	}
	return m.Run()
}

func comity(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "comity"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 40 * time.Second
	return cmd
}

func TestStory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	out, err := comity(ctx, "demo", "--dir", dir, "--check").CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("comity demo --check: %v", err)
	}
	if n := strings.Count(string(out), "\n✓ "); n < 11 {
		t.Errorf("%d steps held, want 6 of the start and 5 of the story", n)
	}
	gone(t, dir)
}

// TestEnds starts a demo, looks at it from another process, and ends it in each way.
func TestEnds(t *testing.T) {
	ends := []struct {
		name string
		end  func(t *testing.T, demo *exec.Cmd, dir string)
	}{
		{"comity demo down", func(t *testing.T, _ *exec.Cmd, dir string) {
			if out, err := comity(t.Context(), "demo", "down", "--dir", dir).CombinedOutput(); err != nil {
				t.Fatalf("down: %v\n%s", err, out)
			}
		}},
		{"killed with -9", func(t *testing.T, demo *exec.Cmd, _ string) {
			if err := demo.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, e := range ends {
		t.Run(e.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "d")
			demo := comity(t.Context(), "demo", "--dir", dir)
			var out bytes.Buffer
			demo.Stdout, demo.Stderr = &out, &out
			if err := demo.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- demo.Wait() }()
			await(t, time.Minute, "the demo's status", func() bool {
				select {
				case err := <-ended:
					t.Fatalf("the demo ended by itself: %v\n%s", err, out.String())
				default:
				}
				st := status(t, dir)
				return st.Running && st.ProxiesConnected == 16 && len(st.Zones) == 3
			})
			again, err := comity(t.Context(), "demo", "--dir", dir).CombinedOutput()
			if err == nil || !strings.Contains(string(again), "DEMO-RUNNING") {
				t.Errorf("a second demo in the same folder: %v\n%s", err, again)
			}
			e.end(t, demo, dir)
			<-ended
			gone(t, dir)
			if st := status(t, dir); st.Running {
				t.Error("status still says that it runs")
			}
		})
	}
}

type demoStatus struct {
	Running          bool  `json:"running"`
	ProxiesConnected int   `json:"proxiesConnected"`
	Zones            []any `json:"zones"`
}

func status(t *testing.T, dir string) demoStatus {
	t.Helper()
	out, err := comity(t.Context(), "demo", "status", "--dir", dir, "-o", "json").Output()
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	var st demoStatus
	if err := json.Unmarshal(out, &st); err != nil {
		t.Fatalf("status: %v\n%s", err, out)
	}
	return st
}

// gone waits until no process has the demo's folder, or the programs', in its arguments or working folder.
func gone(t *testing.T, dir string) {
	t.Helper()
	var left []string
	await(t, 20*time.Second, "all processes to end", func() bool {
		left = nil
		all, err := filepath.Glob("/proc/[0-9]*")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range all {
			line, err := os.ReadFile(filepath.Join(p, "cmdline"))
			cwd, _ := os.Readlink(filepath.Join(p, "cwd"))
			if err == nil && (bytes.Contains(line, []byte(dir)) || strings.HasPrefix(cwd, dir)) {
				left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
		return len(left) == 0
	})
	if len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// await asks until ok or the limit, and fails the test then.
func await(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Errorf("waited %s for %s", limit, what)
			return
		case <-tick.C:
		}
	}
}
