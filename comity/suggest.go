package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/internal/fault"
)

// refuseUnknown makes every command that has commands say what it does not know. Cobra alone shows the help of a group
// and ends with 0, which a script takes for done.
func refuseUnknown(cmd *cobra.Command) {
	if !cmd.HasSubCommands() {
		return
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		var known []string
		for _, c := range cmd.Commands() {
			if !c.Hidden {
				known = append(known, c.Name())
			}
		}
		return &fault.Error{Code: codeUsage, What: fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0]), Exit: fault.ExitUsage,
			Cause: didYouMean(args[0], known), Try: cmd.CommandPath() + " --help", Docs: "docs/cli.md"}
	}
	if !cmd.Runnable() {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	for _, c := range cmd.Commands() {
		refuseUnknown(c)
	}
}

// didYouMean is a question for a word that is nearly one of the known, empty if there is none.
func didYouMean(typed string, known []string) string {
	const most = 2 // mistakes in one word
	best, near := most+1, ""
	for _, k := range known {
		d := edits(strings.ToLower(typed), k)
		if len(typed) >= 3 && strings.HasPrefix(k, typed) {
			d = min(d, most)
		} else if typed != "" && typed[0] != k[0] {
			d++ // hardly anybody mistakes the first letter
		}
		if d < best && d < len(k) {
			best, near = d, k
		}
	}
	if near == "" {
		return ""
	}
	return "did you mean " + near + "?"
}

// edits counts the letters that must be put in, taken out or replaced to make one word the other.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
