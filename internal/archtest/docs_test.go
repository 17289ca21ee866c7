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
