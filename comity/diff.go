package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// exitDiffers is how diff ends when an apply would change something. No other end of diff has this code.
const exitDiffers = 1

// errDiffers ends a diff that found differences; they were shown, so there is nothing to print.
var errDiffers = errors.New("an apply would change something")

// difference is what an apply would do with one document.
type difference struct {
	Kind      mesh.Kind      `json:"kind"`
	Namespace string         `json:"namespace,omitempty"`
	Name      string         `json:"name"`
	Outcome   string         `json:"outcome"`          // created, configured, unchanged
	Before    *client.Object `json:"before,omitempty"` // nil for created and unchanged
	After     *client.Object `json:"after,omitempty"`  // nil for unchanged
}

func (s *shell) diffCommand() *cobra.Command {
	var files []string
	var recursive bool
	cmd := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "Show what apply would change, resource by resource",
		Long: `diff asks the control plane to check all documents as apply would, without changing anything, and shows for each
resource that would be created or changed the unified difference between how it is and how it would be: labels,
annotations and spec. Statuses and revisions don't count.

Exit codes: 0 nothing would change, 1 something would. What ends other commands with 1 (a document that is
refused) ends diff with 2; the others are as everywhere.`,
		Example: `  comity diff -f shop.yaml
  comity diff -f shop.yaml -o name || comity apply -f shop.yaml`,
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
			list, err := s.differences(cmd.Context(), r, docs.text)
			if err != nil {
				return neverDiffers(docs.explain(err))
			}
			return s.showDifferences(list)
		},
	}
	documentFlags(cmd, &files, &recursive)
	must(cmd.MarkFlagRequired("filename"))
	return cmd
}

// neverDiffers gives an error that would end with exitDiffers another code, so that scripts can tell them apart.
func neverDiffers(err error) error {
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return &fault.Error{Code: "DIFF-FAILED", What: "the difference can't be told", Err: err, Exit: fault.ExitUsage}
	}
	if fault.ExitCode(f) == exitDiffers {
		f.Exit = fault.ExitUsage
	}
	return err
}

// differences asks for a dry run, and for what it would replace. Who changes a resource between the two sees
// the newer state on the left.
func (s *shell) differences(ctx context.Context, r *remote, docs []byte) ([]difference, error) {
	res, err := r.Apply(ctx, docs, client.ApplyOptions{DryRun: true})
	if err != nil {
		return nil, err
	}
	s.sayMissing(res.Items)
	out := make([]difference, 0, len(res.Items))
	for _, it := range res.Items {
		d := difference{Kind: it.Kind, Namespace: it.Namespace, Name: it.Name, Outcome: it.Outcome}
		if it.Outcome == "unchanged" {
			out = append(out, d)
			continue
		}
		if it.Object == nil {
			return nil, &fault.Error{Code: "DIFF-OLD-SERVER", What: "the control plane does not say what a dry run would make", Exit: fault.ExitUsage,
				Cause: "it is older than this program", Try: "comity apply --dry-run shows which resources would change"}
		}
		d.After = it.Object
		if it.Outcome != "created" {
			kind, ok := policy.Lookup(string(it.Kind))
			if !ok {
				return nil, usage("there is no kind %q", it.Kind)
			}
			before, err := r.Get(ctx, kind, it.Namespace, it.Name, string(it.Object.Metadata.Origin))
			if err != nil {
				return nil, err
			}
			before.Status = nil
			d.Before = &before
		}
		out = append(out, d)
	}
	return out, nil
}

func (s *shell) showDifferences(list []difference) error {
	found := false
	for _, d := range list {
		found = found || d.After != nil
	}
	done, err := writeValue(s.out, s.output, map[string]any{"items": list})
	if err != nil {
		return neverDiffers(err)
	}
	for _, d := range list {
		if done || d.After == nil {
			continue
		}
		if s.output == formatName {
			fmt.Fprintln(s.out, clean(refName(d.Kind, d.Name)))
			continue
		}
		text, err := d.unified()
		if err != nil {
			return neverDiffers(err)
		}
		fmt.Fprint(s.out, text)
	}
	if found {
		return errDiffers
	}
	return nil
}

// unified is the difference in the form of diff -u, named after the resource.
func (d difference) unified() (string, error) {
	name := clean(d.Name)
	if d.Namespace != "" {
		name = clean(d.Namespace) + "/" + name
	}
	name = strings.ToLower(string(d.Kind)) + "/" + name
	before, err := asked(d.Before)
	if err != nil {
		return "", err
	}
	after, err := asked(d.After)
	if err != nil {
		return "", err
	}
	text := diff.Diff(name+" (is)", before, name+" (would be)", after)
	_, shown, _ := strings.Cut(string(text), "\n") // the first line, "diff A B", says no more than the next two
	return shown, nil
}

// asked is what a person asks for of a resource, as YAML: nothing that the control plane adds.
func asked(o *client.Object) ([]byte, error) {
	if o == nil {
		return nil, nil
	}
	text, err := yaml.Marshal(client.Object{
		APIVersion: o.APIVersion, Kind: o.Kind, Spec: o.Spec,
		Metadata: client.Metadata{Name: o.Metadata.Name, Namespace: o.Metadata.Namespace, Labels: o.Metadata.Labels, Annotations: o.Metadata.Annotations},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", refName(o.Kind, o.Metadata.Name), err)
	}
	return []byte(cleanLines(string(text))), nil
}
