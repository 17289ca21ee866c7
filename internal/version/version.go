// Package version says which build of Comity is running.
package version

import "runtime"

// Version is set by the linker (-ldflags "-X github.com/comity-mesh/comity/internal/version.Version=v1.2.3");
// "dev" in a build that nobody named.
var Version = "dev"

// Commit is the Git commit of the build, set by the linker; empty where unknown.
var Commit = ""

// String is what `--version` prints after the program's name, as in "v1.2.3 (0123abc, go1.26)".
func String() string {
	if Commit == "" {
		return Version + " (" + runtime.Version() + ")"
	}
	return Version + " (" + Commit + ", " + runtime.Version() + ")"
}
