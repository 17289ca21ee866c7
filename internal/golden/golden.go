// Package golden compares what a test produced with a file that people have read and committed. Run
// `go test ./path -update` to rewrite the files, then read the difference.
package golden

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Update reports whether files are to be rewritten. The flag belongs to test binaries that import this
// package, and to no other.
var update = flag.Bool("update", false, "rewrite golden files")

// Compare fails the test if got differs from the file. With -update it writes the file instead.
func Compare(t testing.TB, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (run the test with -update to make it)", err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("%s differs from what was produced (-want +got; run the test with -update to rewrite it):\n%s", file, cmp.Diff(string(want), string(got)))
	}
}
