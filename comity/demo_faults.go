package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/comity/internal/demo"
)

func (s *shell) demoBreak(o *demo.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "break ZONE | ZONE:ZONE | global | zone-cp[/ZONE]",
		Short: "Break a zone, a link, global or a zone's control plane of the running demo",
		Long: `break breaks something of the demo that runs in the folder, and returns when it is broken:

  ZONE            kill -9 of all its processes at once: control plane, ingresses, sidecars, applications. The
                  kernel kills each Envoy with its agent. Connections to the zone are reset, new ones refused.
  ZONE:ZONE       the way between two zones becomes a black hole, both ways: connections stay open, nothing passes,
                  new ones get no answer. No process is touched, and both zones still reach global. On loopback
                  the zones share their addresses as clients, so this takes place in the relay through which
                  the demo leads every connection between zones; that needs no root.
  global          kill -9 of global, and of its database if it has one.
  zone-cp[/ZONE]  kill -9 of one zone's control plane; without a ZONE, of onprem's.

The shop and its shoppers go on: watch the demo's own terminal, or comity demo status.`,
		Example: `  comity demo break onprem; comity demo status; comity demo fix
  comity demo break aws-east:gcp-west
  comity demo break global`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: s.completeFaults(o, func(st demo.Status) []string { return st.Breakable() }),
		RunE:              func(cmd *cobra.Command, args []string) error { return s.orderDemo(cmd, o, "break", args[0]) },
	}
}

func (s *shell) demoFix(o *demo.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "fix [WHAT]",
		Short: "Mend what was broken, or everything",
		Long: `fix starts what break killed, with the arguments and on the data of before, and joins cut links again. It returns
when that is healthy: control planes ready, every Envoy connected with its configuration, every application
healthy, and the zone back at global unless global itself is broken.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: s.completeFaults(o, func(st demo.Status) []string { return st.Broken }),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.orderDemo(cmd, o, "fix", strings.Join(args, ""))
		},
	}
}

func (s *shell) orderDemo(cmd *cobra.Command, o *demo.Options, verb, what string) error {
	report, err := demo.Ask(cmd.Context(), o.Dir, verb, what, func(note string) { s.say("%s", clean(note)) })
	if err != nil {
		return err
	}
	if done, err := writeValue(s.out, s.output, report); done {
		return err
	}
	if len(report.What) == 0 {
		fmt.Fprintln(s.out, "nothing is broken")
		return nil
	}
	now := "nothing is broken any more"
	if len(report.Broken) > 0 {
		now = "broken now: " + strings.Join(report.Broken, ", ")
	}
	fmt.Fprintln(s.out, now)
	return nil
}

// completeFaults completes what the demo that runs can break or fix.
func (s *shell) completeFaults(o *demo.Options, of func(demo.Status) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionLimit)
		defer cancel()
		st, err := demo.Look(ctx, o.Dir)
		if err != nil {
			cobra.CompDebugln(err.Error(), false)
		}
		var out []candidate
		for _, name := range of(st) {
			out = append(out, candidate{value: name})
		}
		return offer(typed, out)
	}
}
