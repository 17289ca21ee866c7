package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/yaml"

	_ "embed"

	"github.com/comity-mesh/comity/api/client"
	"github.com/comity-mesh/comity/internal/fault"
	"github.com/comity-mesh/comity/internal/freeport"
	"github.com/comity-mesh/comity/internal/pgbin"
	"github.com/comity-mesh/comity/mesh"
	"github.com/comity-mesh/comity/policy"
)

//go:embed shop.yaml
var shopYAML []byte

// Options of a demo.
type Options struct {
	Dir string // everything that the demo writes is in it
	Bin string // folder with global-cp, zone-cp, ingress, sidecar and shop
	// Rate of each shopper in orders a second.
	Rate float64
	// Postgres: global's store is the pinned Postgres, not a file.
	Postgres bool
	Out      io.Writer
}

// Demo is a running mesh.
type Demo struct {
	opts  Options
	net   int
	zones []zonePlan
	procs *procs
	wire  *wire
	begin time.Time
	// postgres is global's database; nil: a file.
	postgres *pgbin.Server

	global *client.Client
	atZone map[string]*client.Client
	infos  map[string]Info // of sidecars and ingresses, by process name
	// customers are the shoppers' processes, not started before the shop is open.
	customers map[string][]string
	infosMu   sync.Mutex
	claims    claims
	faults    faults
}

// Info is what a sidecar or an ingress writes of itself.
type Info struct {
	Proxy    string `json:"proxy"`
	Ready    bool   `json:"ready"`
	EnvoyPID int    `json:"envoyPid"`
	Outbound string `json:"outbound"`
	Metrics  string `json:"metrics"`
	// Upstreams are local ports that lead to TCP services.
	Upstreams []policy.Upstream `json:"upstreams"`
}

// Up starts everything and returns when a request has crossed zones. On error it has stopped what it
// started.
func Up(ctx context.Context, o Options) (*Demo, error) {
	d := &Demo{opts: o, wire: newWire(), begin: time.Now(), atZone: map[string]*client.Client{}, infos: map[string]Info{}, customers: map[string][]string{}}
	if err := d.prepare(); err != nil {
		return nil, err
	}
	steps := []func(context.Context) error{d.startControlPlanes, d.joinZones, d.startDataplane, d.openShop, d.awaitCrossZone}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			d.Down(ctx)
			return nil, err
		}
	}
	return d, nil
}

// prepare claims the folder and a network of loopback addresses.
func (d *Demo) prepare() error {
	for _, p := range []string{"global-cp", "zone-cp", "ingress", "sidecar", "shop"} {
		if _, err := os.Stat(filepath.Join(d.opts.Bin, p)); err != nil {
			return &fault.Error{Code: "DEMO-PROGRAMS", What: "the demo's programs are not built", Err: err, Try: "make demo"}
		}
	}
	if st, err := ReadState(d.opts.Dir); err == nil && st.alive() {
		return &fault.Error{Code: "DEMO-RUNNING", What: fmt.Sprintf("a demo runs already in %s (process %d)", d.opts.Dir, st.PID), Try: "comity demo" + DirFlag(d.opts.Dir) + " down", Exit: fault.ExitConflict}
	}
	if err := claim(d.opts.Dir); err != nil {
		return err
	}
	for range 20 {
		n := 16 + rand.IntN(200) //nolint:gosec // an address to try, not a secret
		at := addr(globalHost(n), portAPI)
		claim, err := freeport.Claim(at)
		if err != nil {
			continue // another demo's, which may not listen there yet
		}
		d.claims.add(claim)
		l, err := net.Listen("tcp", at)
		if err != nil {
			continue
		}
		d.net, d.zones = n, thePlan(n)
		d.procs = newProcs(filepath.Join(d.opts.Dir, "logs"), func(name, how string) {
			fmt.Fprintf(d.opts.Out, "\n✗ %s ended by itself or was killed (%s); see %s\n", name, how, d.path("logs", name+".log"))
		})
		return l.Close()
	}
	return errors.New("no free network of loopback addresses in 127.0.0.0/8 found in 20 tries")
}

// claim makes the folder afresh. It only ever empties a folder that a demo made.
func claim(dir string) error {
	mark := filepath.Join(dir, "made-by-comity-demo")
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		if _, err := os.Stat(mark); err != nil {
			return &fault.Error{Code: "DEMO-DIR", What: dir + " is not empty and was not made by a demo", Try: "name another with --dir", Exit: fault.ExitConflict}
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("empty the demo's folder: %w", err)
		}
	}
	for _, sub := range []string{"config", "info", "logs", "run", "tokens"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return fmt.Errorf("make the demo's folder: %w", err)
		}
	}
	return os.WriteFile(mark, nil, 0o600)
}

// path within the demo's folder.
func (d *Demo) path(parts ...string) string {
	return filepath.Join(append([]string{d.opts.Dir}, parts...)...)
}

func (d *Demo) program(name string) string { return filepath.Join(d.opts.Bin, name) }

// configure writes a program's configuration file and returns its path.
func (d *Demo) configure(name string, v any) (string, error) {
	text, err := yaml.Marshal(v)
	if err != nil {
		return "", err
	}
	path := d.path("config", name+".yaml")
	return path, os.WriteFile(path, text, 0o600)
}

func (d *Demo) done(what string, begin time.Time, note string) {
	fmt.Fprintf(d.opts.Out, "✓ %-34s %5.1fs   %s\n", what, time.Since(begin).Seconds(), note)
}

func (d *Demo) startControlPlanes(ctx context.Context) error {
	begin := time.Now()
	if err := d.startGlobal(ctx); err != nil {
		return err
	}
	kept := "embedded SQLite store"
	if d.postgres != nil {
		kept = "its store is in Postgres"
	}
	d.done("global control plane", begin, kept)
	begin = time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for i, z := range d.zones {
		g.Go(func() error { return d.startZone(gctx, i, z) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, z := range d.zones {
		c, err := client.New(client.Config{Server: d.zoneAPI(z.name), Token: d.token(z.name)})
		if err != nil {
			return err
		}
		d.atZone[z.name] = c
	}
	d.done("3 zone control planes", begin, "each with its own CA, trust domain and store")
	return d.writeCLIConfig()
}

func (d *Demo) startGlobal(ctx context.Context) error {
	host := globalHost(d.net)
	settings := map[string]any{
		"dataDir":        d.path("global"),
		"trustDomain":    globalTrustDomain,
		"listen":         map[string]any{"api": addr(host, portAPI), "federation": addr(host, portFederation)},
		"adminTokenFile": d.tokenFile("global"),
	}
	database, err := d.startPostgres(ctx)
	if err != nil {
		return err
	}
	if database != nil {
		settings["database"] = database
	}
	cfg, err := d.configure("global", settings)
	if err != nil {
		return err
	}
	if err := d.procs.run("global", nil, d.program("global-cp"), "serve", "--config", cfg); err != nil {
		return err
	}
	if err := d.awaitReady(ctx, "global", "http://"+addr(host, portAPI)+"/readyz"); err != nil {
		return err
	}
	d.global, err = client.New(client.Config{Server: "http://" + addr(host, portAPI), Token: d.token("global")})
	return err
}

func (d *Demo) startZone(ctx context.Context, i int, z zonePlan) error {
	host := zoneHost(d.net, i)
	cfg, err := d.configure("zone-"+z.name, map[string]any{
		"zone":           z.name,
		"trustDomain":    z.trustDomain(),
		"dataDir":        d.path(z.name, "cp"),
		"listen":         map[string]any{"api": addr(host, portAPI), "proxies": addr(host, portEnrol)},
		"adminTokenFile": d.tokenFile(z.name),
	})
	if err != nil {
		return err
	}
	if err := d.procs.run(z.name, nil, d.program("zone-cp"), "serve", "--config", cfg); err != nil {
		return err
	}
	return d.awaitReady(ctx, z.name, "http://"+addr(host, portAPI)+"/readyz")
}

func (d *Demo) joinZones(ctx context.Context) error {
	begin := time.Now()
	var docs [][]byte
	for _, z := range d.zones {
		doc, err := yaml.Marshal(map[string]any{"apiVersion": policy.APIVersion, "kind": mesh.KindZone, "metadata": map[string]string{"name": z.name},
			"spec": policy.Zone{Cloud: z.cloud, Region: z.region, Namespaces: []string{namespace}}})
		if err != nil {
			return err
		}
		docs = append(docs, doc, []byte("---\n"))
	}
	if _, err := d.global.Apply(ctx, slices.Concat(append(docs, shopYAML)...), client.ApplyOptions{Reason: "comity demo"}); err != nil {
		return fmt.Errorf("apply the shop: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, z := range d.zones {
		g.Go(func() error {
			tok, err := d.global.CreateJoinToken(gctx, z.name, client.JoinTokenRequest{})
			if err != nil {
				return fmt.Errorf("join token of %s: %w", z.name, err)
			}
			if _, err := d.atZone[z.name].Join(gctx, client.JoinRequest{Token: tok.Token}); err != nil {
				return fmt.Errorf("zone %s joins: %w", z.name, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	d.done("aws-east, gcp-west, onprem joined", begin, "by one-time token; mTLS, deny by default, 5 permissions")
	return nil
}

// startDataplane starts ingresses, applications and sidecars of all zones, and waits until their Envoys
// are ready.
func (d *Demo) startDataplane(ctx context.Context) error {
	begin := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	n := 0
	for i, z := range d.zones {
		n += z.ingresses
		g.Go(func() error {
			return d.openZone(gctx, i, z, func(ctx context.Context, k int) error { return d.startIngress(ctx, i, k, z) })
		})
		for _, w := range z.workloads {
			if w.later {
				continue
			}
			n++
			g.Go(func() error { return d.startWorkload(gctx, z, w) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	d.done(fmt.Sprintf("%d Envoys ready", n), begin, "12 workloads of the shop with sidecars, 4 ingresses (two in gcp-west)")
	return nil
}

// openZone starts a zone's ingresses with start, and lets other zones reach them when they are ready.
func (d *Demo) openZone(ctx context.Context, zone int, z zonePlan, start func(ctx context.Context, k int) error) error {
	g, gctx := errgroup.WithContext(ctx)
	var lanesOf []lane
	for k := range z.ingresses {
		g.Go(func() error { return start(gctx, k) })
		for i := range lanes {
			lanesOf = append(lanesOf, lane{advertised: addr(wireHost(d.net, zone, k), portIngress+i), behind: addr(ingressHost(d.net, zone, k), portIngress+i)})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return d.wire.open(ctx, z.name, lanesOf)
}

func (d *Demo) startIngress(ctx context.Context, zone, index int, z zonePlan) error {
	name := fmt.Sprintf("in%d", index+1)
	tok, err := d.atZone[z.name].CreateEnrolmentToken(ctx, client.EnrolmentTokenRequest{Role: mesh.RoleIngress, Name: name})
	if err != nil {
		return fmt.Errorf("enrolment token of ingress %s in %s: %w", name, z.name, err)
	}
	host := ingressHost(d.net, zone, index)
	ports := make([]uint16, lanes)
	for i := range ports {
		ports[i] = portIngress + uint16(i)
	}
	proc := z.ingress(index)
	cfg, err := d.configure(proc, map[string]any{
		"name": name, "bindAddress": host, "lanes": ports, "advertise": map[string]any{"host": wireHost(d.net, zone, index)},
		"dataDir": d.path(z.name, name), "runDir": d.runDir(proc), "writeInfo": d.infoFile(proc),
		"metrics": map[string]any{"address": addr(host, portMetrics)},
	})
	if err != nil {
		return err
	}
	if err := d.procs.run(proc, []string{"COMITY_ENROL_TOKEN=" + tok.Token}, d.program("ingress"), "run", "--config", cfg); err != nil {
		return err
	}
	return d.awaitInfo(ctx, proc)
}

func (d *Demo) startWorkload(ctx context.Context, z zonePlan, w workloadPlan) error {
	tok, err := d.atZone[z.name].CreateEnrolmentToken(ctx, client.EnrolmentTokenRequest{Role: mesh.RoleSidecar, Namespace: namespace, ServiceAccount: w.app, Labels: map[string]string{"app": w.app}})
	if err != nil {
		return fmt.Errorf("enrolment token of %s: %w", w.name, err)
	}
	via, err := d.freePort(ctx)
	if err != nil {
		return err
	}
	outbound, err := d.freePort(ctx)
	if err != nil {
		return err
	}
	config := map[string]any{
		"name": w.name, "namespace": namespace,
		"address": w.host, "inboundPort": portInbound, "outboundPort": outbound, "appAddress": w.host,
		"dataDir": d.path(z.name, w.name), "runDir": d.runDir(w.name), "writeInfo": d.infoFile(w.name),
		"metrics": map[string]any{"address": addr(w.host, portMetrics)},
	}
	if w.capacity != 0 {
		config["capacity"] = w.capacity
	}
	if w.app == "pay" || w.app == "cart" {
		config["upstreams"] = []policy.Upstream{{Service: "ledger", Port: portJournal, LocalPort: via}}
	}
	switch w.app {
	case "web", "cart", "ledger":
		config["healthCheck"] = policy.HealthCheck{Port: portApp, Path: "/healthz"}
	case "pay": // gRPC
		config["healthCheck"] = policy.HealthCheck{Port: portApp}
	}
	cfg, err := d.configure(w.name, config)
	if err != nil {
		return err
	}
	app := []string{d.program("shop"), "-role", w.app, "-workload", w.name, "-zone", z.name, "-listen", addr(w.host, portApp),
		"-mesh", addr("127.0.0.1", int(outbound)), "-journal", addr(w.host, portJournal), "-rate", fmt.Sprint(d.opts.Rate)}
	if w.app == "pay" {
		app = append(app, "-journal-via", addr("127.0.0.1", int(via)))
	}
	if err := d.procs.run(w.name, []string{"COMITY_ENROL_TOKEN=" + tok.Token}, d.program("sidecar"), "run", "--config", cfg); err != nil {
		return err
	}
	if w.app == "shopper" {
		d.infosMu.Lock()
		d.customers[w.application()] = app
		d.infosMu.Unlock()
		return d.awaitInfo(ctx, w.name)
	}
	if err := d.procs.run(w.application(), nil, app...); err != nil {
		return err
	}
	return d.awaitInfo(ctx, w.name)
}

// openShop lets the shoppers in when the shop is whole: an order before that would fail, and have its endpoints
// ejected for half a minute.
func (d *Demo) openShop(ctx context.Context) error {
	if err := d.awaitReach(ctx); err != nil {
		return err
	}
	for name, argv := range d.customers {
		if err := d.procs.run(name, nil, argv...); err != nil {
			return err
		}
	}
	return nil
}

// awaitCrossZone waits for the first order whose trail visited another zone.
func (d *Demo) awaitCrossZone(ctx context.Context) error {
	begin := time.Now()
	last := "none"
	for _, s := range d.shoppers() {
		if err := poll(ctx, 60*time.Second, func() (bool, error) {
			if err := d.procs.exited(s.application()); err != nil {
				return false, err
			}
			st, err := d.shopper(ctx, s)
			if err != nil {
				return false, nil
			}
			if st.LastError != "" {
				last = st.LastError
			}
			return st.CrossZone > 0, nil
		}); err != nil {
			return fmt.Errorf("no order of %s crossed zones: %w (last failure: %s)", s.name, err, last)
		}
	}
	st, err := d.shopper(ctx, d.shoppers()[0])
	if err != nil {
		return err
	}
	d.done("first orders across zones", begin, trailText(st.Last.Trail))
	return nil
}

// awaitReach waits until each shopper's zone serves web, and has learnt of ledger, which is in another zone and
// which a shopper may not use: the refusal can only come from there.
func (d *Demo) awaitReach(ctx context.Context) error {
	c := &http.Client{Timeout: 5 * time.Second}
	for _, s := range d.shoppers() {
		got := ""
		err := poll(ctx, 30*time.Second, func() (bool, error) {
			code, text, err := d.viaSidecar(ctx, c, s.name, http.MethodPost, ledgerOnPrem, "/entry", "{}")
			got = fmt.Sprintf("%d %s", code, text)
			if err != nil || code != http.StatusForbidden {
				return false, nil
			}
			code, text, err = d.viaSidecar(ctx, c, s.name, http.MethodGet, "web.shop.svc.clusterset.local", "/hello", "")
			got = fmt.Sprintf("%d %s", code, text)
			return err == nil && code == http.StatusOK, nil
		})
		if err != nil {
			return fmt.Errorf("%s does not reach web and ledger: %w (it got %s)", s.name, err, got)
		}
	}
	return nil
}

func trailText(trail []Hop) string {
	var parts []string
	for _, h := range trail {
		parts = append(parts, h.Service+"@"+h.Zone)
	}
	return strings.Join(parts, " → ") + "  200"
}

// poll asks often until ok, an error, ctx or the limit.
func poll(ctx context.Context, limit time.Duration, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := ok(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (d *Demo) awaitReady(ctx context.Context, proc, url string) error {
	err := poll(ctx, 30*time.Second, func() (bool, error) {
		if err := d.procs.exited(proc); err != nil {
			return false, err
		}
		res, err := http.Get(url) //nolint:noctx // bounded by poll, on loopback
		if err != nil {
			return false, nil
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK, nil
	})
	if err != nil {
		return fmt.Errorf("%s does not become ready: %w (log: %s)", proc, err, d.path("logs", proc+".log"))
	}
	return nil
}

// runDir holds a proxy's sockets. A socket's path is at most 107 bytes: where the demo's own folder is too
// deep, the proxy makes one in the folder for temporary files and removes it itself.
func (d *Demo) runDir(proc string) string {
	if dir := d.path("run", proc); len(dir) <= 75 {
		return dir
	}
	return ""
}

func (d *Demo) infoFile(proc string) string { return d.path("info", proc+".json") }

// forgetInfo removes what an ended sidecar or ingress wrote of itself, so that nobody takes it for the next one's word.
func (d *Demo) forgetInfo(proc string) error {
	if pr := d.procs.get(proc); pr != nil && !pr.ended() {
		return nil
	}
	if err := os.Remove(d.infoFile(proc)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d *Demo) awaitInfo(ctx context.Context, proc string) error {
	var info Info
	err := poll(ctx, 60*time.Second, func() (bool, error) {
		if err := d.procs.exited(proc); err != nil {
			return false, err
		}
		text, err := os.ReadFile(d.infoFile(proc))
		if err != nil || json.Unmarshal(text, &info) != nil {
			return false, nil
		}
		return info.Ready, nil
	})
	if err != nil {
		return fmt.Errorf("%s does not become ready: %w (log: %s)", proc, err, d.path("logs", proc+".log"))
	}
	d.infosMu.Lock()
	d.infos[proc] = info
	d.infosMu.Unlock()
	return nil
}

func (d *Demo) tokenFile(owner string) string { return d.path("tokens", owner+".token") }

func (d *Demo) token(owner string) string {
	text, err := os.ReadFile(d.tokenFile(owner))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func (d *Demo) zoneAPI(zone string) string {
	for i, z := range d.zones {
		if z.name == zone {
			return "http://" + addr(zoneHost(d.net, i), portAPI)
		}
	}
	return ""
}

// writeCLIConfig lets comity speak with global and each zone by --context.
func (d *Demo) writeCLIConfig() error {
	type context struct {
		Name      string `json:"name"`
		Server    string `json:"server"`
		TokenFile string `json:"token-file"`
	}
	contexts := []context{{"global", "http://" + addr(globalHost(d.net), portAPI), d.tokenFile("global")}}
	for _, z := range d.zones {
		contexts = append(contexts, context{z.name, d.zoneAPI(z.name), d.tokenFile(z.name)})
	}
	text, err := yaml.Marshal(map[string]any{"current-context": "global", "contexts": contexts})
	if err != nil {
		return err
	}
	return os.WriteFile(ConfigFile(d.opts.Dir), text, 0o600)
}

// ConfigFile is where a demo leaves the configuration for comity.
func ConfigFile(dir string) string { return filepath.Join(dir, "comity.yaml") }

// Down stops every process: applications and proxies first, then zones, then global, then its database.
func (d *Demo) Down(ctx context.Context) {
	zone := map[string]bool{}
	for _, z := range d.zones {
		zone[z.name] = true
	}
	defer d.claims.closeAll()
	defer d.wire.closeAll()
	d.procs.stopAll(ctx, func(name string) int {
		switch {
		case strings.HasSuffix(name, "-app"): // workloadPlan.application
			return 0
		case name == processPostgres:
			return 4
		case name == "global":
			return 3
		case zone[name]:
			return 2
		default:
			return 1
		}
	})
	if d.postgres != nil {
		if err := d.postgres.Remove(); err != nil {
			fmt.Fprintln(d.opts.Out, "the database's folder stays:", err)
		}
	}
}

func addr(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }

// freePort is a port of 127.0.0.1 that nobody else has: two Envoys with one port would share it.
func (d *Demo) freePort(ctx context.Context) (uint16, error) {
	port, claim, err := freeport.Find(ctx, "127.0.0.1")
	if err != nil {
		return 0, err
	}
	d.claims.add(claim)
	return port, nil
}

// claims are the ports that are the demo's.
type claims struct {
	mu   sync.Mutex
	held []io.Closer
}

func (c *claims) add(claim io.Closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = append(c.held, claim)
}

// closeAll gives them back.
func (c *claims) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, claim := range c.held {
		_ = claim.Close() // nothing is lost with it
	}
	c.held = nil
}

// Age is the time since the start.
func (d *Demo) Age() time.Duration { return time.Since(d.begin) }
