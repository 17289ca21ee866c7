package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/nearest"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

// remote is the control plane that the flags, the environment or the context name.
type remote struct{ *client.Client }

func (s *shell) remote() (*remote, error) {
	e, err := s.target.resolve(s.terminal)
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{Server: e.server, Token: e.token, CAFile: e.caFile})
	if err != nil {
		return nil, err
	}
	return &remote{c}, nil
}

// fetch gets what the arguments name; single says that exactly one resource was named.
func (r *remote) fetch(ctx context.Context, args []string, sel selection) (objects []client.Object, single bool, err error) {
	refs, err := parseRefs(args, sel)
	if err != nil {
		return nil, false, err
	}
	for _, one := range refs {
		if one.name == "" {
			list, err := r.ListAll(ctx, one.kind, client.ListOptions{Namespace: sel.namespaceFilter(), Origin: sel.origin, Selector: sel.selector})
			if err != nil {
				return nil, false, err
			}
			objects = append(objects, list...)
			continue
		}
		o, err := r.find(ctx, one, sel.origin)
		if err != nil {
			return nil, false, err
		}
		objects = append(objects, o)
	}
	return objects, len(refs) == 1 && refs[0].name != "", nil
}

// find gets one resource. Where no namespace is said it is looked for in all of them, and must be in one only.
func (r *remote) find(ctx context.Context, one ref, origin string) (client.Object, error) {
	if !one.kind.Namespaced || one.namespace != "" {
		o, err := r.Get(ctx, one.kind, one.namespace, one.name, origin)
		return o, r.elsewhere(ctx, one, origin, err)
	}
	namespaces, err := r.namespacesOf(ctx, one, origin)
	if err != nil {
		return client.Object{}, err
	}
	switch len(namespaces) {
	case 0:
		var names []string
		list, err := r.ListAll(ctx, one.kind, client.ListOptions{Origin: origin})
		if err != nil {
			return client.Object{}, err
		}
		for _, o := range list {
			names = append(names, o.Metadata.Name)
		}
		f := missing(one.kind.Singular, one.name, names, "comity get "+one.kind.Plural)
		f.What += " in any namespace"
		return client.Object{}, f
	case 1:
		return r.Get(ctx, one.kind, namespaces[0], one.name, origin)
	}
	return client.Object{}, usage("%s %q is in several namespaces: say -n with one of %s", one.kind.Singular, one.name, strings.Join(namespaces, ", "))
}

// namespacesOf are those that have a resource of the name, in alphabetical order.
func (r *remote) namespacesOf(ctx context.Context, one ref, origin string) ([]string, error) {
	list, err := r.ListAll(ctx, one.kind, client.ListOptions{Origin: origin, Contains: one.name})
	var out []string
	for _, o := range list {
		if o.Metadata.Name == one.name && !slices.Contains(out, o.Metadata.Namespace) {
			out = append(out, o.Metadata.Namespace)
		}
	}
	slices.Sort(out)
	return out, err
}

// elsewhere adds to the complaint about a name that its namespace does not have where the name is. Who may not look there gets the complaint as it is.
func (r *remote) elsewhere(ctx context.Context, one ref, origin string, complaint error) error {
	f, ok := errors.AsType[*fault.Error](complaint)
	if !ok || f.Exit != fault.ExitNotFound || !one.kind.Namespaced || f.Try != "" {
		return complaint
	}
	namespaces, err := r.namespacesOf(ctx, one, origin)
	if err != nil || len(namespaces) == 0 {
		f.Try = "comity get " + one.kind.Plural + " lists what there is"
		return f
	}
	f.Try = fmt.Sprintf("-n %s: there is a %s %q there", strings.Join(namespaces, " or -n "), one.kind.Singular, one.name)
	return f
}

func notFound(format string, args ...any) error {
	return &fault.Error{Code: "CLI-NOT-FOUND", What: fmt.Sprintf(format, args...), Exit: fault.ExitNotFound, Try: "comity get with the kind alone lists what there is"}
}

// missing is the complaint about a name that nobody has, with the one that was probably meant.
func missing(what, name string, known []string, list string) *fault.Error {
	return &fault.Error{Code: "CLI-NOT-FOUND", What: fmt.Sprintf("there is no %s %q", what, name), Exit: fault.ExitNotFound,
		Cause: nearest.Question(name, known), Try: list + " lists what there is"}
}

// services are those that somebody has a Service for or that zones offer, as namespace and name.
func (r *remote) services(ctx context.Context) ([]policy.ServiceRef, error) {
	kind, _ := policy.Lookup(string(mesh.KindService))
	objects, err := r.ListAll(ctx, kind, client.ListOptions{})
	if err != nil {
		return nil, err
	}
	told, err := r.Failover(ctx, client.FailoverQuery{})
	if err != nil {
		return nil, err
	}
	var out []policy.ServiceRef
	for _, o := range objects {
		out = append(out, policy.ServiceRef{Namespace: o.Metadata.Namespace, Name: o.Metadata.Name})
	}
	for _, f := range told {
		out = append(out, policy.ServiceRef{Namespace: f.Namespace, Name: f.Service})
	}
	slices.SortFunc(out, func(a, b policy.ServiceRef) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return slices.Compact(out), nil
}

// service finds a service by [NAMESPACE/]NAME, with service/ before it or not, and the namespace of -n; without one the name must be in one
// namespace only.
func (r *remote) service(ctx context.Context, namespace, name string) (ns, service string, err error) {
	for _, word := range []string{"service/", "services/", "svc/"} {
		name = strings.TrimPrefix(name, word)
	}
	if before, after, ok := strings.Cut(name, "/"); ok {
		namespace, name = before, after
	}
	all, err := r.services(ctx)
	if err != nil {
		return "", "", err
	}
	var namespaces, names []string
	for _, s := range all {
		if namespace != "" && s.Namespace != namespace {
			continue
		}
		names = append(names, s.Name)
		if s.Name == name {
			namespaces = append(namespaces, s.Namespace)
		}
	}
	switch len(namespaces) {
	case 0:
		return "", "", missing("service", name, names, "comity get services")
	case 1:
		return namespaces[0], name, nil
	}
	return "", "", usage("service %q is in several namespaces: say -n with one of %s", name, strings.Join(namespaces, ", "))
}

// atZone reports whether the control plane is a zone's.
func (r *remote) atZone(ctx context.Context) (bool, error) {
	var who struct {
		Mode string `json:"mode"`
	}
	err := r.Fetch(ctx, "/whoami", &who)
	return who.Mode == "zone", err
}

// global is the control plane for what only global can do.
func (s *shell) global(ctx context.Context) (*remote, error) {
	return s.side(ctx, false, &fault.Error{Code: "CLI-NOT-GLOBAL", What: "this is ordered at global, and here is a zone", Try: "name global with --server or --context", Exit: fault.ExitUsage})
}

// zoneSide is the control plane for what only a zone can do.
func (s *shell) zoneSide(ctx context.Context) (*remote, error) {
	return s.side(ctx, true, &fault.Error{Code: "CLI-NOT-ZONE", What: "this is ordered at the zone that has the proxy, and here is global",
		Try: "name the zone's control plane: --context ZONE, or --server and --token-file; comity get proxies says which zone it is", Exit: fault.ExitUsage})
}

// side is the control plane if it is a zone's, or global, as wanted; else the refusal.
func (s *shell) side(ctx context.Context, zone bool, refusal *fault.Error) (*remote, error) {
	r, err := s.remote()
	if err != nil {
		return nil, err
	}
	there, err := r.atZone(ctx)
	if err == nil && there != zone {
		err = refusal
	}
	return r, err
}

func (sel selection) namespaceFilter() string {
	if sel.all {
		return ""
	}
	return sel.namespace
}

// refName is how kubectl writes an object: kind/name.
func refName(kind mesh.Kind, name string) string { return strings.ToLower(string(kind)) + "/" + name }

func resourceStatuses(o client.Object) []mesh.ResourceStatus {
	return decodeInto[client.ResourceObjectStatus](o.Status).Zones
}

func zoneStatus(o client.Object) client.ZoneObjectStatus {
	return decodeInto[client.ZoneObjectStatus](o.Status)
}

// zoneState is how a zone stands to global, and with it what was ordered about it.
func zoneState(o client.Object) string {
	z, spec := zoneStatus(o), decodeInto[policy.Zone](o.Spec)
	state := "Offline"
	switch {
	case spec.Revoked != nil:
		return "Revoked"
	case !z.Joined:
		state = "Invited"
	case z.Connected:
		state = "Connected"
	}
	if ordered := zoneOrder(spec); ordered != "" {
		state += "," + ordered
	}
	return state
}

// zoneOrder is what was ordered about a zone, empty for nothing.
func zoneOrder(z policy.Zone) string {
	switch {
	case z.Revoked != nil:
		return "Revoked"
	case z.Drain == nil:
		return ""
	case z.Drain.Leave:
		return client.DrainLeaving
	}
	return client.DrainRunning
}

// lag is how many revisions a zone is behind, or how long it has been away.
func lag(z client.ZoneObjectStatus) string {
	switch {
	case !z.Joined:
		return "-"
	case !z.Connected:
		return age(z.LastSeen)
	case z.Acked >= z.Wanted:
		return "0"
	default:
		return fmt.Sprintf("%d rev", z.Wanted-z.Acked)
	}
}

// until is the time left, or "expired".
func until(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	left := time.Until(t)
	switch {
	case left <= 0:
		return "expired"
	case left < 2*time.Hour:
		return fmt.Sprintf("%dm", int(left.Minutes()))
	case left < 72*time.Hour:
		return fmt.Sprintf("%dh", int(left.Hours()))
	default:
		return fmt.Sprintf("%dd", int(left.Hours()/24))
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// behind lists the zones that a revision is waiting for.
func behind(p client.Progress) string {
	var out []string
	for _, z := range p.Zones {
		if !z.Done {
			out = append(out, fmt.Sprintf("%s (%s, %d/%d proxies)", z.Zone, z.State, z.Acked, z.Total))
		}
	}
	sort.Strings(out)
	return strings.Join(out, ", ")
}

// rejected is the error of a revision that somebody refused, nil otherwise. It names the resources at fault by
// their own statuses: of a batch, the others are in force.
func (r *remote) rejected(ctx context.Context, p client.Progress, items []client.ApplyItem) error {
	refused := slices.ContainsFunc(p.Zones, func(z client.ZoneProgress) bool {
		return z.State == string(mesh.StateRejected) || len(z.Rejections) > 0
	})
	if !refused {
		return nil
	}
	var lines []string
	for _, it := range items {
		kind, ok := policy.Lookup(string(it.Kind))
		if !ok {
			continue
		}
		o, err := r.Get(ctx, kind, it.Namespace, it.Name, "")
		if err != nil {
			return err
		}
		if sum := summarise(resourceStatuses(o)); sum.state == "Rejected" {
			lines = append(lines, refName(it.Kind, it.Name)+": "+clean(sum.message))
		}
	}
	return &fault.Error{Code: "APPLY-REJECTED", What: fmt.Sprintf("a part of revision %d was refused; there, what was last good stays in force", p.Revision),
		Cause: strings.Join(lines, "\n"), Try: "comity describe what is named above", Exit: fault.ExitFailure}
}

func zonesDone(p client.Progress) int {
	n := 0
	for _, z := range p.Zones {
		if z.Done && z.State == string(mesh.StateApplied) {
			n++
		}
	}
	return n
}

func decodeInto[T any](raw json.RawMessage) T {
	var v T
	if len(raw) > 0 {
		// A status this program does not understand is shown as empty, not as a failure.
		_ = json.Unmarshal(raw, &v)
	}
	return v
}
