package archtest

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestProofsExist: docs/faults.md claims nothing by a test that is not there.
func TestProofsExist(t *testing.T) {
	text, err := os.ReadFile("../../docs/faults.md")
	if err != nil {
		t.Fatal(err)
	}
	missing := map[string]bool{}
	for _, name := range regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(text), -1) {
		missing[name] = true
	}
	if len(missing) == 0 {
		t.Fatal("it names no test")
	}
	_, all := ours(t)
	for _, p := range all {
		if !p.ours() {
			continue
		}
		for _, file := range append(p.TestGoFiles, p.XTestGoFiles...) {
			source, err := os.ReadFile(p.Dir + "/" + file)
			if err != nil {
				t.Fatal(err)
			}
			for name := range missing {
				if strings.Contains(string(source), "\nfunc "+name+"(") {
					delete(missing, name)
				}
			}
		}
	}
	for name := range missing {
		t.Errorf("there is no %s", name)
	}
}

// TestPointersExist: each page of docs that the code sends people to is there, with the heading that it names.
func TestPointersExist(t *testing.T) {
	pointer := regexp.MustCompile(`docs/[a-z0-9/-]+\.md(?:#[a-z0-9-]+)?`)
	_, all := ours(t)
	seen := map[string]bool{}
	for _, p := range all {
		if !p.ours() {
			continue
		}
		for _, file := range p.GoFiles {
			source, err := os.ReadFile(p.Dir + "/" + file)
			if err != nil {
				t.Fatal(err)
			}
			for _, at := range pointer.FindAllString(string(source), -1) {
				if seen[at] {
					continue
				}
				seen[at] = true
				page, anchor, _ := strings.Cut(at, "#")
				text, err := os.ReadFile("../../" + page)
				if err != nil {
					t.Errorf("%s/%s names %s: %v", p.ImportPath, file, at, err)
					continue
				}
				if anchor != "" && !hasHeading(string(text), anchor) {
					t.Errorf("%s/%s names %s, and the page has no such heading", p.ImportPath, file, at)
				}
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d pointers are found", len(seen))
	}
}

// hasHeading reports whether a page has a heading with an anchor, as GitHub makes them.
func hasHeading(page, anchor string) bool {
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		heading := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
		if regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ReplaceAll(heading, " ", "-"), "") == anchor {
			return true
		}
	}
	return false
}
