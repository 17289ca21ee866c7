package main

import (
	"bytes"
	"os"
	"slices"
	"testing"

	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

// TestMain lets the test's program be the proxies' process too.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-role") {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestSmall runs the whole bench with few proxies, without its limits: figures of a busy machine say nothing.
func TestSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a program")
	}
	bin := t.TempDir()
	if _, err := rig.Build(bin, "github.com/comity-mesh/comity/zone-cp"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c := config{bin: bin, proxies: 20, services: 4, returning: 30, changes: 3}
	if err := c.run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	t.Logf("%s", out.Bytes())
}
