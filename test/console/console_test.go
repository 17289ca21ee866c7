// Package console_test runs the console in a browser: console.test.mjs says what it must do.
package console_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// run runs a program at the root of the repository; what it says is shown if it fails.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// What is embedded is what the sources say: make builds it if any of them is newer.
func build(t *testing.T) (bin string) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		t.Fatal("Node 20.19 or newer is missing: the console is built and tested with it")
	}
	run(t, "make", "console")
	run(t, "tools/console", "browser")
	bin = t.TempDir()
	run(t, "go", "build", "-o", bin+"/", "./global-cp", "./zone-cp", "./test/console/rig")
	return bin
}

func TestConsole(t *testing.T) {
	bin := build(t)
	file, err := filepath.Abs("console.test.mjs")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "--test", "--test-reporter=spec", file)
	cmd.Env = append(os.Environ(), "BIN="+bin, "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

// The types hold, and the compiler of the pages has nothing to say about their accessibility.
func TestSources(t *testing.T) { run(t, "tools/console", "check") }
