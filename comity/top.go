package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/signals"
	"github.com/comity-mesh/comity/mesh"
)

// What top shows.
const (
	topServices = "services"
	topPairs    = "pairs"
	topProxies  = "proxies"
)

// topFlags are what a person says of a top.
type topFlags struct {
	what, namespace, service, sort string
	zones                          []string
	every                          time.Duration
	once                           bool
	limit                          int
}

func (s *shell) topCommand() *cobra.Command {
	f := topFlags{what: topServices}
	cmd := &cobra.Command{
		Use:   "top [services|pairs|proxies]",
		Short: "Show how much passes between services, how well and how fast",
		Long: `top shows requests a second, the share that succeeded, and the durations below which half, 95 and 99 of a hundred of them were; of TCP,
connections and bytes. Each of --every it counts anew; on a terminal it stays and shows that. It asks the proxies themselves for what they
tell Prometheus (comity_requests_total and its kin), so the numbers are the same, and no Prometheus need be there.

  services   what arrives at each service in each zone, as its servers count
  pairs      who asks whom, from which zone in which, as clients and gateways count: a request that never arrives is among them
  proxies    the same by each proxy, what it serves and what it asks

A request succeeded unless its answer was 5xx, there was none, or it was one of gRPC with a status that blames the server. Zones and proxies
that don't answer are named on standard error.`,
		Example: `  comity top
  comity top pairs -n shop --zone west --sort failed
  comity top proxies --service pay --once -o json`,
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{topServices, topPairs, topProxies},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				f.what = args[0]
			}
			return s.top(cmd.Context(), f)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.namespace, "namespace", "n", "", "only services of this namespace")
	fl.StringVar(&f.service, "service", "", "only this service")
	fl.StringSliceVar(&f.zones, "zone", nil, "only what the proxies of these zones tell")
	fl.DurationVar(&f.every, "every", time.Second, "over which time is counted")
	fl.BoolVar(&f.once, "once", false, "count once and end")
	fl.StringVar(&f.sort, "sort", "requests", "requests, failed, p99 or name")
	fl.IntVar(&f.limit, "limit", 0, "at most so many rows (default: all; on a terminal what fits)")
	must(cmd.RegisterFlagCompletionFunc("namespace", s.completeNamespace))
	must(cmd.RegisterFlagCompletionFunc("zone", s.completeZones))
	must(cmd.RegisterFlagCompletionFunc("service", s.completeServiceFlag))
	must(cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(slices.Sorted(maps.Keys(topOrders())), cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// errShown ends a top that was to be shown once.
var errShown = errors.New("shown")

func (s *shell) top(ctx context.Context, f topFlags) error {
	if f.every < mesh.TopMinInterval || f.every > mesh.TopMaxInterval {
		return usage("--every is from %s to %s", mesh.TopMinInterval, mesh.TopMaxInterval)
	}
	order, ok := topOrders()[f.sort]
	if !ok {
		return usage("--sort is one of %s", strings.Join(slices.Sorted(maps.Keys(topOrders())), ", "))
	}
	r, err := s.remote()
	if err != nil {
		return err
	}
	v := &topView{shell: s, flags: f, order: order, zones: map[string]mesh.Flows{}, fresh: map[string]bool{}, said: map[string]bool{}}
	if out, isFile := s.out.(*os.File); isFile && s.output == formatTable && !f.once {
		v.tty = term.IsTerminal(int(out.Fd()))
		if _, height, err := term.GetSize(int(out.Fd())); err == nil && v.tty && v.flags.limit == 0 {
			v.flags.limit = max(height-3, 1)
		}
	}
	for {
		err = r.Top(ctx, f.zones, mesh.Top{Milliseconds: int(f.every.Milliseconds()), ByProxy: f.what == topProxies}, v.event)
		switch {
		case errors.Is(err, errShown), errors.Is(err, context.Canceled):
			return nil
		case err != nil:
			return err
		case f.once:
			return v.nothing()
		}
		// The server ends what lasts too long; whoever still looks asks again.
		if len(v.zones) == 0 {
			return v.nothing()
		}
	}
}

// topView shows what zones tell.
type topView struct {
	*shell
	flags topFlags
	order func(a, b topRow) int
	tty   bool
	zones map[string]mesh.Flows // that have counted
	fresh map[string]bool       // zones that were heard, and whether they have counted since it was shown
	said  map[string]bool       // problems
}

// event takes what a zone tells, and shows all once every zone that was heard has counted.
func (v *topView) event(f mesh.Flows) error {
	for _, p := range f.Problems {
		text := f.Zone + ": " + strings.TrimSpace(nameOfProxy(p.Proxy)+" "+p.Reason)
		if !v.said[text] {
			v.said[text] = true
			v.say("%s", clean(text))
		}
	}
	switch {
	case f.Milliseconds > 0:
		v.zones[f.Zone], v.fresh[f.Zone] = f, true
	case f.Proxies == 0 && len(f.Problems) > 0 && f.Problems[0].Proxy == "": // the zone does not count
		delete(v.zones, f.Zone)
		delete(v.fresh, f.Zone)
	default:
		v.fresh[f.Zone] = false
	}
	for _, counted := range v.fresh {
		if !counted {
			return nil
		}
	}
	if len(v.zones) == 0 {
		return nil
	}
	for z := range v.fresh {
		v.fresh[z] = false
	}
	if err := v.show(); err != nil {
		return err
	}
	if v.flags.once {
		return errShown
	}
	return nil
}

func (v *topView) nothing() error {
	return &fault.Error{Code: "TOP-NOBODY", What: "no zone tells what passes", Cause: clean(strings.Join(slices.Sorted(maps.Keys(v.said)), "\n")),
		Try: "comity get zones shows which are connected", Exit: fault.ExitUnreachable}
}

// topRow is one line: rates are a second, durations in milliseconds.
type topRow struct {
	Zone            string  `json:"zone"` // of who counts
	Proxy           string  `json:"proxy,omitempty"`
	Reporter        string  `json:"reporter"`
	Source          string  `json:"source,omitempty"`
	SourceZone      string  `json:"sourceZone,omitempty"`
	Destination     string  `json:"destination,omitempty"`
	DestinationZone string  `json:"destinationZone,omitempty"`
	Seconds         float64 `json:"seconds"`  // over which was counted
	Count           uint64  `json:"count"`    // requests in that time
	Failed          uint64  `json:"failed"`   // of them
	Requests        float64 `json:"requests"` // a second
	// Success is the share that succeeded, absent if there was no request, as are the durations.
	Success     *float64 `json:"success,omitempty"`
	P50         *float64 `json:"p50Ms,omitempty"`
	P95         *float64 `json:"p95Ms,omitempty"`
	P99         *float64 `json:"p99Ms,omitempty"`
	Connections float64  `json:"connections"` // of TCP
	Open        uint64   `json:"open"`
	Bytes       float64  `json:"bytes"` // of TCP, both ways
}

func topOrders() map[string]func(a, b topRow) int {
	value := func(p *float64) float64 {
		if p == nil {
			return -1
		}
		return *p
	}
	return map[string]func(a, b topRow) int{
		"requests": func(a, b topRow) int {
			return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(b.Bytes, a.Bytes), byName(a, b))
		},
		"failed": func(a, b topRow) int { return cmp.Or(cmp.Compare(b.Failed, a.Failed), byName(a, b)) },
		"p99":    func(a, b topRow) int { return cmp.Or(cmp.Compare(value(b.P99), value(a.P99)), byName(a, b)) },
		"name":   byName,
	}
}

func byName(a, b topRow) int {
	return slices.Compare([]string{a.Destination, a.DestinationZone, a.Source, a.SourceZone, a.Zone, a.Proxy, a.Reporter}, []string{b.Destination, b.DestinationZone, b.Source, b.SourceZone, b.Zone, b.Proxy, b.Reporter})
}

// rows adds up what the zones told.
func (v *topView) rows() []topRow {
	type key struct {
		zone string
		flow mesh.FlowKey
	}
	sums := map[key]*mesh.Flow{}
	for zone, of := range v.zones {
		for _, f := range of.Flows {
			k, ok := v.key(f.FlowKey)
			if !ok {
				continue
			}
			at := key{zone, k}
			if sums[at] == nil {
				sums[at] = &mesh.Flow{FlowKey: k}
			}
			sums[at].Add(f)
		}
	}
	out := []topRow{}
	for k, f := range sums {
		out = append(out, rowOf(k.zone, float64(v.zones[k.zone].Milliseconds)/1000, *f))
	}
	slices.SortFunc(out, v.order)
	if n := v.flags.limit; n > 0 && len(out) > n {
		out = out[:n]
	}
	return out
}

// key is what a flow is added up under; ok is false for one that is not shown.
func (v *topView) key(k mesh.FlowKey) (mesh.FlowKey, bool) {
	if n := v.flags.namespace; n != "" && k.DestinationNamespace != n || v.flags.service != "" && k.Destination != v.flags.service {
		return k, false
	}
	switch v.flags.what {
	case topServices:
		return mesh.FlowKey{
			Reporter: k.Reporter, Destination: k.Destination, DestinationNamespace: k.DestinationNamespace, DestinationZone: k.DestinationZone,
		}, k.Reporter == signals.Server
	case topPairs:
		k.Protocol = ""
		return k, k.Reporter != signals.Server
	default:
		return mesh.FlowKey{Proxy: k.Proxy, Reporter: k.Reporter}, true
	}
}

func rowOf(zone string, seconds float64, f mesh.Flow) topRow {
	r := topRow{Zone: zone, Reporter: f.Reporter, DestinationZone: f.DestinationZone, SourceZone: f.SourceZone, Seconds: seconds, Open: f.Open}
	if f.Proxy != "" {
		r.Proxy = nameOfProxy(f.Proxy)
	}
	if f.Destination != "" {
		r.Destination = f.DestinationNamespace + "/" + f.Destination
	}
	if f.Source != "" {
		r.Source = f.SourceNamespace + "/" + f.Source
	}
	for class, n := range f.Requests {
		r.Count += n
		if class == "5xx" || class == signals.None {
			r.Failed += n
		}
	}
	for status, n := range f.GRPCErrors {
		if slices.Contains([]string{"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}, status) {
			r.Failed += n
		}
	}
	r.Failed = min(r.Failed, r.Count)
	r.Requests, r.Connections, r.Bytes = float64(r.Count)/seconds, float64(f.Connections)/seconds, float64(f.Sent+f.Received)/seconds
	if r.Count > 0 {
		share := 1 - float64(r.Failed)/float64(r.Count)
		r.Success = &share
	}
	r.P50, r.P95, r.P99 = quantile(f, 0.50), quantile(f, 0.95), quantile(f, 0.99)
	return r
}

// quantile is the duration in milliseconds below which a share of the requests were, nil for none: within its bucket in
// proportion, as Prometheus' histogram_quantile has it.
func quantile(f mesh.Flow, share float64) *float64 {
	var all, below uint64
	for _, n := range f.Durations {
		all += n
	}
	if all == 0 || len(f.Bounds) == 0 {
		return nil
	}
	rank := share * float64(all)
	out := f.Bounds[len(f.Bounds)-1] * 1000 // no more is known of what is beyond all bounds
	from := 0.0
	for i, bound := range f.Bounds {
		n := f.Durations[i]
		if n > 0 && float64(below+n) >= rank {
			out = (from + (bound-from)*(rank-float64(below))/float64(n)) * 1000
			break
		}
		below += n
		from = bound
	}
	return &out
}

func (v *topView) show() error {
	rows := v.rows()
	switch v.output {
	case formatJSON, formatYAML:
		if v.flags.once {
			_, err := writeValue(v.out, v.output, map[string]any{"items": rows})
			return err
		}
		return json.NewEncoder(v.out).Encode(map[string]any{"time": time.Now().UTC(), "items": rows})
	}
	var page bytes.Buffer
	if err := v.table(rows).write(&page, v.output, true); err != nil {
		return err
	}
	if v.tty {
		_, _ = io.WriteString(v.out, "\x1b[H\x1b[2J") // what can't be cleared is shown below
	}
	_, err := v.out.Write(page.Bytes())
	return err
}

func (v *topView) table(rows []topRow) table {
	var t table
	switch v.flags.what {
	case topServices:
		t.columns = []string{"SERVICE", "ZONE"}
	case topPairs:
		t.columns = []string{"FROM", "TO"}
	default:
		t.columns = []string{"PROXY", "ZONE", "SIDE"}
	}
	t.columns = append(t.columns, "REQ/S", "SUCCESS", "P50", "P95", "P99", "CONN/S", "OPEN", "BYTES/S")
	for _, r := range rows {
		var line []string
		switch v.flags.what {
		case topServices:
			line = []string{r.Destination, r.DestinationZone}
		case topPairs:
			line = []string{r.Source + "@" + r.SourceZone, r.Destination + "@" + r.DestinationZone}
		default:
			line = []string{r.Proxy, r.Zone, r.Reporter}
		}
		success := "-"
		if r.Success != nil {
			success = fmt.Sprintf("%.2f%%", *r.Success*100)
		}
		t.rows = append(t.rows, append(line, fmt.Sprintf("%.1f", r.Requests), success, took(r.P50), took(r.P95), took(r.P99),
			fmt.Sprintf("%.1f", r.Connections), fmt.Sprint(r.Open), fmt.Sprintf("%.0f", r.Bytes)))
	}
	return t
}

// took writes milliseconds.
func took(ms *float64) string {
	if ms == nil {
		return "-"
	}
	return fmt.Sprintf("%.1fms", *ms)
}
