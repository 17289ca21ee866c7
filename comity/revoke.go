package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/policy"
)

func (s *shell) zoneRevoke() *cobra.Command {
	var (
		req     client.RevokeRequest
		yes     bool
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "revoke ZONE",
		Short: "End all trust in a zone, at once and for good",
		Long: `revoke is for a zone whose keys are in wrong hands. Its certificate, bundle, exports and live connections end everywhere
that global reaches, within 5 seconds; a zone that global can't reach stops believing it when its trust lease ends. It
can't be taken back: the Zone can be deleted, and made anew for another life under another trust domain.

The command shows which zones have confirmed, and waits for those that are connected. Run again, it reports.`,
		Example: "  comity zone revoke onprem --reason \"laptop with the CA key was stolen\"\n  comity zone revoke onprem --yes -o json",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.completeZone,
		RunE: func(cmd *cobra.Command, args []string) error {
			zone := args[0]
			r, err := s.global(cmd.Context())
			if err != nil {
				return err
			}
			zones, _ := policy.Lookup("zones")
			if _, err := r.Get(cmd.Context(), zones, "", zone, ""); err != nil {
				return err
			}
			if !yes {
				if err := s.confirm("zone "+zone+" is not trusted any more, for good, and its connections are cut.", zone); err != nil {
					return err
				}
			}
			rep, err := r.RevokeZone(cmd.Context(), zone, req)
			if err != nil {
				return err
			}
			said := ""
			err = s.poll(cmd.Context(), timeout, func(ctx context.Context) (bool, error) {
				if line := confirmedBy(rep); line != said {
					said = line
					s.say("%s", clean(line))
				}
				if rep.Done {
					return true, nil
				}
				rep, err = r.ZoneRevocation(ctx, zone)
				return false, err
			})
			if errors.Is(err, errWaited) {
				err = &fault.Error{Code: "REVOKE-UNCONFIRMED", What: "zone " + zone + " is revoked, and not every connected zone has confirmed yet", Cause: said,
					Try: "comity zone revoke " + zone + " --yes reports again", Docs: "docs/operations.md", Exit: fault.ExitUnreachable}
			}
			return errors.Join(s.showRevocation(rep), err)
		},
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why, for every zone to read and for the history")
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for zones that are connected")
	return cmd
}

// confirm asks a person to type the word. Where nobody is at a terminal it is refused.
func (s *shell) confirm(what, word string) error {
	if in, ok := s.in.(*os.File); !ok || !term.IsTerminal(int(in.Fd())) {
		return &fault.Error{Code: "CLI-CONFIRM", What: "this can't be taken back, and nobody is there to ask", Cause: what, Try: "add --yes", Docs: "docs/operations.md", Exit: fault.ExitUsage}
	}
	fmt.Fprintf(s.err, "%s\nType %s to go on: ", clean(what), clean(word))
	line, err := bufio.NewReader(io.LimitReader(s.in, 1<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	if strings.TrimSpace(line) != word {
		return &fault.Error{Code: "CLI-CONFIRM", What: "nothing was done", Cause: "the answer was not " + word, Exit: fault.ExitUsage}
	}
	return nil
}

// confirmedBy is a revocation in one line.
func confirmedBy(rep client.Revocation) string {
	confirmed, connected, acked, total := 0, 0, 0, 0
	for _, z := range rep.Zones {
		acked, total = acked+z.Acked, total+z.Total
		if z.Connected || z.Confirmed {
			connected++
		}
		if z.Confirmed {
			confirmed++
		}
	}
	return fmt.Sprintf("%s: revoked in revision %d; confirmed by %d of %d connected zones, %d/%d proxies", rep.Zone, rep.Revision, confirmed, connected, acked, total)
}

func (s *shell) showRevocation(rep client.Revocation) error {
	if done, err := writeValue(s.out, s.output, rep); done {
		return err
	}
	if s.output == formatName {
		fmt.Fprintln(s.out, clean("zone/"+rep.Zone))
		return nil
	}
	fmt.Fprintln(s.out, clean(fmt.Sprintf("zone/%s revoked (rev %d)", rep.Zone, rep.Revision)))
	if len(rep.Zones) == 0 {
		return nil
	}
	t := table{columns: []string{"ZONE", "CONFIRMED", "AFTER", "PROXIES", "NOTE"}}
	for _, z := range rep.Zones {
		row := []string{z.Zone, yesNo(z.Confirmed), "-", fmt.Sprintf("%d/%d", z.Acked, z.Total), z.Message}
		switch {
		case z.Confirmed:
			row[2] = fmt.Sprintf("%.1fs", z.At.Sub(rep.At).Seconds())
		case !z.Connected && !z.TrustUntil.IsZero():
			row[4] = "not connected; trust ends by itself at " + z.TrustUntil.UTC().Format(time.RFC3339)
		case !z.Connected:
			row[4] = "not connected"
		}
		t.rows = append(t.rows, row)
	}
	return t.write(s.out, s.output, true)
}
