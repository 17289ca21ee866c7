// Global-cp is the global control plane: it keeps what users want of the whole mesh, lets zones join, and
// tells each zone what concerns it. It is never on the data path; zones go on without it.
package main

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/internal/config"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/lifecycle"
	"github.com/comity-mesh/comity/internal/version"
)

func main() {
	ctx, stop := lifecycle.WithSignals(context.Background())
	err := command().ExecuteContext(ctx)
	stop()
	os.Exit(fault.Print(os.Stderr, err))
}

func command() *cobra.Command {
	var file string
	root := &cobra.Command{
		Use: program, Short: "Global control plane", SilenceUsage: true, SilenceErrors: true,
		Long: `Global-cp is the global control plane of a mesh.

Every setting is a key of the configuration file (--config), a flag, or a variable of the environment:
listen.api is --listen-api and COMITY_GLOBAL_CP_LISTEN__API. Flags win over the environment, which wins
over the file. ` + "`global-cp check-config`" + ` shows every key with its value and where it comes from.`,
	}
	root.PersistentFlags().StringVarP(&file, "config", "c", "", "configuration file (YAML)")
	config.AddFlags(root.PersistentFlags(), defaults())
	load := func(cmd *cobra.Command) (config.Loaded[settings], error) {
		return config.Load(defaults(), config.Options{Program: program, File: file, Environ: os.Environ(), Flags: cmd.Flags()})
	}
	root.AddCommand(
		&cobra.Command{
			Use: "serve", Short: "Run the global control plane", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := load(cmd)
				if err != nil {
					return err
				}
				return serve(cmd.Context(), c.Value, cmd.OutOrStdout(), cmd.ErrOrStderr(), nil)
			},
		},
		migrateCommand(load),
		&cobra.Command{
			Use: "check-config", Short: "Show every setting with its source, or what is wrong", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := load(cmd)
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
				for _, s := range c.Settings {
					if _, err := fmt.Fprintf(w, "%s\t%s\t%s\n", s.Key, s.Value, s.Source); err != nil {
						return err
					}
				}
				return w.Flush()
			},
		},
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), program, version.Version)
				return err
			},
		},
	)
	return root
}
