package demo_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// block is a file or some commands of a page.
var block = regexp.MustCompile("(?ms)^```(yaml|console)\n(.*?)^```$")

// TestThingsToTry does what docs/demo.md says: each section's file is applied as it stands and taken back at the section's end, and each command's
// output has what is behind its "#".
func TestThingsToTry(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "demo.md"))
	if err != nil {
		t.Fatal(err)
	}
	d := start(t)
	do := func(args ...string) string {
		t.Helper()
		cmd := comity(t.Context(), args...)
		cmd.Env = append(os.Environ(), "COMITY_CONFIG="+filepath.Join(d.dir, "comity.yaml"), "COMITY_DEMO_DIR="+d.dir)
		out, err := cmd.CombinedOutput()
		if _, ended := err.(*exec.ExitError); err != nil && !ended {
			t.Fatal(err)
		}
		if err != nil || strings.Contains(string(out), "note:") {
			t.Errorf("comity %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	tried := 0
	for _, section := range strings.Split(string(page), "\n## ") {
		var file string
		for _, b := range block.FindAllStringSubmatch(section, -1) {
			if b[1] == "yaml" {
				file = filepath.Join(t.TempDir(), "file.yaml")
				if err := os.WriteFile(file, []byte(b[2]), 0o600); err != nil {
					t.Fatal(err)
				}
				do("apply", "--wait", "-f", file)
				continue
			}
			for line := range strings.Lines(b[2]) {
				order, want, told := strings.Cut(strings.TrimPrefix(line, "$ comity "), "#")
				if want = strings.TrimSpace(want); !told || order == line {
					t.Fatalf("what is %q to do?", line)
				}
				if out := do(strings.Fields(order)...); !strings.Contains(out, want) {
					t.Errorf("%s says nothing of %q:\n%s", line, want, out)
				}
				tried++
			}
		}
		if file != "" {
			do("delete", "--wait", "-f", file)
		}
	}
	if tried == 0 {
		t.Error("the page has no commands")
	}
}
