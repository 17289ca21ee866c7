// Zone-cp is the control plane of one zone: it admits workloads, issues their certificates, programs
// the zone's Envoys and federates with the other zones through global. It needs nobody outside the
// zone to go on serving.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/api/client"
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
		Use: program, Short: "Control plane of one zone", SilenceUsage: true, SilenceErrors: true,
		Long: `Zone-cp is the control plane of one zone.

Every setting is a key of the configuration file (--config), a flag, or a variable of the environment:
listen.api is --listen-api and COMITY_ZONE_CP_LISTEN__API. Flags win over the environment, which wins
over the file. ` + "`zone-cp check-config`" + ` shows every key with its value and where it comes from.

What a zone is (its name, trust domain, authority, store) lives in dataDir and survives everything that
the disk survives.`,
	}
	root.PersistentFlags().StringVarP(&file, "config", "c", "", "configuration file (YAML)")
	config.AddFlags(root.PersistentFlags(), defaults())
	load := func(cmd *cobra.Command) (config.Loaded[settings], error) {
		return config.Load(defaults(), config.Options{Program: program, File: file, Environ: os.Environ(), Flags: cmd.Flags()})
	}
	root.AddCommand(
		&cobra.Command{
			Use: "serve", Short: "Run the zone's control plane; makes the zone at its first start", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := load(cmd)
				if err != nil {
					return err
				}
				return serve(cmd.Context(), c.Value, cmd.ErrOrStderr(), nil)
			},
		},
		&cobra.Command{
			Use: "init", Short: "Make a zone: its name and trust domain never change afterwards", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := load(cmd)
				if err != nil {
					return err
				}
				l, made, err := initialise(c.Value)
				if err != nil {
					return err
				}
				word := "is there already"
				if made {
					word = "made"
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "zone %s of trust domain %s %s in %s\n", l.Zone, l.TrustDomain, word, c.Value.DataDir)
				return err
			},
		},
		joinCommand(load),
		&cobra.Command{
			Use: "check-config", Short: "Show every setting with its source, or what is wrong", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				c, err := load(cmd)
				if err != nil {
					return err
				}
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
				for _, s := range c.Settings {
					fmt.Fprintf(w, "%s\t%s\t%s\n", s.Key, s.Value, s.Source)
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

// joinCommand asks the running control plane of this machine to join.
func joinCommand(load func(*cobra.Command) (config.Loaded[settings], error)) *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use: "join", Short: "Join a mesh with a token, through the running control plane", Args: cobra.NoArgs,
		Long: "Join reads a join token from a file or standard input (never from a flag, where others could read it) and asks the\nzone's running control plane to join with it. It may be repeated.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := load(cmd)
			if err != nil {
				return err
			}
			in := cmd.InOrStdin()
			if tokenFile != "-" {
				f, err := os.Open(tokenFile)
				if err != nil {
					return &fault.Error{Code: "JOIN-TOKEN", What: "the token file can't be read", Err: err, Exit: fault.ExitUsage}
				}
				defer f.Close()
				in = f
			}
			token, err := io.ReadAll(io.LimitReader(in, 16<<10))
			if err != nil {
				return fmt.Errorf("read the token: %w", err)
			}
			admin, err := os.ReadFile(adminTokenFile(c.Value))
			if err != nil {
				return &fault.Error{Code: "JOIN-ADMIN", What: "the zone's admin token can't be read", Err: err, Exit: fault.ExitDenied,
					Try: "start `zone-cp serve` first, and run join as the same user"}
			}
			scheme := "http://"
			if c.Value.API.TLSCert != "" {
				scheme = "https://"
			}
			api, err := client.New(client.Config{Server: scheme + c.Value.Listen.API, Token: strings.TrimSpace(string(admin)), CAFile: c.Value.API.TLSCert})
			if err != nil {
				return err
			}
			r, err := api.Join(cmd.Context(), client.JoinRequest{Token: strings.TrimSpace(string(token))})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "zone %s joined as %s; %d resources of global applied (rev %d)\n", r.Zone, r.Identity, r.Resources, r.Revision)
			return err
		},
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "-", "file with the join token, - for standard input")
	return cmd
}
