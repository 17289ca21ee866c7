package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

// TestSmall runs the whole bench with few zones, without its limits: figures of a busy machine say nothing.
func TestSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs")
	}
	bin := t.TempDir()
	for _, program := range []string{"global-cp", "zone-cp"} {
		if _, err := rig.Build(bin, "github.com/comity-mesh/comity/"+program); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	c := config{bin: bin, stores: "postgres,sqlite", zones: 3, exports: 1, proxies: 2, policies: 10, writes: 5, idle: 100 * time.Millisecond}
	if err := c.run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	t.Logf("%s", out.Bytes())
}
