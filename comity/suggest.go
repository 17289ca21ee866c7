package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/nearest"
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
			Cause: nearest.Question(args[0], known), Try: cmd.CommandPath() + " --help"}
	}
	if !cmd.Runnable() {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	for _, c := range cmd.Commands() {
		refuseUnknown(c)
	}
}
