package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
)

// lookEvery is how often a command that waits asks how far things are.
const lookEvery = 250 * time.Millisecond

// drainFlags are those of every command that takes something out of use.
type drainFlags struct {
	client.DrainRequest
	wait    bool
	timeout time.Duration
}

func (f *drainFlags) add(cmd *cobra.Command, waitFor string) {
	cmd.Flags().StringVar(&f.Over, "over", "10s", "how long the share falls to nothing; 0s for at once")
	cmd.Flags().StringVar(&f.Reason, "reason", "", "why, for people and for the history")
	cmd.Flags().BoolVar(&f.Force, "force", false, "even if the others lack capacity")
	f.addWait(cmd, waitFor)
}

func (f *drainFlags) addWait(cmd *cobra.Command, waitFor string) {
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until "+waitFor)
	cmd.Flags().DurationVar(&f.timeout, "timeout", 0, "with --wait: how long (default: as long as it takes)")
}

func (s *shell) zoneDrain() *cobra.Command {
	var f drainFlags
	cmd := &cobra.Command{
		Use:   "drain ZONE",
		Short: "Move all traffic away from a zone without a failed request",
		Long: `drain makes every zone lower the share of its requests that goes to the zone, evenly over --over, to nothing. It
holds until undrain. It is refused where the other zones' ready capacity is below what is presumed to be asked for: the
threshold's part (FailoverPolicy, 70 % unless said) of what all zones have when whole.

With --wait it shows what still goes there, and ends when every zone has said that nothing does. A zone that is away from
global is waited for and named: its data path may still send. A service that no other zone has keeps its last backend, and
is named. If the command is interrupted, the drain goes on.`,
		Example: "  comity zone drain aws-east --over 60s --wait --reason \"new kernel\"\n  comity zone undrain aws-east",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.completeZone,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.global(cmd.Context())
			if err != nil {
				return err
			}
			d, err := r.DrainZone(cmd.Context(), args[0], f.DrainRequest)
			if err != nil {
				return err
			}
			if f.wait {
				if d, err = s.awaitDrain(cmd.Context(), r, args[0], f.timeout, func(d client.Drain) bool { return d.Done }); err != nil {
					return err
				}
			}
			return s.showDrain(d)
		},
	}
	f.add(cmd, "nothing goes there any more")
	return cmd
}

func (s *shell) zoneUndrain() *cobra.Command {
	var f drainFlags
	cmd := &cobra.Command{
		Use:   "undrain ZONE",
		Short: "Take a drain back",
		Long: `undrain lets traffic come back to the zone, evenly over the time of the drain. It also takes back a zone leave that
has not removed the zone yet.`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: s.completeZone,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.global(cmd.Context())
			if err != nil {
				return err
			}
			d, err := r.UndrainZone(cmd.Context(), args[0], f.Reason)
			if err != nil {
				return err
			}
			if f.wait {
				if d, err = s.awaitDrain(cmd.Context(), r, args[0], f.timeout, heeded); err != nil {
					return err
				}
			}
			return s.showDrain(d)
		},
	}
	cmd.Flags().StringVar(&f.Reason, "reason", "", "why, for the history")
	f.addWait(cmd, "every connected zone has heard it")
	return cmd
}

func heeded(d client.Drain) bool {
	return !slices.ContainsFunc(d.Zones, func(z client.DrainZone) bool { return z.Connected && !z.Heeds })
}

func (s *shell) zoneLeave() *cobra.Command {
	var f drainFlags
	cmd := &cobra.Command{
		Use:   "leave ZONE",
		Short: "Drain a zone, then remove it from the mesh",
		Long: `leave drains the zone, and when every zone has said for 5 seconds that nothing goes there it removes the zone: its
identity at global, its exports and its endpoints everywhere. The zone goes on by itself with what is its own. Global
carries it out: it goes on if this command is interrupted, or global restarts, and undrain takes it back until the zone
is gone.

A zone that is away from global, the leaving one included, is waited for. --force does without its word, while any zone is
connected at all.`,
		Example: "  comity zone leave onprem --over 60s --wait",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: s.completeZone,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.global(cmd.Context())
			if err != nil {
				return err
			}
			d, err := r.LeaveZone(cmd.Context(), args[0], f.DrainRequest)
			if err != nil {
				return err
			}
			if !f.wait {
				return s.showDrain(d)
			}
			last, err := s.awaitDrain(cmd.Context(), r, args[0], f.timeout, func(d client.Drain) bool { return d.State == client.DrainNone })
			switch {
			case fault.ExitCode(err) == fault.ExitNotFound:
				if done, err := writeValue(s.out, s.output, map[string]any{"zone": args[0], "removed": true}); done {
					return err
				}
				fmt.Fprintf(s.out, "zone/%s left\n", clean(args[0]))
				return nil
			case err != nil:
				return err
			}
			return &fault.Error{Code: "LEAVE-UNDONE", What: "zone " + args[0] + " stays: somebody took the drain back", Cause: "its state is " + last.State, Exit: fault.ExitConflict}
		},
	}
	f.add(cmd, "the zone is removed")
	cmd.Flags().Lookup("force").Usage += ", and without the word of zones that are away"
	return cmd
}

// awaitDrain follows a drain until it is as it shall be, and says each change of what still goes there.
func (s *shell) awaitDrain(ctx context.Context, r *remote, zone string, timeout time.Duration, until func(client.Drain) bool) (client.Drain, error) {
	var d client.Drain
	said := ""
	err := s.poll(ctx, timeout, func(ctx context.Context) (done bool, err error) {
		now, err := r.ZoneDrain(ctx, zone)
		if err != nil {
			return false, err // d stays what was heard last
		}
		d = now
		if line := stillThere(d); line != said {
			said = line
			s.say("%s", clean(line))
		}
		return until(d), nil
	})
	if errors.Is(err, errWaited) {
		return d, &fault.Error{Code: "DRAIN-UNFINISHED", What: "zone " + zone + " is " + firstOf(strings.ToLower(d.State), "not heard of yet") + ", and that goes on without this command", Cause: said,
			Try: "comity zone drain " + zone + " --wait follows it, comity zone undrain " + zone + " takes it back", Docs: "docs/operations.md", Exit: fault.ExitUnreachable}
	}
	return d, err
}

// stillThere is a drain in one line.
func stillThere(d client.Drain) string {
	heeding, connected := 0, 0
	for _, z := range d.Zones {
		if z.Connected {
			connected++
			if z.Heeds {
				heeding++
			}
		}
	}
	line := fmt.Sprintf("%s: %s, heard by %d of %d connected zones", d.Zone, strings.ToLower(d.State), heeding, connected)
	var rest, away []string
	for _, z := range d.Zones {
		if z.Share > 0 {
			rest = append(rest, fmt.Sprintf("%s %.0f%%", z.Zone, z.Share*100))
		}
		if z.Awaited && !z.Connected {
			away = append(away, z.Zone)
		}
	}
	switch {
	case len(rest) > 0:
		line += "; goes there still: " + strings.Join(rest, ", ")
	case len(away) == 0:
		line += "; nothing goes there"
	}
	if len(away) > 0 {
		line += "; waits for zones that are away: " + strings.Join(away, ", ")
	}
	return line
}

func (s *shell) showDrain(d client.Drain) error {
	if done, err := writeValue(s.out, s.output, d); done {
		return err
	}
	if s.output == formatName {
		fmt.Fprintln(s.out, clean("zone/"+d.Zone))
		return nil
	}
	switch d.State {
	case client.DrainNone:
		fmt.Fprintf(s.out, "zone/%s serves\n", clean(d.Zone))
	case client.DrainDone:
		fmt.Fprintf(s.out, "zone/%s drained\n", clean(d.Zone))
	default:
		fmt.Fprintln(s.out, clean("zone/"+stillThere(d)))
	}
	for _, svc := range d.Services {
		if svc.Last && d.State != client.DrainNone {
			s.say("%s/%s is nowhere else: its last backend stays", clean(svc.Namespace), clean(svc.Service))
		}
	}
	for _, z := range d.Zones {
		switch {
		case z.Awaited && !z.Connected:
			s.say("zone %s is away, and is waited for: it may still send, and hears of the drain when it comes back", clean(z.Zone))
		case !z.Connected && !z.Heeds:
			s.say("zone %s is not connected; it hears of it when it comes back", clean(z.Zone))
		}
	}
	return nil
}

// errWaited: the time is over, or a person ended the command.
var errWaited = errors.New("waited long enough")

// poll asks again and again until done, an error, or the end of the time, which is errWaited. A control plane
// that can't be reached for a moment may be restarting: it is asked again.
func (s *shell) poll(ctx context.Context, timeout time.Duration, ask func(context.Context) (done bool, err error)) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	away := false
	for {
		done, err := ask(ctx)
		switch {
		case ctx.Err() != nil && !done:
			return errWaited
		case err != nil && fault.ExitCode(err) == fault.ExitUnreachable:
			if !away {
				s.say("no answer; trying again: %v", err)
			}
			away = true
		case err != nil || done:
			return err
		default:
			away = false
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errWaited
		}
	}
}
