package main

import (
	"io"
	"os"
	"strings"
	"testing"
)

// TestDocsOf: every command's errors lead to a heading of docs/cli.md.
func TestDocsOf(t *testing.T) {
	page, err := os.ReadFile("../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	root := newRoot(terminal{out: io.Discard, err: io.Discard, getenv: func(string) string { return "" }})
	for _, cmd := range root.Commands() {
		_, anchor, _ := strings.Cut(docsOf(cmd), "#")
		heading := strings.NewReplacer("drain-leave-revoke", "drain, leave, revoke", "errors", "Errors").Replace(anchor)
		if !strings.Contains(string(page), "\n## "+heading+"\n") {
			t.Errorf("%s leads to #%s, which docs/cli.md does not have", cmd.Name(), anchor)
		}
	}
}
