package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

func (s *shell) applyCommand() *cobra.Command {
	var (
		files     []string
		recursive bool
		dryRun    bool
		wait      bool
		timeout   time.Duration
		reason    string
	)
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Create or change resources, all of them as one revision or none",
		Long: `apply sends all documents of all files in one request, which becomes one revision: either all of it
holds afterwards, or nothing has changed.

With --wait it stays until every connected proxy whose configuration changes has acknowledged, and prints
how long that took.`,
		Example: `  comity apply -f shop.yaml --wait
  kubectl get httproute -o yaml | comity apply -f - --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			docs, err := s.manifests(files, recursive)
			if err != nil {
				return err
			}
			r, err := s.remote()
			if err != nil {
				return err
			}
			begin := time.Now()
			res, err := r.Apply(cmd.Context(), docs.text, client.ApplyOptions{DryRun: dryRun, Reason: reason})
			if err != nil {
				return docs.explain(err)
			}
			s.sayMissing(res.Items)
			if !wait || dryRun || !res.Changed() {
				return s.showApplied(res, dryRun, "")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			last, err := s.await(ctx, r, res.Revision)
			if err != nil {
				_ = s.showApplied(res, dryRun, "")
				return err
			}
			took := time.Since(begin)
			s.sayAway(last)
			if err := s.showApplied(res, dryRun, progressed(last, took)); err != nil {
				return err
			}
			if err := r.rejected(cmd.Context(), last, res.Items); err != nil {
				return err
			}
			return s.sayNotes(cmd.Context(), r, res.Items)
		},
	}
	documentFlags(cmd, &files, &recursive)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check and show what would happen, change nothing")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until every proxy that it concerns has acknowledged")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "with --wait: how long")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the history")
	must(cmd.MarkFlagRequired("filename"))
	return cmd
}

// progressed is what is said of a revision that is everywhere.
func progressed(p client.Progress, took time.Duration) string {
	return fmt.Sprintf("; %d/%d proxies in %d/%d zones, %d ms", p.Acked, p.Total, zonesDone(p), len(p.Zones), took.Milliseconds())
}

// sayAway names the zones that were not waited for.
func (s *shell) sayAway(p client.Progress) {
	for _, z := range p.Zones {
		if z.State == "Offline" {
			s.say("zone %s is not connected; it gets the revision when it comes back", z.Zone)
		}
	}
}

// sayMissing tells of names in what was applied that nobody has so far.
func (s *shell) sayMissing(items []client.ApplyItem) {
	for _, it := range items {
		for _, note := range it.Notes {
			s.say("note: %s: %s", clean(refName(it.Kind, it.Name)), clean(note))
		}
	}
}

// mostNotes bounds for how many resources it is asked what zones say of them.
const mostNotes = 50

// sayNotes tells what zones say of resources that they took: what of them can't take effect, and what overrides them. They are in force
// as they are, so this is no failure.
func (s *shell) sayNotes(ctx context.Context, r *remote, items []client.ApplyItem) error {
	if s.quiet {
		return nil
	}
	for _, it := range items[:min(len(items), mostNotes)] {
		kind, ok := policy.Lookup(string(it.Kind))
		if !ok || it.Kind == mesh.KindZone {
			continue
		}
		o, err := r.Get(ctx, kind, it.Namespace, it.Name, "")
		if err != nil {
			return err
		}
		said, order := map[string][]string{}, []string{}
		for _, z := range resourceStatuses(o) {
			if z.Message == "" {
				continue
			}
			if said[z.Message] == nil {
				order = append(order, z.Message)
			}
			said[z.Message] = append(said[z.Message], z.Zone)
		}
		for _, message := range order {
			s.say("note: %s: %s (%s)", clean(refName(it.Kind, it.Name)), clean(message), clean(strings.Join(said[message], ", ")))
		}
	}
	return nil
}

// await follows a revision until all zones are done.
func (s *shell) await(ctx context.Context, r *remote, revision mesh.Revision) (client.Progress, error) {
	var last client.Progress
	err := r.Follow(ctx, revision, func(p client.Progress) bool {
		last = p
		return p.Done
	})
	if err == nil || last.Done {
		return last, nil
	}
	if errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return last, &fault.Error{Code: "APPLY-TIMEOUT", What: fmt.Sprintf("revision %d is committed, but not everywhere in force yet", revision),
			Cause: "waiting for " + behind(last), Try: "comity describe the resource, or comity get zones", Exit: fault.ExitUnreachable}
	}
	return last, err
}

func (s *shell) showApplied(res client.ApplyResult, dryRun bool, suffix string) error {
	if done, err := writeValue(s.out, s.output, res); done {
		return err
	}
	for _, it := range res.Items {
		if s.output == formatName {
			fmt.Fprintln(s.out, clean(refName(it.Kind, it.Name)))
			continue
		}
		tail := ""
		switch {
		case dryRun:
			tail = " (dry run)"
		case it.Outcome != "unchanged":
			tail = fmt.Sprintf(" (rev %d%s)", res.Revision, suffix)
		}
		fmt.Fprintf(s.out, "%s %s%s\n", clean(refName(it.Kind, it.Name)), it.Outcome, tail)
	}
	return nil
}

func (s *shell) deleteCommand() *cobra.Command {
	var sel selection
	var files []string
	var (
		ignoreMissing bool
		yes           bool
		wait          bool
		timeout       time.Duration
	)
	cmd := &cobra.Command{
		Use:   "delete TYPE NAME... | TYPE/NAME... | -f FILE",
		Short: "Delete resources",
		Long: `delete removes resources one after the other, each as a revision of its own.

A zone that has joined is removed at once, whatever requests go there: that asks first. To move its traffic away before,
use comity zone leave.

With --wait it stays until every connected proxy whose configuration that changes has let go of them.`,
		Example:           "  comity delete authorizationpolicy/cart-to-pay -n shop --wait\n  comity delete -f shop.yaml",
		ValidArgsFunction: s.completeRefs,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if (len(files) > 0) == (len(args) > 0) {
				return usage("delete takes either TYPE NAME or -f FILE")
			}
			r, err := s.remote()
			if err != nil {
				return err
			}
			var refs []ref
			if len(files) > 0 {
				docs, err := s.manifests(files, false)
				if err != nil {
					return err
				}
				all, err := docs.resources()
				if err != nil {
					return err
				}
				if refs, err = refsOf(all); err != nil {
					return err
				}
			} else if refs, err = parseRefs(args, sel); err != nil {
				return err
			}
			for _, one := range refs {
				if one.name == "" {
					return usage("name what to delete: comity delete %s NAME", one.kind.Plural)
				}
			}
			if !yes {
				if err := s.confirmZones(cmd.Context(), r, refs); err != nil {
					return err
				}
			}
			done := []deletion{}
			defer func() {
				// What was deleted is said even if another one could not be.
				if _, failed := writeValue(s.out, s.output, map[string]any{"items": done}); err == nil {
					err = failed
				}
			}()
			for _, one := range refs {
				if one.kind.Namespaced && one.namespace == "" {
					one.namespace = "default"
				}
				begin := time.Now()
				revision, err := r.Delete(cmd.Context(), one.kind, one.namespace, one.name)
				if ignoreMissing && fault.ExitCode(err) == fault.ExitNotFound {
					continue
				}
				if err != nil {
					return r.elsewhere(cmd.Context(), one, "", err)
				}
				done = append(done, deletion{Kind: one.kind.Kind, Namespace: one.namespace, Name: one.name, Outcome: "deleted", Revision: revision})
				tail := ""
				if wait {
					ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
					last, err := s.await(ctx, r, revision)
					cancel()
					if err != nil {
						return err
					}
					s.sayAway(last)
					tail = fmt.Sprintf(" (rev %d%s)", revision, progressed(last, time.Since(begin)))
				}
				switch s.output {
				case formatJSON, formatYAML:
				case formatName:
					fmt.Fprintln(s.out, one.kind.Singular+"/"+one.name)
				default:
					fmt.Fprintf(s.out, "%s/%s deleted%s\n", one.kind.Singular, one.name, tail)
				}
			}
			return nil
		},
	}
	s.selectionFlags(cmd, &sel, `"default"`)
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "delete what these documents name")
	must(cmd.MarkFlagFilename("filename", "yaml", "yml", "json"))
	cmd.Flags().BoolVar(&ignoreMissing, "ignore-not-found", false, "what is not there is no error")
	cmd.Flags().BoolVar(&yes, "yes", false, "don't ask before a zone that has joined is removed")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until every proxy that it concerns has acknowledged")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "with --wait: how long for each")
	return cmd
}

// deletion is what became of one resource that was to be deleted.
type deletion struct {
	Kind      mesh.Kind     `json:"kind"`
	Namespace string        `json:"namespace,omitempty"`
	Name      string        `json:"name"`
	Outcome   string        `json:"outcome"` // deleted
	Revision  mesh.Revision `json:"revision"`
}

// confirmZones asks before zones that are members are removed, one question each, before anything is deleted.
func (s *shell) confirmZones(ctx context.Context, r *remote, refs []ref) error {
	for _, one := range refs {
		if one.kind.Kind != mesh.KindZone {
			continue
		}
		o, err := r.Get(ctx, one.kind, "", one.name, "")
		switch {
		case fault.ExitCode(err) == fault.ExitNotFound:
			continue
		case err != nil:
			return err
		}
		if !zoneStatus(o).Joined || decodeInto[policy.Zone](o.Spec).Revoked != nil {
			continue
		}
		what := "zone " + one.name + " is removed at once, whatever requests go there; comity zone leave " + one.name + " moves them away first."
		if err := s.confirm(what, one.name); err != nil {
			return err
		}
	}
	return nil
}
