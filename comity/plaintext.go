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
anybody: "yes" if all of its proxies have watched for 24 h and nobody spoke plaintext in that time. Requests count when they end.`,
		Example: "  comity plaintext\n  comity plaintext pay -n shop -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.remote()
			if err != nil {
				return err
			}
			if len(args) > 0 {
				q.Service = args[0]
			}
			return s.showPlaintext(cmd.Context(), r, q, !noHeaders)
		},
	}
	cmd.Flags().StringVarP(&q.Namespace, "namespace", "n", "", "namespace (default: all)")
	cmd.Flags().StringVar(&q.Zone, "zone", "", "zone that serves (default: all)")
	cmd.Flags().BoolVar(&noHeaders, "no-headers", false, "leave the line of columns out")
	must(cmd.RegisterFlagCompletionFunc("namespace", s.completeNamespace))
	return cmd
}

func (s *shell) showPlaintext(ctx context.Context, r *remote, q client.FailoverQuery, headers bool) error {
	list, err := r.Plaintext(ctx, q)
	if err != nil {
		return err
	}
	if done, err := writeValue(s.out, s.output, list); done {
		return err
	}
	if len(list) == 0 && s.output != formatName {
		s.say("no port takes plaintext")
		return nil
	}
	t := table{columns: []string{"ZONE", "SERVICE", "PORT", "PROXIES", "WATCHED", "CALLERS", "LAST", "STRICT", "WHO"}}
	for _, p := range list {
		t.rows = append(t.rows, []string{
			p.Zone, p.Namespace + "/" + p.Service, fmt.Sprint(p.Port), fmt.Sprint(p.Proxies), age(p.Since), fmt.Sprint(len(p.Callers) + p.Others), age(p.Last),
			strictWhen(p, time.Now()), s.callersOf(p),
		})
	}
	return t.write(s.out, s.output, headers)
}

// strictWhen says whether a port can be made strict.
func strictWhen(p mesh.PlaintextStatus, now time.Time) string {
	switch {
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
