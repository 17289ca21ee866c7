package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

func (s *shell) tokenCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke tokens",
		Long: `There are three sorts of tokens. Each is shown once, when it is made; what the control plane keeps can't be
used in its place.

  create           a bearer token for the REST API of the control plane it is asked of
  create-join      lets one zone join global, once (zone create makes one too)
  create-enrol     lets sidecars or an ingress get an identity from their zone`,
	}
	cmd.AddCommand(s.tokenCreate(), s.tokenJoin(), s.tokenEnrol(), s.tokenList(), s.tokenRevoke())
	return cmd
}

func (s *shell) tokenCreate() *cobra.Command {
	var req client.APITokenRequest
	var ttl time.Duration
	var out string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a bearer token for the REST API", Args: cobra.ExactArgs(1),
		Long: `create makes a token with which an admin may do everything, or a viewer may read. What a viewer sees is the mesh, not what is asked
of services: with --may tap it may see live requests as well (comity tap).`,
		Example: "  comity token create ci --role viewer --for 720h --token-out ci.token\n  comity token create oncall --may tap",
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.remote()
			if err != nil {
				return err
			}
			req.Name, req.TTLSeconds = args[0], int(ttl.Seconds())
			tok, err := r.CreateAPIToken(cmd.Context(), req)
			if err != nil {
				return err
			}
			return s.handOver(tok.Token, out, tok, fmt.Sprintf("token %s of role %s", tok.Name, tok.Role))
		},
	}
	cmd.Flags().StringVar(&req.Role, "role", "viewer", "admin or viewer")
	cmd.Flags().DurationVar(&ttl, "for", 0, "how long it is good (default: until revoked)")
	cmd.Flags().StringVar(&out, "token-out", "", "write the token to this file (mode 0600) instead of standard output")
	cmd.Flags().StringSliceVar(&req.May, "may", nil, "what a viewer may do besides reading: tap")
	must(cmd.RegisterFlagCompletionFunc("may", cobra.FixedCompletions([]string{"tap"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"admin", "viewer"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

func (s *shell) tokenJoin() *cobra.Command {
	var ttl time.Duration
	var out string
	var force bool
	cmd := &cobra.Command{
		Use: "create-join ZONE", Short: "Make a token with which a zone may join, at global", Args: cobra.ExactArgs(1),
		ValidArgsFunction: s.completeZone,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.remote()
			if err != nil {
				return err
			}
			tok, err := r.CreateJoinToken(cmd.Context(), args[0], client.JoinTokenRequest{TTLSeconds: int(ttl.Seconds()), Force: force})
			if err != nil {
				return err
			}
			return s.handOver(tok.Token, out, tok, fmt.Sprintf("the token joins zone %q once, until %s", tok.Zone, tok.Expires.Format(time.RFC3339)))
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, forceJoin)
	cmd.Flags().DurationVar(&ttl, "for", 30*time.Minute, "how long it may be used")
	cmd.Flags().StringVar(&out, "token-out", "", "write the token to this file (mode 0600) instead of standard output")
	return cmd
}

func (s *shell) tokenEnrol() *cobra.Command {
	req := client.EnrolmentTokenRequest{Role: mesh.RoleSidecar}
	var ttl time.Duration
	var ingress, egress, out string
	cmd := &cobra.Command{
		Use:   "create-enrol",
		Short: "Make a token with which sidecars, an ingress or an egress enrol, at their zone",
		Example: `  comity --context west token create-enrol -n shop --service-account pay --labels app=pay --limit 3
  comity --context west token create-enrol --ingress main`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			named := 0
			for _, name := range []string{ingress, egress, req.ServiceAccount} {
				if name != "" {
					named++
				}
			}
			switch {
			case named != 1:
				return usage("name one of --service-account for sidecars, --ingress and --egress")
			case ingress != "":
				req.Role, req.Name, req.Namespace = mesh.RoleIngress, ingress, ""
			case egress != "":
				req.Role, req.Name, req.Namespace = mesh.RoleEgress, egress, ""
			}
			r, err := s.remote()
			if err != nil {
				return err
			}
			req.TTLSeconds = int(ttl.Seconds())
			tok, err := r.CreateEnrolmentToken(cmd.Context(), req)
			if err != nil {
				return err
			}
			return s.handOver(tok.Token, out, tok, "the token enrols until "+tok.Expires.Format(time.RFC3339))
		},
	}
	f := cmd.Flags()
	f.StringVarP(&req.Namespace, "namespace", "n", "default", "namespace of the workloads")
	f.StringVar(&req.ServiceAccount, "service-account", "", "service account of the workloads: their identity")
	f.StringVar(&req.Name, "name", "", "only the workload of this name")
	f.StringToStringVarP(&req.Labels, "labels", "l", nil, "labels of the workloads, as app=pay: Services select by them, so they say for which services a workload may answer")
	f.StringVar(&egress, "egress", "", "the egress of this name instead of a workload")
	f.StringVar(&ingress, "ingress", "", "the ingress of this name instead of a workload")
	f.IntVar(&req.Limit, "limit", 1, "how many instances may enrol with it")
	f.DurationVar(&ttl, "for", time.Hour, "how long it may be used")
	f.StringVar(&out, "token-out", "", "write the token to this file (mode 0600) instead of standard output")
	must(cmd.RegisterFlagCompletionFunc("namespace", s.completeNamespace))
	return cmd
}

func (s *shell) tokenList() *cobra.Command {
	var zone string
	var enrol bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the bearer tokens of a control plane, or with --zone or --enrol the others", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := s.remote()
			if err != nil {
				return err
			}
			switch {
			case enrol:
				return s.listEnrolmentTokens(cmd.Context(), r)
			case zone != "":
				return s.listJoinTokens(cmd.Context(), r, zone)
			}
			list, err := r.APITokens(cmd.Context())
			if err != nil {
				return err
			}
			if done, err := writeValue(s.out, s.output, client.APITokens{Items: list}); done {
				return err
			}
			t := table{columns: []string{"ID", "NAME", "ROLE", "EXPIRES", "LAST USED"}}
			for _, k := range list {
				role := strings.Join(append([]string{k.Role}, k.May...), ",")
				t.rows = append(t.rows, []string{k.ID, k.Name, role, until(k.Expires), age(k.LastUsed)})
			}
			return t.write(s.out, s.output, true)
		},
	}
	s.tokenSort(cmd, &zone, &enrol)
	return cmd
}

// tokenSort adds the flags that say which sort of tokens is meant.
func (s *shell) tokenSort(cmd *cobra.Command, zone *string, enrol *bool) {
	cmd.Flags().StringVar(zone, "zone", "", "join tokens of this zone, at global")
	cmd.Flags().BoolVar(enrol, "enrol", false, "enrolment tokens, at a zone")
	cmd.MarkFlagsMutuallyExclusive("zone", "enrol")
	must(cmd.RegisterFlagCompletionFunc("zone", s.completeZone))
}

func (s *shell) listJoinTokens(ctx context.Context, r *remote, zone string) error {
	list, err := r.JoinTokens(ctx, zone)
	if err != nil {
		return err
	}
	if done, err := writeValue(s.out, s.output, client.JoinTokens{Items: list}); done {
		return err
	}
	t := table{columns: []string{"ID", "ZONE", "EXPIRES", "USED"}}
	for _, k := range list {
		t.rows = append(t.rows, []string{k.ID, k.Zone, until(k.Expires), yesNo(k.Used)})
	}
	return t.write(s.out, s.output, true)
}

func (s *shell) listEnrolmentTokens(ctx context.Context, r *remote) error {
	list, err := r.EnrolmentTokens(ctx)
	if err != nil {
		return err
	}
	if done, err := writeValue(s.out, s.output, map[string]any{"items": list}); done {
		return err
	}
	t := table{columns: []string{"ID", "ROLE", "NAMESPACE", "SERVICE ACCOUNT", "NAME", "USED", "EXPIRES"}}
	for _, k := range list {
		left := until(k.Expires)
		if k.Revoked {
			left = "revoked"
		}
		t.rows = append(t.rows, []string{k.ID, string(k.Role), k.Namespace, k.ServiceAccount, k.Name, fmt.Sprintf("%d/%d", k.Used, k.Limit), left})
	}
	return t.write(s.out, s.output, true)
}

func (s *shell) tokenRevoke() *cobra.Command {
	var zone string
	var enrol bool
	cmd := &cobra.Command{
		Use: "revoke ID", Short: "End a bearer token, or with --zone an unused join token, or with --enrol an enrolment token", Args: cobra.ExactArgs(1),
		Long: `revoke ends a token by its id, which token list shows. What has enrolled with an enrolment token stays enrolled: comity
revoke ends that.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.remote()
			if err != nil {
				return err
			}
			switch {
			case enrol:
				err = r.RevokeEnrolmentToken(cmd.Context(), args[0])
			case zone != "":
				err = r.RevokeJoinToken(cmd.Context(), zone, args[0])
			default:
				err = r.RevokeAPIToken(cmd.Context(), args[0])
			}
			if err != nil {
				return err
			}
			return s.showDone("token/"+args[0], "revoked", map[string]any{"token": args[0], "revoked": true})
		},
	}
	s.tokenSort(cmd, &zone, &enrol)
	return cmd
}
