// Command demo measures the demo as a stranger would run it: how long until a request crosses zones, what
// the whole mesh holds in memory and uses when idle, and how long a change at global takes to the last
// Envoy's acknowledgement. It prints a table with its conditions and one JSON line per figure.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	bin := flag.String("bin", "bin", "folder with the programs")
	changes := flag.Int("changes", 100, "changes of permission to time")
	idle := flag.Duration("idle", 20*time.Second, "how long to watch the idle mesh")
	flag.Parse()
	if err := run(ctx, *bin, *changes, *idle); err != nil {
		fmt.Fprintln(os.Stderr, "bench demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string, changes int, idle time.Duration) error {
	dir, err := os.MkdirTemp("", "comity-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	report := rig.NewReport(os.Stdout, "demo", "the demo as a stranger runs it")
	d, err := start(ctx, bin, filepath.Join(dir, "demo"))
	if err != nil {
		return err
	}
	defer d.stop()
	report.Figure("demo-start", "first cross-zone 200 after", d.up.Seconds(), "s")
	if err := d.measureIdle(ctx, report, idle); err != nil {
		return err
	}
	if err := d.measureChanges(ctx, report, "policy", deny, changes); err != nil {
		return err
	}
	return d.measureChanges(ctx, report, "route", route, changes)
}

// running is a demo with a client of its global.
type running struct {
	cmd    *exec.Cmd
	up     time.Duration
	global *client.Client
}

func start(ctx context.Context, bin, dir string) (*running, error) {
	cmd, took, err := rig.Demo(ctx, bin, dir)
	if err != nil {
		return nil, err
	}
	d := &running{cmd: cmd, up: took}
	return d, d.connect(dir)
}

func (d *running) connect(dir string) error {
	var state struct {
		Global string `json:"global"`
	}
	// The demo writes its state right after the line that start waits for.
	deadline := time.Now().Add(5 * time.Second)
	for {
		text, err := os.ReadFile(filepath.Join(dir, "demo.json"))
		if err == nil && json.Unmarshal(text, &state) == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the demo's state: %w", err)
		}
		runtime.Gosched()
	}
	token, err := os.ReadFile(filepath.Join(dir, "tokens", "global.token"))
	if err != nil {
		return err
	}
	d.global, err = client.New(client.Config{Server: state.Global, Token: strings.TrimSpace(string(token))})
	return err
}

func (d *running) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	_ = d.cmd.Wait()
}

// measureIdle reads memory and CPU time of all the demo's processes over a span without changes.
func (d *running) measureIdle(ctx context.Context, report *rig.Report, span time.Duration) error {
	before := rig.Tree(d.cmd.Process.Pid)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(span):
	}
	after := rig.Tree(d.cmd.Process.Pid)
	for _, g := range []string{"global-cp", "zone-cp", "sidecar", "ingress", "envoy", "shop"} {
		a, b := after[g], before[g]
		report.Note("%-10s %2d processes  RSS %6.1f MB  PSS %6.1f MB  idle CPU %5.2f %% of a core", g, a.Count, a.RSS/1e6, a.PSS/1e6, (a.CPU-b.CPU).Seconds()/span.Seconds()*100)
	}
	total, was := rig.Sum(after), rig.Sum(before)
	report.Figure("demo-rss", fmt.Sprintf("RSS of all %d processes", total.Count), total.RSS/1e6, "MB")
	report.Figure("demo-pss", "of which not shared twice (PSS)", total.PSS/1e6, "MB")
	report.Figure("demo-idle-cpu", "CPU with 2 orders a second", (total.CPU-was.CPU).Seconds()/span.Seconds()*100, "% of a core")
	return nil
}

// deny is a policy of the whole namespace: it concerns every sidecar that serves something.
const deny = `apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: bench}
spec:
  action: Deny
  rules:
  - to: [{paths: [/bench-%d]}]
`

// route is a route that every sidecar knows.
const route = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {namespace: shop, name: bench}
spec:
  parentRefs: [{group: "", kind: Service, name: cart}]
  rules:
  - matches: [{headers: [{name: x-bench, value: "%d"}]}]
    backendRefs: [{name: cart, port: 8080}]
  - backendRefs: [{name: cart, port: 8080}]
`

// measureChanges changes a document n times, one after the other, and times each from the REST answer to the
// last acknowledgement.
func (d *running) measureChanges(ctx context.Context, report *rig.Report, what, document string, n int) error {
	var commit, ack []float64
	acked := 0
	before := rig.Tree(d.cmd.Process.Pid)
	for i := range n {
		begin := time.Now()
		res, err := d.global.Apply(ctx, fmt.Appendf(nil, document, i), client.ApplyOptions{})
		if err != nil {
			return err
		}
		answered := time.Now()
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		var last client.Progress
		err = d.global.Follow(one, res.Revision, func(p client.Progress) bool { last = p; return p.Done })
		cancel()
		if err != nil {
			return err
		}
		commit = append(commit, answered.Sub(begin).Seconds()*1000)
		ack = append(ack, time.Since(answered).Seconds()*1000)
		acked = last.Acked
	}
	after := rig.Tree(d.cmd.Process.Pid)
	for _, g := range []string{"global-cp", "zone-cp", "sidecar", "ingress", "envoy"} {
		report.Note("%-10s CPU %6.2f ms per change", g, (after[g].CPU-before[g].CPU).Seconds()*1000/float64(n))
	}
	report.Note("%d changes of a %s that concerns %d Envoys in 3 zones; load average %s", n, what, acked, rig.Load())
	report.Figure(what+"-rest-p50", "REST call, p50", rig.At(commit, 50), "ms")
	report.Figure(what+"-last-ack-p50", "REST answer to last ACK, p50", rig.At(ack, 50), "ms")
	report.Figure(what+"-last-ack-p99", "REST answer to last ACK, p99", rig.At(ack, 99), "ms")
	return nil
}
