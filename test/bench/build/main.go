// Command build measures what it costs a zone control plane to build the configuration of 1,000 proxies of 20 kinds and
// 100 services with policies of every kind, from nothing and for one change. It runs the Go benchmark Fleet of
// zone-cp/internal/publish, whose comments say what is in it. It prints a table with its conditions and one JSON line per
// figure, and fails if a limit is not kept.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var c config
	flag.IntVar(&c.times, "times", 10, "how often each is done in a turn")
	flag.IntVar(&c.turns, "turns", 3, "turns, of which the median counts")
	flag.BoolVar(&c.limits, "limits", true, "fail if a limit is not kept")
	flag.Parse()
	if err := c.run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench build:", err)
		os.Exit(1)
	}
}

type config struct {
	times, turns int
	limits       bool
}

// result is one line of Go's benchmarks: values by unit.
type result struct {
	name   string
	values map[string]float64
}

func (c config) run(ctx context.Context, out io.Writer) error {
	report := rig.NewReport(out, "build", fmt.Sprintf("one process, the real publisher up to the views of the xDS server; %d times each, median of %d turns", c.times, c.turns))
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkFleet$", "-count", strconv.Itoa(c.turns),
		"-benchtime", strconv.Itoa(c.times)+"x", "./zone-cp/internal/publish")
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, text)
	}
	var order []string
	all := map[string]map[string][]float64{}
	for _, r := range parse(text) {
		if all[r.name] == nil {
			order, all[r.name] = append(order, r.name), map[string][]float64{}
		}
		for unit, v := range r.values {
			all[r.name][unit] = append(all[r.name][unit], v)
		}
	}
	marshal := rig.At(all["marshal"]["cpu-ns/op"], 50)
	if marshal == 0 {
		return fmt.Errorf("the benchmark did not report what it should:\n%s", text)
	}
	report.Note("after it: load average %s", rig.Load())
	for _, name := range order {
		of := func(unit string) float64 { return rig.At(all[name][unit], 50) }
		report.Figure("build-"+name+"-cpu", titles[name]+", CPU", of("cpu-ns/op")/1e6, "ms")
		report.Figure("build-"+name+"-bytes", "    allocated", of("B/op")/1e6, "MB")
		report.Figure("build-"+name+"-allocs", "    allocations", of("allocs/op"), "")
		if most, ok := limits[name]; ok {
			report.Limit("build-"+name+"-ratio", "    CPU beside marshalling everything once", of("cpu-ns/op")/marshal, "", most)
		}
	}
	if c.limits {
		return report.Err()
	}
	return nil
}

// titles say what each benchmark does.
var titles = map[string]string{
	"marshal":       "protobuf alone: every message of every view, once",
	"cold":          "everything from nothing",
	"authorization": "an AuthorizationPolicy that concerns 50 proxies",
	"route":         "an HTTPRoute that concerns all 1,000",
	"traffic":       "a TrafficPolicy that concerns all 1,000",
	"mesh-wide":     "an AuthorizationPolicy of the mesh: every port of all 1,000",
}

// limits are of CPU beside marshalling everything once: half as much again as was measured on a machine that others used too, where
// the same build gave 15 % more or less from turn to turn (35, 1.7, 3.9, 3.7 and 4.7).
var limits = map[string]float64{"cold": 52, "authorization": 2.6, "route": 6, "traffic": 6, "mesh-wide": 7}

// parse reads what `go test -bench` prints: BenchmarkFleet/name-2  20  123 ns/op  456 B/op ...
func parse(text []byte) (out []result) {
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) < 4 || !strings.HasPrefix(f[0], "BenchmarkFleet/") {
			continue
		}
		name := strings.TrimPrefix(f[0], "BenchmarkFleet/")
		if i := strings.LastIndexByte(name, '-'); i > 0 { // the number of CPUs
			name = name[:i]
		}
		r := result{name, map[string]float64{}}
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				r.values[f[i+1]] = v
			}
		}
		out = append(out, r)
	}
	return out
}
