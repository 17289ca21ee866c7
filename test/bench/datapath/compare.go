package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/comity-mesh/comity/test/bench/datapath/internal/load"
	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

// mode is a way in which requests go, and what is measured of it.
type mode struct {
	name, text string
	protocol   string
	// middle is what stands between two zones; otherwise the two sidecars are measured.
	middle bool
	ours   func(m *ours, last string) (address, host string, hops []string, err error) // last: a or b
}

// order opens 64 requests at a time: as many connections of HTTP/1.1, or 8 of HTTP/2.
func (m mode) order(address, host string) load.Order {
	o := load.Order{Protocol: m.protocol, Address: address, Host: host, Path: "/", Connections: 64, Streams: 1}
	switch m.protocol {
	case load.HTTP2:
		o.Connections, o.Streams = 8, 8
	case load.GRPC:
		o.Connections, o.Streams, o.Path = 8, 8, "/bench.Echo/Say"
	}
	return o
}

func sidecars(service, port string) func(m *ours, last string) (string, string, []string, error) {
	return func(m *ours, last string) (string, string, []string, error) {
		return m.proxies["web-"+last].Outbound, host(service+last) + port, []string{"web-" + last, "echo-" + last}, nil
	}
}

const middleMode = "zones"

// modes are in the order of the ports that a lean pair listens on.
var modes = []mode{
	{name: "http1", text: "HTTP/1.1 outside, HTTP/2 between", protocol: load.HTTP1, ours: sidecars("echo-", "")},
	{name: "http2", text: "HTTP/2 end to end", protocol: load.HTTP2, ours: sidecars("echo-", ":81")},
	{name: "grpc", text: "gRPC", protocol: load.GRPC, ours: sidecars("echo-", ":9090")},
	{name: "l4", text: "`layer: l4`, HTTP/1.1", protocol: load.HTTP1, ours: sidecars("wire-", "")},
	{name: "tcp", text: "TCP port, HTTP/1.1 in it", protocol: load.HTTP1, ours: func(m *ours, last string) (string, string, []string, error) {
		address, err := m.upstream("web-" + last)
		return address, "echo", []string{"web-" + last, "echo-" + last}, err
	}},
	{name: middleMode, text: "middle hop between zones, HTTP/2 in it", protocol: load.HTTP1, middle: true, ours: func(m *ours, last string) (string, string, []string, error) {
		return m.proxies["web-"+last].Outbound, host("pay"), []string{"gate"}, nil
	}},
	// Beside it an Envoy written by hand, between sidecars that are ours too: how much passes at a time is for them to say.
}

// contestants of every mode. There are two lean pairs and two of ours, so that what differs between processes that do the same is known.
const (
	leanA, leanB           = "lean-a", "lean-b"
	oursA, oursB           = "ours-a", "ours-b"
	alike, nginx, straight = "same", "nginx", "direct"
)

// ourWays are those of a pair of ours.
func (m *ours) ways(last string) (map[string]way, error) {
	out := map[string]way{}
	for _, mode := range modes {
		address, host, hops, err := mode.ours(m, last)
		if err != nil {
			return nil, err
		}
		w := way{Order: mode.order(address, host)}
		for _, h := range hops {
			w.hops = append(w.hops, m.proxies[h].EnvoyPID)
		}
		out[mode.name] = w
	}
	return out, nil
}

// handWritten is the way between zones through the Envoy that isn't ours, for one of the lean pairs.
func (m *ours) handWritten(name string) way {
	web := "web-" + strings.TrimPrefix(name, "lean-")
	last := modes[len(modes)-1]
	return way{Order: last.order(m.proxies[web].Outbound, host("till")), hops: []int{m.middle.pid()}}
}

// directWays have nobody between.
func directWays(app load.App) map[string]way {
	out := map[string]way{}
	for _, mode := range modes {
		port := map[string]uint16{load.HTTP1: app.HTTP1, load.HTTP2: app.HTTP2, load.GRPC: app.GRPC}[mode.protocol]
		out[mode.name] = way{Order: mode.order(fmt.Sprintf("127.0.0.1:%d", port), "direct")}
	}
	return out
}

// slice is what a fixed number of requests used.
type slice struct {
	cpu  []float64 // microseconds a request, of each hop
	rate float64   // requests a second
}

// total of all hops.
func (s slice) total() float64 {
	sum := 0.0
	for _, c := range s.cpu {
		sum += c
	}
	return sum
}

// repeat does again what failed, twice at most, and remembers how often. On a machine that is too busy to shake hands in 250 ms a sidecar
// takes the other for dead, and ends connections of TCP.
func (b *bench) repeat(do func() error) error {
	err := do()
	for range 2 {
		if err == nil {
			return nil
		}
		b.repeated++
		_ = b.load(load.Order{Do: "close"}, nil) // says again what was wrong
		err = do()
	}
	return err
}

// slice opens new connections, warms them up, and measures n requests.
func (b *bench) slice(w way, n int) (slice, error) {
	open := w.Order
	open.Do, open.Requests = "open", b.warm
	if err := b.load(open, nil); err != nil {
		return slice{}, err
	}
	before, err := used(w.hops)
	if err != nil {
		return slice{}, err
	}
	var r load.Result
	if err := b.load(load.Order{Do: "run", Requests: n}, &r); err != nil {
		return slice{}, err
	}
	after, err := used(w.hops)
	if err != nil {
		return slice{}, err
	}
	s := slice{rate: float64(n) / r.Seconds}
	for i := range after {
		s.cpu = append(s.cpu, (after[i]-before[i])/float64(n))
	}
	return s, b.load(load.Order{Do: "close"}, nil)
}

// used is the CPU of processes so far, in microseconds.
func used(pids []int) ([]float64, error) {
	out := make([]float64, len(pids))
	for i, pid := range pids {
		cpu, err := rig.CPU(pid)
		if err != nil {
			return nil, err
		}
		out[i] = float64(cpu.Nanoseconds()) / 1000
	}
	return out, nil
}

// paced is what a fixed rate showed, by round: latencies, and microseconds of CPU for a request and hop.
type paced struct{ p50, p99, cpu []float64 }

// comparison is what was measured of a mode, by contestant.
type comparison struct {
	mode   mode
	slices map[string][]slice
	paced  map[string]*paced
}

// compare measures every mode in rounds: in each, every contestant of every mode has one slice, in random order.
func (b *bench) compare(ctx context.Context) ([]comparison, error) {
	type turn struct {
		mode int
		name string
	}
	var turns []turn
	var out []comparison
	for _, m := range modes {
		if b.modes != "" && !slices.Contains(strings.Split(b.modes, ","), m.name) {
			continue
		}
		i := len(out)
		out = append(out, comparison{m, map[string][]slice{}, map[string]*paced{}})
		for name, ways := range b.contestants {
			if _, ok := ways[m.name]; ok {
				turns = append(turns, turn{i, name})
				out[i].paced[name] = &paced{}
			}
		}
	}
	for round := range b.rounds {
		if round > 0 && b.spent(compareUntil) {
			break
		}
		rand.Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
		for _, t := range turns {
			if t.name == straight && round%4 > 0 {
				continue // nothing is compared with it
			}
			c := &out[t.mode]
			w := b.contestants[t.name][c.mode.name]
			var s slice
			err := b.repeat(func() (err error) { s, err = b.slice(w, b.requests); return err })
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", c.mode.name, t.name, err)
			}
			c.slices[t.name] = append(c.slices[t.name], s)
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
	}
	for round := range b.pacedRounds {
		if round > 0 && b.spent(paceUntil) {
			break
		}
		rand.Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
		for _, t := range turns {
			if t.name == alike {
				continue // a second each, and its latency says nothing that its CPU doesn't
			}
			c := &out[t.mode]
			w := b.contestants[t.name][c.mode.name]
			var r load.Result
			var cpu float64
			err := b.repeat(func() (err error) { r, cpu, err = b.pace(w); return err })
			if err != nil {
				return nil, fmt.Errorf("%s, %s at a rate: %w", c.mode.name, t.name, err)
			}
			p := c.paced[t.name]
			p.p50, p.p99 = append(p.p50, r.P50), append(p.p99, r.P99)
			if len(w.hops) > 0 {
				p.cpu = append(p.cpu, cpu/float64(b.rate*len(w.hops)))
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// pace makes requests at the fixed rate for a second, and returns the microseconds of CPU of all hops, too.
func (b *bench) pace(w way) (r load.Result, cpu float64, err error) {
	open := w.Order
	open.Do, open.Requests = "open", b.warm
	if err := b.load(open, nil); err != nil {
		return r, 0, err
	}
	before, err := used(w.hops)
	if err != nil {
		return r, 0, err
	}
	if err := b.load(load.Order{Do: "pace", Requests: b.rate, Rate: b.rate}, &r); err != nil {
		return r, 0, err
	}
	after, err := used(w.hops)
	if err != nil {
		return r, 0, err
	}
	for i := range after {
		cpu += after[i] - before[i]
	}
	return r, cpu, b.load(load.Order{Do: "close"}, nil)
}

// perHop are a contestant's microseconds a request and hop, by round.
func (c comparison) perHop(name string) []float64 {
	var out []float64
	for _, s := range c.slices[name] {
		out = append(out, s.total()/float64(len(s.cpu)))
	}
	return out
}

// hops are a contestant's microseconds a request, of each hop.
func (c comparison) hops(name string) []float64 {
	var out []float64
	for i := range c.slices[name][0].cpu {
		var all []float64
		for _, s := range c.slices[name] {
			all = append(all, s.cpu[i])
		}
		out = append(out, median(all))
	}
	return out
}

// ratios are, by round, those of what a kind of pair used to what another did.
func (c comparison) ratios(of, to []string) []float64 {
	sum := func(names []string, round int) float64 {
		s := 0.0
		for _, n := range names {
			s += c.slices[n][round].total()
		}
		return s / float64(len(names))
	}
	var out []float64
	for i := range c.slices[of[0]] {
		out = append(out, sum(of, i)/sum(to, i))
	}
	return out
}

// of both pairs of a kind.
func (c comparison) both(of func(name string) []float64, a, b string) float64 {
	return mean(median(of(a)), median(of(b)))
}

func (c comparison) p50(name string) []float64 { return c.paced[name].p50 }
func (c comparison) p99(name string) []float64 { return c.paced[name].p99 }
func (c comparison) cpu(name string) []float64 { return c.paced[name].cpu }

// pacedRatio is ours to lean of CPU at the fixed rate, by round.
func (c comparison) pacedRatio() estimate {
	var out []float64
	for i := range c.cpu(oursA) {
		out = append(out, mean(c.cpu(oursA)[i], c.cpu(oursB)[i])/mean(c.cpu(leanA)[i], c.cpu(leanB)[i]))
	}
	return estimateOf(out)
}

// ratio is ours to lean, and the two controls: a pair to another that is the same.
func (c comparison) ratio() (ours, leanControl, oursControl estimate) {
	return estimateOf(c.ratios([]string{oursA, oursB}, []string{leanA, leanB})), estimateOf(c.ratios([]string{leanB}, []string{leanA})), estimateOf(c.ratios([]string{oursB}, []string{oursA}))
}

// ratioAlike is ours to the pair that is asked for the same; ok says that the mode has one.
func (c comparison) ratioAlike() (ours estimate, ok bool) {
	if len(c.slices[alike]) == 0 {
		return estimate{}, false
	}
	return estimateOf(c.ratios([]string{oursA, oursB}, []string{alike})), true
}

// report prints what there is to know, and the limits.
func (b *bench) reportModes(all []comparison) {
	if b.repeated > 0 {
		b.report.Note("%d slices failed and were repeated", b.repeated)
	}
	for _, c := range all {
		ours, lean, own := c.ratio()
		name := "datapath-" + c.mode.name
		b.report.Note("%s", c.mode.text)
		b.report.Figure(name+"-lean", "  lean pair, CPU of a request and hop", c.both(c.perHop, leanA, leanB), "us")
		b.report.Figure(name+"-ours", "  ours", c.both(c.perHop, oursA, oursB), "us")
		if len(c.slices[nginx]) > 0 {
			b.report.Figure(name+"-nginx", "  nginx pair", median(c.perHop(nginx)), "us")
		}
		b.report.Note("    ours to lean %s; A/A: lean %s, ours %s", interval(ours), interval(lean), interval(own))
		for _, contestant := range sortedKeys(c.slices) {
			if hops := c.hops(contestant); len(hops) > 0 {
				b.report.Note("    %-8s by hop %.1f us", contestant, hops)
			}
		}
		b.report.Limit(name+"-ratio", "  ours to lean, median of rounds", ours.value, "", maxRatio)
		if ours, ok := c.ratioAlike(); ok {
			b.report.Figure(name+"-same", "  same, CPU of a request and hop", median(c.perHop(alike)), "us")
			b.report.Note("    ours to same %s", interval(ours))
			b.report.Limit(name+"-same-ratio", "  ours to same, median of rounds", ours.value, "", maxRatio)
		}
		if b.pacedRounds > 0 {
			b.report.Note("    at %d a second, p50/p99 in us: direct %.0f/%.0f, lean %.0f/%.0f, ours %.0f/%.0f; CPU of ours to lean %s", b.rate,
				median(c.p50(straight)), median(c.p99(straight)), c.both(c.p50, leanA, leanB), c.both(c.p99, leanA, leanB), c.both(c.p50, oursA, oursB), c.both(c.p99, oursA, oursB), interval(c.pacedRatio()))
		}
	}
}

func interval(e estimate) string {
	return fmt.Sprintf("%.3f (%.3f to %.3f)", e.value, e.low, e.high)
}

// modesTable is the table of docs/performance.md.
func (b *bench) modesTable(all []comparison) string {
	var t strings.Builder
	t.WriteString("| CPU of a request per hop | lean | same | ours | ours to lean (95 %) | ours to same (95 %) | A/A, lean / ours | nginx | limit, to lean |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range all {
		ours, lean, own := c.ratio()
		var asked, toAsked, other string
		if r, ok := c.ratioAlike(); ok {
			asked, toAsked = fmt.Sprintf("%.1f µs", median(c.perHop(alike))), fmt.Sprintf("**%.3f** (%.3f to %.3f)", r.value, r.low, r.high)
		}
		if len(c.slices[nginx]) > 0 {
			other = fmt.Sprintf("%.0f µs", median(c.perHop(nginx)))
		}
		verdict := "1.05: kept"
		if ours.value > maxRatio {
			verdict = "1.05: **not kept**"
		}
		fmt.Fprintf(&t, "| %s | %.1f µs | %s | %.1f µs | **%.3f** (%.3f to %.3f) | %s | %.3f / %.3f | %s | %s |\n", c.mode.text,
			c.both(c.perHop, leanA, leanB), asked, c.both(c.perHop, oursA, oursB), ours.value, ours.low, ours.high, toAsked, lean.value, own.value, other, verdict)
	}
	fmt.Fprintf(&t, "\n| at %d requests a second, p50 / p99 | direct | lean | ours | nginx | CPU per hop, lean and ours | ours to lean |\n|---|---|---|---|---|---|---|\n", b.rate)
	for _, c := range all {
		other := ""
		if c.paced[nginx] != nil {
			other = fmt.Sprintf("%.0f / %.0f µs", median(c.p50(nginx)), median(c.p99(nginx)))
		}
		fmt.Fprintf(&t, "| %s | %.0f / %.0f µs | %.0f / %.0f µs | %.0f / %.0f µs | %s | %.0f and %.0f µs | %.3f |\n", c.mode.text, median(c.p50(straight)), median(c.p99(straight)),
			c.both(c.p50, leanA, leanB), c.both(c.p99, leanA, leanB), c.both(c.p50, oursA, oursB), c.both(c.p99, oursA, oursB), other,
			c.both(c.cpu, leanA, leanB), c.both(c.cpu, oursA, oursB), c.pacedRatio().value)
	}
	fmt.Fprintf(&t, "\n`make bench ARGS=datapath`, %s: %d rounds of %d requests each.\n", b.conditions, len(all[0].slices[oursA]), b.requests)
	return t.String()
}
