// Package demo runs the demo as a stranger does: the story must hold, and nothing may be left behind however it
// ends.
package demo_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/pgbin"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

var bin string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "comity-demo-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	build := exec.Command("go", "build", "-o", bin, "../../comity", "../../global-cp", "../../zone-cp", "../../ingress", "../../sidecar", "../../deploy/demo/shop")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the programs:", err)
		return 1
	}
	return m.Run()
}

func comity(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "comity"), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 40 * time.Second
	return cmd
}

func TestStory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	out, err := comity(ctx, "demo", "--dir", dir, "--check").CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("comity demo --check: %v", err)
	}
	if n := strings.Count(string(out), "\n✓ "); n < 18 {
		t.Errorf("%d steps held, want 6 of the start and 12 of the story", n)
	}
	gone(t, dir, bin)
}

// TestEnds starts a demo, looks at it from another process, and ends it in each way.
func TestEnds(t *testing.T) {
	ends := []struct {
		name string
		end  func(t *testing.T, d *running)
	}{
		{"comity demo down", func(t *testing.T, d *running) {
			if out, err := d.comity("down"); err != nil {
				t.Fatalf("down: %v\n%s", err, out)
			}
		}},
		{"killed with -9", func(t *testing.T, d *running) { d.killed(t) }},
	}
	for _, e := range ends {
		t.Run(e.name, func(t *testing.T) {
			d := start(t)
			again, err := comity(t.Context(), "demo", "--dir", d.dir).CombinedOutput()
			if err == nil || !strings.Contains(string(again), "DEMO-RUNNING") {
				t.Errorf("a second demo in the same folder: %v\n%s", err, again)
			}
			e.end(t, d)
			d.gone(t)
		})
	}
}

// TestBreakAndFix breaks everything that can be broken, one on top of the other, and mends it: first one thing, then
// all that is left. Orders that make no sense are refused.
func TestBreakAndFix(t *testing.T) {
	d := start(t)
	refused := func(code string, args ...string) {
		t.Helper()
		if out, err := d.comity(args...); err == nil || !strings.Contains(out, "error["+code+"]") {
			t.Errorf("comity demo %s: %v, want %s\n%s", strings.Join(args, " "), err, code, out)
		}
	}
	broken := func(want ...string) {
		t.Helper()
		if got := status(t, d.dir).Broken; !slices.Equal(got, want) {
			t.Errorf("status says that %q is broken, want %q", got, want)
		}
	}
	if mode := must(os.Stat(filepath.Join(d.dir, "control.sock")))(t).Mode().Perm(); mode != 0o600 {
		t.Errorf("the control socket has mode %o", mode)
	}
	refused("CLI-USAGE", "break", "atlantis")
	refused("CLI-USAGE", "break", "onprem:onprem")
	refused("DEMO-NOT-BROKEN", "fix", "onprem")
	if r := d.order(t, "fix"); len(r.What) != 0 {
		t.Errorf("fixed %q, and nothing was broken", r.What)
	}

	d.order(t, "break", "zone-cp")
	broken("zone-cp/onprem")
	before := d.processes(t)
	d.order(t, "break", "onprem")
	broken("onprem") // which includes its control plane
	refused("DEMO-BROKEN", "break", "onprem")
	refused("DEMO-BROKEN", "break", "zone-cp/onprem")
	for _, p := range d.processes(t) {
		for _, of := range []string{"zone-onprem", "onprem-in1", "pay-o1", "ledger-o1", "ledger-o2"} {
			if strings.Contains(p, of) {
				t.Errorf("still runs: %s", p)
			}
		}
	}
	d.order(t, "break", "gcp-west:aws-east")
	d.order(t, "break", "global")
	broken("aws-east:gcp-west", "global", "onprem")

	// A zone comes back without global.
	if r := d.order(t, "fix", "onprem"); !slices.Equal(r.What, []string{"onprem"}) || !slices.Equal(r.Broken, []string{"aws-east:gcp-west", "global"}) {
		t.Errorf("fixed %q, still broken %q", r.What, r.Broken)
	}
	d.order(t, "fix")
	broken()
	if n := len(d.processes(t)); n != len(before)+1 {
		t.Errorf("%d processes, and %d when all but onprem's control plane ran", n, len(before))
	}
	await(t, patience, "all zones and proxies", func() bool { return d.whole(t) })
}

// TestLinkCut cuts the way between two zones. Both notice, the third reaches both, all are connected to global, and the
// shop goes on.
func TestLinkCut(t *testing.T) {
	d := start(t)
	reach := func(want bool) {
		t.Helper()
		begin := time.Now()
		for _, way := range [][2]string{{"aws-east", "onprem"}, {"onprem", "aws-east"}} {
			await(t, patience, fmt.Sprintf("%s to say that it reaches %s: %t", way[0], way[1], want), func() bool {
				links := d.links(t, way[0])
				return links[way[1]] == want && links["gcp-west"]
			})
		}
		t.Logf("both zones say reachable: %t after %s", want, time.Since(begin).Round(10*time.Millisecond))
	}
	reach(true)
	d.order(t, "break", "onprem:aws-east")
	reach(false)
	if !d.whole(t) {
		t.Error("a zone or a proxy has lost its control plane, though only the data path is cut")
	}
	before := d.orders(t)
	await(t, patience, "orders during the cut", func() bool { return d.orders(t) >= before+20 })
	d.order(t, "fix")
	reach(true)
}

// TestKilledBroken kills the demo itself with -9 while something of it is broken: nothing is left either.
func TestKilledBroken(t *testing.T) {
	d := start(t)
	for _, what := range []string{"aws-east:onprem", "zone-cp/aws-east", "gcp-west", "global"} {
		d.order(t, "break", what)
	}
	d.killed(t)
	d.gone(t)
}

// TestPostgres breaks global with its database, asks through traffic, and fixes both. Then the demo is killed with -9, which
// leaves no process, and the database's folder to the next one.
func TestPostgres(t *testing.T) {
	d := start(t, "--postgres")
	name := regexp.MustCompile(`comity-pg-\d+`).Find(must(os.ReadFile(filepath.Join(d.dir, "config", "global.yaml")))(t))
	if name == nil {
		t.Fatal("global has no database")
	}
	database := filepath.Join(os.TempDir(), string(name))
	global := d.client(t, "global")
	zones := func() client.List {
		kind, _ := policy.Lookup(string(mesh.KindZone))
		return must(global.List(t.Context(), kind, client.ListOptions{}))(t)
	}
	before, asked := zones(), d.shoppers(t)

	broken := time.Now()
	if r := d.order(t, "break", "global"); !strings.Contains(strings.Join(r.Did, " "), "postgres") {
		t.Errorf("the database was left alone: %q", r.Did)
	}
	gone(t, database)
	await(t, patience, "40 orders without global and database", func() bool { return d.orders(t) >= asked.ok+40 })
	t.Logf("%d orders in %s without global and its database", d.orders(t)-asked.ok, time.Since(broken).Round(100*time.Millisecond))

	fixed := time.Now()
	d.order(t, "fix", "global")
	await(t, patience, "all zones and proxies", func() bool { return d.whole(t) })
	t.Logf("global, its database and all zones are back after %s", time.Since(fixed).Round(10*time.Millisecond))
	if after := zones(); after.Revision != before.Revision || len(after.Items) != len(before.Items) {
		t.Errorf("%d zones at revision %d, and %d at %d before", len(after.Items), after.Revision, len(before.Items), before.Revision)
	}
	if r, err := global.Apply(t.Context(), []byte("apiVersion: mesh.comity.dev/v1alpha1\nkind: Zone\nmetadata: {name: later}\nspec: {namespaces: [shop]}\n"), client.ApplyOptions{}); err != nil || r.Revision != before.Revision+1 {
		t.Errorf("a write afterwards: %+v, %v", r, err)
	}
	if now := d.shoppers(t); now.failed != asked.failed {
		t.Errorf("%d orders failed", now.failed-asked.failed)
	}

	d.killed(t)
	d.gone(t)
	gone(t, database)
	if _, err := os.Stat(database); err != nil {
		t.Errorf("who has removed it? %v", err)
	}
	next := must(must(pgbin.Find())(t).Init(t.Context()))(t)
	if _, err := os.Stat(database); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of the killed demo is still there: %v", err)
	}
	if err := next.Remove(); err != nil {
		t.Error(err)
	}
}

// patience is how long something may take on a machine that is busy with others.
const patience = time.Minute

// running is a demo in a process of its own.
type running struct {
	dir   string
	cmd   *exec.Cmd
	ended chan error
}

// start starts a demo and waits until it is whole.
func start(t *testing.T, flags ...string) *running {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "d")
	d := &running{dir: dir, cmd: comity(t.Context(), append([]string{"demo", "--dir", dir}, flags...)...), ended: make(chan error, 1)}
	var out bytes.Buffer
	d.cmd.Stdout, d.cmd.Stderr = &out, &out
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.ended <- d.cmd.Wait(); close(d.ended) }()
	t.Cleanup(func() { // the test's context has ended, which ends the demo
		<-d.ended
		if t.Failed() {
			t.Logf("the demo said:\n%s", out.String())
		}
	})
	await(t, 2*time.Minute, "the demo to be whole", func() bool {
		select {
		case err := <-d.ended:
			t.Fatalf("the demo ended by itself: %v\n%s", err, out.String())
		default:
		}
		return d.whole(t)
	})
	// It takes orders a moment after it has written its state.
	await(t, patience, "the control socket", func() bool {
		_, err := os.Stat(filepath.Join(dir, "control.sock"))
		return err == nil
	})
	return d
}

// whole reports whether three zones and their 16 proxies are there.
func (d *running) whole(t *testing.T) bool {
	st := status(t, d.dir)
	return st.Running && st.ProxiesConnected == 16 && len(st.Zones) == 3
}

func (d *running) comity(args ...string) (string, error) {
	out, err := comity(context.Background(), append([]string{"demo", "--dir", d.dir}, args...)...).CombinedOutput()
	return string(out), err
}

type report struct {
	What   []string `json:"what"`
	Did    []string `json:"did"`
	Broken []string `json:"broken"`
}

// order breaks or fixes something.
func (d *running) order(t *testing.T, args ...string) report {
	t.Helper()
	out, err := d.comity(append(args, "-q", "-o", "json")...)
	if err != nil {
		t.Fatalf("comity demo %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("comity demo %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	if len(r.Did) != len(r.What) {
		t.Errorf("%d things, but it did %q", len(r.What), r.Did)
	}
	return r
}

func (d *running) killed(t *testing.T) {
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
}

// client is one of a control plane's admin.
func (d *running) client(t *testing.T, name string) *client.Client {
	t.Helper()
	var state struct {
		Global string            `json:"global"`
		Zones  map[string]string `json:"zones"`
	}
	if err := json.Unmarshal(must(os.ReadFile(filepath.Join(d.dir, "demo.json")))(t), &state); err != nil {
		t.Fatal(err)
	}
	server := state.Zones[name]
	if name == "global" {
		server = state.Global
	}
	token := must(os.ReadFile(filepath.Join(d.dir, "tokens", name+".token")))(t)
	return must(client.New(client.Config{Server: server, Token: strings.TrimSpace(string(token))}))(t)
}

// links asks a zone which others it reaches.
func (d *running) links(t *testing.T, zone string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for _, l := range must(d.client(t, zone).Overview(t.Context()))(t).Links {
		if l.Zone == zone {
			out[l.To] = l.Probed && l.Reachable
		}
	}
	return out
}

// orders counts those of both shoppers that went well.
func (d *running) orders(t *testing.T) uint64 { return d.shoppers(t).ok }

// shoppers counts the orders of both.
func (d *running) shoppers(t *testing.T) (n struct{ ok, failed uint64 }) {
	for _, s := range status(t, d.dir).Shoppers {
		n.ok += s.OK
		n.failed += s.Failed
	}
	return n
}

// gone waits until the demo has ended and nothing of it is left.
func (d *running) gone(t *testing.T) {
	t.Helper()
	<-d.ended
	gone(t, d.dir, bin)
	if st := status(t, d.dir); st.Running {
		t.Error("status still says that it runs")
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

type demoStatus struct {
	Running          bool     `json:"running"`
	ProxiesConnected int      `json:"proxiesConnected"`
	Zones            []any    `json:"zones"`
	Broken           []string `json:"broken"`
	Shoppers         map[string]struct {
		OK     uint64 `json:"ok"`
		Failed uint64 `json:"failed"`
	} `json:"shoppers"`
}

func status(t *testing.T, dir string) demoStatus {
	t.Helper()
	out, err := comity(t.Context(), "demo", "status", "--dir", dir, "-o", "json").Output()
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	var st demoStatus
	if err := json.Unmarshal(out, &st); err != nil {
		t.Fatalf("status: %v\n%s", err, out)
	}
	return st
}

// gone waits until no process of the folders is left.
func gone(t *testing.T, folders ...string) {
	t.Helper()
	var left []string
	await(t, patience, "all processes to end", func() bool {
		left = processes(t, folders...)
		return len(left) == 0
	})
	if len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// processes lists those that have one of the folders in their arguments, or as their working folder.
func processes(t *testing.T, folders ...string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range all {
		line, err := os.ReadFile(filepath.Join(p, "cmdline"))
		cwd, _ := os.Readlink(filepath.Join(p, "cwd"))
		of := func(dir string) bool { return bytes.Contains(line, []byte(dir)) || strings.HasPrefix(cwd, dir) }
		if err == nil && slices.ContainsFunc(folders, of) {
			out = append(out, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return out
}

func (d *running) processes(t *testing.T) []string { return processes(t, d.dir, bin) }

// await asks until ok or the limit, and fails the test then.
func await(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Errorf("waited %s for %s", limit, what)
			return
		case <-tick.C:
		}
	}
}
