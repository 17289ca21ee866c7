// Package pgbin finds the Postgres of `make tools` and runs servers with it, for tests, the demo and
// measurements. The product itself only ever connects to a Postgres that somebody else runs.
package pgbin

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/comity-mesh/comity/internal/fault"
)

// Env names the environment variable that overrides the search: the folder with postgres, initdb and the tools.
const Env = "COMITY_POSTGRES"

// Programs is a folder with the programs of one Postgres release.
type Programs struct{ dir string }

// Find looks for the programs, in this order, in
//
//  1. the folder that COMITY_POSTGRES names (if it is set, nothing else is tried);
//  2. .cache/tools/postgres-*/bin, where `make tools` puts them, in the working directory and each folder above it,
//     then in the program's own folder and each above it.
//
// A Postgres that the machine may have is not looked for: it is of any release. The error is a *fault.Error.
func Find() (Programs, error) {
	if dir := os.Getenv(Env); dir != "" {
		abs, err := filepath.Abs(dir)
		if err == nil {
			err = complete(abs)
		}
		if err != nil {
			return Programs{}, &fault.Error{
				Code: "POSTGRES-UNUSABLE", What: Env + " names no folder with the programs of Postgres", Err: err,
				Try: "set it to the bin folder of a Postgres, or unset it to use the one of `make tools`", Docs: `CONTRIBUTING.md, "Tools"`,
			}
		}
		return Programs{abs}, nil
	}
	for _, start := range starts() {
		for dir := start; ; dir = filepath.Dir(dir) {
			// The pattern is well-formed, and that is all that Glob complains of.
			found, _ := filepath.Glob(filepath.Join(dir, ".cache", "tools", "postgres-*", "bin"))
			for _, bin := range slices.Backward(found) {
				if complete(bin) == nil {
					return Programs{bin}, nil
				}
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return Programs{}, &fault.Error{
		Code: "POSTGRES-MISSING", What: "Postgres was not found",
		Cause: "it is neither named by " + Env + ", nor in .cache/tools of this folder or one above it",
		Try:   "run `make tools` in the repository, or set " + Env + " to the bin folder of a Postgres",
		Docs:  `CONTRIBUTING.md, "Tools"`, Err: fs.ErrNotExist,
	}
}

// Path is that of one program, such as "pg_dump".
func (p Programs) Path(name string) string { return filepath.Join(p.dir, name) }

// starts are the folders from which the search walks up.
func starts() []string {
	var dirs []string
	if wd, err := os.Getwd(); err == nil {
		dirs = append(dirs, wd)
	}
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(exe))
	}
	return dirs
}

// complete reports what a folder lacks.
func complete(dir string) error {
	for _, name := range []string{"postgres", "initdb"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return &fs.PathError{Op: "run", Path: filepath.Join(dir, name), Err: errors.New("not a program")}
		}
	}
	return nil
}
