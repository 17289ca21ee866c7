package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/mesh"
)

// tapFlags are what a person says of a tap.
type tapFlags struct {
	namespace string
	zones     []string
	at        string
	max       int
	length    time.Duration
	filter    mesh.TapFilter
	rate      int
}

func (s *shell) tapCommand() *cobra.Command {
	var f tapFlags
	cmd := &cobra.Command{
		Use:   "tap [service/|workload/|proxy/]NAME",
		Short: "Show live requests of a service, a workload or a proxy",
		Long: `tap shows requests as they end, and connections as they begin and end, one a line: when it began, between whom and in which zones, method, path, status, how
long it took, Envoy's response flags, what decided (route, policy) or why it failed, and the trace. -o json gives each as a line of JSON.

A service is tapped where it is served, in all zones or those of --zone; with --at client, at all who may call it, which also shows what
never arrived. A workload, an ingress or a proxy is tapped at itself: what it takes and what it sends. A name without a type is that of a
service, else of a proxy. Refused requests are shown with the policy that refused them, refused handshakes with the reason.

Headers, bodies and queries never leave the machine on which the proxy runs. Nobody pays for a tap that nobody uses; one that is used
looks at no more than some 2,000 requests a second in each proxy, shows --rate of them, and says how many it left out. It takes an admin's
token, or one with the permission: comity token create NAME --may tap. Who tapped what is in the logs of global and of the zones.`,
		Example: `  comity tap pay -n shop --status 5xx
  comity tap web-1 --to pay@west --for 5m
  comity tap pay --at client --from web@east -o json --max 10`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: s.completeTap,
		RunE:              func(cmd *cobra.Command, args []string) error { return s.tap(cmd.Context(), args[0], f) },
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.namespace, "namespace", "n", "", "namespace of the service or workload")
	fl.StringSliceVar(&f.zones, "zone", nil, "only in these zones")
	fl.StringVar(&f.at, "at", "server", "of a service, who tells: server or client")
	fl.IntVar(&f.max, "max", 0, "end after so many requests (default: when the time is over)")
	fl.DurationVar(&f.length, "for", mesh.TapDefaultTime, "end after this time, at most "+mesh.TapMaxTime.String())
	fl.IntVar(&f.rate, "rate", mesh.TapDefaultRate, "most requests that are shown in a second")
	fl.StringSliceVar(&f.filter.Methods, "method", nil, "only these methods")
	fl.StringVar(&f.filter.Path, "path", "", "only paths that begin with this")
	fl.StringSliceVar(&f.filter.Status, "status", nil, "only these statuses, as 404 or 5xx")
	fl.StringVar(&f.filter.From, "from", "", "only from [NAMESPACE/]NAME[@ZONE]: a workload where it tells itself, else its service account")
	fl.StringVar(&f.filter.To, "to", "", "only to the service [NAMESPACE/]NAME[@ZONE]")
	fl.StringToStringVar(&f.filter.Headers, "header", nil, "only with this header, as x-canary=yes; of those that a tap knows")
	must(cmd.RegisterFlagCompletionFunc("namespace", s.completeNamespace))
	must(cmd.RegisterFlagCompletionFunc("zone", s.completeZones))
	must(cmd.RegisterFlagCompletionFunc("from", s.completeEnds(true)))
	must(cmd.RegisterFlagCompletionFunc("to", s.completeEnds(false)))
	must(cmd.RegisterFlagCompletionFunc("method", cobra.FixedCompletions([]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions([]string{"2xx", "3xx", "4xx", "403", "404", "429", "5xx", "503", "504"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("header", completeTapHeader))
	must(cmd.RegisterFlagCompletionFunc("at", cobra.FixedCompletions([]string{"server", "client"}, cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// completeTap completes services and proxies.
func (s *shell) completeTap(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if word, _, ok := strings.Cut(typed, "/"); ok {
		var out []candidate
		for _, c := range s.names(cmd, word) {
			out = append(out, candidate{word + "/" + c.value, c.description})
		}
		return offer(typed, out)
	}
	return offer(typed, append(s.serviceNames(cmd), s.names(cmd, proxiesWord)...))
}

// completeTapHeader completes the names of the headers that a tap may look at.
func completeTapHeader(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []candidate
	for _, name := range mesh.TapHeaders() {
		out = append(out, candidate{value: name + "="})
	}
	list, directive := offer(typed, out)
	return list, directive | cobra.ShellCompDirectiveNoSpace
}

// errEnough ends a tap that has shown as many as were asked for.
var errEnough = errors.New("as many as were asked for")

func (s *shell) tap(ctx context.Context, target string, f tapFlags) error {
	if f.length < time.Second || f.rate < 1 || f.max < 0 {
		return usage("--for is at least a second, --rate at least 1, --max at least 0")
	}
	for i := range f.filter.Methods {
		f.filter.Methods[i] = strings.ToUpper(f.filter.Methods[i])
	}
	r, err := s.remote()
	if err != nil {
		return err
	}
	t := mesh.Tap{Filter: f.filter, Rate: f.rate, Seconds: int(f.length.Seconds())}
	if err := r.tapTarget(ctx, target, &f, &t); err != nil {
		return err
	}
	if err := t.Check(); err != nil {
		return usage("%v", err)
	}
	v := tapView{shell: s, max: f.max, zones: map[string]mesh.TapWatching{}}
	err = r.Tap(ctx, f.zones, t, v.event)
	switch {
	case errors.Is(err, errEnough), errors.Is(err, context.Canceled):
		err = nil
	case err != nil:
		return err
	}
	if v.watched == 0 && v.shown == 0 {
		return v.nobody()
	}
	return err
}

// tapTarget finds out what is meant.
func (r *remote) tapTarget(ctx context.Context, target string, f *tapFlags, t *mesh.Tap) error {
	word, name, typed := strings.Cut(target, "/")
	isProxy := typed && (isProxies(target) || slices.Contains([]string{"workload", "workloads", "ingress", "egress"}, word))
	isService := typed && slices.Contains([]string{"service", "services", "svc"}, word)
	if !isProxy && !isService { // namespace/name, as proxies are shown, or a bare name
		name = target
	}
	if !isProxy {
		service := name
		if namespace, rest, ok := strings.Cut(name, "/"); ok {
			f.namespace, service = namespace, rest
		}
		list, err := r.trafficOf(ctx, f.namespace, service)
		if err != nil {
			return err
		}
		if len(list) > 0 {
			if t.Side = mesh.TapSide(f.at); t.Side != mesh.TapServer && t.Side != mesh.TapClient {
				return usage("--at is server or client")
			}
			t.Namespace, t.Service = list[0].Namespace, list[0].Service
			return nil
		}
		if isService {
			return notFound("there is no service %q", name)
		}
	}
	list, err := r.Proxies(ctx, "")
	if err != nil {
		return err
	}
	names := []string{name}
	if word == "ingress" || word == "egress" {
		names = []string{target}
	}
	list = slices.DeleteFunc(filterProxies(list, names, f.namespace), func(p mesh.ProxyStatus) bool { return len(f.zones) > 0 && !slices.Contains(f.zones, p.Zone) })
	switch {
	case len(list) == 0:
		return notFound("there is no service and no proxy %q", name)
	case len(list) > 1:
		return severalProxies(name, list)
	}
	t.Proxy, f.zones = list[0].Proxy.String(), []string{list[0].Zone}
	return nil
}

// tapView shows the events of a tap.
type tapView struct {
	*shell
	max, shown int
	watched    int // proxies at most at one time
	zones      map[string]mesh.TapWatching
	header     bool
}

func (v *tapView) event(e mesh.TapEvent) error {
	switch {
	case e.Request != nil:
		if err := v.request(*e.Request); err != nil {
			return err
		}
		if v.shown++; v.shown == v.max {
			return errEnough
		}
	case e.Left != nil:
		if e.Left.Share > 0 {
			v.say("%s: some %d left out; one request in %.0f is looked at", e.Left.Zone, e.Left.Count, 1/e.Left.Share)
		} else {
			v.say("%s: %d left out", e.Left.Zone, e.Left.Count)
		}
	case e.Watching != nil:
		v.watching(*e.Watching)
	case e.End != nil:
		v.say("ended: %s", e.End.Reason)
	}
	return nil
}

func (v *tapView) say(format string, args ...any) {
	if !v.quiet {
		fmt.Fprintln(v.err, clean(fmt.Sprintf(format, args...)))
	}
}

// watching says who is watched, when that has changed.
func (v *tapView) watching(w mesh.TapWatching) {
	v.zones[w.Zone] = w
	sum := 0
	for _, z := range v.zones {
		sum += len(z.Proxies)
	}
	v.watched = max(v.watched, sum)
	if len(w.Proxies) > 0 {
		v.say("%s: watching %s", w.Zone, strings.Join(proxyNames(w.Proxies), ", "))
	}
	for _, p := range w.Problems {
		if p.Proxy == "" {
			v.say("%s: %s", w.Zone, p.Reason)
		} else {
			v.say("%s: not %s: %s", w.Zone, nameOfProxy(p.Proxy), p.Reason)
		}
	}
}

func proxyNames(ids []string) []string {
	var out []string
	for _, id := range ids {
		if name := nameOfProxy(id); name != "" {
			out = append(out, name)
		}
	}
	return out
}

// nameOfProxy is what people call the proxy of an ID; empty for what is no ID.
func nameOfProxy(id string) string {
	p, err := mesh.ParseProxyID(id)
	if err != nil {
		return ""
	}
	return proxyName(p)
}

// nobody is the error of a tap that could watch nobody.
func (v *tapView) nobody() error {
	var why []string
	for _, w := range v.zones {
		for _, p := range w.Problems {
			why = append(why, w.Zone+": "+strings.TrimSpace(nameOfProxy(p.Proxy)+" "+p.Reason))
		}
	}
	slices.Sort(why)
	return &fault.Error{Code: "TAP-NOBODY", What: "nobody could be watched", Cause: clean(strings.Join(why, "\n")), Try: "comity get proxies shows who is connected", Exit: fault.ExitUnreachable}
}

func (v *tapView) request(r mesh.TapRequest) error {
	if v.output == formatJSON || v.output == formatYAML {
		return json.NewEncoder(v.out).Encode(r)
	}
	if !v.header {
		v.header = true
		fmt.Fprintf(v.out, "%-12s  %-44s  %-7s  %-24s  %-6s  %9s  %s\n", "TIME", "FROM -> TO", "METHOD", "PATH", "STATUS", "TOOK", "WHY")
	}
	method, path, status := r.Method, r.Path, fmt.Sprint(r.Status)
	if method == "" {
		method, path, status = "TCP", fmt.Sprintf("%d in %d out", r.BytesIn, r.BytesOut), "-"
		if r.Open {
			path, status = "", "open"
		}
	}
	_, err := fmt.Fprintln(v.out, clean(fmt.Sprintf("%-12s  %-44s  %-7s  %-24s  %-6s  %7.1fms  %s",
		r.Time.Local().Format("15:04:05.000"), endName(r.Source)+" -> "+endName(r.Destination), method, path, status, r.DurationMS, tapWhy(r, v.output == formatWide))))
	return err
}

// endName is one end of a request in a line.
func endName(e mesh.TapEnds) string {
	name := e.Name
	if name == "" {
		name = firstOf(e.Identity, firstOf(e.Address, "?"))
	}
	if e.Zone != "" {
		name += "@" + e.Zone
	}
	return name
}

// tapWhy is what decided about a request, as far as it is said; wide tells also who is who.
func tapWhy(r mesh.TapRequest, wide bool) string {
	var out []string
	add := func(name, value string) {
		if value != "" {
			out = append(out, name+"="+value)
		}
	}
	add("flags", r.Flags)
	add("route", r.Route)
	switch {
	case r.Policy != "" && (r.Status == http.StatusForbidden || r.Denied):
		add("refused-by", r.Policy)
	case r.Policy != "":
		add("policy", r.Policy)
	}
	if r.Details != "" && r.Details != "via_upstream" && !strings.Contains(r.Details, "matched_policy[") {
		add("why", r.Details)
	}
	if r.Attempts > 1 {
		add("attempts", fmt.Sprint(r.Attempts))
	}
	add("trace", r.TraceID)
	if wide {
		add("at", string(r.Side)+" "+nameOfProxy(r.Proxy))
		add("host", r.Host)
		add("caller", r.Source.Identity)
		add("server", r.Destination.Identity)
		add("protocol", r.Protocol)
		add("request", r.RequestID)
	}
	return strings.Join(out, " ")
}
