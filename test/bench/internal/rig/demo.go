package rig

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Demo runs `comity demo` in a folder, and returns when its mesh is up, with how long that took. Two shoppers at one
// order a second each are as good as idle. Who is done with it sends SIGTERM and waits.
func Demo(ctx context.Context, bin, dir string) (*exec.Cmd, time.Duration, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "comity"), "demo", "--dir", dir, "--rate", "1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, 0, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, 0, err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "mesh is up") {
			took := time.Since(begin)
			go func() {
				for lines.Scan() {
				}
			}()
			return cmd, took, nil
		}
	}
	return nil, 0, fmt.Errorf("the demo did not come up: %w", cmd.Wait())
}
