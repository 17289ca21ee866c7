package main

import (
	"bytes"
	"path/filepath"
	"testing"
)

// TestFigures: the bench goes through, with every figure, each measured once.
func TestFigures(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the configuration of 1,000 proxies many times")
	}
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(root)
	var out bytes.Buffer
	if err := (config{times: 1, turns: 1}).run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	for name := range titles {
		if !bytes.Contains(out.Bytes(), []byte(`"build-`+name+`-cpu"`)) {
			t.Errorf("there is no figure of %s in\n%s", name, out.String())
		}
	}
}
