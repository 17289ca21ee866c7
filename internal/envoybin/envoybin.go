// Package envoybin finds the Envoy program on this machine, for the dataplane, the demo and tests, and has it read a
// configuration that it does not run.
package envoybin

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/comity-mesh/comity/internal/fault"
)

// Env names the environment variable that overrides the search.
const Env = "COMITY_ENVOY"

// Path returns the absolute path of an executable Envoy. It looks, in this order, at
//
//  1. the environment variable COMITY_ENVOY (if it is set, nothing else is tried);
//  2. .cache/tools/envoy-*/envoy, where `make tools` puts it, in the working directory and each folder
//     above it, then in the program's own folder and each above it;
//  3. PATH.
//
// Of several versions in one cache the last by name wins. The error is a *fault.Error.
func Path() (string, error) {
	if p := os.Getenv(Env); p != "" {
		return fromEnv(p)
	}
	for _, start := range starts() {
		if p := inCacheAbove(start); p != "" {
			return p, nil
		}
	}
	if p, err := exec.LookPath("envoy"); err == nil {
		return filepath.Abs(p)
	}
	return "", &fault.Error{
		Code:  "ENVOY-MISSING",
		What:  "Envoy was not found",
		Cause: "it is neither named by " + Env + ", nor in .cache/tools of this folder or one above it, nor in PATH",
		Try:   "run `make tools` in the repository, or set " + Env + " to the path of an Envoy program",
		Docs:  `CONTRIBUTING.md, "Tools"`,
		Err:   fs.ErrNotExist,
	}
}

func fromEnv(p string) (string, error) {
	abs, err := filepath.Abs(p)
	if err == nil {
		err = executable(abs)
	}
	if err != nil {
		return "", &fault.Error{
			Code: "ENVOY-UNUSABLE", What: Env + " names no program that can be run",
			Cause: err.Error(),
			Try:   "set it to the path of an Envoy program, or unset it to use the one of `make tools`",
			Docs:  `CONTRIBUTING.md, "Tools"`,
			Err:   err,
		}
	}
	return abs, nil
}

// starts are the folders from which the search walks up.
func starts() []string {
	var dirs []string
	if wd, err := os.Getwd(); err == nil {
		dirs = append(dirs, wd)
	}
	if exe, err := os.Executable(); err == nil {
		if target, err := filepath.EvalSymlinks(exe); err == nil {
			exe = target
		}
		dirs = append(dirs, filepath.Dir(exe))
	}
	return dirs
}

func inCacheAbove(dir string) string {
	for {
		found, err := filepath.Glob(filepath.Join(dir, ".cache", "tools", "envoy-*", "envoy"))
		if err == nil {
			for _, path := range slices.Backward(found) {
				if executable(path) == nil {
					return path
				}
			}
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return ""
		}
		dir = parent
	}
}

func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return &fs.PathError{Op: "run", Path: path, Err: errors.New("not a file")}
	case info.Mode()&0o111 == 0:
		return &fs.PathError{Op: "run", Path: path, Err: fs.ErrPermission}
	}
	return nil
}
