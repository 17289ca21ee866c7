package envoy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocumented applies every example of docs/policies as it stands there: it is valid, and real Envoys take what comes of it.
// What the examples do is shown by the tests of their features.
func TestDocumented(t *testing.T) {
	pages, err := filepath.Glob("../../docs/policies/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	w := newWorld(t)
	for _, page := range pages {
		if filepath.Base(page) == "README.md" {
			continue // says what all have in common
		}
		t.Run(filepath.Base(page), func(t *testing.T) {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			examples := 0
			for i, block := range strings.Split(string(text), "```") {
				if doc, ok := strings.CutPrefix(block, "yaml\n"); ok && i%2 == 1 {
					examples++
					w.apply(t, doc)
				}
			}
			if examples == 0 {
				t.Error("the page has no example")
			}
		})
	}
}
