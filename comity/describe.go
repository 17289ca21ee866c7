package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

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
		Example:           "  comity describe authorizationpolicy/cart-to-pay\n  comity describe service pay -n shop\n  comity describe zone west\n  comity describe proxy/web-1 -n shop",
		Args:              kindFirst,
		ValidArgsFunction: s.completeRefs,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.remote()
			if err != nil {
				return err
			}
			if isProxies(args[0]) {
				return s.describeProxies(cmd.Context(), r, args, sel)
			}
			refs, err := parseRefs(args, sel)
			if err != nil {
				return err
			}
			if refs[0].kind.Kind == mesh.KindService && refs[0].name != "" && (s.output == formatTable || s.output == formatWide) {
				return s.describeServices(cmd.Context(), r, refs, sel.origin)
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
				if err := s.describe(cmd.Context(), r, o); err != nil {
					return err
				}
			}
			return nil
		},
	}
	s.selectionFlags(cmd, &sel, everywhere)
	return cmd
}

// fieldWriter writes "Name:  text" lines.
type fieldWriter func(name, format string, a ...any)

func fields(w io.Writer) fieldWriter {
	return func(name, format string, a ...any) {
		fmt.Fprintf(w, "%-14s %s\n", name+":", clean(fmt.Sprintf(format, a...)))
	}
}

func (s *shell) describe(ctx context.Context, r *remote, o client.Object) error {
	w := s.out
	field := fields(w)
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
	if o.Kind == mesh.KindWorkload {
		states, err := r.workloadStates(ctx)
		if err != nil {
			return err
		}
		field("Status", "%s", states.of(o))
	}
	spec, err := yaml.JSONToYAML(o.Spec)
	if err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	fmt.Fprintf(w, "Spec:\n  %s\n", strings.ReplaceAll(strings.TrimSpace(cleanLines(string(spec))), "\n", "\n  "))
	if o.Kind == mesh.KindZone {
		if there, err := r.atZone(ctx); err != nil {
			return err
		} else if there {
			return r.describeFromZone(ctx, field, o.Metadata.Name)
		}
		describeZone(field, o)
		return nil
	}
	if notes := decodeInto[client.ResourceObjectStatus](o.Status).Notes; len(notes) > 0 {
		fmt.Fprintln(w, "Notes:")
		for _, note := range notes {
			fmt.Fprintln(w, "  "+clean(note))
		}
	}
	if err := describeZones(w, resourceStatuses(o)); err != nil || o.Kind != mesh.KindService {
		return err
	}
	if err := s.describeActing(ctx, r, o.Metadata.Namespace, o.Metadata.Name); err != nil {
		return err
	}
	statuses, err := r.trafficOf(ctx, o.Metadata.Namespace, o.Metadata.Name)
	if err != nil {
		return err
	}
	return s.describeTraffic(ctx, r, statuses)
}

func describeZone(field fieldWriter, o client.Object) {
	z := zoneStatus(o)
	field("State", "%s", zoneState(o))
	if z.Message != "" {
		field("Message", "%s", z.Message)
	}
	if !z.Joined {
		return
	}
	field("Incarnation", "%s", z.Incarnation)
	if zoneState(o) == "Revoked" {
		field("Trust domain", "%s, which nobody gets again", z.TrustDomain)
		return
	}
	field("Trust domain", "%s (bundle sequence %d)", z.TrustDomain, z.BundleSequence)
	field("Certificate", "expires in %s", until(z.CertificateExpires))
	field("Configuration", "revision %d wanted, %d applied, %d bytes sent in this session", z.Wanted, z.Acked, z.SentBytes)
	if why := notHeard(o.Metadata.Name, z.Unheard); why != "" {
		field("Proxies", "%d when it was heard of last; %s", z.Proxies, why)
	} else {
		field("Proxies", "%d of %d connected", z.ProxiesConnected, z.Proxies)
	}
	field("Software", "%s, protocol %d", z.Version, z.Protocol)
	for _, in := range z.Ingresses {
		field("Ingress", "%s at %s, ports %v", in.ID, in.Host, in.Ports)
	}
}

// zoneWord is what a zone says of itself (GET /api/v1/_zone).
type zoneWord struct {
	Zone        string           `json:"zone"`
	TrustDomain mesh.TrustDomain `json:"trustDomain"`
	Incarnation mesh.Incarnation `json:"incarnation"`
	Revision    mesh.Revision    `json:"revision"`
	Proxies     string           `json:"proxies"`
	Global      struct {
		Endpoints []string    `json:"endpoints"`
		JoinedAt  time.Time   `json:"joinedAt"`
		Expires   time.Time   `json:"expires"`
		Connected bool        `json:"connected"`
		Since     time.Time   `json:"since"`
		Down      mesh.Cursor `json:"down"`
		LastError string      `json:"lastError"`
	} `json:"global"`
	Others []struct {
		Zone        string           `json:"zone"`
		TrustDomain mesh.TrustDomain `json:"trustDomain"`
		Sequence    uint64           `json:"bundleSequence"`
		LeaseUntil  time.Time        `json:"leaseUntil"`
	} `json:"others"`
}

// describeFromZone says what a zone knows: of itself how it stands to global, of another how long that one's word
// holds.
func (r *remote) describeFromZone(ctx context.Context, field fieldWriter, name string) error {
	var z zoneWord
	if err := r.Fetch(ctx, "/_zone", &z); err != nil {
		return err
	}
	if name == z.Zone {
		g := z.Global
		switch {
		case g.JoinedAt.IsZero():
			field("State", "has not joined global")
		case g.Connected:
			field("State", "Connected to global at %s for %s", strings.Join(g.Endpoints, ", "), age(g.Since))
		default:
			field("State", "Offline: %s; the zone goes on by itself", firstOf(g.LastError, "no session with global yet"))
		}
		field("Incarnation", "%s", z.Incarnation)
		field("Trust domain", "%s", z.TrustDomain)
		field("Certificate", "toward global, ends in %s", until(g.Expires))
		field("Configuration", "revision %d of global, applied as revision %d here", g.Down.Revision, z.Revision)
		field("Proxies", "enrol at %s", z.Proxies)
		return nil
	}
	for _, o := range z.Others {
		if o.Zone == name {
			field("State", "known to zone %s by its statements; whether it is connected is known to global", z.Zone)
			field("Trust domain", "%s (bundle sequence %d)", o.TrustDomain, o.Sequence)
			field("Believed", "for another %s unless its word is renewed", until(o.LeaseUntil))
			return nil
		}
	}
	field("State", "unknown here: zone %s holds no statement of it; whether it is connected is known to global", z.Zone)
	return nil
}

// isOwn reports whether the control plane is that of the zone.
func (r *remote) isOwn(ctx context.Context, name string) bool {
	there, err := r.atZone(ctx)
	if err != nil || !there {
		return false
	}
	var z zoneWord
	return r.Fetch(ctx, "/_zone", &z) == nil && z.Zone == name
}

func describeZones(w io.Writer, zones []mesh.ResourceStatus) error {
	t := table{columns: []string{"ZONE", "STATE", "WANTED", "APPLIED", "PROXIES", "MESSAGE"}}
	for _, z := range zones {
		message := z.Message
		if message == "" && len(z.OverriddenBy) > 0 { // of a release that said it only so
			message = "overridden by " + z.OverriddenBy[0].String()
		}
		state, proxies := string(z.State), fmt.Sprintf("%d/%d", z.Acked, z.Total)
		if why := notHeard(z.Zone, z.Unheard); why != "" {
			state, proxies = "Unknown", unknown
			message = strings.TrimPrefix(message+"; "+why+", and had said "+string(z.State), "; ")
		}
		t.rows = append(t.rows, []string{z.Zone, state, fmt.Sprint(z.Wanted), fmt.Sprint(z.Applied), proxies, message})
	}
	fmt.Fprintln(w, "Zones:")
	if err := t.write(w, formatTable, true); err != nil {
		return err
	}
	if err := describeRoutes(w, zones); err != nil {
		return err
	}
	if err := describeListeners(w, zones); err != nil {
		return err
	}
	for _, z := range zones {
		for _, r := range z.Rejections {
			fmt.Fprintf(w, "Rejected in %s by %s: %s: %s\n", clean(z.Zone), clean(r.Proxy), clean(r.Resource), clean(r.Error))
		}
	}
	return nil
}

// describeRoutes shows the conditions of a route; other resources have none.
func describeRoutes(w io.Writer, zones []mesh.ResourceStatus) error {
	t := table{columns: []string{"ZONE", "CONDITIONS"}}
	for _, z := range zones {
		if len(z.Conditions) == 0 || z.Unheard != nil {
			continue
		}
		programmed := mesh.Condition{Type: "Programmed", Status: "True"}
		if z.Acked < z.Total {
			programmed.Status, programmed.Reason = "False", "Pending"
		}
		t.rows = append(t.rows, []string{z.Zone, conditionWords(append(slices.Clip(z.Conditions), programmed))})
	}
	if len(t.rows) == 0 {
		return nil
	}
	fmt.Fprintln(w, "Route:")
	return t.write(w, formatTable, true)
}

func conditionWords(list []mesh.Condition) string {
	var words []string
	for _, c := range list {
		word := c.Type
		if c.Status != "True" {
			word = "not " + c.Type + " (" + c.Reason + ")"
		}
		if c.Message != "" {
			word += ": " + c.Message
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// describeListeners shows those of a Gateway; other resources have none.
func describeListeners(w io.Writer, zones []mesh.ResourceStatus) error {
	t := table{columns: []string{"ZONE", "LISTENER", "ROUTES", "CONDITIONS"}}
	for _, z := range zones {
		if z.Unheard != nil {
			continue
		}
		for _, l := range z.Listeners {
			t.rows = append(t.rows, []string{z.Zone, l.Name, fmt.Sprint(l.AttachedRoutes), conditionWords(l.Conditions)})
		}
	}
	if len(t.rows) == 0 {
		return nil
	}
	fmt.Fprintln(w, "Listeners:")
	return t.write(w, formatTable, true)
}

// cleanLines is clean for text of several lines.
func cleanLines(s string) string {
	var out []string
	for line := range strings.SplitSeq(s, "\n") {
		out = append(out, clean(line))
	}
	return strings.Join(out, "\n")
}
