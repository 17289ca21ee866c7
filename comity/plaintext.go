package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// quietFor is how long nobody must have spoken plaintext for a port to count as safe to make strict: whoever calls once a day has called.
const quietFor = 24 * time.Hour

func (s *shell) plaintextCommand() *cobra.Command {
	var q client.FailoverQuery
	var noHeaders bool
	cmd := &cobra.Command{
		Use:   "plaintext [SERVICE]",
		Short: "Show who still speaks plaintext to permissive ports",
		Long: `plaintext shows, for each service port that takes plaintext (AuthenticationPolicy, mtls.mode Permissive), who spoke it since the
proxies watch: by address, with the workload that is registered there. STRICT says whether the port can be made strict without refusing
anybody: "yes" if all of its proxies have watched for 24 h and nobody spoke plaintext in that time. Requests count when they end.

Proxies tell every few seconds. Until those of a permissive port have, it ends with 1 and says so: that nothing is known is no proof that
nobody speaks plaintext.`,
		Example: "  comity plaintext\n  comity plaintext pay -n shop -o json",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: s.completeService,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.remote()
			if err != nil {
				return err
			}
			if len(args) > 0 {
				if q.Namespace, q.Service, err = r.service(cmd.Context(), q.Namespace, args[0]); err != nil {
					return err
				}
			}
			return s.showPlaintext(cmd.Context(), r, q, !noHeaders)
		},
	}
	cmd.Flags().StringVarP(&q.Namespace, "namespace", "n", "", "namespace (default: all)")
	cmd.Flags().StringVar(&q.Zone, "zone", "", "zone that serves (default: all)")
	cmd.Flags().BoolVar(&noHeaders, "no-headers", false, "leave the line of columns out")
	must(cmd.RegisterFlagCompletionFunc("namespace", s.completeNamespace))
	must(cmd.RegisterFlagCompletionFunc("zone", s.completeZones))
	return cmd
}

func (s *shell) showPlaintext(ctx context.Context, r *remote, q client.FailoverQuery, headers bool) error {
	list, err := r.Plaintext(ctx, q)
	if err != nil {
		return err
	}
	switch done, err := writeValue(s.out, s.output, list); {
	case err != nil:
		return err
	case len(list) == 0:
		return s.nobodyTold(ctx, r, q)
	case done:
		return nil
	}
	t := table{columns: []string{"ZONE", "SERVICE", "PORT", "PROXIES", "WATCHED", "CALLERS", "LAST", "STRICT", "WHO"}}
	for _, p := range list {
		t.rows = append(t.rows, []string{
			p.Zone, p.Namespace + "/" + p.Service, fmt.Sprint(p.Port), knownOr(p.Unheard, fmt.Sprint(p.Proxies)), age(p.Since), fmt.Sprint(len(p.Callers) + p.Others), age(p.Last),
			strictWhen(p, time.Now()), s.callersOf(p),
		})
	}
	return t.write(s.out, s.output, headers)
}

// nobodyTold tells apart that no port takes plaintext from that no proxy has said so yet, which is an error: a script must not take it
// for the former. The ports in question are those of the services that a policy with mtls.mode Permissive is for.
func (s *shell) nobodyTold(ctx context.Context, r *remote, q client.FailoverQuery) error {
	kind, _ := policy.Lookup(string(mesh.KindAuthenticationPolicy))
	objects, err := r.ListAll(ctx, kind, client.ListOptions{})
	if err != nil {
		return err
	}
	var permissive []string
	for _, o := range objects {
		spec := decodeInto[policy.AuthenticationPolicy](o.Spec)
		wide := o.Metadata.Namespace == policy.SystemNamespace && spec.TargetRef == nil
		if !spec.Permissive() || q.Namespace != "" && q.Namespace != o.Metadata.Namespace && !wide ||
			q.Service != "" && spec.TargetRef != nil && spec.TargetRef.Name != q.Service {
			continue
		}
		permissive = append(permissive, o.Metadata.Namespace+"/"+o.Metadata.Name)
	}
	if len(permissive) == 0 {
		s.say("no port takes plaintext: no AuthenticationPolicy that is for it is permissive")
		return nil
	}
	return &fault.Error{
		Code: "PLAINTEXT-UNKNOWN", What: "who speaks plaintext is not reported yet",
		Cause: "AuthenticationPolicy " + strings.Join(permissive, ", ") + " lets ports take plaintext, and no proxy has told of them so far",
		Try:   "ask again in some seconds; comity get proxies shows whether the servers' proxies are connected",
		Docs:  "docs/policies/authenticationpolicy.md#plaintext", Exit: fault.ExitFailure,
	}
}

// strictWhen says whether a port can be made strict.
func strictWhen(p mesh.PlaintextStatus, now time.Time) string {
	switch {
	case p.Unheard != nil:
		return "unknown (" + notHeard(p.Zone, p.Unheard) + ")"
	case !p.Last.IsZero() && now.Sub(p.Last) < quietFor:
		return "no"
	case now.Sub(p.Since) < quietFor:
		return "in " + until(p.Since.Add(quietFor))
	}
	return "yes"
}

// callersOf names callers by workload where one is known; all of them with -o wide.
func (s *shell) callersOf(p mesh.PlaintextStatus) string {
	var who []string
	for _, c := range p.Callers {
		name := c.Address
		if c.Workload != "" {
			name = c.Workload + " (" + c.Address + ")"
		}
		who = append(who, name)
	}
	if p.Others > 0 {
		who = append(who, fmt.Sprintf("and %d more", p.Others))
	}
	text := strings.Join(who, ", ")
	if s.output == formatWide {
		return text
	}
	return short(text)
}
