package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/signals"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

const (
	// causesLimit is how long check listens to who asks whom, when a service fails.
	causesLimit = 4 * time.Second
	// enoughOf is the share of a service's own requests that must fail, or be refused, to be what it fails of.
	enoughOf = 0.05
)

// called is what one service got from another.
type called struct{ requests, failed, refused uint64 }

// findCauses looks at what services that fail get themselves from those that they call: who is answered with errors, or refused, answers with
// errors in turn. It asks the proxies, for a second, and only if a service fails for which no zone is to blame. If they can't be asked the
// findings stay as they are.
func (r *remote) findCauses(ctx context.Context, all []finding, listed map[mesh.Kind][]client.Object) {
	failing := map[string]int{} // NAMESPACE/NAME, the index of its finding
	for i, f := range all {
		if service, ok := strings.CutPrefix(f.Subject, "failing/"); ok && f.Cause == "" {
			failing[service] = i
		}
	}
	if len(failing) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, causesLimit)
	defer cancel()
	pairs, err := r.calls(ctx)
	if err != nil {
		return
	}
	accounts := accountsOf(slices.Sorted(maps.Keys(failing)), listed)
	for service, i := range failing {
		blame(&all[i], service, accounts[service], pairs)
	}
	excuse(all, failing)
}

// excuse makes findings of services that fail of another one less than errors, where the other has a finding that is not of them in turn: in a
// circle nobody is innocent.
func excuse(all []finding, failing map[string]int) {
	for service, i := range failing {
		at, seen := service, map[string]bool{}
		for {
			seen[at] = true
			next, ok := strings.CutPrefix(all[failing[at]].Cause, "failing/")
			if _, known := failing[next]; !ok || !known || seen[next] {
				if at != service && !seen[next] {
					all[i].Level = "info"
				}
				break
			}
			at = next
		}
	}
}

// calls are what each account, as NAMESPACE/NAME, got from each service in a second.
func (r *remote) calls(ctx context.Context) (map[string]map[string]called, error) {
	out := map[string]map[string]called{}
	heard := map[string]bool{}
	err := r.Top(ctx, nil, mesh.Top{}, func(f mesh.Flows) error {
		heard[f.Zone] = heard[f.Zone] || f.Milliseconds > 0 || f.Proxies == 0
		for _, flow := range f.Flows {
			if flow.Reporter == signals.Server {
				continue // of whom it does not know the caller
			}
			from, to := flow.SourceNamespace+"/"+flow.Source, flow.DestinationNamespace+"/"+flow.Destination
			if out[from] == nil {
				out[from] = map[string]called{}
			}
			row, c := rowOf("", 1, flow), out[from][to]
			c.requests, c.failed = c.requests+row.Count, c.failed+row.Failed
			c.refused += flow.Requests["4xx"] + flow.GRPCErrors["PERMISSION_DENIED"] + flow.GRPCErrors["UNAUTHENTICATED"]
			out[from][to] = c
		}
		for _, counted := range heard {
			if !counted {
				return nil
			}
		}
		return errShown
	})
	if errors.Is(err, errShown) || len(out) > 0 {
		err = nil
	}
	return out, err
}

// accountsOf are the service accounts of the workloads that serve each of the services, as far as they are among what was listed.
func accountsOf(services []string, listed map[mesh.Kind][]client.Object) map[string][]string {
	out := map[string][]string{}
	for _, o := range listed[mesh.KindService] {
		name, selector := o.Metadata.Namespace+"/"+o.Metadata.Name, decodeInto[policy.Service](o.Spec).Selector
		if !slices.Contains(services, name) || len(selector) == 0 {
			continue
		}
		for _, w := range listed[mesh.KindWorkload] {
			serves := w.Metadata.Namespace == o.Metadata.Namespace
			for k, v := range selector {
				serves = serves && w.Metadata.Labels[k] == v
			}
			if account := w.Metadata.Namespace + "/" + decodeInto[mesh.Workload](w.Spec).ServiceAccount; serves && !slices.Contains(out[name], account) {
				out[name] = append(out[name], account)
			}
		}
	}
	return out
}

// blame says of a service that fails what it gets itself, if that is enough to fail of.
func blame(f *finding, service string, accounts []string, pairs map[string]map[string]called) {
	type suspect struct {
		to string
		called
	}
	var list []suspect
	for _, account := range accounts {
		for to, c := range pairs[account] {
			if to != service && c.requests > 0 && float64(max(c.failed, c.refused)) > enoughOf*float64(c.requests) {
				list = append(list, suspect{to, c})
			}
		}
	}
	if len(list) == 0 {
		return
	}
	slices.SortFunc(list, func(a, b suspect) int {
		return cmp.Or(-cmp.Compare(max(a.failed, a.refused), max(b.failed, b.refused)), strings.Compare(a.to, b.to))
	})
	worst := list[0]
	namespace, name, _ := strings.Cut(worst.to, "/")
	if worst.refused > worst.failed {
		f.Message += fmt.Sprintf(" Its own requests to %s are refused with 4xx (%d of %d), as those of who lacks the permission.", worst.to, worst.refused, worst.requests)
		f.Try = "comity tap " + name + " -n " + namespace + " --status 4xx names the policy that refuses; comity describe service " + name + " -n " + namespace + " lists those that may"
		f.Cause = "refused/" + worst.to
		return
	}
	f.Message += fmt.Sprintf(" Its own requests to %s fail (%d of %d).", worst.to, worst.failed, worst.requests)
	f.Try = "comity describe service " + name + " -n " + namespace
	f.Cause = "failing/" + worst.to
}
