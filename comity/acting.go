package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// mostActing bounds of how many resources describe asks how they are.
const mostActing = 200

// describeActing lists the routes and policies that act on the requests to a service, with who wins and how far each is in force.
func (s *shell) describeActing(ctx context.Context, r *remote, namespace, service string) error {
	list, err := r.Acting(ctx, namespace, service)
	if err != nil {
		return err
	}
	if len(list.Items) == 0 {
		fmt.Fprintln(s.out, "Policies: none acts on its requests; docs/policies/README.md says what holds without any")
		return nil
	}
	t := table{columns: []string{"  KIND", "NAME", "MADE AT", "FOR", "COUNTS", "ZONES", "PROXIES", "STATE", "MESSAGE"}}
	rank := map[mesh.Kind]int{}
	for i, a := range list.Items {
		rank[a.Key.Kind]++
		row := []string{"  " + string(a.Key.Kind), strings.TrimPrefix(a.Key.Namespace+"/"+a.Key.Name, "/"), string(a.Key.Origin), actsFor(a), "", "", "", "", ""}
		if i < mostActing {
			kind, _ := policy.Lookup(string(a.Key.Kind))
			o, err := r.Get(ctx, kind, a.Key.Namespace, a.Key.Name, string(a.Key.Origin))
			if fault.ExitCode(err) == fault.ExitNotFound {
				continue // gone meanwhile
			}
			if err != nil {
				return err
			}
			sum := summarise(resourceStatuses(o))
			row[4] = counts(o, rank[a.Key.Kind])
			row[5], row[6] = fmt.Sprintf("%d/%d", sum.zonesApplied, sum.zones), fmt.Sprintf("%d/%d", sum.acked, sum.total)
			row[7], row[8] = sum.words(), short(sum.message)
		}
		t.rows = append(t.rows, row)
	}
	fmt.Fprintln(s.out, "Routes and policies that act on its requests, of each kind those that win first:")
	return t.write(s.out, formatTable, true)
}

// actsFor says for which of the requests it is.
func actsFor(a policy.Act) string {
	switch a.As {
	case policy.ActRoutes:
		return "all callers"
	case policy.ActConsumer:
		return "callers in namespace " + a.Of
	case policy.ActLeadsHere:
		return "leads requests here"
	case policy.ActNamespace:
		return "the namespace"
	case policy.ActMesh:
		return "the mesh"
	case policy.ActService:
		return "this service"
	case policy.ActPort, policy.ActRoute, policy.ActRule:
	}
	return string(a.As) + " " + a.Of
}

// counts says how a resource stands to the others of its kind, of which it is the rank-th.
func counts(o client.Object, rank int) string {
	switch o.Kind {
	case mesh.KindHTTPRoute, mesh.KindGRPCRoute, mesh.KindTCPRoute, mesh.KindTLSRoute:
		return "by its matches"
	case mesh.KindAuthorizationPolicy:
		spec := decodeInto[policy.AuthorizationPolicy](o.Spec)
		switch {
		case spec.Mode == policy.Shadow:
			return "not: Shadow"
		case spec.Action == policy.Audit:
			return "notes only"
		case spec.Action == policy.Deny:
			return "Deny, which wins"
		}
		return "Allow, with the others"
	case mesh.KindExtension:
		return "with the others"
	case mesh.KindMeshConfig:
		return "the default"
	case mesh.KindFailoverPolicy:
		if rank == 1 {
			return "decides alone"
		}
		return "not: one before it decides"
	}
	if rank == 1 {
		return "first"
	}
	return "what those before it leave out"
}
