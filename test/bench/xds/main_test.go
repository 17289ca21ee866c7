package main

import (
	"bytes"
	"os"
	"slices"
	"testing"
)

// TestMain lets the test's program be the clients' process too.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-role") {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestSmall runs the whole bench with few clients, without its limits: figures of a busy machine say nothing.
func TestSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a server")
	}
	var out bytes.Buffer
	c := config{clients: 20, clusters: 10, changes: 2, turns: 1}
	if err := c.run(&out); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	t.Logf("%s", out.Bytes())
}
