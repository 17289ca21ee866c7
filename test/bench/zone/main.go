// Command zone measures one zone-cp with many proxies: how long a policy takes to the last of them, what the control
// plane uses, and what it costs when all of them come back and nothing has changed. The proxies are fakes in a process
// of their own: each enrols, attends and speaks delta ADS as an agent with its Envoy does, over real gRPC and mTLS, but
// it does nothing with what it gets. It prints a table with its conditions and one JSON line per figure, and fails if
// a limit is not kept.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var c config
	flag.StringVar(&c.role, "role", "", "internal: proxies")
	flag.StringVar(&c.bin, "bin", "bin", "folder with the programs")
	flag.IntVar(&c.proxies, "proxies", 1000, "proxies that serve something")
	flag.IntVar(&c.services, "services", 100, "services that they serve")
	flag.IntVar(&c.returning, "returning", 5000, "proxies that come back, with those that only call")
	flag.IntVar(&c.changes, "changes", 20, "changes of a policy to time")
	flag.BoolVar(&c.limits, "limits", true, "fail if a limit is not kept")
	flag.Parse()
	var err error
	if c.role == "proxies" {
		err = runProxies(ctx, os.Stdin, os.Stdout)
	} else {
		err = c.run(ctx, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench zone:", err)
		os.Exit(1)
	}
}

type config struct {
	role, bin                             string
	proxies, services, returning, changes int
	limits                                bool
}

// Limits.
const (
	maxLastACK     = 1000 // ms, from the request to the last acknowledgement, p50
	maxReturn      = 10   // s, until the last of those that come back is known to have everything
	maxReturnBytes = 100  // of configuration, to each
)

func (c config) run(ctx context.Context, out io.Writer) error {
	dir, err := os.MkdirTemp("", "comity-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{config: c, dir: dir, report: rig.NewReport(out, "zone",
		fmt.Sprintf("a zone-cp and fake proxies in another process, all on this machine; mTLS over loopback; %d services of %d proxies, each at an address of its own", c.services, c.proxies))}
	defer b.stop()
	if err := b.start(ctx); err != nil {
		return err
	}
	if err := b.measureChanges(ctx); err != nil {
		return err
	}
	if err := b.measureReturn(ctx); err != nil {
		return err
	}
	if c.limits {
		return b.report.Err()
	}
	return nil
}

// bench is a zone with its fleet.
type bench struct {
	config
	dir    string
	report *rig.Report

	zone  *rig.Server
	addr  string // of its API
	api   *client.Client
	fleet *rig.Child
	here  int // proxies so far
}

func (b *bench) stop() {
	if b.fleet != nil {
		b.fleet.Stop()
	}
	if b.zone != nil {
		b.zone.Stop()
	}
}

func (b *bench) start(ctx context.Context) error {
	var err error
	if b.addr, err = rig.FreeAddress(); err != nil {
		return err
	}
	proxies, err := rig.FreeAddress()
	if err != nil {
		return err
	}
	token := filepath.Join(b.dir, "token")
	b.zone, err = rig.Serve(ctx, filepath.Join(b.dir, "zone.log"), b.addr, filepath.Join(b.bin, "zone-cp"), "serve", "--zone", "bench", "--trust-domain", "bench.example",
		"--data-dir", filepath.Join(b.dir, "zone"), "--listen-api", b.addr, "--listen-proxies", proxies, "--admin-token-file", token, "--lease", "10m")
	if err != nil {
		return err
	}
	if b.api, err = rig.Connect(b.addr, token); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if b.fleet, err = rig.Start(self, "-role", "proxies"); err != nil {
		return err
	}
	idle := rig.Of(b.zone.PID())
	if err := b.makeServices(ctx); err != nil {
		return err
	}
	if err := b.add(ctx, b.proxies, true); err != nil {
		return err
	}
	now := rig.Of(b.zone.PID())
	b.report.Note("%d proxies enrolled, attending and configured; load average %s", b.here, rig.Load())
	b.report.Figure("zone-cold-cpu", "CPU of the zone-cp for each, enrolment and certificate included", millis(now.CPU-idle.CPU)/float64(b.here), "ms")
	b.report.Figure("zone-rss", fmt.Sprintf("RSS of the zone-cp with %d proxies", b.here), now.RSS/1e6, "MB")
	b.report.Figure("zone-rss-per-proxy", "of which for each", (now.RSS-idle.RSS)/1024/float64(b.here), "KiB")
	return nil
}

func (b *bench) makeServices(ctx context.Context) error {
	var doc bytes.Buffer
	for i := range b.services {
		fmt.Fprintf(&doc, "---\n{apiVersion: v1, kind: Service, metadata: {namespace: shop, name: service-%d}, spec: {selector: {app: app-%d}, ports: [{port: 8080, appProtocol: http}]}}\n", i, i)
	}
	fmt.Fprintf(&doc, policy, 0)
	_, err := b.api.Apply(ctx, doc.Bytes(), client.ApplyOptions{})
	return err
}

// policy concerns every proxy that serves something.
const policy = `---
apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: bench}
spec:
  action: Deny
  rules:
  - to: [{paths: [/bench-%d]}]
`

// group is some proxies that enrol with one token.
type group struct {
	Token string `json:"token"`
	Name  string `json:"name"`  // beginning of their names
	First int    `json:"first"` // number of the first, of all proxies
	Count int    `json:"count"`
}

// add makes proxies that serve, spread over the services, or that only call; and waits until each has its
// configuration.
func (b *bench) add(ctx context.Context, n int, serve bool) error {
	var groups []group
	parts := 1
	if serve {
		parts = b.services
	}
	for i := range parts {
		name := "caller"
		if serve {
			name = fmt.Sprintf("app-%d", i)
		}
		count := (i+1)*n/parts - i*n/parts
		tok, err := b.api.CreateEnrolmentToken(ctx, client.EnrolmentTokenRequest{
			Role: mesh.RoleSidecar, Namespace: "shop", ServiceAccount: name, Labels: map[string]string{"app": name}, Limit: max(count, 1), TTLSeconds: 3600,
		})
		if err != nil {
			return err
		}
		groups = append(groups, group{tok.Token, name, b.here, count})
		b.here += count
	}
	doc, err := json.Marshal(groups)
	if err != nil {
		return err
	}
	if err := b.ask("enrol\n" + string(doc)); err != nil {
		return err
	}
	if err := b.quiet(ctx); err != nil {
		return err
	}
	return b.connect(ctx, "connect", n)
}

// connect opens streams, and waits until the zone knows of each that it has everything.
func (b *bench) connect(ctx context.Context, order string, streams int) error {
	before, err := b.settled(ctx)
	if err != nil {
		return err
	}
	if err := b.ask(order); err != nil {
		return err
	}
	return b.until(ctx, func() (bool, error) {
		now, err := b.settled(ctx)
		return now-before >= float64(streams), err
	})
}

// settled counts how often a proxy has acknowledged a configuration in full.
func (b *bench) settled(ctx context.Context) (float64, error) {
	return rig.Counters(ctx, b.addr, "comity_xds_acks_total")
}

func (b *bench) until(ctx context.Context, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the zone: %w", ctx.Err())
		}
	}
}

// quiet waits until the zone uses no CPU to speak of.
func (b *bench) quiet(ctx context.Context) error {
	last, same := time.Duration(-1), 0
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	return b.until(ctx, func() (bool, error) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false, ctx.Err()
		}
		now := rig.Of(b.zone.PID()).CPU
		if same++; now-last > 20*time.Millisecond {
			same = 0
		}
		last = now
		return same == 3, nil
	})
}

// ask gives the fleet an order.
func (b *bench) ask(order string) error {
	var a struct {
		Error string `json:"error"`
	}
	if err := b.fleet.Ask(order, &a); err != nil {
		return err
	}
	if a.Error != "" {
		return errors.New(a.Error)
	}
	return nil
}

func millis(d time.Duration) float64 { return d.Seconds() * 1000 }

// measureChanges changes the policy, each time when the last proxy has acknowledged the change before.
func (b *bench) measureChanges(ctx context.Context) error {
	if err := b.quiet(ctx); err != nil {
		return err
	}
	var rest, acked []float64
	zone, fleet := rig.Of(b.zone.PID()), rig.Of(b.fleet.PID())
	for i := range b.changes {
		one, cancel := context.WithTimeout(ctx, time.Minute)
		begin := time.Now()
		res, err := b.api.Apply(one, fmt.Appendf(nil, policy, i+1), client.ApplyOptions{})
		if err != nil {
			cancel()
			return err
		}
		rest = append(rest, millis(time.Since(begin)))
		var last client.Progress
		err = b.api.Follow(one, res.Revision, func(p client.Progress) bool { last = p; return p.Done })
		acked = append(acked, millis(time.Since(begin)))
		cancel()
		if err != nil {
			return err
		}
		if last.Acked != b.proxies {
			return fmt.Errorf("the policy concerned %d proxies of %d", last.Acked, b.proxies)
		}
	}
	zoneNow, fleetNow := rig.Of(b.zone.PID()), rig.Of(b.fleet.PID())
	n := float64(b.changes)
	b.report.Note("%d changes of one policy that concerns %d proxies; load average %s", b.changes, b.proxies, rig.Load())
	b.report.Figure("zone-rest-p50", "REST call, p50", rig.At(rest, 50), "ms")
	b.report.Limit("zone-last-ack-p50", "request to last acknowledgement, p50", rig.At(acked, 50), "ms", maxLastACK)
	b.report.Figure("zone-last-ack-max", "the slowest", rig.At(acked, 100), "ms")
	b.report.Figure("zone-change-cpu", "CPU of the zone-cp for each change", millis(zoneNow.CPU-zone.CPU)/n, "ms")
	b.report.Figure("zone-change-fleet-cpu", "CPU of the fake proxies for each change", millis(fleetNow.CPU-fleet.CPU)/n, "ms")
	b.report.Figure("zone-change-rss", "RSS of the zone-cp afterwards", zoneNow.RSS/1e6, "MB")
	return nil
}

// measureReturn has all proxies, and many more that only call, lose their streams and come back.
func (b *bench) measureReturn(ctx context.Context) error {
	if more := b.returning - b.here; more > 0 {
		if err := b.add(ctx, more, false); err != nil {
			return err
		}
	}
	if err := b.quiet(ctx); err != nil {
		return err
	}
	if err := b.ask("disconnect"); err != nil {
		return err
	}
	if err := b.quiet(ctx); err != nil {
		return err
	}
	sent, err := rig.Counters(ctx, b.addr, "comity_xds_sent_bytes_total")
	if err != nil {
		return err
	}
	zone, fleet := rig.Of(b.zone.PID()), rig.Of(b.fleet.PID())
	begin := time.Now()
	if err := b.connect(ctx, "connect", b.here); err != nil {
		return err
	}
	took := time.Since(begin)
	zoneNow, fleetNow := rig.Of(b.zone.PID()), rig.Of(b.fleet.PID())
	sentNow, err := rig.Counters(ctx, b.addr, "comity_xds_sent_bytes_total")
	if err != nil {
		return err
	}
	n := float64(b.here)
	b.report.Note("%d proxies come back and nothing has changed; load average %s", b.here, rig.Load())
	b.report.Limit("zone-return-wall", "until the last is known to have everything", took.Seconds(), "s", maxReturn)
	b.report.Limit("zone-return-bytes", "bytes of configuration sent to each", (sentNow-sent)/n, "B", maxReturnBytes)
	b.report.Figure("zone-return-cpu", "CPU of the zone-cp for each, mTLS handshake included", millis(zoneNow.CPU-zone.CPU)/n, "ms")
	b.report.Figure("zone-return-fleet-cpu", "CPU of the fakes for each", millis(fleetNow.CPU-fleet.CPU)/n, "ms")
	b.report.Figure("zone-return-rss", fmt.Sprintf("RSS of the zone-cp with %d proxies", b.here), zoneNow.RSS/1e6, "MB")
	return nil
}
