package main

import (
	"context"
	"fmt"
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
	Level   string `json:"level"` // ok, warning, error
	Message string `json:"message"`
	Try     string `json:"try,omitempty"`
}

func (s *shell) checkCommand() *cobra.Command {
	var short bool
	var failOn string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say whether the mesh is healthy, and what is not",
		Long: `check only reads. It looks at every zone (joined, connected, in step, certificate, ingress), every proxy
(connected, healthy, refusing configuration, certificate) and every resource (applied and acknowledged in each
zone). It ends with 0 if nothing is wrong and with 7 otherwise.`,
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
		sign := map[string]string{"ok": "✓", "warning": "‼", "error": "✗"}
		for _, f := range all {
			if short && f.Level == "ok" {
				continue
			}
			fmt.Fprintf(s.out, "%s %s: %s\n", sign[f.Level], clean(f.Subject), clean(f.Message))
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
		return &fault.Error{Code: "CHECK-FAILED", What: fmt.Sprintf("%d findings need attention", bad), Exit: fault.ExitCheckFailed}
	}
	return nil
}

func (r *remote) check(ctx context.Context) ([]finding, error) {
	var all []finding
	atZone, err := r.atZone(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range policy.Kinds() {
		if k.Kind == mesh.KindZone && atZone {
			continue // how zones are is known to global
		}
		objects, err := r.ListAll(ctx, k, client.ListOptions{})
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			if o.Kind == mesh.KindZone {
				all = append(all, checkZone(o))
			} else if k.MadeAt != policy.MadeDiscovery {
				all = append(all, checkResource(o))
			}
		}
	}
	proxies, err := r.Proxies(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, p := range proxies {
		all = append(all, checkProxy(p))
	}
	return all, nil
}

func checkZone(o client.Object) finding {
	z := zoneStatus(o)
	f := finding{Subject: "zone " + o.Metadata.Name, Level: "ok", Message: fmt.Sprintf("connected, revision %d of %d, %d/%d proxies", z.Acked, z.Wanted, z.ProxiesConnected, z.Proxies)}
	switch {
	case z.TrustDomain == "" && !z.Joined:
		f.Level, f.Message, f.Try = "warning", "has not joined yet", "comity zone create "+o.Metadata.Name+" makes a token"
	case !z.Connected:
		f.Level, f.Message = "error", "not connected for "+age(z.LastSeen)+"; it goes on with what it has"
	case z.Acked < z.Wanted:
		f.Level, f.Message = "warning", fmt.Sprintf("behind: revision %d of %d", z.Acked, z.Wanted)
	case !z.CertificateExpires.IsZero() && time.Until(z.CertificateExpires) < time.Hour:
		f.Level, f.Message = "error", "its certificate ends in "+until(z.CertificateExpires)
	case len(z.Ingresses) == 0:
		f.Level, f.Message = "warning", "has no ingress: it can call other zones, but not be called"
	}
	return f
}

func checkResource(o client.Object) finding {
	sum := summarise(resourceStatuses(o))
	name := o.Metadata.Name
	if o.Metadata.Namespace != "" {
		name = o.Metadata.Namespace + "/" + name
	}
	f := finding{Subject: refName(o.Kind, name), Level: "ok", Message: fmt.Sprintf("in force in %d zones, %d/%d proxies", sum.zonesApplied, sum.acked, sum.total)}
	switch sum.state {
	case "Rejected":
		f.Level, f.Message, f.Try = "error", "refused: "+sum.message, "comity describe "+refName(o.Kind, o.Metadata.Name)
	case "Programmed":
		if sum.message != "" {
			f.Level, f.Message, f.Try = "warning", sum.message, "comity describe "+refName(o.Kind, o.Metadata.Name)
		}
	case "Pending":
		f.Level, f.Message = "warning", fmt.Sprintf("on its way: %d of %d zones, %d/%d proxies", sum.zonesApplied, sum.zones, sum.acked, sum.total)
	}
	return f
}

func checkProxy(p mesh.ProxyStatus) finding {
	f := finding{Subject: "proxy " + p.Zone + "/" + p.Proxy.String(), Level: "ok", Message: "connected, healthy"}
	switch {
	case !p.Connected:
		f.Level, f.Message = "warning", "not connected to its zone; it goes on with what it has"
	case p.LastError != "":
		f.Level, f.Message = "error", "refused configuration: "+p.LastError
	case !p.CertExpires.IsZero() && time.Until(p.CertExpires) < time.Hour:
		f.Level, f.Message = "error", "its certificate ends in "+until(p.CertExpires)
	case !p.Healthy:
		f.Level, f.Message = "warning", "its application is unhealthy"
	}
	return f
}
