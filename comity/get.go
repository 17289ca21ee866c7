package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/nearest"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// selection is what get, describe and delete are told: a kind, names, a namespace and an origin.
type selection struct {
	namespace, origin, selector string
	all                         bool
}

// selectionFlags adds the flags of a selection; without says what holds without a namespace.
func (s *shell) selectionFlags(cmd *cobra.Command, sel *selection, without string) {
	cmd.Flags().StringVarP(&sel.namespace, "namespace", "n", "", "namespace (default: "+without+")")
	cmd.Flags().StringVar(&sel.origin, "origin", "", "only resources made there: \"global\" or a zone")
	must(cmd.RegisterFlagCompletionFunc("namespace", s.completeNamespace))
	must(cmd.RegisterFlagCompletionFunc("origin", s.completeOrigin))
}

// everywhere is what a selection without a namespace means to commands that only read.
const everywhere = "all; a name must then be in one only"

// ref is one resource named on the command line, or with an empty name all of a kind.
type ref struct {
	kind            policy.KindInfo
	namespace, name string // namespace empty: not said, or the kind has none
}

// parseRefs reads "TYPE[,TYPE...]", "TYPE NAME..." or "TYPE/NAME..."; the namespace of names is that of -n.
func parseRefs(args []string, sel selection) ([]ref, error) {
	kindOf := func(word string) (policy.KindInfo, error) {
		k, ok := policy.Lookup(word)
		if !ok && isProxies(word) {
			return k, usage("proxies are looked at by themselves or beside whole kinds: comity get proxy/NAME, or comity get workloads,proxies")
		}
		if !ok {
			known := knownKinds()
			return k, &fault.Error{Code: "CLI-KIND", What: fmt.Sprintf("there is no kind %q", word), Exit: fault.ExitUsage,
				Cause: firstOf(nearest.Question(word, known), "this program knows "+strings.Join(known, ", ")), Try: "comity get zones", Docs: "comity get --help"}
		}
		return k, nil
	}
	var out []ref
	add := func(k policy.KindInfo, name string) {
		ns := sel.namespace
		if !k.Namespaced {
			ns = ""
		}
		out = append(out, ref{kind: k, namespace: ns, name: name})
	}
	if strings.Contains(args[0], "/") {
		for _, a := range args {
			word, name, ok := strings.Cut(a, "/")
			if !ok || name == "" {
				return nil, usage("%q is not TYPE/NAME", a)
			}
			k, err := kindOf(word)
			if err != nil {
				return nil, err
			}
			add(k, name)
		}
		return out, nil
	}
	if len(args) == 1 {
		for word := range strings.SplitSeq(args[0], ",") {
			k, err := kindOf(word)
			if err != nil {
				return nil, err
			}
			out = append(out, ref{kind: k, namespace: sel.namespace})
		}
		return out, nil
	}
	k, err := kindOf(args[0])
	if err != nil {
		return nil, err
	}
	for _, name := range args[1:] {
		add(k, name)
	}
	return out, nil
}

// kindFirst wants at least a kind, and says which there are.
func kindFirst(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return nil
	}
	return &fault.Error{Code: codeUsage, What: "say what to " + cmd.Name(), Exit: fault.ExitUsage,
		Cause: "the kinds are " + strings.Join(knownKinds(), ", "), Try: cmd.CommandPath() + " services"}
}

// knownKinds are the words for what can be read.
func knownKinds() []string {
	var known []string
	for _, k := range policy.Kinds() {
		known = append(known, k.Plural)
	}
	return append(known, proxiesWord)
}

func (s *shell) getCommand() *cobra.Command {
	var sel selection
	var noHeaders bool
	cmd := &cobra.Command{
		Use:   "get TYPE[,TYPE...] | TYPE NAME... | TYPE/NAME...",
		Short: "List resources, or show some",
		Example: `  comity get zones
  comity get authorizationpolicies -n shop -o wide
  comity get service/pay -n shop -o yaml
  comity get workloads -l app=web
  comity get services,authorizationpolicies -n shop
  comity get workloads,proxies -n shop
  comity get proxies -n shop -o wide`,
		Args:              kindFirst,
		ValidArgsFunction: s.completeRefs,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := s.remote()
			if err != nil {
				return err
			}
			if isProxies(args[0]) {
				return s.getProxies(cmd.Context(), r, args, sel, !noHeaders)
			}
			if kinds := strings.Split(args[0], ","); len(args) == 1 && slices.ContainsFunc(kinds, isProxies) {
				return s.getWithProxies(cmd.Context(), r, kinds, sel, !noHeaders)
			}
			objects, single, err := r.fetch(cmd.Context(), args, sel)
			if err != nil {
				return err
			}
			if strings.Contains(args[0], ",") {
				return s.showKinds(cmd.Context(), r, objects, !noHeaders)
			}
			return s.showIn(cmd.Context(), r, objects, single, !noHeaders)
		},
	}
	s.selectionFlags(cmd, &sel, everywhere)
	cmd.Flags().StringVarP(&sel.selector, "selector", "l", "", "only resources with these labels, as app=web,tier=front")
	cmd.Flags().BoolVarP(&sel.all, "all-namespaces", "A", false, "all namespaces (the default when listing)")
	cmd.Flags().BoolVar(&noHeaders, "no-headers", false, "no column names")
	return cmd
}

// getWithProxies lists whole kinds and then the proxies, which are no resources: in JSON and YAML they have a list of their own.
func (s *shell) getWithProxies(ctx context.Context, r *remote, kinds []string, sel selection, headers bool) error {
	kinds = slices.DeleteFunc(kinds, isProxies)
	if len(kinds) == 0 {
		return s.getProxies(ctx, r, []string{proxiesWord}, sel, headers)
	}
	objects, _, err := r.fetch(ctx, []string{strings.Join(kinds, ",")}, sel)
	if err != nil {
		return err
	}
	proxies, _, err := r.proxiesOf(ctx, []string{proxiesWord}, sel)
	if err != nil {
		return err
	}
	if done, err := writeValue(s.out, s.output, map[string]any{"apiVersion": "v1", "kind": "List", "items": objects, "proxies": proxies}); done {
		return err
	}
	if err := s.showKinds(ctx, r, objects, headers); err != nil {
		return err
	}
	if s.output != formatName && len(objects) > 0 {
		fmt.Fprintln(s.out)
	}
	return s.showProxies(proxies, false, headers)
}

// showKinds shows objects of several kinds, each kind with what is known of it as if it were alone.
func (s *shell) showKinds(ctx context.Context, r *remote, objects []client.Object, headers bool) error {
	if s.output != formatTable && s.output != formatWide {
		return s.show(objects, false, headers)
	}
	for begin := 0; begin < len(objects); {
		end := begin
		for end < len(objects) && objects[end].Kind == objects[begin].Kind {
			end++
		}
		if begin > 0 {
			fmt.Fprintln(s.out)
		}
		if err := s.showIn(ctx, r, objects[begin:end], false, headers); err != nil {
			return err
		}
		begin = end
	}
	return nil
}

// showIn shows objects of one kind, in tables with what the control plane knows of them beside.
func (s *shell) showIn(ctx context.Context, r *remote, objects []client.Object, single, headers bool) error {
	if len(objects) == 0 || s.output != formatTable && s.output != formatWide {
		return s.show(objects, single, headers)
	}
	switch objects[0].Kind {
	case mesh.KindZone:
		if there, err := r.atZone(ctx); err != nil {
			return err
		} else if there {
			return s.showNeighbours(objects, headers)
		}
	case mesh.KindWorkload:
		return s.showWorkloads(ctx, r, objects, headers)
	}
	return s.show(objects, single, headers)
}

// showNeighbours lists zones as a zone knows them: how they are is known to global.
func (s *shell) showNeighbours(objects []client.Object, headers bool) error {
	t := table{columns: []string{"NAME", "ORDERED", "CLOUD", "REGION", "MAY SPEAK FOR", "AGE"}}
	for _, o := range objects {
		z := decodeInto[policy.Zone](o.Spec)
		t.rows = append(t.rows, []string{o.Metadata.Name, firstOf(zoneOrder(z), "-"), z.Cloud, z.Region, strings.Join(z.Namespaces, ","), age(o.Metadata.CreationTimestamp)})
	}
	s.say("as this zone knows them; whether they are connected is known to global")
	return t.write(s.out, s.output, headers)
}

// workloadStates are what zones say of the sidecars of workloads: a workload is as healthy as it looks from there.
type workloadStates map[mesh.Key]string

func (r *remote) workloadStates(ctx context.Context) (workloadStates, error) {
	proxies, err := r.Proxies(ctx, "")
	if err != nil {
		return nil, err
	}
	out := workloadStates{}
	for _, p := range proxies {
		out[mesh.Key{Origin: mesh.Origin(p.Zone), Kind: mesh.KindWorkload, Namespace: p.Proxy.Namespace, Name: p.Proxy.Name}] = proxyState(p)
	}
	return out, nil
}

func (w workloadStates) of(o client.Object) string {
	return firstOf(w[mesh.Key{Origin: o.Metadata.Origin, Kind: o.Kind, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name}], "Unknown (its zone has not spoken of it)")
}

func (s *shell) showWorkloads(ctx context.Context, r *remote, objects []client.Object, headers bool) error {
	states, err := r.workloadStates(ctx)
	if err != nil {
		return err
	}
	t := table{columns: []string{"NAMESPACE", "NAME", "ZONE", "STATUS", "SERVICE ACCOUNT", "AGE", "ADDRESS", "LABELS"}, wide: 2}
	for _, o := range objects {
		spec := decodeInto[mesh.Workload](o.Spec)
		var labels []string
		for k, v := range o.Metadata.Labels {
			labels = append(labels, k+"="+v)
		}
		slices.Sort(labels)
		t.rows = append(t.rows, []string{o.Metadata.Namespace, o.Metadata.Name, string(o.Metadata.Origin), states.of(o),
			spec.ServiceAccount, age(o.Metadata.CreationTimestamp), addressOf(spec), strings.Join(labels, ",")})
	}
	return t.write(s.out, s.output, headers)
}

// addressOf is where a workload takes requests, if it does.
func addressOf(w mesh.Workload) string {
	if w.Proxyless {
		return "proxyless client"
	}
	return fmt.Sprintf("%s:%d", w.Address, w.InboundPort)
}

// show prints objects in the chosen format: one alone as itself, several as a list.
func (s *shell) show(objects []client.Object, single, headers bool) error {
	switch s.output {
	case formatName:
		for _, o := range objects {
			fmt.Fprintln(s.out, clean(refName(o.Kind, o.Metadata.Name)))
		}
		return nil
	case formatJSON, formatYAML:
		var v any = map[string]any{"apiVersion": "v1", "kind": "List", "items": objects} // which apply takes
		if single && len(objects) == 1 {
			v = objects[0]
		}
		_, err := writeValue(s.out, s.output, v)
		return err
	}
	if len(objects) == 0 {
		if !s.quiet {
			fmt.Fprintln(s.err, "nothing found")
		}
		return nil
	}
	byKind := map[mesh.Kind][]client.Object{}
	var order []mesh.Kind
	for _, o := range objects {
		if byKind[o.Kind] == nil {
			order = append(order, o.Kind)
		}
		byKind[o.Kind] = append(byKind[o.Kind], o)
	}
	for i, k := range order {
		if i > 0 {
			fmt.Fprintln(s.out)
		}
		if err := tableOf(k, byKind[k]).write(s.out, s.output, headers); err != nil {
			return err
		}
	}
	return nil
}

// tableOf has the columns that answer a kind's first question.
func tableOf(kind mesh.Kind, objects []client.Object) table {
	if kind == mesh.KindZone {
		t := table{columns: []string{"NAME", "STATE", "PROXIES", "LAG", "CERT", "INGRESSES", "AGE", "TRUST DOMAIN", "VERSION", "INCARNATION"}, wide: 3}
		for _, o := range objects {
			z := zoneStatus(o)
			t.rows = append(t.rows, []string{o.Metadata.Name, zoneState(o), proxiesOfZone(z), lag(z), until(z.CertificateExpires),
				fmt.Sprint(len(z.Ingresses)), age(o.Metadata.CreationTimestamp), string(z.TrustDomain), z.Version, string(z.Incarnation)})
		}
		return t
	}
	info, _ := policy.Lookup(string(kind))
	t := table{columns: []string{"NAME", "ZONES", "PROXIES", "STATE", "AGE", "ORIGIN", "REVISION", "MESSAGE"}, wide: 3}
	if info.Namespaced {
		t.columns = append([]string{"NAMESPACE"}, t.columns...)
	}
	for _, o := range objects {
		sum := summarise(resourceStatuses(o))
		row := []string{o.Metadata.Name, fmt.Sprintf("%d/%d", sum.zonesApplied, sum.zones), fmt.Sprintf("%d/%d", sum.acked, sum.total), sum.words(),
			age(o.Metadata.CreationTimestamp), string(o.Metadata.Origin), o.Metadata.ResourceVersion, sum.message}
		if info.Namespaced {
			row = append([]string{o.Metadata.Namespace}, row...)
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// proxiesOfZone counts a zone's proxies; how many are connected only it knows.
func proxiesOfZone(z client.ZoneObjectStatus) string {
	return fmt.Sprintf("%s/%d", knownOr(z.Unheard, fmt.Sprint(z.ProxiesConnected)), z.Proxies)
}

// summary is what a table row says of all zones at once.
type summary struct {
	zones, zonesApplied, acked, total int
	state, message                    string
	// away are the zones that are not heard, in words; what they said last counts for nothing but zones.
	away []string
	// unmet are the conditions that are False where it is heard.
	unmet []string
}

// words are the state of a resource, what is amiss with it all the same, and of which zones it is not known.
func (s summary) words() string {
	var besides []string
	if len(s.unmet) > 0 {
		besides = append(besides, s.unmet[0])
	}
	if more := len(s.unmet) - 1; more > 0 {
		besides = append(besides, fmt.Sprintf("%d more False", more))
	}
	return strings.Join(slices.Concat([]string{s.state}, besides, s.away), "; ")
}

func summarise(statuses []mesh.ResourceStatus) summary {
	sum := summary{state: "-"}
	var heard []mesh.ResourceStatus
	for _, st := range statuses {
		switch {
		case st.Unheard == nil:
			heard = append(heard, st)
		case st.Unheard.Reason == mesh.UnheardAway:
			sum.away = append(sum.away, notHeard(st.Zone, st.Unheard))
		}
	}
	sum.zones, sum.unmet = len(heard)+len(sum.away), unmet(heard)
	for _, st := range heard {
		if st.State == mesh.StateApplied && st.Applied >= st.Wanted {
			sum.zonesApplied++
		}
		sum.acked += st.Acked
		sum.total += st.Total
		if st.Message != "" {
			sum.message = st.Zone + ": " + st.Message
		}
		for _, r := range st.Rejections {
			sum.message = st.Zone + ": " + r.Proxy + " refused " + r.Resource + ": " + r.Error
		}
	}
	switch {
	case sum.zones == 0:
	case slices.ContainsFunc(heard, func(st mesh.ResourceStatus) bool { return st.State == mesh.StateRejected || len(st.Rejections) > 0 }):
		sum.state = "Rejected"
	case len(heard) == 0:
		sum.state = "Unknown"
	case sum.zonesApplied < len(heard) || sum.acked < sum.total:
		sum.state = "Pending"
	default:
		sum.state = "Programmed"
	}
	return sum
}
