package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
)

// describeServices shows services as resources, and where their traffic goes. A service that is made in several zones,
// or only in others, is no one resource here: then there is its traffic alone.
func (s *shell) describeServices(ctx context.Context, r *remote, refs []ref, origin string) error {
	for i, one := range refs {
		if i > 0 {
			fmt.Fprintln(s.out)
		}
		o, err := r.find(ctx, one, origin)
		if err == nil {
			if err := s.describe(ctx, r, o); err != nil {
				return err
			}
			continue
		}
		f, ok := errors.AsType[*fault.Error](err)
		if !ok || f.Exit != fault.ExitNotFound && f.Code != codeAmbiguous {
			return err
		}
		statuses, failed := r.trafficOf(ctx, one.namespace, one.name)
		if failed != nil || len(statuses) == 0 {
			return err
		}
		field := fields(s.out)
		field("Name", "%s", one.name)
		field("Namespace", "%s", statuses[0].Namespace)
		field("Kind", "Service, of other zones or several")
		if err := s.describeActing(ctx, r, statuses[0].Namespace, one.name); err != nil {
			return err
		}
		if err := s.describeTraffic(ctx, r, statuses); err != nil {
			return err
		}
	}
	return nil
}

// codeAmbiguous is the server's word for a name that several origins have (api.CodeAmbiguous).
const codeAmbiguous = "ambiguous_origin"

// trafficOf reads where the traffic of a service goes. Without a namespace the name must be in one only.
func (r *remote) trafficOf(ctx context.Context, namespace, name string) ([]mesh.FailoverStatus, error) {
	list, err := r.Failover(ctx, client.FailoverQuery{Namespace: namespace, Service: name})
	if err != nil {
		return nil, err
	}
	for _, f := range list {
		if f.Namespace != list[0].Namespace {
			return nil, usage("service %q is in several namespaces: say -n", name)
		}
	}
	return list, nil
}

// describeTraffic says, zone by zone, where the requests of its proxies go, and why.
func (s *shell) describeTraffic(ctx context.Context, r *remote, statuses []mesh.FailoverStatus) error {
	if len(statuses) == 0 {
		fmt.Fprintln(s.out, "Traffic: no zone has said where it goes")
		return nil
	}
	rates, err := r.rates(ctx, statuses[0].Namespace, statuses[0].Service)
	if err != nil {
		return err
	}
	for _, f := range statuses {
		by := "the default"
		if f.Policy != nil {
			by = fmt.Sprintf("%s/%s of %s", strings.ToLower(string(f.Policy.Kind)), f.Policy.Name, f.Policy.Origin)
		}
		line := fmt.Sprintf("Traffic from %s: %s for %s, by %s (%s)", f.Zone, f.State, age(f.Since), by, f.Mode)
		if why := notHeard(f.Zone, f.Unheard); why != "" {
			line = fmt.Sprintf("Traffic from %s: unknown (%s); it said last: %s, by %s (%s)", f.Zone, why, f.State, by, f.Mode)
		}
		fmt.Fprintln(s.out, clean(line))
		if f.Reason != "" {
			fmt.Fprintln(s.out, "  "+clean(f.Reason))
		}
		t := table{columns: []string{"  TO", "TIER", "SHARE", "READY", "REQ/S", "WHY"}}
		for _, to := range f.Targets {
			tier := fmt.Sprint(to.Tier)
			if to.Name != "" {
				tier += " " + to.Name
			}
			share := percent(to.Share)
			if to.Would != to.Share {
				share += " (would be " + percent(to.Would) + ")"
			}
			ready := fmt.Sprintf("%.4g/%.4g", to.Ready, to.Whole)
			if !to.Reachable {
				ready += " unreachable"
			}
			rate, ok := rates[[2]string{f.Zone, to.Zone}]
			shown := "-"
			if ok {
				shown = fmt.Sprintf("%.1f", rate)
			}
			t.rows = append(t.rows, []string{"  " + to.Zone, tier, share, ready, shown, to.Reason})
		}
		if err := t.write(s.out, formatTable, true); err != nil {
			return err
		}
	}
	return nil
}

// percent writes a share; what is not nothing is not shown as nothing.
func percent(share float64) string {
	if share > 0 && share < 0.01 {
		return "<1%"
	}
	return fmt.Sprintf("%.0f%%", share*100)
}

// rates are requests a second to a service, by the zone that sends and the zone that serves.
func (r *remote) rates(ctx context.Context, namespace, service string) (map[[2]string]float64, error) {
	o, err := r.Overview(ctx)
	if err != nil {
		return nil, err
	}
	out := map[[2]string]float64{}
	for _, t := range o.Traffic {
		if t.Namespace == namespace && t.Service == service {
			out[[2]string{t.Zone, t.To}] = t.Requests
		}
	}
	return out, nil
}
