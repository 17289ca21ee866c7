package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
)

func (s *shell) describeCommand() *cobra.Command {
	var sel selection
	cmd := &cobra.Command{
		Use:               "describe TYPE NAME... | TYPE/NAME...",
		Short:             "Show resources with everything that is known of their state in each zone",
		Example:           "  comity describe authorizationpolicy/cart-to-pay -n shop",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: s.completeRefs,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.remote()
			if err != nil {
				return err
			}
			objects, single, err := r.fetch(cmd.Context(), args, sel)
			if err != nil {
				return err
			}
			if s.output != formatTable && s.output != formatWide {
				return s.show(objects, single, true)
			}
			for i, o := range objects {
				if i > 0 {
					fmt.Fprintln(s.out)
				}
				if err := describe(s.out, o); err != nil {
					return err
				}
			}
			return nil
		},
	}
	sel.flags(cmd)
	return cmd
}

func describe(w io.Writer, o client.Object) error {
	field := func(name, format string, a ...any) {
		fmt.Fprintf(w, "%-14s %s\n", name+":", clean(fmt.Sprintf(format, a...)))
	}
	field("Name", "%s", o.Metadata.Name)
	if o.Metadata.Namespace != "" {
		field("Namespace", "%s", o.Metadata.Namespace)
	}
	field("Kind", "%s (%s)", o.Kind, o.APIVersion)
	field("Origin", "%s", o.Metadata.Origin)
	field("Revision", "%s (generation %d, created %s ago)", o.Metadata.ResourceVersion, o.Metadata.Generation, age(o.Metadata.CreationTimestamp))
	for _, m := range []struct {
		name   string
		values map[string]string
	}{{"Labels", o.Metadata.Labels}, {"Annotations", o.Metadata.Annotations}} {
		if len(m.values) > 0 {
			text, err := json.Marshal(m.values)
			if err != nil {
				return err
			}
			field(m.name, "%s", text)
		}
	}
	spec, err := yaml.JSONToYAML(o.Spec)
	if err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	fmt.Fprintf(w, "Spec:\n  %s\n", strings.ReplaceAll(strings.TrimSpace(cleanLines(string(spec))), "\n", "\n  "))
	if o.Kind == mesh.KindZone {
		describeZone(field, zoneStatus(o))
		return nil
	}
	return describeZones(w, resourceStatuses(o))
}

func describeZone(field func(name, format string, a ...any), z client.ZoneObjectStatus) {
	field("State", "%s", zoneState(z))
	if z.Message != "" {
		field("Message", "%s", z.Message)
	}
	if !z.Joined {
		return
	}
	field("Incarnation", "%s", z.Incarnation)
	field("Trust domain", "%s (bundle sequence %d)", z.TrustDomain, z.BundleSequence)
	field("Certificate", "expires in %s", until(z.CertificateExpires))
	field("Configuration", "revision %d wanted, %d applied, %d bytes sent in this session", z.Wanted, z.Acked, z.SentBytes)
	field("Proxies", "%d of %d connected", z.ProxiesConnected, z.Proxies)
	field("Software", "%s, protocol %d", z.Version, z.Protocol)
	for _, in := range z.Ingresses {
		field("Ingress", "%s at %s, ports %v", in.ID, in.Host, in.Ports)
	}
}

func describeZones(w io.Writer, zones []mesh.ResourceStatus) error {
	t := table{columns: []string{"ZONE", "STATE", "WANTED", "APPLIED", "PROXIES", "MESSAGE"}}
	for _, z := range zones {
		message := z.Message
		for _, k := range z.OverriddenBy {
			message += " overridden by " + k.String()
		}
		t.rows = append(t.rows, []string{z.Zone, string(z.State), fmt.Sprint(z.Wanted), fmt.Sprint(z.Applied), fmt.Sprintf("%d/%d", z.Acked, z.Total), message})
	}
	fmt.Fprintln(w, "Zones:")
	if err := t.write(w, formatTable, true); err != nil {
		return err
	}
	for _, z := range zones {
		for _, r := range z.Rejections {
			fmt.Fprintf(w, "Rejected in %s by %s: %s: %s\n", clean(z.Zone), clean(r.Proxy), clean(r.Resource), clean(r.Error))
		}
	}
	return nil
}

// cleanLines is clean for text of several lines.
func cleanLines(s string) string {
	var out []string
	for line := range strings.SplitSeq(s, "\n") {
		out = append(out, clean(line))
	}
	return strings.Join(out, "\n")
}
