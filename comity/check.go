package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// finding is one thing that check looked at.
type finding struct {
	Subject string `json:"subject"`
	Level   string `json:"level"` // ok, info, warning, error
	Message string `json:"message"`
	Try     string `json:"try,omitempty"`
	Cause   string `json:"cause,omitempty"` // the subject of another finding, where there is something to be mended
}

func (s *shell) checkCommand() *cobra.Command {
	var short bool
	var failOn string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether the mesh is healthy, and what is not",
		Long: `check only reads. First comes what the console says needs attention: zones that are away or down, ways between zones that
are cut, services that lack backends or capacity or have failed over, certificates and trust that end. Then it looks at every
zone, every resource (applied and acknowledged in each zone), and every proxy of the zones that are connected. Of a
zone that is away only its last word is known, which proves nothing.

What fails for a reason that is found elsewhere is said to: a service that lacks what a zone had that is down, cut off or drained, one whose own
requests to another service fail, or are refused because it lacks the permission (for that the proxies are asked for a second, if a service
fails). What is to be mended is there.

It ends with 0 if nothing is wrong and with 7 otherwise.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if failOn != "warning" && failOn != "error" {
				return usage("--fail-on must be warning or error")
			}
			r, err := s.remote()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			all, err := r.check(ctx)
			if err != nil {
				return err
			}
			return s.showFindings(all, short, failOn)
		},
	}
	cmd.Flags().BoolVar(&short, "short", false, "only what is not well")
	cmd.Flags().StringVar(&failOn, "fail-on", "error", "the least level that makes the exit code 7: warning or error")
	return cmd
}

func (s *shell) showFindings(all []finding, short bool, failOn string) error {
	count := map[string]int{}
	for _, f := range all {
		count[f.Level]++
	}
	done, err := writeValue(s.out, s.output, map[string]any{"findings": all, "ok": count["ok"], "warnings": count["warning"], "errors": count["error"]})
	if err != nil {
		return err
	}
	if !done {
		sign := map[string]string{"ok": "✓", "info": "·", "warning": "‼", "error": "✗"}
		for _, f := range all {
			if short && f.Level == "ok" {
				continue
			}
			fmt.Fprintf(s.out, "%s %s: %s\n", sign[f.Level], clean(f.Subject), clean(f.Message))
			if f.Cause != "" {
				fmt.Fprintf(s.out, "    because of %s\n", clean(f.Cause))
			}
			if f.Try != "" {
				fmt.Fprintf(s.out, "    → %s\n", clean(f.Try))
			}
		}
		fmt.Fprintf(s.out, "%d ok, %d warnings, %d errors\n", count["ok"], count["warning"], count["error"])
	}
	bad := count["error"]
	if failOn == "warning" {
		bad += count["warning"]
	}
	if bad > 0 {
		what := "1 finding needs attention"
		if bad > 1 {
			what = fmt.Sprintf("%d findings need attention", bad)
		}
		return &fault.Error{Code: "CHECK-FAILED", What: what, Exit: fault.ExitCheckFailed}
	}
	return nil
}

func (r *remote) check(ctx context.Context) ([]finding, error) {
	o, err := r.Overview(ctx)
	if err != nil {
		return nil, err
	}
	var all []finding
	matters := map[string]bool{} // links of what needs attention
	for _, a := range o.Attention {
		if strings.HasPrefix(a.ID, "proxies/") || strings.HasPrefix(a.ID, "refused/") {
			continue // each proxy and each resource has a finding of its own below
		}
		f := checkAttention(a)
		matters[a.Link] = matters[a.Link] || f.Level != "info"
		all = append(all, f)
	}
	open := len(all)
	listed := map[mesh.Kind][]client.Object{}
	atZone := o.Mode == "zone"
	heard := map[string]bool{} // zones whose words are of now
	for _, z := range o.Zones {
		heard[z.Name] = z.Unheard == nil && (!atZone || z.Name == o.Zone)
	}
	for _, k := range policy.Kinds() {
		if k.Kind == mesh.KindZone && atZone {
			continue // how zones are is known to global
		}
		objects, err := r.ListAll(ctx, k, client.ListOptions{})
		if err != nil {
			return nil, err
		}
		listed[k.Kind] = objects
		for _, o := range objects {
			switch {
			case o.Kind == mesh.KindZone:
				if heard[o.Metadata.Name] && !matters["zones/"+o.Metadata.Name] {
					all = append(all, checkZone(o))
				}
			case k.MadeAt != policy.MadeDiscovery:
				all = append(all, checkResource(o, heard))
			}
		}
	}
	r.findCauses(ctx, all[:open], listed)
	proxies, err := r.Proxies(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, p := range proxies {
		if heard[p.Zone] {
			all = append(all, checkProxy(p))
		}
	}
	return all, nil
}

// checkAttention is what the console says, as a finding.
func checkAttention(a client.Attention) finding {
	f := finding{Subject: a.ID, Level: "info", Message: a.What + ". " + a.Why, Try: a.Try, Cause: a.Cause}
	switch a.Severity {
	case client.SeverityCritical:
		f.Level = "error"
	case client.SeverityWarning:
		f.Level = "warning"
	case client.SeverityInfo:
	}
	return f
}

// checkZone looks at a zone of which nothing needs attention.
func checkZone(o client.Object) finding {
	z := zoneStatus(o)
	f := finding{Subject: "zone " + o.Metadata.Name, Level: "ok", Message: fmt.Sprintf("connected, revision %d of %d, %d/%d proxies", z.Acked, z.Wanted, z.ProxiesConnected, z.Proxies)}
	if len(z.Ingresses) == 0 {
		f.Level, f.Message = "warning", "has no ingress: it can call other zones, but not be called"
	}
	return f
}

// checkResource looks at what the zones say of a resource whose words are of now: one that left, is revoked or never came says
// nothing more, and one that is away may have changed its mind.
func checkResource(o client.Object, heard map[string]bool) finding {
	sum := summarise(slices.DeleteFunc(resourceStatuses(o), func(st mesh.ResourceStatus) bool { return !heard[st.Zone] }))
	name := o.Metadata.Name
	if o.Metadata.Namespace != "" {
		name = o.Metadata.Namespace + "/" + name
	}
	f := finding{Subject: refName(o.Kind, name), Level: "ok", Message: fmt.Sprintf("in force in %d zones, %d/%d proxies", sum.zonesApplied, sum.acked, sum.total)}
	switch sum.state {
	case "Rejected":
		f.Level, f.Message, f.Try = "error", "refused: "+sum.message, "comity describe "+refName(o.Kind, o.Metadata.Name)
	case "Programmed":
		if said := firstOf(sum.message, strings.Join(sum.unmet, "; ")); said != "" {
			f.Level, f.Message, f.Try = "warning", said, "comity describe "+refName(o.Kind, o.Metadata.Name)
		}
	case "Pending":
		f.Level, f.Message = "warning", fmt.Sprintf("on its way: %d of %d zones, %d/%d proxies", sum.zonesApplied, sum.zones, sum.acked, sum.total)
	}
	return f
}

// unready says why a proxy that is connected gets no requests. One whose agent has left has no identity any more: it only ends what it has.
func unready(p mesh.ProxyStatus) string {
	switch {
	case p.Identity == "":
		return "it is leaving: its agent has ended, and it gets no new requests"
	case p.Proxy.Role == mesh.RoleSidecar:
		return "its application is unhealthy"
	}
	return "it is not ready"
}

func checkProxy(p mesh.ProxyStatus) finding {
	f := finding{Subject: "proxy " + p.Zone + "/" + p.Proxy.String(), Level: "ok", Message: "connected, healthy"}
	switch {
	case !p.Connected:
		f.Level, f.Message = "warning", "not connected to its zone; it goes on with what it has"
	case p.Nacks > 0 && p.LastError != "":
		f.Level, f.Message = "error", "refused configuration: "+p.LastError
	case !p.CertExpires.IsZero() && time.Until(p.CertExpires) < time.Hour:
		f.Level, f.Message = "error", "its certificate ends in "+until(p.CertExpires)
	case !p.Healthy:
		f.Level, f.Message = "warning", unready(p)
		if p.LastError != "" {
			f.Message += ": " + p.LastError
		}
	case p.LastError != "":
		f.Level, f.Message = "warning", p.LastError
	case p.Draining:
		f.Level, f.Message = "info", "drained: it gets no new requests until undrain"
	}
	return f
}
