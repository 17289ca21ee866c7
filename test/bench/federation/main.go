// Command federation measures one global with many zones: how long a write takes to the last of them, what global
// and a zone use when nothing happens, and what a zone that comes back costs when nothing has changed. The zones are in
// one process, with the real client, store and statements, over real gRPC and mTLS; one more is a real zone-cp. It
// prints a table with its conditions and one JSON line per figure, and fails if a limit is not kept.
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
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/pgbin"
	"github.com/comity-mesh/comity/test/bench/internal/rig"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var c config
	flag.StringVar(&c.bin, "bin", "bin", "folder with the programs")
	flag.IntVar(&c.zones, "zones", 50, "zones in one process")
	flag.IntVar(&c.exports, "exports", 2, "services that each of them exports")
	flag.IntVar(&c.proxies, "proxies", 10, "proxies that each of them reports")
	flag.IntVar(&c.policies, "policies", 200, "policies at global before anything is measured")
	flag.IntVar(&c.writes, "writes", 200, "writes to time")
	flag.DurationVar(&c.idle, "idle", 20*time.Second, "how long to watch when nothing happens")
	flag.StringVar(&c.stores, "stores", "postgres,sqlite", "global's stores, each in a run of its own")
	flag.BoolVar(&c.limits, "limits", true, "fail if a limit is not kept")
	flag.Parse()
	if err := c.run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench federation:", err)
		os.Exit(1)
	}
}

type config struct {
	bin, stores                               string
	zones, exports, proxies, policies, writes int
	idle                                      time.Duration
	limits                                    bool
}

// Limits. The first is of a write of one policy, from the request until global knows that the last zone holds it.
const (
	maxWriteP50       = 20   // ms
	maxReconnectBytes = 4096 // of one zone, both directions, without the TLS handshake and HTTP/2's own
)

func (c config) run(ctx context.Context, out io.Writer) error {
	var broken []error
	for kind := range strings.SplitSeq(c.stores, ",") {
		if err := c.runOn(ctx, out, kind); err != nil {
			broken = append(broken, fmt.Errorf("%s: %w", kind, err))
		}
	}
	return errors.Join(broken...)
}

// runOn measures with one kind of store at global.
func (c config) runOn(ctx context.Context, out io.Writer, kind string) error {
	dir, err := os.MkdirTemp("", "comity-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	report := rig.NewReport(out, "federation", fmt.Sprintf("global on %s; %d zones in one process and a zone-cp, mTLS over loopback; each zone exports %d services and reports %d proxies; %d policies",
		kind, c.zones, c.exports, c.proxies, c.policies))
	b := &bench{config: c, report: report, dir: dir}
	defer b.stop()
	if kind == "postgres" {
		if err := b.startPostgres(ctx); err != nil {
			return err
		}
	}
	for _, part := range []func(context.Context) error{b.start, b.measureIdle, b.measureWrites, b.measureReturn} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	if c.limits {
		return report.Err()
	}
	return nil
}

// bench is a global with its zones.
type bench struct {
	config
	report *rig.Report
	dir    string

	postgres   *pgbin.Server // nil: SQLite
	database   []string      // flags for it
	global     *rig.Server
	globalAPI  string // address
	federation string // address
	api        *client.Client
	zoneCP     *rig.Server
	fleet      *rig.Child
}

func (b *bench) stop() {
	if b.fleet != nil {
		b.fleet.Stop()
	}
	for _, s := range []*rig.Server{b.zoneCP, b.global} {
		if s != nil {
			s.Stop()
		}
	}
	if b.postgres != nil {
		b.postgres.Stop()
		_ = b.postgres.Remove()
	}
}

// startPostgres starts a real one as it comes: each commit waits for the disk.
func (b *bench) startPostgres(ctx context.Context) error {
	var err error
	if b.postgres, err = pgbin.Run(ctx); err != nil {
		return err
	}
	if _, err := b.postgres.Run(ctx, "createdb", "comity"); err != nil {
		return err
	}
	password := filepath.Join(b.dir, "postgres.password")
	if err := os.WriteFile(password, []byte(b.postgres.Password()), 0o600); err != nil {
		return err
	}
	b.database = []string{"--database-url", b.postgres.URL("comity"), "--database-password-file", password, "--database-migrate"}
	return nil
}

func (b *bench) start(ctx context.Context) error {
	began := time.Now()
	var err error
	if b.api, err = b.startGlobal(ctx); err != nil {
		return err
	}
	names := make([]string, b.zones)
	for i := range names {
		names[i] = fmt.Sprintf("zone-%02d", i)
	}
	if err := b.fill(ctx, slices.Concat(names, []string{"whole"})); err != nil {
		return err
	}
	if err := b.startFleet(ctx, names); err != nil {
		return err
	}
	if err := b.startZone(ctx, "whole"); err != nil {
		return err
	}
	b.report.Figure("federation-start", fmt.Sprintf("%d zones made and joined after", b.zones+1), time.Since(began).Seconds(), "s")
	return nil
}

func (b *bench) startGlobal(ctx context.Context) (*client.Client, error) {
	api, err := rig.FreeAddress()
	if err != nil {
		return nil, err
	}
	if b.federation, err = rig.FreeAddress(); err != nil {
		return nil, err
	}
	b.globalAPI = api
	token := filepath.Join(b.dir, "global.token")
	args := append([]string{
		"serve", "--data-dir", filepath.Join(b.dir, "global"), "--trust-domain", "global.bench.example", "--listen-api", api, "--listen-federation", b.federation,
		"--admin-token-file", token,
	}, b.database...)
	b.global, err = rig.Serve(ctx, filepath.Join(b.dir, "global.log"), api, filepath.Join(b.bin, "global-cp"), args...)
	if err != nil {
		return nil, err
	}
	return rig.Connect(api, token)
}

// fill makes zones and policies.
func (b *bench) fill(ctx context.Context, zones []string) error {
	var doc bytes.Buffer
	for _, z := range zones {
		fmt.Fprintf(&doc, "---\n{apiVersion: mesh.comity.dev/v1alpha1, kind: Zone, metadata: {name: %s}, spec: {namespaces: ['*']}}\n", z)
	}
	for i := range b.policies {
		fmt.Fprintf(&doc, policy, i, i)
	}
	_, err := b.api.Apply(ctx, doc.Bytes(), client.ApplyOptions{})
	return err
}

// policy is one of the resources that all zones get.
const policy = `---
apiVersion: mesh.comity.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {namespace: shop, name: policy-%d}
spec:
  action: Deny
  rules:
  - to: [{paths: [/bench-%d]}]
`

func (b *bench) startFleet(ctx context.Context, names []string) error {
	type invitation struct {
		Zone  string `json:"zone"`
		Token string `json:"token"`
	}
	var list []invitation
	for _, z := range names {
		tok, err := b.api.CreateJoinToken(ctx, z, client.JoinTokenRequest{})
		if err != nil {
			return err
		}
		list = append(list, invitation{z, tok.Token})
	}
	doc, err := json.Marshal(list)
	if err != nil {
		return err
	}
	program, err := rig.Build(b.dir, "github.com/comity-mesh/comity/zone-cp/internal/fedclient/benchzones")
	if err != nil {
		return err
	}
	if b.fleet, err = rig.Start(program); err != nil {
		return err
	}
	_, err = b.ask(fmt.Sprintf("join %s %d %d\n%s", b.dir, b.exports, b.proxies, doc))
	return err
}

// answer is what the fleet says.
type answer struct {
	Error     string  `json:"error"`
	Held      int64   `json:"held"`
	Connected int     `json:"connected"`
	CPUMicros float64 `json:"cpuMicros"`
}

func (b *bench) ask(order string) (answer, error) {
	var a answer
	err := b.fleet.Ask(order, &a)
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	return a, err
}

// startZone runs a whole zone control plane, and joins it.
func (b *bench) startZone(ctx context.Context, name string) error {
	api, err := rig.FreeAddress()
	if err != nil {
		return err
	}
	proxies, err := rig.FreeAddress()
	if err != nil {
		return err
	}
	token := filepath.Join(b.dir, name+".token")
	b.zoneCP, err = rig.Serve(ctx, filepath.Join(b.dir, name+".log"), api, filepath.Join(b.bin, "zone-cp"), "serve", "--zone", name, "--trust-domain", name+".bench.example",
		"--data-dir", filepath.Join(b.dir, name), "--listen-api", api, "--listen-proxies", proxies, "--admin-token-file", token)
	if err != nil {
		return err
	}
	c, err := rig.Connect(api, token)
	if err != nil {
		return err
	}
	join, err := b.api.CreateJoinToken(ctx, name, client.JoinTokenRequest{})
	if err != nil {
		return err
	}
	_, err = c.Join(ctx, client.JoinRequest{Token: join.Token})
	return err
}

// pause waits for what is under way to come to rest: statuses that are written a moment later, mostly.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *bench) measureIdle(ctx context.Context) error {
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	global, zone := rig.Of(b.global.PID()), rig.Of(b.zoneCP.PID())
	if err := pause(ctx, b.idle); err != nil {
		return err
	}
	globalNow, zoneNow := rig.Of(b.global.PID()), rig.Of(b.zoneCP.PID())
	percent := func(before, after rig.Usage) float64 {
		return (after.CPU - before.CPU).Seconds() / b.idle.Seconds() * 100
	}
	b.report.Figure("federation-idle-global-cpu", fmt.Sprintf("idle CPU of global with %d sessions", b.zones+1), percent(global, globalNow), "% of a core")
	b.report.Figure("federation-idle-zone-cpu", "idle CPU of the zone-cp", percent(zone, zoneNow), "% of a core")
	b.report.Figure("federation-global-rss", "RSS of global", globalNow.RSS/1e6, "MB")
	b.report.Figure("federation-zone-rss", "RSS of the zone-cp", zoneNow.RSS/1e6, "MB")
	return nil
}

// measureWrites changes one policy again and again, each when the one before is known to be everywhere.
func (b *bench) measureWrites(ctx context.Context) error {
	var rest, held, known []float64
	global, postgres := rig.Of(b.global.PID()), b.ofPostgres()
	fleet, err := b.ask("usage")
	if err != nil {
		return err
	}
	for i := range b.writes {
		one, cancel := context.WithTimeout(ctx, 30*time.Second)
		begin := time.Now()
		res, err := b.api.Apply(one, fmt.Appendf(nil, policy, 0, b.policies+i), client.ApplyOptions{})
		if err != nil {
			cancel()
			return err
		}
		answered := time.Now()
		var last client.Progress
		err = b.api.Follow(one, res.Revision, func(p client.Progress) bool { last = p; return p.Done })
		acked := time.Now()
		cancel()
		if err != nil {
			return fmt.Errorf("write %d is not everywhere: %w: %+v", i, err, slices.DeleteFunc(last.Zones, func(z client.ZoneProgress) bool { return z.Done }))
		}
		if len(last.Zones) != b.zones+1 {
			return fmt.Errorf("the write concerned %d zones", len(last.Zones))
		}
		a, err := b.ask(fmt.Sprintf("expect %d", res.Revision))
		if err != nil {
			return err
		}
		rest = append(rest, millis(answered.Sub(begin)))
		held = append(held, millis(time.Unix(0, a.Held).Sub(begin)))
		known = append(known, millis(acked.Sub(begin)))
	}
	now, err := b.ask("usage")
	if err != nil {
		return err
	}
	b.report.Note("%d writes of one policy for %d zones; load average %s", b.writes, b.zones+1, rig.Load())
	b.report.Figure("federation-rest-p50", "REST call, p50", rig.At(rest, 50), "ms")
	b.report.Figure("federation-held-p50", "request until the last of the many zones has it on disk, p50", rig.At(held, 50), "ms")
	b.report.Figure("federation-held-p99", "the same, p99", rig.At(held, 99), "ms")
	b.report.Limit("federation-acked-p50", "request until global knows the last zone's acknowledgement, p50", rig.At(known, 50), "ms", maxWriteP50)
	b.report.Figure("federation-acked-p99", "the same, p99", rig.At(known, 99), "ms")
	b.report.Figure("federation-global-cpu", "CPU of global for each write", millis(rig.Of(b.global.PID()).CPU-global.CPU)/float64(b.writes), "ms")
	if b.postgres != nil {
		b.report.Figure("federation-postgres-cpu", "CPU of Postgres for each write", millis(b.ofPostgres().CPU-postgres.CPU)/float64(b.writes), "ms")
	}
	b.report.Figure("federation-fleet-cpu", fmt.Sprintf("CPU of the %d zones for each write", b.zones), (now.CPUMicros-fleet.CPUMicros)/1000/float64(b.writes), "ms")
	return nil
}

// ofPostgres is what the database's processes use.
func (b *bench) ofPostgres() rig.Usage { return rig.Tree(os.Getpid())["postgres"] }

func millis(d time.Duration) float64 { return d.Seconds() * 1000 }

// measureReturn ends all sessions and lets the zones come back through a relay that counts.
func (b *bench) measureReturn(ctx context.Context) error {
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	relay, err := listenRelay(ctx, b.federation)
	if err != nil {
		return err
	}
	defer relay.close()
	global := rig.Of(b.global.PID())
	framed, err := rig.Counters(ctx, b.globalAPI, "comity_federation_sent_bytes_total", "comity_federation_received_bytes_total")
	if err != nil {
		return err
	}
	config, err := rig.Counters(ctx, b.globalAPI, `comity_federation_sent_bytes_total{kind="config"`)
	if err != nil {
		return err
	}
	began := time.Now()
	a, err := b.ask("move " + relay.address())
	if err != nil {
		return err
	}
	took := time.Since(began)
	if a.Connected != b.zones {
		return fmt.Errorf("%d of %d zones came back", a.Connected, b.zones)
	}
	// What they still have to say to each other is said when nothing moves any more.
	for last := int64(-1); last != relay.bytes(); {
		last = relay.bytes()
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	framedNow, err := rig.Counters(ctx, b.globalAPI, "comity_federation_sent_bytes_total", "comity_federation_received_bytes_total")
	if err != nil {
		return err
	}
	configNow, err := rig.Counters(ctx, b.globalAPI, `comity_federation_sent_bytes_total{kind="config"`)
	if err != nil {
		return err
	}
	n := float64(b.zones)
	b.report.Figure("federation-return-wall", fmt.Sprintf("%d zones come back after", b.zones), took.Seconds(), "s")
	b.report.Limit("federation-return-bytes", "bytes in the frames of each that comes back with nothing changed, both ways", (framedNow-framed)/n, "B", maxReconnectBytes)
	b.report.Figure("federation-return-config", "of these, configuration", (configNow-config)/n, "B")
	b.report.Figure("federation-return-wire", "all its bytes on the wire: mTLS handshake, HTTP/2, frames", float64(relay.bytes())/n, "B")
	b.report.Figure("federation-return-cpu", "CPU of global for each", millis(rig.Of(b.global.PID()).CPU-global.CPU)/n, "ms")
	return nil
}
