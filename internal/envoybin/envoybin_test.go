package envoybin_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/comity-mesh/comity/internal/envoybin"
	"github.com/comity-mesh/comity/internal/fault"
)

func program(t *testing.T, mode fs.FileMode, path ...string) string {
	t.Helper()
	p := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"), mode); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestEnvironmentDecidesAlone(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	program(t, 0o755, dir, ".cache", "tools", "envoy-1.0.0", "envoy")
	mine := program(t, 0o755, dir, "mine")
	t.Setenv(envoybin.Env, "mine")
	if got, err := envoybin.Path(); err != nil || !same(t, got, mine) {
		t.Errorf("got %q, %v", got, err)
	}

	for _, bad := range []string{"nothing", program(t, 0o644, dir, "notes.txt"), dir} {
		t.Setenv(envoybin.Env, bad)
		_, err := envoybin.Path()
		if f, ok := errors.AsType[*fault.Error](err); !ok || f.Code != "ENVOY-UNUSABLE" {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestCacheOfAFolderAbove(t *testing.T) {
	dir := t.TempDir()
	program(t, 0o755, dir, ".cache", "tools", "envoy-1.39.0", "envoy")
	want := program(t, 0o755, dir, ".cache", "tools", "envoy-1.40.0", "envoy")
	program(t, 0o644, dir, ".cache", "tools", "envoy-1.41.0", "envoy") // being unpacked: not executable yet
	deep := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(deep)
	t.Setenv(envoybin.Env, "")
	if got, err := envoybin.Path(); err != nil || !same(t, got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// The test program itself lies in a temporary folder of the go command, so from there the search finds
// only what the machine has.
func TestPathThenAnErrorThatHelps(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv(envoybin.Env, "")
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	_, err := envoybin.Path()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Code != "ENVOY-MISSING" || !strings.Contains(f.Try, "make tools") || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	want := program(t, 0o755, bin, "envoy")
	if got, err := envoybin.Path(); err != nil || !same(t, got, want) {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func same(t *testing.T, a, b string) bool {
	t.Helper()
	ai, err := os.Stat(a)
	if err != nil {
		return false
	}
	bi, err := os.Stat(b)
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(ai, bi)
}
