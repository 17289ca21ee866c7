package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

// TestMain lets the test's program be the generator's process and the application's too.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-role") {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestSmall runs the whole bench with few requests, without its limits: figures of a busy machine say nothing. Its tables must
// find their places in the docs.
func TestSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs")
	}
	bin := t.TempDir()
	for _, program := range []string{"global-cp", "zone-cp", "sidecar", "ingress"} {
		if _, err := rig.Build(bin, "github.com/comity-mesh/comity/"+program); err != nil {
			t.Fatal(err)
		}
	}
	docs := filepath.Join(t.TempDir(), "docs")
	if err := os.CopyFS(docs, os.DirFS("../../../docs")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	c := config{bin: bin, docs: docs, rounds: 1, requests: 200, warm: 100, rate: 200, pacedRounds: 1, featureRounds: 1, featureRequests: 100, budget: time.Minute}
	if err := c.run(t.Context(), &out); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	t.Logf("%s", out.Bytes())
	page, err := os.ReadFile(filepath.Join(docs, "policies", "extension.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "| Lua that sets a header |") {
		t.Errorf("the page of extensions has no costs:\n%s", page)
	}
}

func TestEstimate(t *testing.T) {
	var rounds []float64
	for i := range 21 {
		rounds = append(rounds, 1+float64(i)/100)
	}
	e := estimateOf(rounds)
	if e.value != 1.10 || e.low > 1.08 || e.low < 1.0 || e.high < 1.12 || e.high > 1.2 {
		t.Errorf("median 1.10 of 1.00 to 1.20: %+v", e)
	}
}

func TestTablesStayInTheirPlaces(t *testing.T) {
	page := "a\n<!-- bench:begin x -->\nold\n<!-- bench:end -->\nb\n<!-- bench:begin y -->\n<!-- bench:end -->\nc\n"
	out, names, err := replaceTables(page, map[string]string{"x": "new\n", "z": "lost\n"})
	if err != nil || len(names) != 1 || out != strings.Replace(page, "old", "new", 1) {
		t.Errorf("%q, %v, %v", out, names, err)
	}
	if _, _, err := replaceTables("<!-- bench:begin x -->\n", map[string]string{"x": ""}); err == nil {
		t.Error("a place without an end was taken")
	}
}
