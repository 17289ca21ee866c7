package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

func (s *shell) zoneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "zone",
		Short: "Create, join, drain, revoke and look at zones",
		Long: `A zone joins in two steps, one on each side:

  at global:   comity zone create west --token-out west.token
  at the zone: comity --server http://127.0.0.1:7400 --token-file admin.token zone join < west.token

The token is good for one zone, once, for a limited time. It holds the address of global and a pin of its CA,
so that the zone knows whom it speaks with.`,
	}
	cmd.AddCommand(s.zoneCreate(), s.zoneJoin(), s.zoneList(), s.zoneDescribe(), s.zoneDrain(), s.zoneUndrain(), s.zoneLeave(), s.zoneRevoke())
	return cmd
}

func (s *shell) zoneCreate() *cobra.Command {
	var (
		spec     policy.Zone
		ttl      time.Duration
		tokenOut string
		force    bool
	)
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a zone at global and print the token with which it may join",
		Long: `create makes the Zone resource unless it is there already, and a fresh join token. The token goes to
standard output, or to the file that --token-out names; it is shown this once.`,
		Example: `  comity zone create gcp-west --cloud gcp --region us-west1 --token-out west.token
  comity zone create gcp-west | ssh zone-host comity --context west zone join`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if err := mesh.CheckZoneName(name); err != nil {
				return usage("%v", err)
			}
			r, err := s.remote()
			if err != nil {
				return err
			}
			zones, _ := policy.Lookup("zones")
			_, err = r.Get(cmd.Context(), zones, "", name, "")
			switch {
			case fault.ExitCode(err) == fault.ExitNotFound:
				doc, err := yaml.Marshal(map[string]any{"apiVersion": policy.APIVersion, "kind": mesh.KindZone, "metadata": map[string]string{"name": name}, "spec": spec})
				if err != nil {
					return err
				}
				if _, err := r.Apply(cmd.Context(), doc, client.ApplyOptions{Reason: "comity zone create"}); err != nil {
					return err
				}
				s.say("zone/%s created", name)
			case err != nil:
				return err
			default:
				s.say("zone/%s is there already; making another token", name)
			}
			tok, err := r.CreateJoinToken(cmd.Context(), name, client.JoinTokenRequest{TTLSeconds: int(ttl.Seconds()), Force: force})
			if err != nil {
				return err
			}
			return s.handOver(tok.Token, tokenOut, tok, fmt.Sprintf("the token joins zone %q once, until %s", name, tok.Expires.Format(time.RFC3339)))
		},
	}
	f := cmd.Flags()
	f.StringVar(&spec.DisplayName, "display-name", "", "a name for people")
	f.StringVar(&spec.Cloud, "cloud", "", "where it runs, for failover tiers")
	f.StringVar(&spec.Region, "region", "", "where it runs, for failover tiers")
	f.StringSliceVar(&spec.Namespaces, "namespaces", []string{"*"}, "namespaces for which the zone may speak")
	f.DurationVar(&ttl, "for", 30*time.Minute, "how long the token may be used")
	f.StringVar(&tokenOut, "token-out", "", "write the token to this file (mode 0600) instead of standard output")
	f.BoolVar(&force, "force", false, forceJoin)
	return cmd
}

// forceJoin says what --force is for when a join token is made.
const forceJoin = "also for a zone that is connected: whoever joins with the token takes its place"

// handOver gives a fresh token to whoever asked: into a file, as a document, or bare on standard output.
func (s *shell) handOver(token, file string, doc any, talk string) error {
	if file != "" {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return &fault.Error{Code: "CLI-TOKEN-OUT", What: "can't write the token", Err: err, Exit: fault.ExitUsage, Try: "name a file that does not exist"}
		}
		if _, err := io.WriteString(f, token+"\n"); err != nil {
			_ = f.Close()
			return fmt.Errorf("write the token: %w", err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("write the token: %w", err)
		}
		s.say("%s; it is in %s", talk, file)
		_, err = writeValue(s.out, s.output, map[string]any{"tokenFile": file})
		return err
	}
	if done, err := writeValue(s.out, s.output, doc); done {
		return err
	}
	s.say("%s", talk)
	_, err := fmt.Fprintln(s.out, token)
	return err
}

func (s *shell) say(format string, a ...any) {
	if !s.quiet {
		fmt.Fprintf(s.err, format+"\n", a...)
	}
}

func (s *shell) zoneJoin() *cobra.Command {
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Make the zone that --server names join global",
		Long: `join hands a join token to a running zone control plane, which proves to global that it knows it (the
token itself does not travel further), gets its certificate, and takes over what global has for it. The token is
read from standard input, or from --join-token-file; never from the command line, where others could see it.

Joining again is safe: a zone that has joined says so.`,
		Example: "  comity --server http://127.0.0.1:7400 --token-file admin.token zone join < west.token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in := s.in
			if tokenFile != "" {
				f, err := os.Open(tokenFile)
				if err != nil {
					return &fault.Error{Code: "CLI-TOKEN", What: "can't read the join token", Err: err, Exit: fault.ExitUsage}
				}
				defer f.Close()
				in = f
			}
			text, err := io.ReadAll(io.LimitReader(in, 16<<10))
			if err != nil {
				return fmt.Errorf("read the join token: %w", err)
			}
			token := strings.TrimSpace(string(text))
			if token == "" {
				return usage("no join token on standard input")
			}
			r, err := s.remote()
			if err != nil {
				return err
			}
			begin := time.Now()
			res, err := r.Join(cmd.Context(), client.JoinRequest{Token: token})
			if err != nil {
				return err
			}
			if done, err := writeValue(s.out, s.output, res); done {
				return err
			}
			verb := "joined"
			if res.Resumed {
				verb = "had already joined"
			}
			fmt.Fprintf(s.out, "zone %q %s %s in %d ms\n  identity %s (renews itself; ends in %s)\n  %d resources applied, revision %d\n",
				res.Zone, verb, res.Global, time.Since(begin).Milliseconds(), res.Identity, until(res.Expires), res.Resources, res.Revision)
			return nil
		},
	}
	cmd.Flags().StringVar(&tokenFile, "join-token-file", "", "file with the join token (default: standard input)")
	return cmd
}

func (s *shell) zoneList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the zones", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := s.remote()
			if err != nil {
				return err
			}
			objects, _, err := r.fetch(cmd.Context(), []string{"zones"}, selection{})
			if err != nil {
				return err
			}
			return s.showIn(cmd.Context(), r, objects, false, true)
		},
	}
}

func (s *shell) zoneDescribe() *cobra.Command {
	return &cobra.Command{
		Use: "describe NAME", Short: "Show everything that is known of a zone", Args: cobra.ExactArgs(1),
		ValidArgsFunction: s.completeZone,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.remote()
			if err != nil {
				return err
			}
			objects, single, err := r.fetch(cmd.Context(), []string{"zones", args[0]}, selection{})
			if fault.ExitCode(err) == fault.ExitNotFound && r.isOwn(cmd.Context(), args[0]) {
				// It never joined, or global has removed it: there is no Zone, but the zone is here.
				field := fields(s.out)
				field("Name", "%s", args[0])
				return r.describeFromZone(cmd.Context(), field, args[0])
			}
			if err != nil {
				return err
			}
			if s.output != formatTable && s.output != formatWide {
				return s.show(objects, single, true)
			}
			return s.describe(cmd.Context(), r, objects[0])
		},
	}
}
