package script_test

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A line of --help about a command, or about a flag.
var (
	commandLine = regexp.MustCompile(`^  ([a-z][a-z-]*)(?:  +(.*))?$`)
	flagLine    = regexp.MustCompile(`^  +(?:-[a-zA-Z], )?--([a-z][a-z0-9-]*)(?: [a-zA-Z]+)?(?:  +(.*))?$`)
)

// TestHelp walks every command of every program: each has a description, and so has each of its flags.
func TestHelp(t *testing.T) {
	for program, least := range map[string]int{"comity": 40, "global-cp": 4, "zone-cp": 5, "ingress": 3, "sidecar": 3} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			if walked := walkHelp(t, []string{program}); walked < least {
				t.Errorf("only %d commands: the help is written otherwise than this test reads it", walked)
			}
		})
	}
}

// walkHelp looks at a command and all below it, and counts them.
func walkHelp(t *testing.T, command []string) int {
	t.Helper()
	name := strings.Join(command, " ")
	text, err := exec.CommandContext(t.Context(), bin+"/"+command[0], append(slices.Clone(command[1:]), "--help")...).Output()
	if err != nil {
		t.Fatalf("%s --help: %v", name, err)
	}
	walked, part, flags := 1, "", 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if title, ok := strings.CutSuffix(line, ":"); ok && !strings.HasPrefix(line, " ") {
			part = title
			continue
		}
		switch part {
		case "Available Commands":
			m := commandLine.FindStringSubmatch(line)
			if m == nil || m[1] == "help" || m[1] == "completion" && command[0] != "comity" { // cobra's own
				continue
			}
			if strings.TrimSpace(m[2]) == "" {
				t.Errorf("%s %s has no description", name, m[1])
			}
			walked += walkHelp(t, append(slices.Clone(command), m[1]))
		case "Flags", "Global Flags":
			m := flagLine.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			flags++
			if strings.TrimSpace(m[2]) == "" {
				t.Errorf("%s: --%s has no description", name, m[1])
			}
		}
	}
	if flags == 0 { // each has --help
		t.Errorf("%s: no flag is read", name)
	}
	return walked
}
